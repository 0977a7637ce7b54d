"""Who is told what became of tasks: receivers that are down for a while, busy, refuse, or take it and cannot say so."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Literal

import msgspec

from schemas.resources import Metadata, SecretKeyRef, SecretSource, Subscription, SubscriptionSpec, WebhookSink
from services.runtime.outbound import Answer, Call, NoAnswer
from tests.chaos.simulated.history import Told

if TYPE_CHECKING:
    from tests.chaos.simulated.world import Process

Mood = Literal["well", "down", "busy", "cut", "slow", "refuses"]
"""`down` until it is calm: 503, or no answer; `busy`: 429 now and then; `cut`: takes it, and the connection ends
before it has said so; `slow`: answers after a while, or too late; `refuses`: 400, for ever."""
GIVE_UP_S = 240.0
"""How long a notification is tried."""
KEY = "whsec_" + "c2ltdWxhdGVkLXNpZ25pbmcta2V5LTAwMDAwMDAw"
ENVIRONMENT = {"HOLDFAST_SECRET_HOOKS_KEY": KEY}
_SECRET = SecretSource(secret_key_ref=SecretKeyRef(name="hooks", key="key"))


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """One of them."""

    url: str
    mood: Mood


def draw_receivers(rng: random.Random) -> tuple[Receiver, ...]:
    """The receivers of one seed."""
    moods: tuple[Mood, ...] = ("well", "well", "down", "busy", "cut", "slow", "refuses")
    return tuple(Receiver(url=f"https://receiver-{n}.example/hook", mood=rng.choice(moods)) for n in (1, 2))


def draw_subscriptions(rng: random.Random, receivers: tuple[Receiver, ...]) -> list[Subscription]:
    """Those who are told of every task, some of them by the same way as another one."""
    return [
        Subscription(
            metadata=Metadata(name=f"told-{n}"),
            spec=SubscriptionSpec(webhook=WebhookSink(url=rng.choice(receivers).url, secret_from=(_SECRET,))),
        )
        for n in range(1, rng.choice((0, 0, 1, 2, 3)) + 1)
    ]


class SimulatedReceivers:
    """All receivers, as `services.runtime.outbound.Client` reaches them."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def send(self, call: Call) -> Answer:
        """Post something to one."""
        world = self._process.world
        id_ = call.headers["webhook-id"]
        await self._process.pause("http.send", id_)
        mood: Mood = next(one.mood for one in world.scenario.receivers if one.url == call.url)
        status, took_s = self._reacts(mood)
        taken = status == 200
        world.history.told.append(
            Told(id=id_, url=call.url, body=call.body, at=world.clock.now(), taken=taken, by=self._process.name)
        )
        await asyncio.sleep(min(took_s, call.timeout_s))
        await self._process.pause("http.answer", id_)
        if took_s >= call.timeout_s:
            raise NoAnswer(f"no answer within {call.timeout_s:g} s")
        if status == 0 or (mood == "cut" and self._happens(0.5)):
            raise NoAnswer("the connection was cut")
        return Answer(status, b"", "2" if status == 429 and self._happens(0.5) else None)

    async def close(self) -> None:
        """Nothing is open."""

    def _reacts(self, mood: Mood) -> tuple[int, float]:
        """The status, 0 for none, and after how long."""
        calm = self._process.world.faults.calm
        if mood == "refuses":
            return 400, 0.0
        if mood == "down" and not calm:
            return (503, 0.0) if self._happens(0.5) else (0, 0.0)
        if mood == "busy" and self._happens(0.5):
            return 429, 0.0
        if mood == "slow" and self._happens(0.5):
            return 200, (0.5 if self._happens(0.7) else 60.0)
        return 200, 0.0

    def _happens(self, chance: float) -> bool:
        world = self._process.world
        return not world.faults.calm and world.receivers_rng.random() < chance
