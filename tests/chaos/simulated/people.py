"""People who are asked, and the channels that reach them: some fail for a while, some refuse for good.

People answer once or twice, late or never, in several ways: with other arguments, for the rest of the task, for good,
about something that they were not shown, or though it is not theirs to answer. They write their names as they like.
"""

from __future__ import annotations

import asyncio
import random
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from schemas.interactions import AnswerInteraction, InteractionAction, InteractionAnswered, InteractionRequested
from schemas.requests import Rejected
from schemas.resources import ContactChannel
from schemas.wire import encode
from services.human_contact.channels.base import ChannelFailed, Question

if TYPE_CHECKING:
    from tests.chaos.simulated.world import Process, World

Reach = Literal["well", "shaky", "refuses"]
"""How a channel takes questions; `shaky`: now and then not, or it has and says that it has not."""
PEOPLE = ("ann", "bob", "cat")
STRANGER = "mallory"


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that somebody sent. Written down by them."""

    task: str
    interaction: str
    by: str
    action: InteractionAction
    arguments: str
    scope: str
    right: bool
    """About what was shown, by somebody who may answer."""
    at: datetime


def draw_reach(rng: random.Random) -> dict[str, Reach]:
    """How the channels of a seed are."""
    return {"people": rng.choice(("well", "well", "shaky", "refuses")), "boss": rng.choice(("well", "shaky"))}


class SimulatedChannel:
    """A `Channel` that is as its scenario says."""

    def __init__(self, process: Process, name: str) -> None:
        self._process = process
        self._name = name

    async def deliver(self, question: Question) -> str:
        """Show a question."""
        await self._reach("channel.deliver", question)
        return question.asked.interaction

    async def remind(self, question: Question, place: str) -> None:
        """Say it again."""
        await self._reach("channel.remind", question)

    async def close(self, question: Question, place: str, answered: InteractionAnswered) -> None:
        """Show that it is over."""
        await self._reach("channel.close", question)

    async def check(self) -> str:
        """Always there."""
        return "simulated"

    async def end(self) -> None:
        """Nothing to let go of."""

    async def _reach(self, what: str, question: Question) -> None:
        world = self._process.world
        await self._process.pause(what, f"{self._name} {question.asked.task} {question.asked.interaction}")
        reach = world.scenario.reach.get(self._name, "well")
        if reach == "refuses" and what == "channel.deliver":
            raise ChannelFailed("no such room", transient=False)
        if reach == "shaky" and world.faults.happens(0.4):
            raise ChannelFailed("out of order", transient=True)


class People:
    """Those who see questions in a world, and answer them."""

    def __init__(self, world: World) -> None:
        self.sent: list[Sent] = []
        self._world = world
        self._answers: set[asyncio.Task[None]] = set()

    def see(self, asked: InteractionRequested) -> None:
        """A question: it is answered when people have thought, perhaps twice, perhaps never."""
        world, rng = self._world, self._world.faults.rng
        if rng.random() < 0.3:
            self._later(asked, STRANGER, rng.choice(("accept", "decline")), right=not asked.allowed)
        for name in PEOPLE[: asked.quorum]:
            if self._gives_up(asked.channel) and rng.random() < 0.3:
                continue
            action: InteractionAction = "accept" if rng.random() < 0.7 else "decline"
            if asked.digest and rng.random() < 0.1:
                self._later(asked, name, "accept", right=False, digest="something else")
            self._later(asked, name, action)
            if rng.random() < 0.3:  # again, in haste, or after a change of mind
                self._later(asked, name.upper(), rng.choice((action, "accept")))
        world.note("people", "see", asked.task, asked.interaction)

    def _later(
        self, asked: InteractionRequested, by: str, action: InteractionAction, *, right: bool = True, digest: str = ""
    ) -> None:
        rng = self._world.faults.rng
        approves = asked.kind == "approval" and action == "accept"
        edits = approves and asked.quorum == 1 and rng.random() < 0.2
        answer = AnswerInteraction(
            task=asked.task,
            interaction=asked.interaction,
            action=action,
            by=by,
            digest=digest or asked.digest,
            content={"answer": f"{by} says so"} if asked.kind == "question" and action == "accept" else None,
            arguments=_edited(asked.arguments, by) if edits else "",
            scope=rng.choice(("once", "once", "once", "task", "arguments", "tool")) if approves else "once",
        )
        after_s = self._world.scenario.answers_s * rng.random()
        self._world.after(after_s, lambda: self._begin(answer, right=right))

    def _begin(self, answer: AnswerInteraction, *, right: bool) -> None:
        sent = Sent(
            task=answer.task,
            interaction=answer.interaction,
            by=answer.by,
            action=answer.action,
            arguments=answer.arguments,
            scope=answer.scope,
            right=right,
            at=self._world.clock.now(),
        )
        self.sent.append(sent)
        self._answers.add(self._world.loop.create_task(self._answer(answer, sent)))

    async def _answer(self, answer: AnswerInteraction, sent: Sent) -> None:
        reply = await self._world.request("answer", encode(answer), "", by_request=True)
        fine = ("conflict", "not_found") if sent.right else ("conflict", "not_found", "forbidden")
        if isinstance(reply, Rejected) and reply.code not in fine:
            self._world.problems.append(f"an answer was refused: {reply}")

    def _gives_up(self, channel: str) -> bool:
        """Whether a question comes to an end by itself. A channel that refuses it passes it on."""
        scenario = self._world.scenario
        specs = {one.metadata.name: one.spec for one in scenario.resources if isinstance(one, ContactChannel)}
        spec, refuses = specs[channel], scenario.reach.get(channel) == "refuses"
        while (to := spec.escalate_to) and (refuses or (spec.timeout_s is not None and spec.on_timeout == "escalate")):
            spec, refuses = specs[to.name], scenario.reach.get(to.name) == "refuses"
        return spec.timeout_s is not None


def _edited(arguments: str, by: str) -> str:
    value = msgspec.json.decode(arguments)
    return msgspec.json.encode({**value, "note": f"as {by} wants it"}).decode()
