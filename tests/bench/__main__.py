"""Measure, print the table, write `build/bench.json`: `make bench`, or `make bench ARGS=--smoke` for a quick look.

`make bench ARGS=flow` measures flow control, and `make bench ARGS=people` tasks that wait for people; they write
`build/bench-flow.json` and `build/bench-people.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.bench import flow, people
from tests.bench.report import REQUIRED, table, write
from tests.bench.suite import FULL, SMOKE, measure

BUILD = Path(__file__).parents[2] / "build"
OUTPUTS = {"core": BUILD / "bench.json", "flow": BUILD / "bench-flow.json", "people": BUILD / "bench-people.json"}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=list(OUTPUTS), default="core", help="what is measured")
    parser.add_argument("--smoke", action="store_true", help="a tiny budget: shows that it works, and no more")
    parser.add_argument("--output", type=Path, help="the JSON file (default: in build/)")
    parser.add_argument("--data-dir", type=Path, help="where the server keeps its streams: the disk that is measured")
    options = parser.parse_args()
    output = options.output or OUTPUTS[options.what]
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=options.data_dir) as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        match options.what:
            case "flow":
                found = runner.run(flow.measure_flow(Path(directory), flow.SMOKE if options.smoke else flow.FULL))
                shown = flow.flow_table(found)
            case "people":
                budget = people.SMOKE if options.smoke else people.FULL
                found = runner.run(people.measure_people(Path(directory), budget))
                shown = people.people_table(found)
            case _:
                found = runner.run(measure(Path(directory), SMOKE if options.smoke else FULL))
                shown = table(found)
        write(found, output, REQUIRED if options.what == "core" else ())
    sys.stdout.write(f"{shown}\n\nwritten to {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
