"""The parent of one command: a program of its own, so that nothing of the command outlives it.

It is run as a script by `process.py`, with nothing but the standard library. It reads one line of JSON on standard
input (what to run, its environment, its limits), runs it in a session of its own, keeps the head and the tail of what
it says, and answers on standard output:

    the number of the command's process     one line, at once
    how it ended, as JSON                   one line, when the command and everything it started is gone
    what it said                            as many bytes as the line before says

Whatever happens, the command's whole family dies with it: as their reaper, this process is the parent of every orphan,
also of those that left their session. The end of standard input is the order to end it all now, and comes by itself
when the executor dies. Processes are counted all the time; too many at once is the end too.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S = 0.05
"""How often the processes are counted."""
GONE_S = 5.0
"""How long the end of the last process is waited for."""
CHUNK = 65536
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36


class Kept:
    """The head and the tail of a stream, and how much is missing between them."""

    def __init__(self, limit: int) -> None:
        self._head_room = limit - limit // 2
        self._tail_max = limit // 2
        self.head = bytearray()
        self.tail = bytearray()
        self.seen = 0

    def add(self, data: bytes) -> None:
        """Take more of it."""
        self.seen += len(data)
        if room := self._head_room - len(self.head):
            self.head += data[:room]
            data = data[room:]
        self.tail += data
        if len(self.tail) > 2 * self._tail_max + CHUNK:
            del self.tail[: len(self.tail) - self._tail_max]

    def close(self) -> None:
        """Nothing more comes."""
        del self.tail[: max(len(self.tail) - self._tail_max, 0)]


def main() -> None:
    """Run what standard input says, and report."""
    order = json.loads(_line(0))
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    report, kept = run(order)
    report |= {"head": len(kept.head), "tail": len(kept.tail), "seen": kept.seen}
    with contextlib.suppress(OSError):  # nobody is there any more to hear it
        _write_all(1, json.dumps(report).encode() + b"\n" + kept.head + kept.tail)


def run(order: dict[str, Any]) -> tuple[dict[str, Any], Kept]:
    """Run a command to its end, whatever ends it."""
    kept = Kept(order["output_bytes"])
    out, their_out = os.pipe()
    their_in, feed = os.pipe() if order["stdin"] else (os.open(os.devnull, os.O_RDONLY), -1)
    failed, their_failed = os.pipe()
    os.set_blocking(out, False)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(order, their_in, their_out, their_failed)
    _write_all(1, b"%d\n" % child)
    _prctl(PR_SET_DUMPABLE, 0)
    for descriptor in (their_in, their_out, their_failed):
        os.close(descriptor)
    words = os.read(failed, 4096).decode(errors="replace")
    ended = "failed" if words else ""
    status = None
    if not words:
        ended, status = _follow(child, out, feed, kept, order)
    _end_all(child)
    _drain(out, kept)
    kept.close()
    code = os.waitstatus_to_exitcode(status) if status is not None else None
    return {"ended": ended, "code": code, "words": words, "seconds": round(time.monotonic() - began, 3)}, kept


def _follow(child: int, out: int, feed: int, kept: Kept, order: dict[str, Any]) -> tuple[str, int | None]:
    """Read, feed and count until the command ends or is to be ended; why, and its status."""
    stdin = base64.b64decode(order["stdin"])
    give_up = time.monotonic() + order["timeout_s"]
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(out, select.POLLIN)
    exited = _exit_of(child)
    if exited >= 0:
        poll.register(exited, select.POLLIN)
    if feed >= 0:
        os.set_blocking(feed, False)
        poll.register(feed, select.POLLOUT)
    looked = 0.0
    while True:
        for descriptor, _ in poll.poll(LOOK_S * 1000):
            if descriptor == 0:
                return "stopped", None
            if descriptor == exited:
                looked = 0.0
            elif descriptor == out:
                if not _take(out, kept):
                    poll.unregister(out)
            elif stdin := _feed(feed, stdin):
                continue
            else:
                poll.unregister(feed)
                os.close(feed)
        now = time.monotonic()
        if now - looked < LOOK_S:
            continue
        looked = now
        while True:
            pid, status = _reap()
            if pid == child:
                return "", status
            if not pid:
                break
        if now > give_up:
            return "timeout", None
        if len(family(os.getpid())) > order["processes"] + order["helpers"]:
            return "processes", None


def _take(out: int, kept: Kept) -> bool:
    """Read what is there; False at the end."""
    try:
        data = os.read(out, CHUNK)
    except BlockingIOError:
        return True
    kept.add(data)
    return bool(data)


def _feed(feed: int, stdin: bytes) -> bytes:
    """Write some of what the command reads; what is left of it."""
    try:
        return stdin[os.write(feed, stdin[:CHUNK]) :]
    except BlockingIOError:
        return stdin
    except OSError:
        return b""


def _drain(out: int, kept: Kept) -> None:
    """Read what is left in the pipe; everybody who could write more is gone."""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(out, CHUNK):
            kept.add(data)


def _become(order: dict[str, Any], their_in: int, their_out: int, failed: int) -> None:
    """In the new process: put on its limits and become the command."""
    try:
        os.setsid()
        for mine, theirs in ((their_in, 0), (their_out, 1), (their_out, 2)):
            os.dup2(mine, theirs)
        for name, wanted in order["limits"].items():
            number = getattr(resource, name)
            hard = resource.getrlimit(number)[1]
            value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(number, (value, value if name != "RLIMIT_CPU" else _later(value, hard)))
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - pathlib is slow to load
            file.write("1000")
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(order["directory"])
        os.execvpe(order["command"][0], order["command"], order["env"])  # noqa: S606 - the command is run
    except (OSError, ValueError) as error:
        os.write(failed, f"{getattr(error, 'strerror', None) or error}"[:1000].encode())
    finally:  # whatever happened, there is no second parent
        os._exit(127)


def _later(value: int, hard: int) -> int:
    """A second more, so that a process that used its processor time up is told by SIGXCPU before it is killed."""
    return value + 1 if hard == resource.RLIM_INFINITY else min(value + 1, hard)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # where there is no prctl, the process group is all we have
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _exit_of(child: int) -> int:
    """Something to wait for the end of a process by, or -1."""
    try:
        return os.pidfd_open(child)
    except (AttributeError, OSError):
        return -1


def family(root: int) -> set[int]:
    """All descendants of a process that are not dead yet or not yet buried."""
    look = _children if os.path.exists(f"/proc/self/task/{os.getpid()}/children") else _by_parent()  # noqa: PTH110 - as above
    found: set[int] = set()
    waiting = [root]
    while waiting:
        for child in look(waiting.pop()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def _children(pid: int) -> list[int]:
    """Its children; none if it is gone."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - as above
            with open(f"/proc/{pid}/task/{thread}/children") as file:  # noqa: PTH123 - as above
                children += map(int, file.read().split())
    return children


def _by_parent() -> Callable[[int], list[int]]:
    """The same on kernels that keep no list of children: all processes, by who their parent is."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - as above
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:  # noqa: PTH123 - as above
                parent = int(file.read().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    return lambda pid: children.get(pid, [])


def _end_all(child: int) -> None:
    """Kill the family until none is left: first have all of them stand still, so that none makes more."""
    give_up = time.monotonic() + GONE_S
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    still: set[int] = set()
    while (new := family(os.getpid()) - still) and time.monotonic() < give_up:
        _signal_all(new, signal.SIGSTOP)
        still |= new
    while time.monotonic() < give_up:
        left = family(os.getpid())
        _signal_all(left, signal.SIGKILL)
        try:
            while _reap(none_left=True)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _signal_all(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _reap(*, none_left: bool = False) -> tuple[int, int]:
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        if none_left:
            raise
        return 0, 0


def _line(descriptor: int) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        more = os.read(descriptor, CHUNK)
        if not more:
            sys.exit(0)
        data += more
    return bytes(data)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    main()
