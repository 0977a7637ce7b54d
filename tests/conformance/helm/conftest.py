"""Every case of the chart, rendered once for each version of Kubernetes."""

from __future__ import annotations

import pytest

from tests.support.chart import CASES, Chart, Object, Rendered, find_helm


@pytest.fixture(scope="session")
def charts(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Chart]:
    """The chart as it is, and one with rules and dashboards to take along."""
    helm = find_helm()
    if not helm:
        pytest.skip("no helm: its wheel is for Linux on x86-64 only, and this machine has none of its own")
    return {alerts: Chart(helm, tmp_path_factory.mktemp("chart"), alerts=alerts) for alerts in (False, True)}


@pytest.fixture(scope="session")
def chart(charts: dict[bool, Chart]) -> Chart:
    """The chart as it is."""
    return charts[False]


@pytest.fixture(scope="session")
def rendered(charts: dict[bool, Chart]) -> Rendered:
    """What a case installs, remembered."""
    known: dict[tuple[str, str], list[Object]] = {}

    def render(case: str, kube: str) -> list[Object]:
        if (case, kube) not in known:
            known[case, kube] = charts[CASES[case].alerts].render(CASES[case], kube)
        return known[case, kube]

    return render
