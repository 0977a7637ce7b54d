"""The report's arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.bench.recovery import gap_around
from tests.bench.report import REQUIRED, Row, write
from tests.bench.suite import quantile
from tests.bench.turns import rate

START = datetime(2026, 3, 1, tzinfo=UTC)


def after(*seconds: float) -> list[datetime]:
    return [START + timedelta(seconds=each) for each in seconds]


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert quantile([7.0], 0.5) == 7.0


def test_the_gap_around_a_kill_is_between_the_steps_beside_it() -> None:
    assert gap_around(after(1.2)[0], after(0.0, 1.0, 2.5, 9.0)) == 1.5
    assert gap_around(after(10.0)[0], after(0.0, 1.0)) == 0.0


def test_a_rate_leaves_out_both_ends() -> None:
    steady = after(*(n / 100 for n in range(1000)))
    slow_start = after(-100.0, *(n / 100 for n in range(1, 1000)))
    assert rate(steady) == pytest.approx(100)
    assert rate(slow_start) == pytest.approx(100)


def test_a_goal_says_whether_it_was_reached() -> None:
    assert Row("turn", 7.9, "ms", most=8).goal == "<= 8  reached"
    assert Row("turn", 8.1, "ms", most=8).goal == "<= 8  MISSED"
    assert Row("share", 0.39, least=0.4).goal == ">= 0.4  MISSED"
    assert Row("floor", 1.0).goal == ""


def test_a_report_that_lacks_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="turn_ms_p50"):
        write({"sync": "always"}, tmp_path / "bench.json", REQUIRED)
    assert not (tmp_path / "bench.json").exists()
