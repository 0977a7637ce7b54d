"""What is told of a call: spans, metrics and logs, and in none of them what was said."""

from __future__ import annotations

import logging
from functools import partial

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from schemas.subjects import TRACEPARENT
from schemas.wire import encode
from services.runtime import replica
from services.runtime.ports import Outgoing
from services.runtime.telemetry.conventions import flaws
from services.runtime.telemetry.traces import Traces, make_traces, new_traceparent, trace_id
from tests.support.mcp_servers.scripted import ScriptedServer, ScriptedStage


async def test_a_call_is_a_span_of_its_task_and_names_no_content(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(replica, "make_traces", partial(make_traces, exporter=exporter))
    caplog.set_level(logging.INFO)
    stage = ScriptedStage()
    await stage.declare("s")
    parent = new_traceparent()
    async with stage.copy(s=ScriptedServer()) as copy:
        task, run = await stage.answer("s__act", "a-private-word")
        command = Outgoing(task.tool_command("r1", 1), encode(run), {TRACEPARENT: parent})
        await stage.log.record(command)
        assert (await stage.until_result(task)).content == "act a-private-word"
        await stage.until_done()
        metrics = copy.replica.metrics.registry
        count = metrics.get_sample_value("holdfast_tool_call_seconds_count", {"outcome": "succeeded"})
    assert count == 1.0
    (span,) = [span for span in exporter.get_finished_spans() if span.name == "execute_tool s__act"]
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == trace_id(parent)
    attributes = dict(span.attributes or {})
    assert flaws("tool-executor", span.name, "internal", attributes) == []
    assert attributes["gen_ai.operation.name"] == "execute_tool"
    assert attributes["gen_ai.tool.name"] == "s__act"
    assert attributes["gen_ai.tool.call.id"] == "call-1"
    assert attributes["holdfast.outcome"] == "succeeded"
    assert "a-private-word" not in str(attributes) + caplog.text
    result = await stage.log.get(task.tool_event("r1", 1))
    assert result is not None
    assert trace_id(result.headers[TRACEPARENT]) == trace_id(parent)
    finished = [record for record in caplog.records if getattr(record, "action", "") == "tool.finished"]
    assert [record.getMessage().split(":")[1] for record in finished] == [" 25 characters in, 18 out"]


async def test_arguments_and_result_are_shown_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()

    def capturing(service: str, name: str, *, content: bool) -> Traces:
        assert not content
        return make_traces(service, name, exporter, content=True)

    monkeypatch.setattr(replica, "make_traces", capturing)
    stage = ScriptedStage()
    await stage.declare("s")
    async with stage.copy(s=ScriptedServer()):
        task, run = await stage.answer("s__act", "a-private-word")
        await stage.log.record(Outgoing(task.tool_command("r1", 1), encode(run), {TRACEPARENT: new_traceparent()}))
        await stage.until_result(task)
        await stage.until_done()
    (span,) = [span for span in exporter.get_finished_spans() if span.name == "execute_tool s__act"]
    attributes = dict(span.attributes or {})
    assert "a-private-word" in str(attributes["gen_ai.tool.call.arguments"])
    assert attributes["gen_ai.tool.call.result"] == "act a-private-word"
