"""The drawing of a dashboard: whatever the data, a picture that can be read."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from deploy.observability.dashboards import DASHBOARDS
from deploy.observability.drawing import Series, draw, legend, shown
from deploy.observability.panels import Dashboard, Panel, Query, Row, Unit

SVG = "{http://www.w3.org/2000/svg}"
STEPS = [float(t) for t in range(0, 60, 2)]


def page(**fields: Any) -> Dashboard:
    panel = Panel("Some title", "What it shows.", (Query("up"),))._replace(**fields)
    return Dashboard("one", "One & only", "d", (Row("A row", (panel,)),))


def texts(picture: str) -> list[str]:
    return [one.text or "" for one in ET.fromstring(picture).iter(f"{SVG}text")]


def drawn(dashboard: Dashboard, *series: Series) -> str:
    return draw(dashboard, lambda _: series, seconds=60)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_every_panel_is_drawn_with_and_without_data(dashboard: Dashboard) -> None:
    line = Series("a line", [(t, t % 7) for t in STEPS])
    for series in ([line], []):
        found = texts(drawn(dashboard, *series))
        for panel in dashboard.panels:
            assert panel.title in found
        assert ("no data" in found) == (not series)


def test_names_are_text_and_never_markup() -> None:
    picture = drawn(page(), Series("<script>alert(1)</script> & co", [(t, 1.0) for t in STEPS]))
    assert "<script>" not in picture
    assert any("<script>" in text for text in texts(picture))
    assert "Holdfast / One & only" in texts(picture)


def test_a_gap_is_a_gap_and_not_a_number_is_no_point() -> None:
    points = [(t, 1.0) for t in STEPS if not 20 <= t < 30]
    points[3] = (points[3][0], math.nan)
    picture = drawn(page(), Series("a", points))
    assert len(re.findall(r'<polyline points="([^"]+)"', picture)) == 3
    assert "nan" not in picture


def test_stacked_lines_stand_on_each_other() -> None:
    one, other = Series("a", [(t, 2.0) for t in STEPS]), Series("b", [(t, 3.0) for t in STEPS])
    below, above = re.findall(r'<polyline points="[^ ]+ [^,]+,([\d.]+)', drawn(page(stacked=True), one, other))
    assert float(above) < float(below)
    assert "6" in texts(drawn(page(stacked=True), one, other)), "the axis reaches beyond the sum"


def test_a_number_is_red_above_its_limit_and_green_at_it() -> None:
    for value, color in ((0.0, "#37872d"), (1.0, "#c4162a")):
        picture = drawn(page(kind="stat", alarm_above=0), Series("", [(0.0, 5.0), (1.0, value)]))
        assert f'fill="{color}"' in picture


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0 s"),
        (0.0042, "s", "4.2 ms"),
        (90, "s", "1.5 min"),
        (7200, "s", "2 h"),
        (2 * 1024**2, "bytes", "2 MiB"),
        (0.256, "percentunit", "25.6 %"),
        (12.5, "currencyUSD", "$12.50"),
        (15_000, "short", "15k"),
        (3, "opm", "3/min"),
        (math.inf, "s", "-"),
    ],
)
def test_values_are_short_and_have_their_unit(value: float, unit: Unit, text: str) -> None:
    assert shown(value, unit) == text


def test_a_legend_without_a_label_is_just_shorter() -> None:
    assert legend("{{service}} {{job}} {{instance}}", {"job": "planner", "instance": "a"}) == "planner a"
