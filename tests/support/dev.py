"""A running `holdfast dev`, and the commands against it, as a user has them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from services.cli.main import run

HOLDFAST = (sys.executable, "-m", "services.cli.main")
START_S = 60.0


class Done(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Dev:
    """A `holdfast dev` process, found by its commands through the state directory."""

    def __init__(self, directory: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.ready = directory / "ready"
        self.log = directory / "dev.log"
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("HOLDFAST_", "NATS_"))}
        self.env |= {"HOLDFAST_STATE_DIR": str(directory / "state"), "COLUMNS": "200", **(environ or {})}
        self.process = subprocess.Popen(
            [*HOLDFAST, "dev", "--once-ready-file", str(self.ready), *arguments],
            env=self.env,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while not self.ready.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def run(self, *arguments: str, given: str = "") -> Done:
        """Run a command to its end, in this process: it is the same and takes a tenth of the time."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.env, clear=True),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode()))),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run(list(arguments))
        return Done(code, out.getvalue(), err.getvalue())

    def good(self, *arguments: str, given: str = "") -> Done:
        """Run a command that must succeed."""
        done = self.run(*arguments, given=given)
        assert done.code == 0, f"{' '.join(arguments)} ended with {done.code}\n{done.out}\n{done.err}"
        return done

    @property
    def url(self) -> str:
        """Where its server is."""
        return self.ready.read_text().strip()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command as a process of its own and let it run."""
        return subprocess.Popen(
            [*HOLDFAST, *arguments],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode
