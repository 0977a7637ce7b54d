"""Models without function calling, through both SDKs: tools in the instructions, calls in the text."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from schemas.live import TextDelta
from schemas.messages import AssistantMessage, ToolCall
from schemas.resources import LLMParameters, LLMSpec, SecretKeyRef, SecretSource, ToolInfo
from schemas.wire import decode
from services.runtime.ports import Signal
from tests.support.gateway import GatewayRig, TaskRig, apply_agent, apply_llm, apply_server
from tests.support.provider_server import ProviderServer, Stream
from tests.support.provider_wire import Json, chat_stream, messages_stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = SecretSource(secret_key_ref=SecretKeyRef(name="llm", key="key"))
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"zone": {"type": "string"}}}
CLOCK = ToolInfo(name="now", description="The time in a zone.", input_schema=SCHEMA)
TEXT = 'Let me look.\n\n```json\n{"tool": "clock__now", "arguments": {"zone": "UTC"}}\n```\nObservation: it is noon.'
Family = str


async def task_on(gateway: GatewayRig, server: ProviderServer, family: Any) -> TaskRig:
    url = server.url if family == "anthropic" else server.openai_url
    spec = LLMSpec(
        provider=family,
        api_key_from=KEY,
        parameters=LLMParameters(model="small", base_url=url),
        tool_calling="text",
    )
    await apply_server(gateway.store, "clock", CLOCK)
    await apply_llm(gateway.store, spec)
    await apply_agent(gateway.store, "clock")
    await gateway.llm_status(status="Ready")
    return await gateway.task()


def stream(family: Family, text: str) -> Stream:
    return Stream(messages_stream(text) if family == "anthropic" else chat_stream(text))


def texts(family: Family, body: Json) -> list[tuple[str, str]]:
    """Who says what in a request, without the instructions."""
    said: list[tuple[str, str]] = []
    for message in body["messages"]:
        content = message["content"]
        if not isinstance(content, str):
            content = "".join(block["text"] for block in content)
        if message["role"] != "system":
            said.append((message["role"], content))
    return said


@pytest.mark.parametrize("family", ["openai", "anthropic"])
async def test_a_call_is_read_run_and_told_in_words(
    gateway: GatewayRig, server: ProviderServer, family: Family
) -> None:
    task = await task_on(gateway, server, family)
    server.then(stream(family, TEXT), stream(family, "It is noon."))
    await task.ask()
    answer = await task.answered()
    (call,) = answer.message.tool_calls
    assert answer.message == AssistantMessage(
        content="Let me look.",
        tool_calls=(ToolCall(id=call.id, name="clock__now", arguments='{"zone": "UTC"}'),),
    )
    assert call.id
    assert answer.usage.input_tokens == 120
    await task.tool_result("r1", 1, call.id, "noon")
    await task.ask(2)
    assert (await task.answered(2)).message == AssistantMessage(content="It is noon.")
    first, second = (request.body for request in server.generations())
    assert "tools" not in first
    system: Any = first["system"][0]["text"] if family == "anthropic" else first["messages"][0]["content"]
    assert system.startswith("Be brief.\n\nYou can use tools.")
    assert '"name": "clock__now"' in system
    assert texts(family, second) == [
        ("user", "What time is it?"),
        ("assistant", 'Let me look.\n\n```json\n{"tool": "clock__now", "arguments": {"zone": "UTC"}}\n```'),
        ("user", '<tool_result tool="tool" status="ok">\nnoon\n</tool_result>'),
    ]


@pytest.mark.parametrize("family", ["openai", "anthropic"])
async def test_watchers_see_the_text_as_it_comes(gateway: GatewayRig, server: ProviderServer, family: Family) -> None:
    task = await task_on(gateway, server, family)
    seen: list[str] = []
    whole = asyncio.Event()

    async def see(signal: Signal) -> None:
        seen.append(decode(signal.data, TextDelta).text)
        if "".join(seen) == TEXT:
            whole.set()

    unsubscribe = await gateway.bus.signals.subscribe(task.subjects.live, see)
    server.then(stream(family, TEXT))
    await task.ask()
    await asyncio.wait_for(whole.wait(), 5)
    await unsubscribe()


@pytest.mark.parametrize("family", ["openai", "anthropic"])
async def test_a_broken_call_reaches_the_executor_as_it_was_written(
    gateway: GatewayRig, server: ProviderServer, family: Family
) -> None:
    task = await task_on(gateway, server, family)
    server.then(stream(family, '```json\n{"tool": "clock__now", "arguments": {"zone": }}\n```'))
    await task.ask()
    (call,) = (await task.answered()).message.tool_calls
    assert (call.name, call.arguments) == ("clock__now", '{"tool": "clock__now", "arguments": {"zone": }}')
