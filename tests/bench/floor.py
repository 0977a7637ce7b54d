"""The floor: what the server and the plain client can do, when nobody reads and nobody decides.

One process, no consumers: for each turn the same six messages as ours are stored, one after another, with the same
subjects, headers, sizes and expectations, in a stream of the same configuration beside ours on the same server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import nats
from nats.js import JetStreamContext

from schemas.subjects import EXPECTED_LAST_SUBJECT_SEQUENCE, TaskSubjects
from services.runtime.nats import api
from services.runtime.nats.topology import stream_plans
from services.runtime.ports import Entry
from services.runtime.settings import Settings
from tests.bench.system import System

STREAM = "KV_holdfree_0"
"""As long as the name of the real one, so that nothing differs in size."""
TRANSITIONS_PER_TURN = 2


class Sample(NamedTuple):
    """One of the messages of a turn, as ours was stored."""

    data: bytes
    headers: Mapping[str, str]


class Turn(NamedTuple):
    """The messages of a turn, in order."""

    awaiting_model: Sample
    model_command: Sample
    model_event: Sample
    awaiting_tools: Sample
    tool_command: Sample
    tool_event: Sample


async def sample_turn(system: System, task: TaskSubjects, turn: int) -> Turn:
    """The messages of a turn of an ended task. Its states are gone; what is left is as large as the last one was."""
    log = system.bus.log(task.partition)
    found: list[Sample] = []
    for subject in (
        task.state,
        task.model_command(turn, 1),
        task.model_event(turn, 1),
        task.state,
        task.tool_command(f"r{turn}", 1),
        task.tool_event(f"r{turn}", 1),
    ):
        entry = await log.get(subject)
        if entry is None:
            raise RuntimeError(f"nothing is stored on {subject}")
        found.append(_sample(entry))
    return Turn(*found)


def _sample(entry: Entry) -> Sample:
    return Sample(entry.data, dict(entry.headers))


async def make_stream(system: System) -> None:
    """A stream like a partition's, whose subjects no consumer of ours reads."""
    config = stream_plans(Settings())[0].config
    body: dict[str, Any] = {**config, "name": STREAM, "subjects": ["$KV.holdfree_0.>", "hx.0.>"], "metadata": {}}
    await api.ask(system.bus._connection, f"STREAM.CREATE.{STREAM}", body)


async def floor(system: System, turn: Turn, *, tasks: int, turns: int, run: str) -> float:
    """Transitions per second with this many tasks in flight."""
    client = await nats.connect(system.url)  # pyright: ignore[reportUnknownMemberType]  # untyped options
    try:
        js = client.jetstream(timeout=30)  # pyright: ignore[reportUnknownMemberType]  # untyped options
        started = time.perf_counter()
        await asyncio.gather(*(_task(js, turn, f"{run}-{n}", turns) for n in range(tasks)))
        return tasks * turns * TRANSITIONS_PER_TURN / (time.perf_counter() - started)
    finally:
        await client.close()


async def _task(js: JetStreamContext, turn: Turn, name: str, turns: int) -> None:
    state = f"$KV.holdfree_0.default.{name}"
    root = "hx.0.default"
    revision = 0
    for n in range(1, turns + 1):
        revision = await _store(js, state, turn.awaiting_model, revision)
        await _store(js, f"{root}.cmd.llm.{name}.{n}.1", turn.model_command, 0)
        await _store(js, f"{root}.evt.{name}.llm.{n}.1", turn.model_event, 0)
        revision = await _store(js, state, turn.awaiting_tools, revision)
        await _store(js, f"{root}.cmd.tool.{name}.r{n}.1", turn.tool_command, 0)
        await _store(js, f"{root}.evt.{name}.tool.r{n}.1", turn.tool_event, 0)


async def _store(js: JetStreamContext, subject: str, sample: Sample, expected: int) -> int:
    headers = {**sample.headers, EXPECTED_LAST_SUBJECT_SEQUENCE: str(expected)}
    return (await js.publish(subject, sample.data, headers=headers)).seq
