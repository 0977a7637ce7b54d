"""Runs one command to its end, under a supervisor of its own (`supervisor.py`), which leaves nothing of it behind.

What the command says is read, cut and counted by the supervisor; this process only ever holds what is kept of it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import os
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Literal, cast

import msgspec

SUPERVISOR = Path(__file__).with_name("supervisor.py")
PR_SET_DUMPABLE = 4
END_S = 8.0
"""How long the supervisor may take to end the command's processes, more than it gives itself."""
REPORT_BYTES_MAX = 16_384


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is run, and within which limits."""

    command: tuple[str, ...]
    """The program, found by the `PATH` of `env`, and its arguments."""
    directory: str
    env: dict[str, str]
    timeout_s: float
    limits: dict[str, int]
    """Of each process, by their names in the module `resource`."""
    processes: int
    """At once."""
    helpers: int = 0
    """Processes of the sandbox, which do not count."""
    output_bytes: int
    stdin: bytes = b""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended. `ended` is empty if it did so by itself."""

    ended: Literal["", "timeout", "processes", "stopped", "failed"]
    code: int | None
    """Its exit code; below zero: the signal that ended it."""
    words: str
    """Why it could not be started."""
    seconds: float
    head: int
    tail: int
    seen: int
    """Bytes that it said."""
    output: tuple[bytes, bytes] = (b"", b"")
    """Head and tail of what it said."""


class SupervisorLost(Exception):
    """The supervisor is gone without a report: nobody knows what became of the command."""


async def run(order: Order) -> Ended:
    """Run a command; when this is left, also by cancellation, nothing of it runs any more. Raises `SupervisorLost`."""
    hide_environment()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-B", str(SUPERVISOR)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
        cwd="/",
        start_new_session=True,
        limit=REPORT_BYTES_MAX,
    )
    stdin, stdout = cast("asyncio.StreamWriter", process.stdin), cast("asyncio.StreamReader", process.stdout)
    child = 0
    try:
        stdin.write(_encoded(order))
        await stdin.drain()
        child = int(await stdout.readline())
        report = msgspec.json.decode(await stdout.readline(), type=Ended)
        head, tail = await stdout.readexactly(report.head), await stdout.readexactly(report.tail)
    except (ValueError, msgspec.DecodeError, asyncio.IncompleteReadError, OSError) as error:
        raise SupervisorLost("the process that looks after the command was ended by force") from error
    else:
        return msgspec.structs.replace(report, output=(head, tail))
    finally:
        await _end(process, child)


async def _end(process: asyncio.subprocess.Process, child: int) -> None:
    """Have the supervisor end whatever runs, and itself."""
    stdin, stdout = cast("asyncio.StreamWriter", process.stdin), cast("asyncio.StreamReader", process.stdout)
    stdin.close()
    try:
        async with asyncio.timeout(END_S):
            while await stdout.read(REPORT_BYTES_MAX):
                pass
            code = await process.wait()
    except TimeoutError:
        code = -signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if code != 0 and child:  # it could not do its work: at least the command's own session
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)


def _encoded(order: Order) -> bytes:
    plain = msgspec.to_builtins(order, builtin_types=(bytes,))
    plain["stdin"] = base64.b64encode(order.stdin).decode()
    return msgspec.json.encode(plain) + b"\n"


@cache
def hide_environment() -> None:
    """Keep commands that run as our user from reading our memory and environment in `/proc`; nothing keeps root."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
