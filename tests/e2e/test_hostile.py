"""What attackers send, against real processes: it is refused in a sentence or shown as what it is, and all goes on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from schemas import subjects
from schemas.events import ToolFinished
from schemas.requests import Accepted, Rejected
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    EnvVar,
    LLMParameters,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    SecretKeyRef,
    SecretSource,
    ServerRef,
)
from schemas.task import FinalAnswer
from schemas.wire import decode
from services.runtime.errors import Refused
from tests.support.provider_server import ProviderServer, Stream, provider_server
from tests.support.provider_wire import Call, chat_stream
from tests.support.stack import REPOSITORY, Stack, stack
from tests.support.stage import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "sk-1"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\n\u202eevil\u2028\x00"


class Target:
    """A stack with an agent that is asked and answered by strangers."""

    def __init__(self, running: Stack, provider: ProviderServer, directory: Path) -> None:
        self.running = running
        self.stage = running.stage
        self.provider = provider
        self._directory = directory

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "NATS_"))}
        return subprocess.run(
            [sys.executable, "-m", "services.cli.main", *arguments],
            cwd=REPOSITORY,
            env={**environ, **self.running.client, "HOLDFAST_STATE_DIR": str(self._directory / "state")},
            capture_output=True,
            timeout=60,
            check=False,
        )

    async def still_works(self) -> None:
        """A task of somebody else's goes through."""
        task = await self.stage.submit(userMessage="hello")
        await self.stage.until_state(task, FinalAnswer, wait_s=40)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """One stack for all attacks: each leaves it working."""
    tmp_path = tmp_path_factory.mktemp("hostile")
    (tmp_path / "secrets" / "llm").mkdir(parents=True)
    (tmp_path / "secrets" / "llm" / "value").write_text(KEY)
    async with (
        provider_server() as provider,
        stack(tmp_path, environ={"PYTHONPATH": str(REPOSITORY)}) as running,
    ):
        provider.keys = {KEY}
        parameters = LLMParameters(model="gpt-test", base_url=provider.openai_url)
        source = SecretSource(secret_key_ref=SecretKeyRef(name="llm", key="value"))
        model = LLMSpec(provider="openai", api_key_from=source, parameters=parameters)
        await running.stage.apply(LLM(metadata=Metadata(name="model"), spec=model))
        kitchen = MCPServerSpec(
            transport="stdio",
            command=sys.executable,
            args=("-m", "tests.support.mcp_servers.kitchen"),
            env=(EnvVar(name="RECORD", value=str(tmp_path / "effects")),),
        )
        await running.stage.apply(MCPServer(metadata=Metadata(name="kitchen"), spec=kitchen))
        spec = AgentSpec(llm_ref=Ref(name="model"), system="Help.", mcp_servers=(ServerRef(name="kitchen"),))
        await running.stage.apply(Agent(metadata=Metadata(name="helper"), spec=spec))
        target = Target(running, provider, tmp_path)
        await target.still_works()
        yield target


def nested(depth: int) -> bytes:
    return b'{"agentName": "helper", "contextWindow": ' + b"[" * depth + b"]" * depth + b"}"


NAMES: list[Any] = [
    "*",
    ">",
    "a.b",
    "a b",
    "../../etc/passwd",
    "$KV.holdfast_0.default.t",
    "hf.0.default.evt.t.submitted",
    "a\x00b",
    "a\nb",
    "\u202eevil",
    "\uff41",
    "-" * 64,
    "a" * 100_000,
    "",
    " ",
    5,
    ["x"],
    {"$ne": 1},
]
DOTTED = ("a.b", "hf.0.default.evt.t.submitted")
REQUESTS = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"\xff\xfe\x00",
    b'{"agentName": "helper", "userMessage": "\xff"}',
    b'{"agentName": "helper", "userMessage": "\\ud800"}',
    b'{"agentName": "helper", "userMessage": "x", "unknown": 1}',
    b'{"agentName": "helper", "userMessage": ""}',
    b'{"agentName": "helper", "userMessage": "x", "limits": {"maxTurns": 1e999}}',
    b'{"agentName": "helper", "userMessage": "x", "limits": {"maxCost": "NaN"}}',
    b'{"agentName": "helper", "userMessage": "x", "limits": {"deadlineSeconds": -1}}',
    b'{"agentName": "helper", "userMessage": "x", "limits": {"maxTokens": 99999999999999999999999}}',
    b'{"agentName": "helper", "userMessage": "x", "responseURL": "file:///etc/passwd"}',
    b'{"agentName": "helper", "userMessage": "x", "responseURL": "http://user:pass@x/\\r\\nHost: y"}',
    b'{"agentName": "helper", "userMessage": "x", "labels": {"a": {"b": 1}}}',
    b'{"agentName": "helper", "contextWindow": [{"role": "tool", "content": "x", "toolCallId": "nothing"}]}',
    nested(100_000),
    json.dumps({"agentName": "helper", "userMessage": "x", "labels": {str(n): "x" for n in range(100_000)}}).encode(),
]


async def test_hostile_requests_are_refused_in_a_sentence_and_all_goes_on(target: Target) -> None:
    bus = target.stage.bus
    for data in REQUESTS:
        reply = await target.stage.ask("submit", data)
        assert isinstance(reply, Rejected), (data[:80], reply)
        assert 0 < len(reply.error) < 1000, data[:80]
        await bus.signals.store(subjects.submit("default"), data)  # and without anybody who waits for the answer
    for name in NAMES:
        for verb, body in (
            ("submit", {"agentName": "helper", "userMessage": "x", "name": name}),
            ("submit", {"agentName": name, "userMessage": "x"}),
            ("submit", {"agentName": "helper", "userMessage": "x", "contactChannelRef": name or "*"}),
            ("cancel", {"task": name}),
            ("delete", {"task": name}),
            ("send", {"task": name, "message": "x"}),
            ("answer", {"task": name, "interaction": "r1.1.0"}),
            ("answer", {"task": "t", "interaction": name}),
        ):
            if name == "" and "name" in body:
                continue  # no name: one is made
            if "name" not in body and verb == "submit" and name in DOTTED:
                continue  # the names of resources may have dots
            reply = await target.stage.ask(verb, json.dumps(body).encode())
            assert isinstance(reply, Rejected), (verb, str(name)[:80], reply)
            assert len(reply.error) < 1000
            assert not set(reply.error) & set("\x00\x1b\n\r"), reply.error
    await target.still_works()


async def test_a_namespace_is_a_name_and_no_pattern(target: Target) -> None:
    signals = target.stage.bus.signals
    for namespace in ("a\u202eb", "é", "x" * 300):
        try:
            answer = await signals.request(f"hf.ask.{namespace}.submit", b"{}", timeout_s=1)
        except Refused:
            continue  # the client sends nothing on such a subject
        assert decode(answer.data, Rejected).code == "invalid"
    answer = await signals.request("hf.ask.default.evil", b"{}")
    assert isinstance(decode(answer.data, Rejected), Rejected)
    await target.still_works()


async def test_a_huge_request_is_taken_whole_or_refused_and_costs_nobody_else_anything(target: Target) -> None:
    text = "x" * (3 << 20)
    reply = await target.stage.ask("submit", {"agentName": "helper", "userMessage": text})
    assert isinstance(reply, Accepted)
    await target.still_works()


async def test_forged_reply_subjects_of_requests_write_nothing(target: Target) -> None:
    bus, stage = target.stage.bus, target.stage
    task = await stage.submit(userMessage="hello")
    state = await stage.until_state(task, FinalAnswer, wait_s=40)
    data = json.dumps({"agentName": "helper", "userMessage": "x", "name": "forged"}).encode()
    for place in (task.state, task.cancel, task.tool_event("r1", 1), "$JS.API.STREAM.DELETE.KV_holdfast_0", ">"):
        await bus.signals.store(subjects.submit("default"), data, {subjects.REPLY_TO: place})
    await stage.until_state(stage.task("forged"), FinalAnswer, wait_s=40)
    assert await stage.state(task) == state
    assert await bus.log(task.partition).get(task.cancel) is None
    await target.still_works()


def hostile_calls() -> list[Call]:
    names = ["../../bin/sh", "kitchen__*", "kitchen__look.>", "kitchen__", "__", "delegate_to_agent__helper", "x" * 200]
    calls = [Call(f"c{n}", name, "{}") for n, name in enumerate(names)]
    arguments = [
        "[" * 5000,
        '{"seconds": ' + "[" * 3000 + "]" * 3000 + "}",
        '{"seconds": "\\ud800"}',
        '{"seconds": 1e999}',
        "null",
        '{"__proto__": {"x": 1}, "seconds": 0, "seconds": 5}',
        '{"seconds": 0}' + " " * 100_000,
    ]
    calls += [Call(f"a{n}", "kitchen__look", text) for n, text in enumerate(arguments)]
    calls += [Call("same", "kitchen__pid", "{}"), Call("same", "kitchen__pid", "{}"), Call("", "kitchen__pid", "{}")]
    calls += [Call(ESCAPES, "kitchen__fail", json.dumps({"message": ESCAPES}))]
    return calls


async def test_hostile_answers_of_a_model_end_as_results_that_say_what_is_wrong(target: Target) -> None:
    calls = hostile_calls()
    target.provider.then(Stream(chat_stream(f"I say {ESCAPES}", calls)), Stream(chat_stream(f"Done {ESCAPES}")))
    task = await target.stage.submit(userMessage="do")
    state = await target.stage.until_state(task, FinalAnswer, wait_s=60)
    assert state.turn == 2
    results = [
        decode(entry.data, ToolFinished)
        for entry in await target.stage.bus.log(task.partition).last([task.tool_events("r1")])
    ]
    assert sorted(result.n for result in results) == list(range(1, len(calls) + 1))
    refused = [result for result in results if result.n <= 7]
    assert all(result.outcome in ("rejected", "failed") and result.content for result in refused), refused
    await target.still_works()


async def test_hostile_results_of_tools_are_cut_and_shown_as_text(target: Target) -> None:
    calls = [
        Call("c1", "kitchen__huge", json.dumps({"size": 30 << 20})),
        Call("c2", "kitchen__fail", json.dumps({"message": ESCAPES})),
        Call("c3", "kitchen__crash_once", json.dumps({"text": "x"})),
    ]
    target.provider.then(Stream(chat_stream("", calls)), Stream(chat_stream(f"Done {ESCAPES}")))
    task = await target.stage.submit(userMessage="do")
    await target.stage.until_state(task, FinalAnswer, wait_s=90)
    results = {
        result.tool_call_id: result
        for entry in await target.stage.bus.log(task.partition).last([task.tool_events("r1")])
        if (result := decode(entry.data, ToolFinished))
    }
    assert len(results["c1"].content) < 1 << 20
    assert results["c2"].outcome == "failed"
    await target.still_works()


async def test_nothing_that_strangers_say_moves_a_terminal(target: Target) -> None:
    target.provider.then(
        Stream(chat_stream(f"I say {ESCAPES}", [Call("c1", "kitchen__fail", json.dumps({"message": ESCAPES}))])),
        Stream(chat_stream(f"Done {ESCAPES}")),
    )
    task = await target.stage.submit(userMessage=f"do {ESCAPES}", labels={"team": ESCAPES})
    await target.stage.until_state(task, FinalAnswer, wait_s=60)
    for arguments in (
        ("watch", task.task),
        ("describe", "task", task.task),
        ("events", task.task),
        ("get", "tasks"),
        ("get", "tasks", "-o", "wide"),
    ):
        shown = (await asyncio.to_thread(target.cli, *arguments)).stdout
        assert b"evil" in shown or arguments[0] in ("get", "events"), arguments
        for hostile in (b"\x1b", b"\x07", b"\x00", b"\r", "\x9b".encode(), "\u202e".encode(), "\u2028".encode()):
            assert hostile not in shown, (arguments, hostile)


async def test_urls_that_a_prompt_supplies_reach_nothing_inside(target: Target) -> None:
    """A task's responseURL is a stranger's: what is inside is refused, and the task is done all the same."""
    port = target.running.server.port
    for url in (
        f"http://127.0.0.1:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "http://localhost./",
        "http://2130706433/",
        "http://0x7f.1/",
    ):
        reply = await target.stage.ask("submit", {"agentName": "helper", "userMessage": "x", "responseURL": url})
        if isinstance(reply, Accepted):
            await target.stage.until_state(target.stage.task(reply.task), FinalAnswer, wait_s=40)
        else:
            assert reply.code == "invalid"


async def test_oversized_headers_are_not_carried_further(target: Target) -> None:
    large = {"traceparent": "0" * 100_000, "x": "y" * 500_000, "Holdfast-Request-Id": "z" * 100_000}
    data = json.dumps({"agentName": "helper", "userMessage": "x"}).encode()
    answer = await target.stage.bus.signals.request(subjects.ask("default", "submit"), data, large)
    assert answer.data
    recorded: list[dict[str, str]] = []

    async def there() -> bool:
        found = await target.stage.bus.log(0).last(["hf.0.default.evt.*.submitted"])
        recorded[:] = [dict(entry.headers) for entry in found]
        return bool(recorded)

    await until(there, "a submitted task")
    assert all(len(value) < 1000 for headers in recorded for value in headers.values())
    await target.still_works()
