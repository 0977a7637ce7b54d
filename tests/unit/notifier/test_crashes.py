"""Notifiers die at any of their calls of the bus, and others go on. In memory: every row, and storms of many tasks."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from itertools import pairwise

import pytest

from schemas.notifications import NotificationDelivered, NotificationFailed
from schemas.resources import Metadata, SecretKeyRef, SecretSource, SlackSink, Subscription, SubscriptionSpec
from schemas.subjects import TaskSubjects
from services.notifier.core.outcomes import NotTaken, no_answer
from services.notifier.sinks.http import Post
from services.runtime.outbound import Answer
from tests.support.notified import Mortal, World, closing

SCENARIOS: dict[str, tuple[int, ...]] = {"taken": (200,), "tried again": (503, 200), "refused": (404,)}
SEEDS = 20
SECRETS = {"HOLDFAST_SECRET_OPS_TOKEN": "xoxb-1"}
TOKEN = SecretSource(secret_key_ref=SecretKeyRef(name="ops", key="token"))
ROOMS = ("one", "two", "three")


def id_of(post: Post) -> str:
    """The notification's id, wherever the receiver finds it."""
    if "webhook-id" in post.headers:
        return post.headers["webhook-id"]
    return str(json.loads(post.body)["metadata"]["event_payload"]["id"])


async def run(scenario: str, dies_after: int, monkeypatch: pytest.MonkeyPatch) -> tuple[World, Mortal, TaskSubjects]:
    left = list(SCENARIOS[scenario])
    world = World(lambda _: Answer(left.pop(0) if len(left) > 1 else left[0], b"", None), monkeypatch)
    async with closing(world):
        task = await world.ended("t1", response_url="https://answers.example/")
        mortal = Mortal(dies_after)
        world.notifier(mortal, {})
        await world.clock.advance(1)
        world.notifier(Mortal(), {})
        await world.until_quiet()
        return world, mortal, task


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_whenever_a_notifier_dies_the_receiver_hears_of_the_task_under_one_id(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, unharmed, _ = await run(scenario, 10**9, monkeypatch)
    usual = len(SCENARIOS[scenario])
    repeated = 0
    for dies_after in range(min(unharmed.calls, 60)):
        world, _, task = await run(scenario, dies_after, monkeypatch)
        what = f"dead after {dies_after} calls"
        (found,) = await world.notifications(task)
        assert isinstance(found, NotificationFailed if scenario == "refused" else NotificationDelivered), what
        assert {id_of(post) for post in world.posts} == {found.id}, what
        assert len({post.body for post in world.posts}) == 1, what
        assert usual <= len(world.posts) <= usual + 1, what
        assert len(await world.letters()) == (scenario == "refused"), what
        repeated += len(world.posts) > usual
    assert repeated, "no death fell between a post and its record: nothing was shown"


class Receivers:
    """Receivers with troubles of every kind, by chance; what they took and what they refused for good."""

    def __init__(self, chance: random.Random) -> None:
        self.taken: list[str] = []
        self.refused: set[str] = set()
        self._chance = chance

    def __call__(self, post: Post) -> Answer | NotTaken:
        id_, drawn = id_of(post), self._chance.random()
        if drawn < 0.15:
            return Answer(503, b"", None)
        if drawn < 0.2:
            return Answer(429, b"", "3")
        if drawn < 0.25:
            return no_answer("nobody there")
        if drawn < 0.3 and id_ not in self.taken:
            self.refused.add(id_)
            return Answer(404, b"", None)
        self.taken.append(id_)
        if drawn < 0.4:
            return no_answer("the connection was cut")
        return Answer(200, b'{"ok":true,"ts":"17.1"}', None)


async def storm(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    receivers = Receivers(chance)
    world = World(receivers, monkeypatch)
    async with closing(world):
        for name in ROOMS:
            sink = SlackSink(channel="C1", token_from=TOKEN, api_url="http://192.0.2.1/api")  # no name to look up
            await world.apply(Subscription(metadata=Metadata(name=name), spec=SubscriptionSpec(slack=sink)))
        tasks = [
            await world.ended(
                f"t{n}", response_url=f"https://answers.example/{n % 2}", subscriptions=tuple(sorted(ROOMS))
            )
            for n in range(4)
        ]
        alive: list[Mortal] = []
        for _ in range(20):
            alive = [one for one in alive if not one.is_dead]
            while len(alive) < 2:
                alive.append(Mortal(chance.randint(20, 150)))
                world.notifier(alive[-1], SECRETS)
            await world.clock.advance(chance.uniform(0.1, 3))
        world.notifier(Mortal(), SECRETS)
        await world.until_quiet(600)
        await judge(world, receivers, tasks)


async def judge(world: World, receivers: Receivers, tasks: Iterable[TaskSubjects]) -> None:
    posted = [id_of(post) for post in world.posts]
    letters = [letter.error for letter in await world.letters()]
    for task in tasks:
        found = await world.notifications(task)
        assert len(found) == 1 + len(ROOMS)
        for one in found:
            bodies = {post.body for post in world.posts if id_of(post) == one.id}
            assert isinstance(one, NotificationDelivered | NotificationFailed)
            buried = sum(one.id in letter for letter in letters)
            if isinstance(one, NotificationDelivered):
                assert one.id in receivers.taken
                assert buried == 0
            else:
                assert one.id in receivers.refused
                assert buried == 1
            assert len(bodies) == 1, "the same id with another body"
        rooms = [one.id for one in found if one.receiver == "Subscription"]
        for earlier, later in pairwise(rooms):
            last_of_earlier = len(posted) - 1 - posted[::-1].index(earlier)
            assert last_of_earlier < posted.index(later), "out of order"


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_in_a_storm_every_receiver_hears_of_every_task_or_there_is_a_letter(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storm(seed, monkeypatch)
