"""The benchmark of flow control with a tiny budget. What is counted holds; how long anything takes is not asserted."""

from __future__ import annotations

from pathlib import Path

from tests.bench.flow import SMOKE, flow_rows, flow_table, measure_flow
from tests.bench.flow_sim import PROVIDERS


async def test_the_benchmark_of_flow_control_measures_everything_and_its_counts_hold(tmp_path: Path) -> None:
    found = await measure_flow(tmp_path, SMOKE)
    assert found["providers"].keys() == {provider.__name__ for provider in PROVIDERS}
    for provider in found["providers"].values():
        assert provider["refused"] == 0
        assert provider["used_share"] > 0.9
    for victim in found["victim"].values():
        assert victim["answered"] == victim["calls"] > 0
        assert victim["time_ratio_p99"] <= 2
    assert found["real"]["refused"] == 0
    assert len(flow_table(found).splitlines()) == len(flow_rows(found))


def test_a_provider_of_the_simulation_refuses_what_is_too_much() -> None:
    for make in PROVIDERS:
        provider = make(1000)
        assert provider.take(60.0, 900), make
        assert not provider.take(61.0, 200), make
        assert provider.take(181.0, 900), make
