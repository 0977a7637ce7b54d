"""Measure, print the table, write `build/bench.json`: `make bench`, or `make bench ARGS=--smoke` for a quick look."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.bench.report import table, write
from tests.bench.suite import FULL, SMOKE, measure

OUTPUT = Path(__file__).parents[2] / "build" / "bench.json"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a tiny budget: shows that it works, and no more")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the JSON file (default: build/bench.json)")
    parser.add_argument("--data-dir", type=Path, help="where the server keeps its streams: the disk that is measured")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=options.data_dir) as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        found = runner.run(measure(Path(directory), SMOKE if options.smoke else FULL))
    write(found, options.output)
    sys.stdout.write(f"{table(found)}\n\nwritten to {options.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
