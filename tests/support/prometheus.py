"""A real Prometheus for tests, and its tool.

The programs come from `build/prometheus` (`make prometheus`) or from the search path; where there is neither, a test is
skipped and says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from services.runtime.nats.server import free_port
from tests.support.nats_server import LIBC, _die_with_parent

REPOSITORY = Path(__file__).parents[2]
FETCHED = REPOSITORY / "build" / "prometheus" / "bin"
START_S = 30.0
WHY_NOT = "there is no {} here: `make prometheus` fetches it, from the system's packages or from its image"


def program(name: str) -> str:
    """Where `prometheus` or `promtool` is; skips the test if it is nowhere."""
    if (FETCHED / name).exists():
        return str(FETCHED / name)
    found = shutil.which(name)
    if found is None:
        pytest.skip(WHY_NOT.format(name))
    return found


class Sample(NamedTuple):
    """A series and its values over time."""

    labels: Mapping[str, str]
    values: Sequence[tuple[float, float]]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.values[-1][1]


class Refused(AssertionError):
    """Prometheus does not understand a query."""


class Prometheus:
    """A server under test."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of the API."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise Refused(f"{parameters}: {error.read().decode()}") from error

    def query(self, expr: str) -> list[Sample]:
        """What a query gives now."""
        data = self.ask("query", query=expr)
        if data["resultType"] == "scalar":
            return [Sample({}, [_point(data["result"])])]
        return [Sample(one["metric"], [_point(one["value"])]) for one in data["result"]]

    def query_range(self, expr: str, start: float, end: float, step_s: float) -> list[Sample]:
        """What it gave over time."""
        data = self.ask("query_range", query=expr, start=str(start), end=str(end), step=str(step_s))
        return [Sample(one["metric"], [_point(value) for value in one["values"]]) for one in data["result"]]

    def until(self, expr: str, what: str, *, within_s: float = 30.0) -> list[Sample]:
        """Wait until a query gives something."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if found := self.query(expr):
                return found
            time.sleep(0.2)
        raise AssertionError(f"{what} never came true: {expr}")


def _point(value: Sequence[Any]) -> tuple[float, float]:
    return float(value[0]), float(value[1])


@contextmanager
def prometheus(directory: Path, config: str) -> Generator[Prometheus]:
    """A running Prometheus with this configuration, ended at the end."""
    binary = program("prometheus")
    home = directory / "prometheus"
    home.mkdir()
    file = home / "prometheus.yml"
    file.write_text(config, encoding="utf-8")
    port = free_port()
    log = (home / "log").open("wb")
    process = subprocess.Popen(
        [
            binary,
            f"--config.file={file}",
            f"--storage.tsdb.path={home / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=_die_with_parent if LIBC else None,  # noqa: PLW1509 - one system call, and no lock
    )
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        _wait(server, process, home / "log")
        yield server
    finally:
        process.kill()
        process.wait()
        log.close()


def _wait(server: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")
        try:
            with urllib.request.urlopen(f"{server.url}/-/ready", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"prometheus did not start in {START_S} s:\n{log.read_text(errors='replace')}")
