"""The port of human-contact: sizes, rates, times, and answers that tell nothing about how we are made."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.human_contact.core.rates import Rate
from services.human_contact.web import gate, server
from services.human_contact.web.base import Handler, Received, Reply, Unfit, said
from services.human_contact.web.gate import Gate
from services.human_contact.web.server import WebServer
from services.runtime.errors import Broken, Unavailable
from services.runtime.memory.clock import LoopClock
from tests.support.answering import answering
from tests.support.waiting import until

LOOPBACK = "127.0.0.1"


async def echo(received: Received) -> Reply:
    return said(200, f"{received.method} {received.path} {received.remote} {len(received.body)}")


@asynccontextmanager
async def serving(handler: Handler = echo, **more: Any) -> AsyncGenerator[WebServer]:
    web = WebServer(Gate({"x": handler}, LoopClock(), **more), LOOPBACK, 0)
    await web.start()
    try:
        yield web
    finally:
        await web.stop()


async def ask(web: WebServer, path: str = "/x/y", method: str = "GET", **more: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False) as client:
        return await client.request(method, f"http://{LOOPBACK}:{web.port}{path}", **more)


async def raw(web: WebServer, data: bytes) -> bytes:
    """What is answered to these bytes until the other side hangs up."""
    reader, writer = await asyncio.open_connection(LOOPBACK, web.port)
    writer.write(data)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_request_reaches_the_handler_of_its_path() -> None:
    async with serving() as web:
        response = await ask(web, method="POST", content=b"12345")
        assert response.text == "POST /x/y 127.0.0.1 5\n"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "server" not in response.headers
        twice = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n" * 2
        assert (await raw(web, twice)).count(b"HTTP/1.1 ") == 1
        assert (await ask(web, "/z")).status_code == 404
        assert (await ask(web, "/")).status_code == 404


async def test_what_is_too_much_is_refused_before_it_is_read() -> None:
    async with serving() as web:
        assert (await ask(web, method="POST", content=b"x" * (gate.BODY_BYTES_MAX + 1))).status_code == 413
        headers = [(f"X-{n}", "y") for n in range(gate.HEADERS_MAX + 1)]
        assert (await ask(web, headers=headers)).status_code == 431
        assert (await ask(web, f"/x/{'y' * (gate.PATH_LENGTH_MAX + 1)}")).status_code == 414
        long = b"GET /x HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 2 * server.HEAD_BYTES_MAX
        assert (await raw(web, long)).startswith(b"HTTP/1.1 400 ")


async def test_a_body_of_no_said_length_is_counted_while_it_comes() -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(gate.BODY_BYTES_MAX // 65536 + 1):
            yield b"x" * 65536

    async with serving() as web:
        with pytest.raises((httpx2.TransportError, AssertionError)):
            assert (await ask(web, method="POST", content=pieces())).status_code != 413
        assert (await ask(web)).status_code == 200


async def test_who_never_says_what_they_want_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.1)
    monkeypatch.setattr(server, "BODY_S", 0.1)
    async with serving() as web:
        assert await raw(web, b"") == b""
        assert await raw(web, b"GET /x HTTP/1.1\r\nHost:") == b""
        slow = await raw(web, b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12")
        assert slow.startswith(b"HTTP/1.1 408 ")


async def test_requests_are_counted_by_address_and_altogether(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "EACH", Rate(per_s=0.01, burst=2))
    monkeypatch.setattr(gate, "EVERYBODY", Rate(per_s=0.01, burst=5))
    async with serving(proxies="127.0.0.0/8") as web:
        statuses = [
            (await ask(web, headers={"X-Forwarded-For": f"6.6.6.6, 10.0.0.{n}, 127.0.0.9"})).status_code
            for n in (1, 1, 1, 2, 2, 3, 4)
        ]
        assert statuses == [200, 200, 429, 200, 200, 200, 429]


@pytest.mark.parametrize(
    ("forwarded", "counted"),
    [
        ("2001:db8::1, 2001:db8:0:0:ffff::2", "2001:db8::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("nonsense", "nonsense"),
        (",", "127.0.0.1"),
    ],
)
async def test_a_network_of_one_customer_is_counted_as_one(forwarded: str, counted: str) -> None:
    async with serving(proxies="127.0.0.1") as web:
        assert f" {counted} " in (await ask(web, headers={"X-Forwarded-For": forwarded})).text


async def test_nobody_but_a_proxy_of_ours_speaks_for_others() -> None:
    async with serving() as web:
        response = await ask(web, headers={"X-Forwarded-For": "10.0.0.1"})
        assert "127.0.0.1" in response.text
    with pytest.raises(Broken, match="HOLDFAST_PEOPLE_PROXIES"):
        Gate({}, LoopClock(), proxies="not a network")


async def test_a_failure_is_told_in_a_sentence_and_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "HANDLE_S", 0.05)
    raised: list[BaseException] = [
        Unfit(403, "Not you."),
        Unavailable("nats://secret:4222 is away"),
        KeyError("secret"),
    ]

    async def fail(_: Received) -> Reply:
        if raised:
            raise raised.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(fail) as web:
        answers = [await ask(web) for _ in range(4)]
        assert [one.status_code for one in answers] == [403, 503, 500, 503]
        assert all("secret" not in one.text and "Traceback" not in one.text for one in answers)


async def test_a_port_that_is_taken_ends_the_start_with_its_setting() -> None:
    async with serving() as web:
        with pytest.raises(Broken, match="HOLDFAST_PEOPLE_HTTP_PORT"):
            await WebServer(Gate({}, LoopClock()), LOOPBACK, web.port).start()


async def test_a_request_in_hand_is_answered_before_the_port_closes() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(received: Received) -> Reply:
        begun.set()
        await go_on.wait()
        return await echo(received)

    async with serving(slow) as web:
        asking = asyncio.ensure_future(ask(web))  # noqa: TID251 - the test's own
        await begun.wait()
        stopping = asyncio.ensure_future(web.stop())  # noqa: TID251 - the test's own
        go_on.set()
        assert (await asking).status_code == 200
        await stopping


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/a/token", 405),
        ("GET", "/a/token", 404),
        ("GET", "/a/", 404),
        ("GET", "/slack/interactivity", 405),
        ("POST", "/slack/interactivity", 401),
        ("POST", "/slack/nothing", 401),
        ("GET", "/email/inbound", 405),
        ("POST", "/email/inbound", 400),
        ("POST", "/email/other", 404),
        ("GET", "/metrics", 404),
        ("GET", "/../etc/passwd", 404),
    ],
)
async def test_strangers_learn_nothing(tmp_path: Path, method: str, path: str, status: int) -> None:
    async with answering(tmp_path) as people:
        assert (await people.send(method, path)).status_code == status


async def test_who_does_not_read_the_answer_holds_a_connection_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "CONNECTION_S", 0.5)

    async def long(_: Received) -> Reply:
        return said(200, "x" * 30_000_000)

    async with serving(long) as web:
        loop = asyncio.get_running_loop()
        with socket.create_connection((LOOPBACK, web.port)) as connection:
            connection.setblocking(False)
            await loop.sock_sendall(connection, b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: bool(web._state.connections), "the connection is open")
            await until(lambda: not web._state.connections, "the connection is ended")


async def test_one_address_holds_so_many_connections_and_the_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_EACH_MAX", 3)
    async with serving() as web:
        held = [await asyncio.open_connection(LOOPBACK, web.port) for _ in range(3)]
        await until(lambda: len(web._state.connections) == 3, "three connections are open")
        reader, writer = await asyncio.open_connection(LOOPBACK, web.port)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        async with httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(local_address="127.0.0.2"), trust_env=False
        ) as client:
            assert (await client.get(f"http://{LOOPBACK}:{web.port}/x")).status_code == 200
        for _, one in [*held, (reader, writer)]:
            one.close()
        await until(lambda: not web._state.connections, "all are closed")
        assert (await ask(web)).status_code == 200
        assert not web._peers


async def test_a_proxy_of_ours_may_hold_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_EACH_MAX", 3)
    async with serving(proxies=LOOPBACK) as web:
        held = [await asyncio.open_connection(LOOPBACK, web.port) for _ in range(6)]
        assert (await ask(web)).status_code == 200
        for _, one in held:
            one.close()


async def test_garbage_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as web:
        assert b"400" in await raw(web, b"no request\r\n\r\n")
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]
