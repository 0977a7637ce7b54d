"""The chart renders in every way it is meant to be installed, and what it renders is what Kubernetes takes."""

from __future__ import annotations

import copy
import functools
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.support.chart import (
    BAD_CASES,
    CASES,
    CHART,
    KUBE_NEWEST,
    KUBE_VERSIONS,
    Case,
    Chart,
    Object,
    Refused,
    Rendered,
    of_kind,
)
from tests.support.custom_resources import CUSTOM, check_custom

every_case = pytest.mark.parametrize("case", CASES)
every_version = pytest.mark.parametrize("kube", KUBE_VERSIONS)


@functools.cache
def check_text(text: str, kube: str) -> None:
    """`check` of an object as JSON, which many cases have in common."""
    check(json.loads(text), kube)


def check(found: Object, kube: str) -> None:
    """Raise if an object is not as its kind has it in a version of Kubernetes."""
    if found["kind"] in CUSTOM:
        check_custom(found)
    else:
        kubernetes_validate.validate(found, kube, strict=True)


@every_case
@every_version
def test_helm_finds_nothing_wrong(charts: dict[bool, Chart], case: str, kube: str) -> None:
    said = charts[CASES[case].alerts].lint(CASES[case], kube)

    assert "1 chart(s) linted, 0 chart(s) failed" in said
    assert "[WARNING]" not in said


@every_case
@every_version
def test_every_object_is_as_its_kind_says(rendered: Rendered, case: str, kube: str) -> None:
    objects = rendered(case, kube)

    assert objects
    for found in objects:
        check_text(json.dumps(found, sort_keys=True), kube)


@every_version
def test_a_field_that_no_version_has_is_found(rendered: Rendered, kube: str) -> None:
    for found in rendered("everything", kube):
        if found["kind"] == "ConfigMap":
            continue
        wrong = copy.deepcopy(found)
        wrong["spec" if "spec" in wrong else "metadata"]["replicaz"] = 1
        with pytest.raises(jsonschema.ValidationError):
            check(wrong, kube)


@every_case
def test_no_two_objects_have_one_name(rendered: Rendered, case: str) -> None:
    names = [(found["kind"], found["metadata"]["name"]) for found in rendered(case, KUBE_NEWEST)]

    assert len(names) == len(set(names))
    for _, name in names:
        assert len(name) <= 63


@every_case
def test_what_belongs_to_the_release_says_so(rendered: Rendered, case: str) -> None:
    for found in rendered(case, KUBE_NEWEST):
        if found["metadata"]["name"] != "stand-in-for-nats":
            assert (
                found["metadata"]["labels"].items()
                >= {
                    "app.kubernetes.io/name": "holdfast",
                    "app.kubernetes.io/instance": "prod",
                    "app.kubernetes.io/managed-by": "Helm",
                }.items()
            )


@pytest.mark.parametrize("case", BAD_CASES)
def test_bad_values_are_refused_by_name(chart: Chart, case: str) -> None:
    values, named = BAD_CASES[case]

    with pytest.raises(Refused, match=re.escape(named)):
        chart.render(Case(values=dict(values)), KUBE_NEWEST)


def test_an_older_kubernetes_is_refused(chart: Chart) -> None:
    with pytest.raises(Refused, match="kubeVersion"):
        chart.render(Case(), "1.26")


def test_a_long_name_of_a_release_leaves_room(chart: Chart) -> None:
    for found in chart.render(Case(files=("values-prod.yaml",)), KUBE_NEWEST, release="r" * 53):
        assert len(found["metadata"]["name"]) <= 63


def test_every_value_has_a_place_in_the_schema() -> None:
    """Additional names are refused everywhere but where Kubernetes, or another chart, says what is allowed."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    open_places = list(places_that_take_anything(schema, ""))

    assert sorted(open_places) == [
        "/definitions/service/affinity",
        "/global",
        "/nats",
    ]


def places_that_take_anything(schema: dict[str, Any], path: str) -> list[str]:
    found: list[str] = []
    if schema.get("type") == "object" and schema.get("additionalProperties", True) is True:
        found.append(path)
    for name, inner in {**schema.get("properties", {})}.items():
        found += places_that_take_anything(inner, f"{path}/{name}")
    for name, inner in schema.get("definitions", {}).items():
        found += places_that_take_anything(inner, f"/definitions/{name}")
    return found


def test_values_files_say_only_what_differs() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for name in ("values-dev.yaml", "values-prod.yaml"):
        same = [
            path for path, value in leaves(yaml.safe_load((CHART / name).read_text())) if at(defaults, path) == value
        ]
        assert same == [], f"{name} repeats what values.yaml says"


def leaves(values: Object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(cast("Object", value), (*path, key))
        else:
            yield (*path, key), value


def at(values: Object, path: tuple[str, ...]) -> Any:
    found: Any = values
    for part in path:
        found = cast("Object", found).get(part) if isinstance(found, dict) else None
    return found


def test_rules_and_dashboards_are_taken_as_they_are(rendered: Rendered) -> None:
    objects = rendered("prod with rules and dashboards", KUBE_NEWEST)

    rule = of_kind(objects, "PrometheusRule")["prod-holdfast-sample"]
    alert = rule["spec"]["groups"][0]["rules"][0]
    assert alert["annotations"] == {"summary": "{{ $labels.pod }} is down: {{ $value }}"}
    dashboard = of_kind(objects, "ConfigMap")["prod-holdfast-dashboard-sample"]
    assert json.loads(dashboard["data"]["sample.json"]) == {"title": "Sample {{ pod }}", "uid": "sample"}
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_every_rule_and_dashboard_of_the_repository_is_in_the_chart(rendered: Rendered) -> None:
    objects = rendered("prod", KUBE_NEWEST)
    observability = CHART.parents[1] / "observability"

    assert (CHART / "files" / "alerts").resolve() == observability / "alerts"
    assert (CHART / "files" / "dashboards").resolve() == observability / "grafana" / "dashboards"
    rules = {f"prod-holdfast-{path.stem}" for path in (observability / "alerts").glob("*.yaml")}
    assert set(of_kind(objects, "PrometheusRule")) == rules
    shown = {
        f"prod-holdfast-dashboard-{path.stem}" for path in (observability / "grafana" / "dashboards").glob("*.json")
    }
    assert {name for name in of_kind(objects, "ConfigMap") if "dashboard" in name} == shown
    for found in of_kind(objects, "ConfigMap").values():
        assert len(json.dumps(found)) < 1_000_000, "Kubernetes takes a MiB"


def test_a_packed_chart_holds_what_its_links_lead_to(charts: dict[bool, Chart], tmp_path: Path) -> None:
    charts[True].run("package", "--destination", str(tmp_path), ".")

    (packed,) = tmp_path.iterdir()
    with tarfile.open(packed) as archive:
        files = {member.name for member in archive.getmembers() if member.isfile()}
    assert files >= {
        "holdfast/values-prod.yaml",
        "holdfast/files/alerts/sample.yaml",
        "holdfast/files/dashboards/sample.json",
        "holdfast/charts/nats/Chart.yaml",
    }
