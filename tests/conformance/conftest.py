"""Every suite here runs on every adapter of the bus; that of the commit in both of its forms."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest

from services.runtime.ports import Bus
from tests.support.adapters import Adapter, CommitForm, MemoryAdapter, NatsAdapter
from tests.support.nats_server import NatsServer, nats_server


@pytest.fixture(scope="session")
def conformance_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats"), max_payload=1 << 20) as server:
        yield server


@pytest.fixture(params=["memory-batch", "nats-two-step"])
async def adapter(request: pytest.FixtureRequest) -> AsyncIterator[Adapter]:
    kind, _, form = str(request.param).partition("-")
    made: Adapter
    if kind == "memory":
        made = MemoryAdapter(cast("CommitForm", form))
    else:
        server: NatsServer = request.getfixturevalue("conformance_server")
        made = NatsAdapter(server.url, cast("CommitForm", form))
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def bus(adapter: Adapter) -> Bus:
    return await adapter.open()
