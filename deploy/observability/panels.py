"""What a dashboard is made of, and how Grafana wants it written down.

A panel says in its description what it shows and what is normal. A query names series that exist on any installation:
`tests/observability` runs every one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Json = dict[str, Any]
Kind = Literal["timeseries", "stat", "table"]
Unit = Literal["short", "s", "bytes", "percentunit", "opm", "ops", "currencyUSD", "none"]

COLUMNS = 24
SCHEMA_VERSION = 39
"""Of Grafana 10; later ones convert it."""
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
RATE = "$__rate_interval"
RANGE = "$__range"
TAG = "holdfast"


class Query(NamedTuple):
    """A line or several of a panel."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """A picture of some queries."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: Unit = "short"
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    alarm_above: float | None = None
    """Red above this."""
    quiet: bool = False
    """It may show nothing but zeros, or nothing: it is about trouble, or about what not every installation does."""


class Row(NamedTuple):
    """Panels under a headline."""

    title: str
    panels: tuple[Panel, ...]


class Dashboard(NamedTuple):
    """A page."""

    name: str
    """Its file, and the end of its uid."""
    title: str
    description: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> list[Panel]:
        """All panels, in order."""
        return [panel for row in self.rows for panel in row.panels]


def to_grafana(dashboard: Dashboard) -> Json:
    """The dashboard as Grafana reads it from a file."""
    return {
        "uid": f"holdfast-{dashboard.name}",
        "title": f"Holdfast / {dashboard.title}",
        "description": dashboard.description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "links": [
            {
                "title": "Holdfast",
                "type": "dashboards",
                "tags": [TAG],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
            }
        ],
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                    "hide": 0,
                    "refresh": 1,
                }
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "datasource": DATASOURCE,
                    "enable": True,
                    "expr": 'ALERTS{alertstate="firing", alertname=~"Holdfast.*"}',
                    "iconColor": "red",
                    "titleFormat": "{{alertname}}",
                }
            ]
        },
        "panels": _placed(dashboard.rows),
    }


def _placed(rows: Sequence[Row]) -> list[Json]:
    """All panels at their places, from left to right and from top to bottom."""
    placed: list[Json] = []
    y = 0
    for row in rows:
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        headline: Json = {"type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": place}
        placed.append({"id": len(placed) + 1, **headline})
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            placed.append({"id": len(placed) + 1, "gridPos": place, **_panel(panel)})
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return placed


def _panel(panel: Panel) -> Json:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "instant": panel.kind != "timeseries",
                "range": panel.kind == "timeseries",
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for n, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def _defaults(panel: Panel) -> Json:
    steps: list[Json] = [{"color": "green", "value": None}]
    if panel.alarm_above is not None:
        # A step begins at its value; so that the limit itself is still green, it begins a little above.
        steps.append({"color": "red", "value": panel.alarm_above + 1e-9})
    defaults: Json = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 8,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if panel.alarm_above is not None else "off"},
        }
    return defaults


def _options(panel: Panel) -> Json:
    match panel.kind:
        case "timeseries":
            return {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        case "stat":
            return {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "colorMode": "value" if panel.alarm_above is None else "background",
                "graphMode": "none",
                "textMode": "value_and_name" if any(query.legend for query in panel.queries) else "value",
            }
        case "table":
            return {"showHeader": True}


# --- the forms that most queries have ----------------------------------------------------


OF_OURS = "and on (job, instance) holdfast_build_info"
"""Of what every program tells, only what our processes do."""
PER_MINUTE = " * 60"


def calm(title: str, description: str, query: Query, *, width: int = 4) -> Panel:
    """A number that should be 0."""
    return Panel(title, description, (query,), kind="stat", width=width, height=4, alarm_above=0, quiet=True)


def quantiles(histogram: str, *by: str) -> tuple[Query, ...]:
    """The middle and the slow end of a histogram."""
    label = "".join(f"{{{{{one}}}}} " for one in by)
    return tuple(Query(quantile(q, histogram, *by), f"{label}p{round(q * 100)}") for q in (0.5, 0.95))


def share(part: str, whole: str) -> str:
    """A part of what there was, and nothing where there was nothing."""
    return f"{part} / ({whole} > 0)"


def rate(metric: str, *by: str, per: str = "") -> str:
    """How often a counter grows: each second, or `per` = " * 60" each minute."""
    return f"sum{_by(by)} (rate({metric}[{RATE}])){per}"


def busy(expr: str) -> str:
    """Only what is not 0: of many series, those that say something."""
    return f"{expr} > 0"


def grown(metric: str, *by: str, over: str = RANGE) -> str:
    """How much a counter has grown in the time shown."""
    return f"sum{_by(by)} (increase({metric}[{over}]))"


def quantile(q: float, histogram: str, *by: str) -> str:
    """A quantile of a histogram's newest observations; by label, of those that had any."""
    found = f"histogram_quantile({q}, sum{_by((*by, 'le'))} (rate({histogram}_bucket[{RATE}])))"
    return f"{found} >= 0" if by else found


def shared(gauge: str, *by: str) -> str:
    """A gauge of what all replicas share: they all tell the same."""
    return f"max{_by(by)} ({gauge})"


def total(gauge: str, *by: str, keep: Sequence[str] = ()) -> str:
    """The sum over the series of such a gauge. `by`: its labels; `keep`: those that stay."""
    return f"sum{_by(keep)} ({shared(gauge, *by)})"


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
