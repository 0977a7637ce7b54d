"""An event loop with virtual time, on which whole processes can die between two awaits.

Nothing is waited for: when nobody can run, the time is moved to the next timer. Whatever runs belongs to the process
in whose context it was scheduled; when that process is dead, it is not run any more: no `finally`, no callback. The
order in which things run follows from the program alone, so one seed is one history.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TEARDOWN_ROUNDS = 200


class Mortal:
    """Something that owns tasks and callbacks, and can die."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True


PROCESS: ContextVar[Mortal | None] = ContextVar("simulated_process", default=None)


class Stuck(Exception):
    """Nobody can run, and no timer is set."""


class _Selector(selectors.SelectSelector):
    """Moves the time instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("nobody can run, and no timer is set")
        self.now += max(timeout, 0.0)
        return []


class _Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address."""

    numbers = itertools.count(1)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(self.numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop of one simulation."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self.problems: list[str] = []
        self._kept: list[asyncio.Task[Any]] = []
        self._limbo: list[tuple[Callable[[], object], Context]] = []
        """What dead processes would have run; it is run when everything is torn down."""
        self._torn_down = False
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._on_problem)

    def time(self) -> float:
        return self._virtual.now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        context = copy_context() if context is None else context
        return super().call_soon(self._guarded(lambda: callback(*args), context), context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        context = copy_context() if context is None else context
        return super().call_at(when, self._guarded(lambda: callback(*args), context), context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]  # a thread would be outside of the simulation's time
        future: asyncio.Future[T] = self.create_future()
        future.set_result(func(*args))
        return future

    def tear_down(self) -> None:
        """End everything that was ever started, the dead included, and close the loop."""
        self._torn_down = True
        for _ in range(TEARDOWN_ROUNDS):
            pending = [task for task in self._kept if not task.done()]
            if not pending:
                break
            for task in pending:
                task.cancel()
            limbo, self._limbo = self._limbo, []
            for callback, context in limbo:
                super().call_soon(callback, context=context)
            self.run_until_complete(asyncio.sleep(0))
        self.run_until_complete(self.shutdown_asyncgens())
        self._kept.clear()
        self.close()

    def _guarded(self, callback: Callable[[], object], context: Context) -> Callable[[], object]:
        mortal = context.get(PROCESS)
        if mortal is None:
            return callback

        def run() -> object:
            if mortal.alive or self._torn_down:
                return callback()
            self._limbo.append((callback, context))
            return None

        return run

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        **kwargs: Any,
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = _Task(coro, loop=loop, **kwargs)
        self._kept.append(task)
        return task

    def _on_problem(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        if not self._torn_down:
            self.problems.append(f"{context.get('message')}: {context.get('exception')!r}")


def as_process(mortal: Mortal | None) -> Context:
    """A context in which everything that is started belongs to `mortal`."""
    context = Context()
    context.run(PROCESS.set, mortal)
    return context
