"""One provider server for a module, because starting one takes longer than most tests; each test finds it as new."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from services.runtime.memory.bus import MemoryBus
from tests.support.gateway import GatewayRig, running_gateway
from tests.support.provider_server import ProviderServer, provider_server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_server() -> AsyncGenerator[ProviderServer]:
    async with provider_server() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def server(shared_server: ProviderServer) -> AsyncGenerator[ProviderServer]:
    shared_server.reset()
    yield shared_server
    shared_server.released.set()


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Path:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "key").write_text("sk-right")
    return tmp_path


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(secrets_dir: Path) -> AsyncGenerator[GatewayRig]:
    async with running_gateway(MemoryBus(), secrets_dir=secrets_dir) as rig:
        yield rig
