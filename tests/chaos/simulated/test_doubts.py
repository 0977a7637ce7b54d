"""The same world, where people are asked about calls whose outcome nobody knows, seed by seed.

DOUBTS=1000 pytest tests/chaos/simulated/test_doubts.py      so many seeds
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import msgspec

from schemas import subjects
from schemas.events import ToolStarted
from schemas.interactions import InteractionAnswered, InteractionRequested
from schemas.resources import ContactChannel, MCPServer, Ref, Resource, ToolPolicy
from schemas.wire import decode
from services.runtime.ports import Entry
from services.tool_executor.core.doubts import MakeAgain
from tests.chaos.simulated import checks, world
from tests.chaos.simulated.checks_threads import hearers
from tests.chaos.simulated.scenario import Scenario, draw_scenario
from tests.chaos.simulated.simulate import Outcome, simulate
from tests.chaos.simulated.world import ENDED, World

SEEDS = range(1, int(os.environ.get("DOUBTS") or 15) + 1)
ASKED = ("pay", "put", "look")
EFFECTS = checks._effects
LOOK = World._look_at_questions


def _where_people_are_asked(rng: random.Random) -> Scenario:
    scenario = draw_scenario(rng)
    resources = tuple(_asking(one) for one in scenario.resources)
    upsets = tuple(msgspec.structs.replace(one, resource=_asking(one.resource)) for one in scenario.upsets)
    return msgspec.structs.replace(scenario, resources=resources, upsets=upsets)


def _asking(resource: Resource) -> Resource:
    """Servers ask, about all tools but one; and channels are such that they become ready."""
    if isinstance(resource, MCPServer):
        careful = ToolPolicy(tool="*", read_only=False, idempotent=False)
        spec = msgspec.structs.replace(
            resource.spec, contact_channel=Ref(name="people"), policies=(*resource.spec.policies, careful)
        )
        return msgspec.structs.replace(resource, spec=spec)
    if isinstance(resource, ContactChannel) and resource.spec.timeout_s is None:
        return msgspec.structs.replace(resource, spec=msgspec.structs.replace(resource.spec, on_timeout="deny"))
    return resource


def _look(here: World, entry: Entry) -> None:
    """People see these questions as they see the others."""
    if entry.subject.endswith(".asked"):
        entry = msgspec.structs.replace(entry, subject=f"{entry.subject.rsplit('.', 2)[0]}.0.asked")
    LOOK(here, entry)


def _effects(here: World) -> Iterator[str]:
    """What must not be repeated was repeated only as often as somebody said so, after they had."""
    yield from (problem for problem in EFFECTS(here) if " was paid " not in problem)
    for key in sorted({effect.key for effect in here.history.effects if effect.tool in ASKED}):
        user, turn, n = key.split("/")
        task = here.scenario.subjects(hearers(here).get(user, [user])[0])
        asked = here.history.of(task, f"{task.root}.int.{task.task}.r{turn}.{n}.*.asked")
        accepted = 0
        for question in (decode(entry.data, InteractionRequested) for entry in asked):
            place = f"{task.root}.int.{task.task}.{question.interaction}.answered"
            said = [decode(entry.data, InteractionAnswered) for entry in here.history.of(task, place)]
            if question.kind == "uncertain" and any(one.action == "accept" for one in said):
                accepted += 1
        entries = [decode(one.data, ToolStarted) for one in here.history.of(task, task.ledger(f"r{turn}", int(n)))]
        if max((one.attempt for one in entries), default=0) > 1 + accepted:
            yield f"{key} was begun {len(entries)} times, and people wanted {accepted} of them again"
        if len(here.history.effects_of(key)) > 1 + accepted:
            yield f"{key} was done {len(here.history.effects_of(key))} times, and people wanted {accepted} again"


def _open(here: World) -> Iterator[str]:
    """Nothing is asked for a task that has ended."""
    for name in sorted(here.accepted - here.removed):
        task = here.scenario.subjects(name)
        if not isinstance(here.state(task), ENDED):
            continue
        stored = {entry.subject for entry in here.history.by_task[task]}
        for subject in sorted(stored):
            root, _, what = subject.rpartition(".")
            if ".int." in subject and what == "asked" and f"{root}.answered" not in stored:
                yield f"{subject} was never answered or withdrawn"


class Seen:
    """What happened in all seeds together."""

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()


@contextmanager
def _doubting(seen: Seen) -> Generator[None]:
    def count(here: World) -> Iterator[str]:
        for entries in here.history.by_task.values():
            for entry in entries:
                if entry.subject.endswith(".answered") and not entry.subject.endswith(".0.answered"):
                    answered = decode(entry.data, InteractionAnswered)
                    seen.said[f"{answered.via} {answered.action}"] += 1
        yield from _effects(here)
        yield from _open(here)

    with (
        patch.object(world, "draw_scenario", _where_people_are_asked),
        patch.object(world, "CONSUMERS", (*world.CONSUMERS, subjects.TOOL_EXECUTOR_ANSWERS)),
        patch.object(World, "_look_at_questions", _look),
        patch.object(checks, "_effects", count),
    ):
        yield


def _always_again(*_: object) -> MakeAgain:
    return MakeAgain()


def _simulate(seed: int, seen: Seen | None = None) -> Outcome:
    with _doubting(seen or Seen()):
        return simulate(seed)


def test_people_decide_and_nothing_is_repeated_without_their_word() -> None:
    seen = Seen()
    for seed in SEEDS:
        outcome = _simulate(seed, seen)
        assert not outcome.problems, outcome.report()
    assert {"request accept", "request decline", "expired cancel"} <= seen.said.keys(), seen.said


def test_a_call_that_is_repeated_whatever_people_say_is_found() -> None:
    with patch("services.tool_executor.doubts.verdict_of", _always_again):
        assert any("people wanted" in problem for seed in range(1, 400) for problem in _simulate(seed).problems), (
            "no seed has found it"
        )
