"""What is said of servers when several replicas have something to say."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from schemas import subjects
from schemas.resources import (
    ContactChannel,
    ContactChannelSpec,
    EnvVar,
    MCPServer,
    Metadata,
    Ref,
    ResourceStatus,
    SecretKeyRef,
    SecretSource,
    ToolPolicy,
)
from schemas.wire import decode
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.server import MemoryServer
from services.runtime.tasks import spawn
from services.tool_executor import readiness
from services.tool_executor.mcp import connection, pool
from tests.support.mcp_servers.bench import Bench, executor, module, on_bench, plain, stdio_server, until
from tests.support.stage import Stage

GOOD = {"HOLDFAST_SECRET_PLAIN_CONFIG": "{}"}
MORE = {"HOLDFAST_SECRET_PLAIN_CONFIG": json.dumps({"tools": [{"name": "echo"}, {"name": "more"}]})}
PID: dict[str, object] = {"name": "pid", "does": "pid", "annotations": {"readOnlyHint": True}}
BAD = {"HOLDFAST_SECRET_PLAIN_CONFIG": json.dumps({"fail": "not on this machine"})}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RECONNECT_S", 0.05)
    monkeypatch.setattr(connection, "RECONNECT_MAX_S", 0.2)
    monkeypatch.setattr(pool, "SECRETS_CHECK_S", 0.1)


def by_secret() -> MCPServer:
    """A server that is what the secrets of its replica say."""
    config = EnvVar(name="PLAIN", value_from=SecretSource(secret_key_ref=SecretKeyRef(name="plain", key="config")))
    return stdio_server("s", module("plain"), secret_env=[config])


@asynccontextmanager
async def history(bench: Bench) -> AsyncGenerator[list[str]]:
    """Every status of the server `s` from now on."""
    said: list[str] = []

    async def follow() -> None:
        async for entry in bench.bus.resources.watch():
            if entry is not None and entry.data and entry.key == subjects.status_key("MCPServer", "default", "s"):
                status = decode(entry.data, ResourceStatus)
                said.append(f"{status.status}: {status.status_detail}")

    task = spawn(follow(), name="history")
    try:
        yield said
    finally:
        task.cancel()


@pytest.mark.parametrize(("environ", "words"), [(BAD, "Connection failed: "), ({}, "Validation failed: ")])
async def test_a_replica_that_cannot_connect_does_not_take_turns_with_one_that_can(
    environ: dict[str, str], words: str
) -> None:
    server = MemoryServer()
    bench = Bench(MemoryBus(server))
    async with executor(server, environ=GOOD) as first:
        await bench.declare(by_secret())
        await bench.until_ready("s")
        async with history(bench) as said, executor(server, environ=environ):
            await until(lambda: any(text.startswith(f"Error: {words}") for text in said), "it contradicts")
            await until(lambda: said[-1] == "Ready: Connected successfully with 1 tools", "it is taken back")
            before = len(said)
            attempts = first.metrics.registry.get_sample_value("holdfast_mcp_servers_connected")
            assert attempts == 1.0
            for n in range(20):
                assert (await bench.call("s__echo", {"n": n})).outcome in ("succeeded", "failed")
            await bench.declare(plain("other", Path("/dev/null")), servers=("s", "other"))
            await bench.until_ready("other")
            assert said[before:] == []
            assert (await bench.until_ready("s")).ready


async def test_a_replica_that_cannot_connect_says_so_when_nobody_else_can(monkeypatch: pytest.MonkeyPatch) -> None:
    server = MemoryServer()
    bench = Bench(MemoryBus(server))
    async with executor(server, environ=GOOD):
        await bench.declare(by_secret())
        await bench.until_ready("s")
    assert (await bench.until_ready("s")).ready, "the last word of a replica that is gone"
    async with executor(server, environ=BAD):
        status = await bench.until_status("s", "Error", detail="Connection failed: ")
        assert "not on this machine" in status.status_detail
        assert [tool.name for tool in status.tools] == ["echo"], "names must keep their meaning"
        monkeypatch.setattr(readiness, "CONTRADICT_S", 0.3)
        async with executor(server, environ=GOOD):
            await bench.until_ready("s")
        await bench.until_status("s", "Error", detail="Connection failed: ")


async def test_replicas_that_see_different_tools_do_not_take_turns() -> None:
    server = MemoryServer()
    bench = Bench(MemoryBus(server))
    async with history(bench) as said, executor(server, environ=GOOD):
        await bench.declare(by_secret())
        await bench.until_ready("s")
        async with executor(server, environ=MORE):
            await bench.until_status("s", "Ready", detail="with 2 tools")
            await bench.declare(plain("other", Path("/dev/null")), servers=("s", "other"))
            await bench.until_ready("other")
    assert said == [
        "Pending: Initializing",
        "Ready: Connected successfully with 1 tools",
        "Ready: Connected successfully with 2 tools",
    ]


async def test_a_server_that_comes_back_at_once_stays_ready(record: Path) -> None:
    async with on_bench() as bench, history(bench) as said:
        await bench.declare(plain("s", record, tools=[PID]))
        await bench.until_ready("s")
        before = int((await bench.call("s__pid")).content)
        os.kill(before, signal.SIGKILL)

        async def again() -> bool:
            return int((await bench.call("s__pid")).content) != before

        await until(again, "another process")
    assert said == ["Pending: Initializing", "Ready: Connected successfully with 1 tools"]


async def test_a_change_that_does_not_concern_the_process_leaves_it_alone(record: Path) -> None:
    async with on_bench() as bench:
        server = plain("s", record, tools=[PID])
        await bench.declare(server)
        await bench.until_ready("s")
        before = (await bench.call("s__pid")).content
        labelled = msgspec.structs.replace(server.metadata, labels={"a": "b"})
        await bench.declare(msgspec.structs.replace(server, metadata=labelled))
        await bench.until_ready("s")
        assert (await bench.call("s__pid")).content == before


async def test_a_broken_manifest_is_never_said_to_be_ready(record: Path) -> None:
    async with on_bench() as bench, history(bench) as said:
        await bench.declare(plain("s", record))
        await bench.until_ready("s")
        seen = len(said)
        await bench.declare(stdio_server("s", ("/no/such/command",)))
        await bench.until_status("s", "Error", detail="Connection failed: ")
        assert not any(text.startswith("Ready") for text in said[seen:])


@pytest.mark.parametrize("field", ["approval_contact_channel", "contact_channel"])
async def test_a_server_about_whose_calls_people_are_asked_is_ready_when_they_can_be(record: Path, field: str) -> None:
    server = plain("s", record)
    guarded = msgspec.structs.replace(server.spec, **{field: Ref(name="people")})
    people = ContactChannel(metadata=Metadata(name="people"), spec=ContactChannelSpec(type="console"))
    async with on_bench() as bench:
        stage = Stage(bench.bus)
        await bench.declare(msgspec.structs.replace(server, spec=guarded))
        await bench.until_status("s", "Error", detail='Validation failed: ContactChannel "people" not found')
        revision = await stage.apply(people)
        await bench.until_status("s", "Pending", detail='ContactChannel "people" is not ready')
        await stage.say_ready(people, revision)
        await bench.until_ready("s")
        await stage.say_ready(people, revision, ready=False)
        await bench.until_status("s", "Pending", detail='ContactChannel "people" is not ready')


async def test_a_status_says_that_nobody_is_told_what_is_asked(record: Path) -> None:
    asks = ToolPolicy(tool="*", on_uncertain="ask")
    async with on_bench() as bench:
        server = plain("s", record)
        await bench.declare(
            msgspec.structs.replace(server, spec=msgspec.structs.replace(server.spec, policies=(asks,)))
        )
        assert "onUncertain: ask without contactChannel" in (await bench.until_ready("s")).status_detail


async def test_a_server_that_appears_later_is_found(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare_agent("s")
        task = await bench.ask("s__echo")
        await bench.declare(plain("s", record))
        assert (await bench.until_result(task)).outcome == "succeeded"
