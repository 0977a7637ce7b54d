"""Starts replicas of the services that can be told where to die.

    python -m tests.chaos.live.launcher DIRECTORY

Reads orders as lines of JSON, and forks one process for each: `{"service": ..., "environ": {...}, "log": ...}`. Every
process runs `run_services` as `holdfast serve` does; only what it sends to the bus, and its calls of models and tools,
pass through a watch on the way. The watch appends every step to DIRECTORY/steps, and looks for the file DIRECTORY/plan:
the first process that comes to the step which that names takes the plan away and kills itself, or the server, with
SIGKILL. All processes die with the launcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import os
import select
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar
from unittest import mock

from services.human_contact import main as human_contact
from services.llm_gateway import main as llm_gateway
from services.llm_gateway.providers import scripted
from services.notifier import main as notifier
from services.notifier.sinks import http
from services.planner import main as planner
from services.runtime.consumer import Handler, Inbound
from services.runtime.nats import bus as nats_bus
from services.runtime.nats.connection import Connection
from services.runtime.nats.wire import Raw
from services.runtime.process import run_services
from services.runtime.replica import Build
from services.runtime.service import Runtime, Service, Subscription
from services.runtime.settings import Settings
from services.runtime.tasks import spawn
from services.tool_executor import main as tool_executor
from services.tool_executor.mcp import session
from tests.chaos.live.rows import BACKGROUND, Step, handling_of, message_step

T = TypeVar("T")

BUILDS: Mapping[str, Build] = {
    "planner": planner.build,
    "llm-gateway": llm_gateway.build,
    "tool-executor": tool_executor.build,
    "notifier": notifier.build,
    "human-contact": human_contact.build,
}
YIELDS = 5
"""Turns of the event loop after which a request has been written and its answer has not come."""


class Handling:
    """One message in the hands of a service."""

    def __init__(self, subject: str, kind: str) -> None:
        self.subject = subject
        self.kind = kind
        self.steps: Counter[str] = Counter()


_handling: ContextVar[Handling | None] = ContextVar("handling", default=None)


class Watch:
    """Names every step of this process, and dies at the one that the plan says."""

    def __init__(self, service: str, directory: Path) -> None:
        self._service = service
        self._plan = directory / "plan"
        self._hit = directory / "hit"
        self._journal = os.open(directory / "steps", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    async def around(self, name: str, action: Callable[[], Awaitable[T]]) -> T:
        """Do a step."""
        if not name:
            return await action()
        handling = _handling.get()
        step = self._step(name, handling)
        line = json.dumps([*step, handling.subject if handling else ""]) + "\n"
        os.write(self._journal, line.encode())
        self._die_if_planned(step, "before", handling)
        if self._planned(step, "during") is not None:
            doing = spawn(_awaiting(action), name=name)
            for _ in range(YIELDS):
                await asyncio.sleep(0)
            self._die_if_planned(step, "during", handling)
            result: T = await doing
            return result
        result = await action()
        self._die_if_planned(step, "after", handling)
        return result

    def _step(self, name: str, handling: Handling | None) -> Step:
        if handling is None:
            return Step(self._service, BACKGROUND, f"{name}.1")
        handling.steps[name] += 1
        return Step(self._service, handling.kind, f"{name}.{handling.steps[name]}")

    def _planned(self, step: Step, when: str) -> dict[str, Any] | None:
        try:
            plan: dict[str, Any] = json.loads(self._plan.read_bytes())
        except FileNotFoundError:
            return None
        return plan if plan["step"] == list(step) and plan["when"] == when else None

    def _die_if_planned(self, step: Step, when: str, handling: Handling | None) -> None:
        plan = self._planned(step, when)
        if plan is None:
            return
        taken = self._plan.with_name(f"plan-{os.getpid()}")
        try:
            self._plan.rename(taken)  # one process gets it
        except FileNotFoundError:
            return
        victim = plan["victim"] or os.getpid()
        hit = {"pid": victim, "at": datetime.now(UTC).isoformat(), "subject": handling.subject if handling else ""}
        taken.unlink()
        draft = self._hit.with_name(f"hit-{os.getpid()}")  # a file of its own: others may still read the plan
        draft.write_text(json.dumps(hit))
        draft.rename(self._hit)
        os.kill(victim, signal.SIGKILL)


async def _awaiting(action: Callable[[], Awaitable[T]]) -> T:
    return await action()


# --- where steps are taken --------------------------------------------------------------


def watch_all(watch: Watch) -> None:
    """Put the watch around everything that the world can notice of this process."""

    class WatchedConnection(Connection):
        async def send(
            self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = ""
        ) -> None:
            sending = super().send
            await watch.around(message_step(subject, data), lambda: sending(subject, data, headers, reply))

        async def request(
            self,
            subject: str,
            data: bytes,
            headers: Mapping[str, str] | None = None,
            *,
            timeout_s: float = 2.0,
            before: tuple[bytes, ...] = (),
        ) -> Raw:
            asking = super().request
            name = message_step(subject, data, batch=bool(before))
            return await watch.around(name, lambda: asking(subject, data, headers, timeout_s=timeout_s, before=before))

        async def request_many(
            self, subject: str, data: bytes, *, is_last: Callable[[Raw], bool], timeout_s: float = 2.0
        ) -> list[Raw]:
            asking = super().request_many
            return await watch.around(
                message_step(subject, data), lambda: asking(subject, data, is_last=is_last, timeout_s=timeout_s)
            )

    mock.patch.object(nats_bus, "Connection", WatchedConnection).start()
    _watch_calls(watch, scripted.ScriptedModel, "call", "call-model")
    _watch_calls(watch, session.Session, "call", "call-tool")
    _watch_calls(watch, http.Http, "post", "post")


def _watch_calls(watch: Watch, kind: type[Any], method: str, name: str) -> None:
    original = getattr(kind, method)

    async def watched(*args: Any, **named: Any) -> Any:
        return await watch.around(name, lambda: original(*args, **named))

    mock.patch.object(kind, method, watched).start()


class _Named:
    """A service that says which message it handles."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.start = service.start
        self.stop = service.stop

    def subscriptions(self) -> Sequence[Subscription]:
        return [each._replace(handler=_named(each.handler)) for each in self._service.subscriptions()]


def _named(handler: Handler) -> Handler:
    async def handle(inbound: Inbound) -> None:
        # Stays set after the handler, for the acknowledgement that follows in the same task.
        _handling.set(Handling(inbound.subject, handling_of(inbound.subject, inbound.data)))
        await handler(inbound)

    return handle


def run_replica(service: str, environ: Mapping[str, str], directory: Path) -> int:
    """One replica, until it is killed or told to stop."""

    def build(runtime: Runtime) -> Service:
        return _Named(BUILDS[service](runtime))

    os.environ.update(environ)
    watch_all(Watch(service, directory))
    return run_services({service: build}, Settings.from_env(os.environ))


# --- forking ----------------------------------------------------------------------------


def _fork(order: Mapping[str, Any], directory: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(old, new)
        faulthandler.register(signal.SIGUSR1)  # says where it hangs
        code = run_replica(order["service"], order["environ"], directory)
    finally:
        os._exit(code)


def main() -> None:
    """Fork as ordered, and report who has ended."""
    directory = Path(sys.argv[1])
    alive: set[int] = set()
    noticed, notice = os.pipe()
    os.set_blocking(notice, False)
    signal.signal(signal.SIGCHLD, _noticed)
    signal.set_wakeup_fd(notice)
    rest = b""
    try:
        while True:
            ready, _, _ = select.select([0, noticed], [], [])
            if noticed in ready:
                os.read(noticed, 512)
                _reap(alive)
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    pid = _fork(json.loads(line), directory)
                    alive.add(pid)
                    _report({"started": pid})
    finally:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _noticed(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor has got a byte, which is all that is wanted."""


def _reap(alive: set[int]) -> None:
    while alive:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        alive.discard(pid)
        _report({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _report(report: Mapping[str, int]) -> None:
    os.write(1, (json.dumps(report) + "\n").encode())


if __name__ == "__main__":
    main()
