"""What the faster event loop does differently, where it exists."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.runtime.nats.client import Interrupted
from services.runtime.nats.connection import Connection
from services.runtime.settings import Settings
from tests.support.nats_server import nats_server

uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed here, and the services would not use it")


def test_a_write_to_a_connection_that_has_just_been_closed_is_interrupted(tmp_path: Path) -> None:
    async def ask_after_the_end(url: str, port: int) -> None:
        connection = Connection(Settings(nats_url=url), service="test")
        await connection.open()
        client = connection._client
        _, closed = await asyncio.open_connection("127.0.0.1", port)
        closed.transport.abort()
        await closed.wait_closed()
        transport: Any = client._transport
        writer = transport._io_writer
        try:
            # The client learns of the end of a connection from its read loop; until then it thinks that it lasts.
            transport._io_writer = closed
            with pytest.raises(Interrupted):
                await client.write(b"PING\r\n")
            transport._io_writer = writer
        finally:
            await connection.close()

    with nats_server(tmp_path) as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask_after_the_end(server.url, server.port))
