"""A person at a terminal: lines that they type, and texts that they change in their editor.

A line is read without a thread, so whoever waits for it can be cancelled at any moment; what was typed until then, and
what was typed before somebody was asked, is thrown away: it must never answer something that nobody had seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import tempfile
import termios
from collections.abc import Generator
from pathlib import Path
from typing import TextIO

from services.runtime.tasks import spawn

READ_BYTES = 65_536


class Terminal:
    """The terminal of this process."""

    def __init__(self, fd: int, stream: TextIO) -> None:
        self._fd = fd
        self._stream = stream

    def say(self, text: str) -> None:
        """Write a line; a stranger's words in it must be made visible before."""
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def forget(self) -> None:
        """Throw away what was typed and not read."""
        termios.tcflush(self._fd, termios.TCIFLUSH)

    async def line(self, prompt: str) -> str:
        """A line that the person types, without its end; raises `EOFError` when they type Ctrl-D instead."""
        self._stream.write(prompt)
        self._stream.flush()
        try:
            return await self._line()
        except asyncio.CancelledError:
            self.say("")
            self.forget()
            raise

    async def _line(self) -> str:
        loop = asyncio.get_running_loop()
        typed = bytearray()
        ready = asyncio.Event()
        loop.add_reader(self._fd, ready.set)
        try:
            while not typed.endswith(b"\n"):
                await ready.wait()
                ready.clear()
                data = self._read()
                if not data:
                    self.say("")
                    raise EOFError
                typed += data
        finally:
            loop.remove_reader(self._fd)
        return typed.decode(errors="replace").rstrip("\r\n")

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, READ_BYTES)
        except OSError:
            return b""  # the terminal is gone

    async def edit(self, text: str) -> str | None:
        """The text as the person leaves it in their editor ($VISUAL or $EDITOR); None without one, or if it fails.

        An editor is theirs: it is waited for even when nobody needs the text any more.
        """
        command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
        if not command:
            return None
        with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
            file = Path(folder) / "arguments.json"
            _write(file, text)
            try:
                editor = await asyncio.create_subprocess_exec(*command, str(file))
            except OSError as error:
                self.say(f"cannot start {command[0]}: {error.strerror or error}")
                return None
            with _uninterrupted():
                ended = spawn(editor.wait(), name="editor")
                try:
                    code = await asyncio.shield(ended)
                except asyncio.CancelledError:
                    await ended
                    raise
            if code:
                self.say(f"{command[0]} ended with {code}")
                return None
            return _read(file)


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def _uninterrupted() -> Generator[None]:
    """Ctrl-C is the editor's meanwhile."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
