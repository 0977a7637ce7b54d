"""What others answer: read as it comes, and no more of it than there should be."""

from __future__ import annotations

import asyncio
import contextlib
import gzip

import pytest

from services.human_contact.channels import slack_api
from services.human_contact.channels.base import ChannelFailed
from services.human_contact.channels.slack_api import SlackApi
from services.runtime.egress import Egress, Rules
from services.runtime.outbound import Call, Client
from tests.support.raw_http import hung_up, raw_server, response

BOMB = gzip.compress(b" " * 50_000_000)


async def test_a_packed_answer_is_not_unpacked() -> None:
    async with raw_server() as server:
        server.paths["/"] = response(BOMB, Content_Encoding="gzip")
        client = Client(Egress(Rules.of(["127.0.0.1"])))
        answer = await client.send(Call("POST", f"http://127.0.0.1:{server.port}/", b"{}", {}, {}, 5.0))
        await client.close()
        assert answer.status == 200
        assert len(answer.body) <= len(BOMB)
        assert server.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "answer",
    [
        response(BOMB, Content_Encoding="gzip"),
        response(b'{"ok":true,"text":"' + b"x" * 2_000_000 + b'"}'),
        response(b"[" * 500_000),
    ],
    ids=["packed", "long", "deep"],
)
async def test_an_answer_of_slacks_that_is_none_is_asked_for_again(answer: bytes) -> None:
    async with raw_server() as server:
        server.paths["/chat.update"] = answer
        api = SlackApi(f"http://127.0.0.1:{server.port}", "xoxb-1")
        with pytest.raises(ChannelFailed, match="no JSON") as failed:
            await api.call("chat.update", {})
        await api.close()
        assert failed.value.transient


async def test_slack_that_never_ends_its_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slack_api, "TIMEOUT_S", 0.4)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n{}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not await hung_up(reader, 0.05):
                writer.write(b" ")
                await writer.drain()
        writer.close()

    listening = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with listening:
        api = SlackApi(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", "xoxb-1")
        async with asyncio.timeout(5):
            with pytest.raises(ChannelFailed, match="not reached"):
                await api.call("auth.test", {})
        await api.close()
