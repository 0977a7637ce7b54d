"""The survey of a cluster that loses a server, and of a server that does not answer."""

from __future__ import annotations

import pytest

from schemas import subjects
from services.runtime.errors import Unavailable
from services.runtime.nats import survey
from tests.support.nats_server import Connect, NatsCluster, NatsServer
from tests.support.waiting import until


async def test_a_server_that_is_away_is_missing_in_every_stream_and_comes_back(
    cluster: NatsCluster, connected: Connect
) -> None:
    bus = await connected(cluster.url, stream_replicas=3)

    async def missing() -> set[int]:
        return {stream.replicas_missing for stream in (await bus.survey()).streams}

    async def is_missing(count: int) -> bool:
        try:
            return await missing() == {count}
        except Unavailable:
            return False  # a leader is being elected

    await until(lambda: is_missing(0), "all copies are there", within_s=20)
    lost = cluster.servers[0]
    lost.kill()
    try:
        await until(lambda: is_missing(1), "one copy of each stream is missing", within_s=60)
    finally:
        lost.start()
    await until(lambda: is_missing(0), "all copies are there again", within_s=60)


async def test_a_server_that_does_not_answer_is_not_waited_for(
    server: NatsServer, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "BUDGET_S", 0.3)
    bus = await connected(server.url)
    assert {one.name for one in (await bus.survey()).consumers} >= {subjects.PLANNER, subjects.NOTIFIER_TIMERS}
    server.pause()
    try:
        with pytest.raises(Unavailable):
            await bus.survey()
    finally:
        server.resume()
