"""Long conversations, fallbacks and response formats through both SDKs, and on a real bus."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.events import ModelAnswered, WindowCompacted
from schemas.requests import ResponseFormat
from schemas.resources import (
    ContextPolicy,
    Fallback,
    LLMParameters,
    LLMSpec,
    Ref,
    SecretKeyRef,
    SecretSource,
    ToolInfo,
)
from schemas.task import Tries
from services.runtime.nats.bus import connect
from services.runtime.settings import Settings
from tests.support.gateway import START, GatewayRig, TaskRig, apply_agent, apply_llm, apply_server, running_gateway
from tests.support.nats_server import NatsServer, nats_server
from tests.support.provider_server import ProviderServer, Reply, Stream
from tests.support.provider_wire import Call, Thinking, chat_error, chat_stream, messages_error, messages_stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = SecretSource(secret_key_ref=SecretKeyRef(name="llm", key="key"))
READ = ToolInfo(name="read", input_schema={"type": "object", "properties": {}})
TOO_LONG_CHAT = Reply(
    400, chat_error("This model's maximum context length is 8192 tokens.", code="context_length_exceeded")
)
TOO_LONG_MESSAGES = Reply(
    400, messages_error("invalid_request_error", "prompt is too long: 9001 tokens > 8192 maximum")
)


def openai(server: ProviderServer, **parameters: Any) -> LLMSpec:
    return LLMSpec(
        provider="openai", parameters=LLMParameters(model="gpt-test", base_url=server.openai_url, **parameters)
    )


def anthropic(server: ProviderServer, **parameters: Any) -> LLMSpec:
    given = LLMParameters(model="claude-test", base_url=server.url, **parameters)
    return LLMSpec(provider="anthropic", api_key_from=KEY, parameters=given)


async def task_on(
    gateway: GatewayRig,
    own: LLMSpec,
    other: LLMSpec | None = None,
    *,
    when_full: str = "truncateToolResults",
    response_format: ResponseFormat | None = None,
) -> TaskRig:
    """A task whose agent reads files with `own`, and `other` beside it."""
    await apply_server(gateway.store, "files", READ)
    await apply_llm(gateway.store, own)
    fallbacks: tuple[Fallback, ...] = ()
    if other is not None:
        await apply_llm(gateway.store, other, name="other")
        await gateway.llm_status(name="other", status="Ready")
        fallbacks = (Fallback(llm_ref=Ref(name="other")),)
    policy = ContextPolicy(when_full=when_full)  # type: ignore[arg-type]  # one of its words
    await apply_agent(gateway.store, "files", context=policy, fallbacks=fallbacks)
    await gateway.llm_status(status="Ready")
    task = TaskRig(gateway.bus, "job")
    await task.begin(START, response_format)
    return task


async def read_a_file(task: TaskRig, turn: int, call: str, content: str) -> None:
    await task.ask(turn)
    await task.answered(turn)
    await task.tool_result(f"r{turn}", 1, call, content)


# --- fallbacks to the other family ------------------------------------------------------


async def test_one_providers_thoughts_are_not_sent_to_another(gateway: GatewayRig, server: ProviderServer) -> None:
    task = await task_on(gateway, anthropic(server), openai(server))
    content = (Thinking("I should look.", "c2lnbmF0dXJl"), "Looking.", Call("toolu_a", "files__read", "{}"))
    server.then(Stream(messages_stream(*content)), Stream(chat_stream("It says hello.")))
    await read_a_file(task, 1, "toolu_a", "hello")
    await task.write(task.awaiting(2, 2, Tries(failures=1, llm="other")))
    await task.command(2, 2, llm="other")
    answer = await task.answered(2, 2)
    assert (answer.llm, answer.model) == ("other", "gpt-test-2026-01-01")
    sent = server.generations()[-1]
    assert sent.path.endswith("/chat/completions")
    assert b"I should look" not in sent.raw
    assert b"c2lnbmF0dXJl" not in sent.raw
    assert [message["role"] for message in sent.body["messages"]] == ["system", "user", "assistant", "tool"]


async def test_the_thoughts_come_back_when_their_provider_is_asked_again(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    task = await task_on(gateway, anthropic(server), openai(server))
    content = (Thinking("I should look.", "c2lnbmF0dXJl"), "Looking.", Call("toolu_a", "files__read", "{}"))
    server.then(Stream(messages_stream(*content)), Stream(chat_stream("", [Call("call_b", "files__read", "{}")])))
    await read_a_file(task, 1, "toolu_a", "hello")
    await task.write(task.awaiting(2, 2, Tries(llm="other")))
    await task.command(2, 2, llm="other")
    await task.answered(2, 2)
    await task.tool_result("r2", 1, "call_b", "again")
    await task.ask(3)
    assert (await task.answered(3)).llm == "model"
    assert b"c2lnbmF0dXJl" in server.generations()[-1].raw


# --- what a provider finds too long -----------------------------------------------------


async def test_openais_context_too_long_is_answered_with_a_shorter_conversation(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    task = await task_on(gateway, openai(server))
    server.then(Stream(chat_stream("", [Call("call_a", "files__read", "{}")])), TOO_LONG_CHAT)
    await read_a_file(task, 1, "call_a", "x" * 30_000)
    await task.ask(2)
    step = await task.compacted(2)
    assert "maximum context length" in step.reason
    await task.ask(2, 2)
    await task.answered(2, 2)
    long, short = server.generations()[-2:]
    assert len(short.raw) < len(long.raw) / 5
    assert [m["role"] for m in short.body["messages"]] == [m["role"] for m in long.body["messages"]]


async def test_anthropics_prompt_too_long_is_answered_with_a_summary(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    task = await task_on(gateway, anthropic(server), when_full="summarize")
    server.then(
        Stream(messages_stream(Call("toolu_a", "files__read", "{}"))),
        Stream(messages_stream(Call("toolu_b", "files__read", "{}"))),
        TOO_LONG_MESSAGES,
        Stream(messages_stream("Two files were read.")),
        Stream(messages_stream("Done.")),
    )
    await read_a_file(task, 1, "toolu_a", "x" * 30_000)
    await read_a_file(task, 2, "toolu_b", "y" * 3_000)
    await task.ask(3)
    step = await task.compacted(3)
    assert step.policy == "summarize"
    assert step.usage.output_tokens > 0
    summary = server.generations()[-1]
    assert "tools" not in summary.body
    assert summary.body["max_tokens"] <= 4_096
    await task.ask(3, 2)
    assert (await task.answered(3, 2)).message.content == "Done."
    sent = server.generations()[-1].body
    assert "Two files were read." in json.dumps(sent["messages"][0])
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "user"]


async def test_a_response_format_is_checked_whatever_the_provider_does(
    gateway: GatewayRig, server: ProviderServer
) -> None:
    wanted = ResponseFormat(schema={"type": "object", "required": ["degrees"]})
    task = await task_on(gateway, openai(server), response_format=wanted)
    server.then(Stream(chat_stream('{"wind": 3}')), Stream(chat_stream('{"degrees": 21}')))
    await task.ask()
    assert "'degrees' is a required property" in (await task.answered()).invalid
    await task.write(task.awaiting(1, 2, Tries(repairs=1)))
    await task.command(1, 2)
    assert (await task.answered(1, 2)).invalid == ""
    asked = server.generations()[-1].body["messages"]
    assert [message["role"] for message in asked] == ["system", "user", "assistant", "user"]
    assert "does not fit" in asked[-1]["content"]


# --- on a real bus ----------------------------------------------------------------------


@pytest.fixture
def nats(tmp_path: Path) -> Generator[NatsServer]:
    with nats_server(tmp_path) as running:
        yield running


@asynccontextmanager
async def replica(nats: NatsServer) -> AsyncGenerator[GatewayRig]:
    bus = await connect(Settings(nats_url=nats.url, ack_wait_s=0.6), service="llm-gateway")
    try:
        async with running_gateway(bus, nats_url=nats.url, ack_wait_s=0.6) as rig:
            yield rig
    finally:
        await bus.close()


async def test_a_shorter_conversation_goes_on_with_another_replica(nats: NatsServer, server: ProviderServer) -> None:
    async with replica(nats) as first:
        task = await task_on(first, openai(server, context_tokens=8_000, max_tokens=500))
        server.then(
            Stream(chat_stream("", [Call("call_a", "files__read", "{}")])),
            Stream(chat_stream("", [Call("call_b", "files__read", "{}")])),
            Stream(chat_stream("Done.")),
        )
        await read_a_file(task, 1, "call_a", "x" * 14_000)
        await read_a_file(task, 2, "call_b", "y" * 40_000)
        await task.ask(3)
        step = await task.compacted(3)
        assert step.tokens_after < step.tokens_before
        assert len(server.generations()) == 2
    async with replica(nats) as second:
        task.log = second.bus.log(0)
        await second.llm_status(status="Ready")
        await task.ask(3, 2)
        assert (await task.answered(3, 2)).message.content == "Done."
        assert not isinstance(await task.outcome(3), ModelAnswered)
        assert isinstance(await task.outcome(3), WindowCompacted)
