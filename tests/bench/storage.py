"""What a long conversation costs: bytes in the stream for each byte of content, and the time of a late turn."""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

from schemas.resources import ScriptedCall
from services.runtime.ports import Signal
from tests.bench.resources import Script, script
from tests.bench.system import System
from tests.bench.turns import run_tasks, turn_ms

TEXT_BYTES = 1024
RESULT_BYTES = 4096
TURN_BYTES = TEXT_BYTES + RESULT_BYTES
EARLY_TURN = 10
AROUND = 5
"""Turns before and after that count as that turn, because one alone is noise."""


class Stored(NamedTuple):
    """A long task in the stream."""

    amplification: float
    """Stored bytes, all of them, for each byte of content."""
    written_amplification: float
    """The same with every state that was ever written, and replaced since."""
    late_over_early: float
    """The time of one of the last turns, in times of the tenth."""


def long_script(turns: int) -> Script:
    """An agent whose model says a kilobyte and whose tool says four, every turn."""
    call = ScriptedCall(tool="bench__text", arguments={"bytes": RESULT_BYTES})
    return script("long", turns=turns, call=call, text="y" * TEXT_BYTES)


async def storage(system: System, agent: str, name: str, *, turns: int) -> Stored:
    """Run one long task alone."""
    states: list[int] = []

    async def on_state(signal: Signal) -> None:
        states.append(len(signal.data))

    unsubscribe = await system.bus.signals.subscribe(f"$KV.holdfast_0.default.{name}", on_state)
    before = (await system.stream())["bytes"]
    (task,) = await run_tasks(system, agent, [name], turns=turns)
    after = (await system.stream())["bytes"]
    await unsubscribe()
    content = (turns - 1) * TURN_BYTES
    took = turn_ms((await system.model_commands([task]))[name])
    return Stored(
        amplification=(after - before) / content,
        written_amplification=(after - before + sum(states)) / content,
        late_over_early=median(took[-2 * AROUND :]) / median(took[EARLY_TURN - AROUND : EARLY_TURN + AROUND]),
    )
