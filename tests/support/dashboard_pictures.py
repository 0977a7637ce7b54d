"""The pictures of the dashboards in the documentation: a minute and a half of a small system, with two kills.

python -m tests.support.dashboard_pictures    write docs/operations/dashboards/*.svg
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from deploy.observability.dashboards import DASHBOARDS
from deploy.observability.drawing import Series, draw, legend
from deploy.observability.panels import Panel
from tests.support.observed import Observed, observed
from tests.support.prometheus import Prometheus
from tests.support.stack import REPOSITORY

FOLDER = REPOSITORY / "docs" / "operations" / "dashboards"
SECONDS = 90.0
STEP_S = 2.0
KILLS = ((30.0, "tool-executor", 8.0), (60.0, "planner", 4.0))
"""When which service is killed, and how long it is away."""
PAUSE_S = 2.0


async def watched(here: Observed) -> float:
    """A while of work; when it began."""
    began = time.monotonic()
    at = time.time()  # noqa: TID251 - Prometheus is asked by the clock on the wall
    killing = asyncio.create_task(_kill(here, began))  # noqa: TID251 - awaited below
    await here.leave_open()
    while time.monotonic() - began < SECONDS:
        await here.round()
        await asyncio.sleep(PAUSE_S)
    await killing
    return at


async def _kill(here: Observed, began: float) -> None:
    for after_s, service, away_s in KILLS:
        await asyncio.sleep(max(began + after_s - time.monotonic(), 0))
        here.kill(service)
        await asyncio.sleep(away_s)
        here.start(service)


def data(watching: Prometheus, panel: Panel, start: float) -> list[Series]:
    """What a panel shows; what is largest first, since a legend has room for a few."""
    found: list[Series] = []
    for query in panel.queries:
        expr = query.expr.replace("$__rate_interval", "10s").replace("$__range", f"{SECONDS:.0f}s")
        for sample in watching.query_range(expr, start, start + SECONDS, STEP_S):
            points = [(t - start, value) for t, value in sample.values]
            found.append(Series(legend(query.legend, sample.labels), points))
    return sorted(found, key=lambda one: (-max(value for _, value in one.points), one.name))


async def main() -> None:
    """Make them."""
    with tempfile.TemporaryDirectory() as directory:
        async with observed(Path(directory)) as here:
            start = await watched(here)
            FOLDER.mkdir(parents=True, exist_ok=True)
            for dashboard in DASHBOARDS:
                picture = draw(dashboard, lambda panel: data(here.prometheus, panel, start), seconds=SECONDS)
                (FOLDER / f"{dashboard.name}.svg").write_text(picture, encoding="utf-8")
                sys.stdout.write(f"{FOLDER / dashboard.name}.svg\n")


if __name__ == "__main__":
    asyncio.run(main())
