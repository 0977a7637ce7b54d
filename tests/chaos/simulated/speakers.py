"""People who say something more to tasks: while they run, in the moment of their end, after it, and twice.

A thread is known here by its first task. What is said comes at a certain entry of the thread's history, or when its
first task has ended, whichever is first; so it meets every moment of a task.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from schemas.events import TaskSubmitted
from schemas.requests import Rejected, Reply, SendMessage
from schemas.subjects import task_of
from schemas.task import decode_state
from schemas.wire import decode, encode

if TYPE_CHECKING:
    from services.runtime.ports import Entry
    from tests.chaos.simulated.world import World

ENTRIES_MAX = 24
"""About as many as a task of three turns leaves."""
SILENT_MAX_S = 60.0
"""How long somebody waits for the moment to say something, at most."""


class Say(msgspec.Struct, frozen=True, kw_only=True):
    """Something more that is said in a thread."""

    text: str
    thread: str
    """Its first task."""
    after_entries: int
    """How many things are stored about the thread by then."""
    after_s: float
    """How long after that."""
    times: int = 1
    """How often the same request is sent."""
    by_request: bool = False
    to_newest: bool = False
    """To the task that the thread is at; otherwise to its first."""


def draw_says(rng: random.Random, tasks: Sequence[str]) -> tuple[Say, ...]:
    """What is said in one seed."""
    return tuple(
        Say(
            text=f"{task}-more-{n}",
            thread=task,
            after_entries=rng.choice((rng.randint(1, ENTRIES_MAX), ENTRIES_MAX * 4)),
            after_s=rng.choice((0.0, 0.0, 0.05, 1.0)) * rng.random(),
            times=rng.choice((1, 1, 1, 2, 3)),
            by_request=rng.random() < 0.6,
            to_newest=rng.random() < 0.5,
        )
        for task in tasks
        for n in range(1, rng.choice((0, 0, 0, 1, 2, 4)) + 1)
    )


class Speakers:
    """Says what is to be said in a world, and knows its threads."""

    def __init__(self, world: World) -> None:
        self.threads: dict[str, list[str]] = {task.name: [task.name] for task in world.scenario.tasks}
        """The tasks of each thread, by its first one."""
        self._world = world
        self._root = {name: name for name in self.threads}
        self._entries: Counter[str] = Counter()
        self._moments: dict[Say, asyncio.Event] = {say: asyncio.Event() for say in world.scenario.says}
        for stream in world.server.tasks:
            stream.observe(self._look)

    async def say(self, say: Say) -> None:
        """Say something when its moment has come, as often as it is said."""
        world = self._world
        with suppress(TimeoutError):
            await asyncio.wait_for(self._moments[say].wait(), SILENT_MAX_S)
        await asyncio.sleep(say.after_s)
        to = self.threads[say.thread][-1] if say.to_newest else say.thread
        world.note("client", "say", to, say.text)
        await asyncio.gather(*(self._send(say, to) for _ in range(say.times)))

    async def _send(self, say: Say, to: str) -> None:
        data = encode(SendMessage(task=to, message=say.text, by="ann"))
        reply: Reply | None = await self._world.request("send", data, f"say-{say.text}", by_request=say.by_request)
        if isinstance(reply, Rejected):
            self._world.problems.append(f"{say.text!r} was refused: {reply}")

    def _look(self, entry: Entry) -> None:
        name = task_of(entry.subject).task
        if entry.subject.endswith(".submitted"):
            submitted = decode(entry.data, TaskSubmitted)
            if submitted.continues and name not in self._root:
                root = self._root[name] = self._root[submitted.continues]
                self.threads[root].append(name)
                self._world.accepted.add(name)
        root = self._root.get(name, "")
        self._entries[root] += ".ntf." not in entry.subject  # nothing that is said waits for those who are told
        is_over = entry.subject.startswith("$KV.") and hasattr(decode_state(entry.data), "ended_at")
        for say, moment in self._moments.items():
            if say.thread == root and (is_over or self._entries[root] >= say.after_entries):
                moment.set()
