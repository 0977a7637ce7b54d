"""A dashboard as an SVG picture of given data: for the documentation, where no Grafana is.

The places, titles, units, limits and legends are the dashboard's own; only the drawing is ours.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from deploy.observability.panels import Dashboard, Panel, Unit, to_grafana

COLUMN = 56
LINE = 30
GAP = 8
PLOT_LEFT, PLOT_RIGHT, PLOT_TOP = 62, 12, 34
LEGEND_LINE = 15
LEGEND_LINES_MAX = 3
CHARACTER = 6.1
"""Width of a character of a legend, about."""
COLORS = ("#3274d9", "#e0752d", "#56a64b", "#b877d9", "#e02f44", "#d9a600", "#37a2b5", "#8f5e3b", "#7b8794", "#c15c9a")
RED, GREEN, INK, FAINT, GRID = "#c4162a", "#37872d", "#24292f", "#6e7781", "#e4e7eb"


class Series(NamedTuple):
    """A line: its name and its points, by seconds since the beginning."""

    name: str
    points: Sequence[tuple[float, float]]


Ask = Callable[[Panel], Sequence[Series]]
"""The data of a panel. Of one that shows numbers, the last point of each series counts."""


def draw(dashboard: Dashboard, ask: Ask, *, seconds: float) -> str:
    """The picture of a dashboard over `seconds`."""
    panels = {panel.title: panel for panel in dashboard.panels}
    placed = to_grafana(dashboard)["panels"]
    height = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in placed) * LINE + 46
    box, font = f"0 0 {24 * COLUMN + GAP} {height}", "Helvetica, Arial, sans-serif"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="{font}" font-size="11">',
        f'<rect width="100%" height="100%" fill="#f6f8fa"/>{_text(GAP, 26, f"Holdfast / {dashboard.title}", size=18)}',
    ]
    for one in placed:
        place = one["gridPos"]
        x, y = place["x"] * COLUMN + GAP, place["y"] * LINE + 40
        if one["type"] == "row":
            parts.append(_text(x, y + 20, one["title"], size=13, color=FAINT))
        else:
            size = place["w"] * COLUMN - GAP, place["h"] * LINE - GAP
            panel = panels[one["title"]]
            parts.append(f'<g transform="translate({x} {y})">{_panel(panel, ask(panel), size, seconds)}</g>')
    return "\n".join([*parts, "</svg>", ""])


def legend(template: str, labels: Mapping[str, str]) -> str:
    """A legend with its labels filled in."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template).strip()


def _panel(panel: Panel, series: Sequence[Series], size: tuple[int, int], seconds: float) -> str:
    frame = f'<rect width="{size[0]}" height="{size[1]}" rx="3" fill="#fff" stroke="{GRID}"/>'
    title = _text(10, 18, panel.title, size=12)
    named = [one for one in series if any(math.isfinite(value) for _, value in one.points)]
    if not named:
        return frame + title + _text(size[0] / 2, size[1] / 2 + 8, "no data", size=14, color=FAINT, anchor="middle")
    inside = _numbers(panel, named, size) if panel.kind == "stat" else _lines(panel, named, size, seconds)
    return frame + title + inside


def _numbers(panel: Panel, series: Sequence[Series], size: tuple[int, int]) -> str:
    parts: list[str] = []
    each = size[0] / len(series)
    for n, one in enumerate(series):
        value = next(value for _, value in reversed(one.points) if math.isfinite(value))
        color = INK if panel.alarm_above is None else RED if value > panel.alarm_above else GREEN
        middle, large = each * (n + 0.5), 30 if each > 90 else 20
        y = size[1] / 2 + (14 if not one.name else 10)
        parts.append(_text(middle, y, shown(value, panel.unit), size=large, color=color, anchor="middle"))
        if one.name:
            parts.append(_text(middle, y + 20, _cut(one.name, each), color=FAINT, anchor="middle"))
    return "".join(parts)


def _lines(panel: Panel, series: Sequence[Series], size: tuple[int, int], seconds: float) -> str:
    rows = _legend_rows(panel, series, size[0] - 20)
    plot = _Plot(size[0] - PLOT_LEFT - PLOT_RIGHT, size[1] - PLOT_TOP - 24 - len(rows) * LEGEND_LINE, seconds)
    lines = _stacked(series) if panel.stacked else [[(t, value, 0.0) for t, value in one.points] for one in series]
    highest = max((value for line in lines for _, value, _ in line if math.isfinite(value)), default=0.0)
    ticks = _ticks(highest, 1024 if panel.unit == "bytes" else 10)

    def at(t: float, value: float) -> str:
        return f"{plot.x(t):.1f},{plot.y(min(value / ticks[-1], 1)):.1f}"

    parts = [_axes(panel, ticks, plot)]
    if panel.alarm_above is not None and 0 < panel.alarm_above <= ticks[-1]:
        ends = at(0, panel.alarm_above), at(seconds, panel.alarm_above)
        parts.append(f'<polyline points="{" ".join(ends)}" stroke="{RED}" stroke-dasharray="5 4" fill="none"/>')
    for n, line in enumerate(lines):
        color = COLORS[n % len(COLORS)]
        for run in _runs(line):
            points = " ".join(at(t, value) for t, value, _ in run)
            if panel.stacked:
                under = " ".join(at(t, base) for t, _, base in reversed(run))
                parts.append(f'<polygon points="{points} {under}" fill="{color}" fill-opacity="0.3"/>')
            cap = ' stroke-linecap="round"' if len(run) == 1 else ""
            points = f"{points} {points}" if len(run) == 1 else points
            parts.append(f'<polyline points="{points}" stroke="{color}" stroke-width="1.6" fill="none"{cap}/>')
    y = plot.y(0) + 24
    for number, row in enumerate(rows):
        parts += [_entry(x, y + number * LEGEND_LINE + 6, text, color) for x, text, color in row]
    return "".join(parts)


class _Plot(NamedTuple):
    """Where lines are drawn."""

    width: float
    height: float
    seconds: float

    def x(self, t: float) -> float:
        """The place of a time."""
        return PLOT_LEFT + t / self.seconds * self.width

    def y(self, part: float) -> float:
        """The place of a part of the highest value."""
        return PLOT_TOP + (1 - part) * self.height


def _axes(panel: Panel, ticks: Sequence[float], plot: _Plot) -> str:
    parts: list[str] = []
    for tick in ticks:
        y = plot.y(tick / ticks[-1])
        parts.append(f'<path d="M{PLOT_LEFT} {y:.1f}h{plot.width}" stroke="{GRID}"/>')
        parts.append(_text(PLOT_LEFT - 6, y + 4, shown(tick, panel.unit), size=10, color=FAINT, anchor="end"))
    for part in range(4):
        t = plot.seconds * part / 3
        anchor = "start" if part == 0 else "end" if part == 3 else "middle"
        label = f"{int(t) // 60}:{int(t) % 60:02d}"
        parts.append(_text(plot.x(t), plot.y(0) + 14, label, size=10, color=FAINT, anchor=anchor))
    return "".join(parts)


def _legend_rows(panel: Panel, series: Sequence[Series], width: float) -> list[list[tuple[float, str, str]]]:
    """Names with their last values, as many as there is room for."""
    rows: list[list[tuple[float, str, str]]] = [[]]
    x = 0.0
    for n, one in enumerate(series):
        if not one.name:
            continue
        last = next((value for _, value in reversed(one.points) if math.isfinite(value)), math.nan)
        text = f"{one.name} {shown(last, panel.unit)}"
        needed = len(text) * CHARACTER + 22
        if x and x + needed > width:
            if len(rows) == LEGEND_LINES_MAX:
                break
            rows.append([])
            x = 0.0
        rows[-1].append((x + 10, _cut(text, width), COLORS[n % len(COLORS)]))
        x += needed
    return [row for row in rows if row]


def _entry(x: float, y: float, text: str, color: str) -> str:
    return f'<path d="M{x:.1f} {y - 4:.1f}h10" stroke="{color}" stroke-width="3"/>{_text(x + 14, y, text, size=10)}'


def _stacked(series: Iterable[Series]) -> list[list[tuple[float, float, float]]]:
    """Each series on top of those before it: time, upper and lower edge."""
    sums: dict[float, float] = {}
    lines: list[list[tuple[float, float, float]]] = []
    for one in series:
        line: list[tuple[float, float, float]] = []
        for t, value in one.points:
            base = sums.get(t, 0.0)
            sums[t] = base + (value if math.isfinite(value) else 0.0)
            line.append((t, sums[t] if math.isfinite(value) else math.nan, base))
        lines.append(line)
    return lines


def _runs(line: Sequence[tuple[float, float, float]]) -> list[list[tuple[float, float, float]]]:
    """The parts of a line between its gaps."""
    if not line:
        return []
    step = min((b[0] - a[0] for a, b in itertools.pairwise(line)), default=1.0)
    runs: list[list[tuple[float, float, float]]] = [[]]
    for point in line:
        if not math.isfinite(point[1]) or (runs[-1] and point[0] - runs[-1][-1][0] > step * 1.5):
            runs.append([])
        if math.isfinite(point[1]):
            runs[-1].append(point)
    return [run for run in runs if run]


def _ticks(highest: float, base: int) -> list[float]:
    """A few steps of a round size that reach beyond the highest value."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / 3
    size = float(base ** math.floor(math.log(rough, base)))
    steps = (1, 2, 2.5, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1024)
    step = next(one * size for one in steps if one * size >= rough)
    return [step * n for n in range(math.ceil(highest / step - 1e-9) + 1)]


def shown(value: float, unit: Unit) -> str:
    """A value with its unit, short."""
    if not math.isfinite(value):
        return "-"
    match unit:
        case "s":
            for size, name in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
                if value >= size:
                    return f"{_short(value / size)} {name}"
            return "0 s" if value == 0 else f"{_short(value * 1e6)} µs"
        case "bytes":
            for power, name in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
                if value >= 1024**power:
                    return f"{_short(value / 1024**power)} {name}"
            return f"{_short(value)} B"
        case "percentunit":
            return f"{_short(value * 100)} %"
        case "currencyUSD":
            return f"${value:.2f}"
        case "opm":
            return f"{_short(value)}/min"
        case "ops":
            return f"{_short(value)}/s"
        case "short" | "none":
            return _short(value)


def _short(value: float) -> str:
    return f"{value / 1000:.3g}k" if value >= 10_000 else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _cut(text: str, width: float) -> str:
    room = max(int(width / CHARACTER), 4)
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _text(x: float, y: float, text: str, *, size: int = 11, color: str = INK, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}">{escape(text)}</text>'
    )
