"""A command in a terminal of its own, as somebody who sits at it has it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

PATIENCE_S = 30.0
TAKE_TERMINAL = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""The terminal is what controls the process, so Ctrl-C reaches it."""
_ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>])")


class PtyCommand:
    """A process whose terminal we type into; its window is wide enough that no line is broken."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._master, follower = pty.openpty()
        self._seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *command],
            env={**env, "TERM": "xterm"},
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
        )
        os.close(follower)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._master)

    @property
    def raw(self) -> str:
        """All that was written so far."""
        return self._seen

    @property
    def seen(self) -> str:
        """The same without what moves the cursor or colours it."""
        return _ESCAPE.sub("", self._seen).replace("\r\n", "\n")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, text: str, *, after: int = 0) -> int:
        """Read until the text is there; where it ends."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.seen.find(text, after)) < 0:
            assert time.monotonic() < deadline, f"{text!r} did not come:\n{self.seen}"
            if not self._read():
                raise AssertionError(f"ended without {text!r}:\n{self.seen}")
        return found + len(text)

    def end(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read():
            assert time.monotonic() < deadline, f"it does not end:\n{self.seen}"
        return self.process.wait(PATIENCE_S)

    def _read(self) -> bool:
        """Read what there is; whether more can come."""
        if not select.select([self._master], [], [], 0.2)[0]:
            return True
        try:
            data = os.read(self._master, 65_536)
        except OSError:
            return False
        self._seen += data.decode(errors="replace")
        return bool(data)
