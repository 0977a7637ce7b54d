"""The benchmark with a tiny budget: everything is measured and counted. How long anything takes is not asserted."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.bench import people
from tests.bench.report import REQUIRED, table, write
from tests.bench.suite import SMOKE, measure
from tests.bench.system import SERVICES


async def test_the_benchmark_measures_everything_and_its_counts_hold(tmp_path: Path) -> None:
    found = await measure(tmp_path, SMOKE)
    write(found, tmp_path / "bench.json", REQUIRED)

    report = msgspec.json.decode((tmp_path / "bench.json").read_bytes())
    assert set(REQUIRED) <= report.keys()
    assert report["rss_mb_idle"].keys() == set(SERVICES)
    for name in REQUIRED:
        if isinstance(value := report[name], float):
            assert value > 0, name
    assert report["stored_messages_per_turn"] == 6
    assert report["parked_tasks"] == SMOKE.parked
    assert report["parked_consumers_added"] == 0
    assert all(times["samples"] > 0 for times in report["recovery_s_by_service"].values())
    assert report["sync"] == "always"
    assert "stored messages a turn" in table(found)


async def test_the_benchmark_of_people_measures_everything(tmp_path: Path) -> None:
    found = await people.measure_people(tmp_path, people.SMOKE)
    write(found, tmp_path / "bench.json")
    assert found["answers"] == people.SMOKE.answers
    assert found["consumers_added"] == 0
    assert "answer to next model call" in people.people_table(found)
