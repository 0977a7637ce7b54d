"""What is told of a call: one trace, the conventions' names, counts; and never what was said."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from decimal import Decimal

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from schemas.messages import SystemMessage, UserMessage
from schemas.resources import (
    LLMParameters,
    LLMSpec,
    Pricing,
    ScriptedCall,
    ScriptedFailure,
    ScriptedOptions,
    ScriptedReply,
)
from services.runtime.memory.bus import MemoryBus
from services.runtime.telemetry.conventions import CONTENT, flaws
from services.runtime.telemetry.logs import JsonFormatter
from services.runtime.telemetry.traces import make_traces
from tests.support.gateway import GatewayRig, apply_agent, apply_llm, running_gateway
from tests.support.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
SECRET_WORDS = "the launch code is 0000"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
async def gateway(exporter: InMemorySpanExporter) -> AsyncGenerator[GatewayRig]:
    async with running_gateway(MemoryBus(), traces=make_traces("llm-gateway", "r", exporter)) as rig:
        yield rig


async def call(gateway: GatewayRig, reply: ScriptedReply) -> None:
    spec = LLMSpec(
        provider="scripted",
        scripted=ScriptedOptions(transcript=(reply,)),
        parameters=LLMParameters(temperature="0.5", max_tokens=9),
        pricing=Pricing(input=Decimal(1000), output=Decimal(1000)),
    )
    await apply_llm(gateway.store, spec)
    await apply_agent(gateway.store)
    task = await gateway.task(messages=(SystemMessage(content=SECRET_WORDS), UserMessage(content=SECRET_WORDS)))
    await task.ask(headers={"traceparent": PARENT})
    await task.outcome()


async def spans(gateway: GatewayRig, exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """The spans of one command, once it was handled: they come together."""

    def found() -> dict[str, ReadableSpan]:
        gateway.runtime.traces.flush()
        return {span.name: span for span in exporter.get_finished_spans()}

    await until(lambda: bool(found()), "spans")
    return found()


async def test_a_call_is_a_span_of_its_task_with_the_conventions_names(
    gateway: GatewayRig, exporter: InMemorySpanExporter
) -> None:
    await call(gateway, ScriptedReply(text="ok", input_tokens=7, output_tokens=3))
    found = await spans(gateway, exporter)
    chat = found["chat scripted"]
    handled = found["process hf.{partition}.{namespace}.cmd.llm.{task}.{turn}.{attempt}"]
    assert chat.context is not None
    assert handled.context is not None
    assert chat.context.trace_id == int(TRACE, 16)
    attributes = dict(chat.attributes or {})
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "scripted",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.response.model": "scripted",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.conversation.id": "team/job",
        "holdfast.turn": 1,
    }.items() <= attributes.items()
    assert flaws("llm-gateway", chat.name, "client", attributes) == []
    assert chat.parent is not None
    assert chat.parent.span_id == handled.context.span_id
    assert SECRET_WORDS not in json.dumps([span.to_json() for span in found.values()])


async def test_what_was_said_is_shown_where_that_is_asked_for_and_only_there(exporter: InMemorySpanExporter) -> None:
    traces = make_traces("llm-gateway", "r", exporter, content=True)
    async with running_gateway(MemoryBus(), traces=traces) as gateway:
        await call(gateway, ScriptedReply(text="ok"))
        chat = (await spans(gateway, exporter))["chat scripted"]
    attributes = dict(chat.attributes or {})
    assert SECRET_WORDS in str(attributes["gen_ai.input.messages"])
    assert '"content":"ok"' in str(attributes["gen_ai.output.messages"])
    assert flaws("llm-gateway", chat.name, "client", attributes, content=True) == []
    assert len(flaws("llm-gateway", chat.name, "client", attributes)) == len(CONTENT & attributes.keys()) == 3


async def test_a_failed_call_is_a_failed_span(gateway: GatewayRig, exporter: InMemorySpanExporter) -> None:
    await call(gateway, ScriptedReply(text="x", fail=ScriptedFailure(status=503)))
    chat = (await spans(gateway, exporter))["chat scripted"]
    assert chat.status.status_code is StatusCode.ERROR
    assert dict(chat.attributes or {})["error.type"] == "503"


async def test_calls_tokens_and_cost_are_counted(gateway: GatewayRig) -> None:
    await call(gateway, ScriptedReply(text="ok", input_tokens=7, output_tokens=3))
    value = gateway.runtime.metrics.registry.get_sample_value
    assert gateway.calls() == 1
    assert value("holdfast_model_tokens_total", {"provider": "scripted", "direction": "input"}) == 7
    assert value("holdfast_model_tokens_total", {"provider": "scripted", "direction": "output"}) == 3
    assert value("holdfast_model_cost_usd_total", {"provider": "scripted"}) == pytest.approx(0.01)


async def test_the_first_piece_of_an_answer_is_timed_and_no_other(gateway: GatewayRig) -> None:
    await call(gateway, ScriptedReply(text="one two three four", delay_s=0.4))
    value = gateway.runtime.metrics.registry.get_sample_value
    assert value("holdfast_model_first_token_seconds_count", {"provider": "scripted"}) == 1
    first_s = value("holdfast_model_first_token_seconds_sum", {"provider": "scripted"})
    whole_s = value("holdfast_model_call_seconds_sum", {"provider": "scripted", "outcome": "answered"})
    assert first_s is not None
    assert whole_s is not None
    assert first_s < whole_s - 0.2


async def test_an_answer_without_text_has_no_first_piece(gateway: GatewayRig) -> None:
    await call(gateway, ScriptedReply(calls=(ScriptedCall(tool="box__look"),)))
    value = gateway.runtime.metrics.registry.get_sample_value
    assert gateway.calls() == 1
    assert value("holdfast_model_first_token_seconds_count", {"provider": "scripted"}) == 0


async def test_the_log_has_sizes_and_ids_and_not_what_was_said(
    gateway: GatewayRig, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    lines: list[str] = []
    formatter = JsonFormatter("llm-gateway", "r")

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(formatter.format(record))

    caplog.set_level(logging.DEBUG)
    collector = Collector()
    logging.getLogger().addHandler(collector)
    request.addfinalizer(lambda: logging.getLogger().removeHandler(collector))
    await call(gateway, ScriptedReply(text=SECRET_WORDS))
    answered = next(json.loads(line) for line in lines if '"action":"model.answered"' in line)
    assert (answered["task"], answered["namespace"], answered["trace"]) == ("job", "team", TRACE)
    assert str(len(SECRET_WORDS)) in answered["msg"]
    assert SECRET_WORDS not in "".join(lines)
