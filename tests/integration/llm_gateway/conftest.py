from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from services.runtime.memory.bus import MemoryBus
from tests.support.gateway import GatewayRig, running_gateway
from tests.support.provider_server import ProviderServer, provider_server


@pytest.fixture
async def server() -> AsyncGenerator[ProviderServer]:
    async with provider_server() as running:
        yield running


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Path:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "key").write_text("sk-right")
    return tmp_path


@pytest.fixture
async def gateway(secrets_dir: Path) -> AsyncGenerator[GatewayRig]:
    async with running_gateway(MemoryBus(), secrets_dir=secrets_dir) as rig:
        yield rig
