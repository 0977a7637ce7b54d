"""Real servers for the adapter's own tests. What a test kills is its own; what it only uses is shared by a module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.runtime.nats.bus import NatsBus, connect
from services.runtime.settings import Settings
from tests.support.nats_server import Connect, NatsCluster, NatsServer, nats_cluster, nats_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of the test's own, to be killed and restarted."""
    with nats_server(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    """Three servers."""
    with nats_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
async def connected() -> AsyncIterator[Connect]:
    """`await connected(url, ack_wait_s=1)`: a bus, closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def connect_to(url: str, service: str = "test", **settings: object) -> NatsBus:
            wanted = Settings(nats_url=url, **settings)  # type: ignore[arg-type]  # the test names real settings
            bus = await connect(wanted, service=service, on_closed=_unexpected)
            return await stack.enter_async_context(bus)

        yield connect_to


def _unexpected() -> None:
    raise AssertionError("the connection was closed for good")
