"""The dashboards as files.

python -m deploy.observability.dashboards    write them to deploy/observability/grafana/dashboards
"""

from __future__ import annotations

import json
from pathlib import Path

from deploy.observability.pages.bus import BUS
from deploy.observability.pages.models import MODELS
from deploy.observability.pages.overview import OVERVIEW
from deploy.observability.pages.people import PEOPLE
from deploy.observability.pages.planner import PLANNER
from deploy.observability.pages.tools import TOOLS
from deploy.observability.panels import Dashboard, to_grafana

FOLDER = Path(__file__).parent / "grafana" / "dashboards"
DASHBOARDS = (OVERVIEW, PLANNER, MODELS, TOOLS, PEOPLE, BUS)


def text_of(dashboard: Dashboard) -> str:
    """The file of a dashboard."""
    return json.dumps(to_grafana(dashboard), indent=2) + "\n"


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.name}.json").write_text(text_of(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
