"""Servers that are reached by URL."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from schemas.resources import EnvVar, SecretKeyRef, SecretSource
from services.tool_executor.mcp import connection
from tests.support.mcp_servers.bench import HttpKitchen, http_server, on_bench, record_of, until

TOKEN = "a-token-of-some-length"
AUTHORIZATION = EnvVar(
    name="Authorization", value_from=SecretSource(secret_key_ref=SecretKeyRef(name="box", key="token"))
)
ENVIRON = {"HOLDFAST_SECRET_BOX_TOKEN": f"Bearer {TOKEN}"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at connections often, so that tests need not wait."""
    monkeypatch.setattr(connection, "CHECK_S", 0.3)


@pytest.mark.parametrize("flags", [(), ("--json",), ("--sse",)], ids=["events", "json", "sse"])
async def test_tools_are_called_over_http(record: Path, flags: tuple[str, ...]) -> None:
    with HttpKitchen(record, *flags) as server:
        async with on_bench() as bench:
            await bench.declare(http_server("kitchen", server.url))
            status = await bench.until_ready("kitchen")
            assert "effect" in [tool.name for tool in status.tools]
            assert json.loads((await bench.call("kitchen__pair")).content) == {"one": 1, "two": 2}
            failed = await bench.call("kitchen__fail", {"message": "the oven is cold"})
            assert failed.outcome == "failed"
            assert "the oven is cold" in failed.content
            huge = await bench.call("kitchen__huge", {"size": 3_000_000})
            assert "of 3000000 bytes were left out" in huge.content


async def test_a_server_gets_the_headers_that_are_declared(record: Path) -> None:
    with HttpKitchen(record, token=TOKEN) as server:
        async with on_bench(environ=ENVIRON) as bench:
            await bench.declare(http_server("open", server.url))
            status = await bench.until_status("open", "Error", detail="Connection failed: ")
            assert "HTTP 401 Unauthorized" in status.status_detail
            await bench.declare(http_server("locked", server.url, headers=[AUTHORIZATION]))
            await bench.until_ready("locked")
            assert (await bench.call("locked__pair")).outcome == "succeeded"


@pytest.mark.parametrize("flags", [(), ("--sse",)], ids=["events", "sse"])
async def test_a_call_is_stopped_over_http_and_progress_heard(record: Path, flags: tuple[str, ...]) -> None:
    heard = asyncio.Event()
    with HttpKitchen(record, *flags) as server:
        async with on_bench() as bench:

            async def hear(_: object) -> None:
                heard.set()

            await bench.bus.signals.subscribe("hf.live.default.*", hear)
            await bench.declare(http_server("kitchen", server.url))
            await bench.until_ready("kitchen")
            await bench.call("kitchen__steps", {"count": 5})
            await asyncio.wait_for(heard.wait(), 5)
            task = await bench.ask("kitchen__effect", {"text": "pour", "seconds": 60})
            await until(lambda: record_of(record) == ["pour"], "the call is under way")
            await bench.bus.signals.publish(task.stop, b"")
            assert (await bench.until_result(task, within_s=3)).outcome == "cancelled"
            await until(lambda: "pour cancelled" in record_of(record), "the tool was told to stop")


@pytest.mark.parametrize("flags", [(), ("--sse",)], ids=["events", "sse"])
async def test_a_server_that_dies_is_noticed_and_found_again(record: Path, flags: tuple[str, ...]) -> None:
    with HttpKitchen(record, *flags) as server:
        async with on_bench() as bench:
            await bench.declare(http_server("kitchen", server.url))
            await bench.until_ready("kitchen")
            careful = await bench.ask("kitchen__effect", {"text": "pour", "seconds": 60})
            again = await bench.ask("kitchen__set_value", {"text": "set", "seconds": 0.5})
            await until(lambda: set(record_of(record)) == {"pour", "set"}, "both calls are under way")
            server.kill()
            assert (await bench.until_result(careful, within_s=3)).outcome == "unknown"
            await bench.until_status("kitchen", "Error", detail="Connection failed: ")
            server.start()
            await bench.until_ready("kitchen")
            repeated = await bench.until_result(again, within_s=30)
            assert (repeated.outcome, repeated.content) == ("succeeded", "set done")


async def test_new_tools_are_offered_when_the_server_says_so_over_http(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CHECK_S", 60.0)
    with HttpKitchen(record) as server:
        async with on_bench() as bench:
            await bench.declare(http_server("kitchen", server.url))
            before = len((await bench.until_ready("kitchen")).tools)
            assert (await bench.call("kitchen__grow", {"name": "shoot"})).outcome == "succeeded"
            await bench.until_status("kitchen", "Ready", detail=f"with {before + 1} tools")


async def test_a_message_that_the_old_transport_refuses_ends_the_session_and_not_the_patience(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CHECK_S", 60.0)
    busy = record.with_name("record.busy")
    with HttpKitchen(record, "--sse") as server:
        async with on_bench() as bench:
            await bench.declare(http_server("kitchen", server.url))
            await bench.until_ready("kitchen")
            busy.touch()
            task = await bench.ask("kitchen__effect", {"text": "stir"})
            assert (await bench.until_result(task, within_s=5)).outcome == "unknown"
            busy.unlink()
            await bench.until_ready("kitchen")
            assert (await bench.call("kitchen__effect", {"text": "pour"})).content == "pour done"


async def test_more_than_an_event_may_hold_ends_the_session_of_the_old_transport(record: Path) -> None:
    with HttpKitchen(record, "--sse") as server:
        async with on_bench() as bench:
            await bench.declare(http_server("kitchen", server.url))
            await bench.until_ready("kitchen")
            flood = await bench.call("kitchen__huge", {"size": 9_000_000})
            assert flood.outcome == "failed"
            assert "It was tried 3 times" in flood.content
            assert (await bench.call("kitchen__pair")).outcome == "succeeded"


async def test_a_redirect_to_another_place_does_not_get_our_headers(record: Path) -> None:
    stolen: list[bytes] = []

    async def thief(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stolen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    trap = await asyncio.start_server(thief, "127.0.0.1", 0)
    there = trap.sockets[0].getsockname()[1]
    moved = answering(f"HTTP/1.1 307 Moved\r\nLocation: http://localhost:{there}/\r\n")
    async with trap, moved as url, on_bench(environ=ENVIRON) as bench:
        for name, path in (("moved", "/mcp"), ("moved-old", "/sse")):
            await bench.declare(http_server(name, url.replace("/mcp", path), headers=[AUTHORIZATION]))
            await bench.until_status(name, "Error", detail="Connection failed: ")
    assert stolen == []


async def test_nobody_at_the_url_is_said_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with on_bench() as bench:
        await bench.declare(http_server("nobody", f"http://127.0.0.1:{port}/mcp"))
        status = await bench.until_status("nobody", "Error", detail="Connection failed: ")
        assert "connection" in status.status_detail.lower()
        await bench.declare(http_server("odd", "ftp://example.org/mcp"))
        status = await bench.until_status("odd", "Error")
        assert status.status_detail.startswith("Validation failed: url must begin with http")
        await bench.declare(http_server("none", ""))
        status = await bench.until_status("none", "Error")
        assert status.status_detail == "Validation failed: url is required for http transport"


async def test_an_answer_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.tool_executor.mcp.http.MESSAGE_BYTES_MAX", 100_000)
    body = b"[" + b"1," * 1_000_000
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    async with answering(head, body) as url, on_bench() as bench:
        await bench.declare(http_server("endless", url))
        status = await bench.until_status("endless", "Error", detail="Connection failed: ")
        assert "more than 100000 bytes" in status.status_detail


async def test_an_answer_that_is_packed_is_not_unpacked() -> None:
    bomb = gzip.compress(b"[" + b"1," * 1_000_000)
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
    head += f"Content-Length: {len(bomb)}\r\n"
    async with answering(head, bomb) as url, on_bench() as bench:
        await bench.declare(http_server("packed", url))
        status = await bench.until_status("packed", "Error", detail="Connection failed: ")
        assert "an encoding that it was not asked for" in status.status_detail


async def test_one_bad_answer_does_not_end_the_calls_of_others(record: Path) -> None:
    busy = record.with_name("record.busy")
    with HttpKitchen(record) as server:
        async with on_bench() as bench:
            await bench.declare(http_server("kitchen", server.url))
            await bench.until_ready("kitchen")
            slow = await bench.ask("kitchen__effect", {"text": "pour", "seconds": 3})
            await until(lambda: record_of(record) == ["pour"], "a call is under way")
            busy.write_text("everything")
            assert (await bench.call("kitchen__effect", {"text": "stir"})).outcome == "unknown"
            await until(lambda: "busy list" in record_of(record), "the server was asked and did not answer")
            busy.unlink()
            assert (await bench.until_result(slow)).outcome == "succeeded"


async def test_a_session_of_the_older_protocol_is_opened_and_ended_in_order(record: Path) -> None:
    with HttpKitchen(record, "--old") as server:
        async with on_bench() as bench:
            await bench.declare(http_server("old", server.url))
            await bench.until_ready("old")
            assert (await bench.call("old__effect", {"text": "pour"})).content == "pour done"
            task = await bench.ask("old__effect", {"text": "stir", "seconds": 60})
            await until(lambda: "stir" in record_of(record), "the call is under way")
            await bench.bus.signals.publish(task.stop, b"")
            assert (await bench.until_result(task, within_s=3)).outcome == "cancelled"
            await until(lambda: "stir cancelled" in record_of(record), "the tool was told to stop")
        assert record_of(record)[-1] == "goodbye"


async def test_a_call_on_a_session_that_the_server_forgot_is_made_on_a_new_one(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CHECK_S", 60.0)
    with HttpKitchen(record, "--old") as server:
        async with on_bench() as bench:
            await bench.declare(http_server("old", server.url))
            await bench.until_ready("old")
            server.kill()
            server.start()
            result = await bench.until_result(await bench.ask("old__effect", {"text": "pour"}))
            assert (result.outcome, result.content) == ("succeeded", "pour done")
            assert record_of(record).count("pour") == 1


async def test_an_overloaded_server_is_asked_again_only_if_that_is_harmless(record: Path) -> None:
    busy = record.with_name("record.busy")
    with HttpKitchen(record) as server:
        async with on_bench() as bench:
            await bench.declare(http_server("kitchen", server.url))
            await bench.until_ready("kitchen")
            busy.touch()
            careful = await bench.call("kitchen__effect", {"text": "pour"})
            assert careful.outcome == "unknown"
            assert "HTTP 503 Service Unavailable" in careful.content
            task = await bench.ask("kitchen__set_value", {"text": "set"})
            await until(lambda: record_of(record) == ["busy", "busy"], "the harmless call was refused once")
            busy.unlink()
            assert (await bench.until_result(task)).outcome == "succeeded"
            assert record_of(record) == ["busy", "busy", "set"]


@asynccontextmanager
async def answering(head: str, body: bytes = b"") -> AsyncGenerator[str]:
    """The URL of a server that answers every request in the same way."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        try:
            await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
