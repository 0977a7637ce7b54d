"""Traces: contexts are passed on without a recorder, and spans are recorded under the right ids with one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from schemas.subjects import TRACEPARENT
from services.runtime.telemetry.traces import (
    Traces,
    child_traceparent,
    is_traceparent,
    make_traces,
    new_traceparent,
    trace_headers,
    trace_id,
)

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TASK = "00-0af7651916cd43dd8448eb211c80319c-00000000000000aa-01"


class Recorded:
    """Traces that record, and what they recorded."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.traces = make_traces("planner", "r1", self._exporter)

    def spans(self) -> dict[str, ReadableSpan]:
        self.traces.flush()
        return {span.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    return Recorded()


def context_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def parent_of(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}"


def test_a_new_context_is_valid_and_its_own() -> None:
    one, other = new_traceparent(), new_traceparent()
    assert is_traceparent(one)
    assert trace_id(one) != trace_id(other)


def test_a_child_is_in_the_trace_of_its_parent() -> None:
    child = child_traceparent(PARENT)
    assert trace_id(child) == trace_id(PARENT)
    assert child != PARENT
    assert is_traceparent(child_traceparent("nonsense"))


@pytest.mark.parametrize("value", ["", "nonsense", PARENT.upper(), PARENT + "-more", "01" + PARENT[2:]])
def test_what_is_no_context_is_not_taken_for_one(value: str) -> None:
    assert not is_traceparent(value)
    assert trace_id(value) == ""


def test_without_a_recorder_the_context_is_passed_on() -> None:
    traces = Traces()
    assert trace_headers() == {}
    with traces.span("outer", PARENT):
        assert trace_headers() == {TRACEPARENT: PARENT}
        with traces.span("inner", ""):
            assert trace_headers() == {TRACEPARENT: PARENT}
        with traces.span("other", TASK):
            assert trace_headers() == {TRACEPARENT: TASK}
        assert trace_headers() == {TRACEPARENT: PARENT}
    assert trace_headers() == {}
    traces.finished("task", TASK, parent="", start=datetime.now(UTC), end=datetime.now(UTC), attributes={})
    traces.flush()


def test_nothing_is_recorded_unless_the_environment_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    with make_traces("planner", "r1").span("x", "") as attributes:
        assert attributes == {}
        assert trace_headers() == {}


def test_a_span_has_its_parent_kind_and_attributes(recorded: Recorded) -> None:
    with recorded.traces.span("handle", PARENT, kind="consumer", attributes={"a": 1}) as extra:
        extra["b"] = "2"
        extra["none"] = None
        headers = trace_headers()
    span = recorded.spans()["handle"]
    assert parent_of(span) == PARENT[3:-3]
    assert headers == {TRACEPARENT: context_of(span)}
    assert span.kind is SpanKind.CONSUMER
    assert dict(span.attributes or {}) == {"a": 1, "b": "2"}
    assert span.resource.attributes["service.name"] == "holdfast-planner"
    assert span.resource.attributes["service.instance.id"] == "r1"


def test_spans_inside_are_children(recorded: Recorded) -> None:
    with recorded.traces.span("outer", ""), recorded.traces.span("inner", ""):
        pass
    spans = recorded.spans()
    assert parent_of(spans["inner"]) == context_of(spans["outer"])[3:-3]
    assert spans["outer"].parent is None


def test_a_span_says_that_it_failed(recorded: Recorded) -> None:
    with pytest.raises(ValueError, match="why"), recorded.traces.span("handle", PARENT):
        raise ValueError("why")
    span = recorded.spans()["handle"]
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


def test_a_task_that_is_over_is_a_span_with_the_ids_that_were_pinned_when_it_began(recorded: Recorded) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    with recorded.traces.span("step", TASK):
        pass
    recorded.traces.finished(
        "task", TASK, parent=PARENT, start=start, end=start + timedelta(hours=5), attributes={"task": "t1"}
    )
    spans = recorded.spans()
    task = spans["task"]
    assert context_of(task) == TASK
    assert parent_of(task) == PARENT[3:-3]
    assert parent_of(spans["step"]) == TASK[3:-3]
    assert (task.start_time, task.end_time) == (
        int(start.timestamp() * 1e9),
        int((start + timedelta(hours=5)).timestamp() * 1e9),
    )
    assert task.status.status_code is StatusCode.OK


def test_a_task_that_nobody_traced_before_begins_its_trace(recorded: Recorded) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    recorded.traces.finished("task", TASK, parent="", start=start, end=start, attributes={}, error="it failed")
    task = recorded.spans()["task"]
    assert context_of(task) == TASK
    assert task.parent is None
    assert (task.status.status_code, task.status.description) == (StatusCode.ERROR, "it failed")


def test_the_pinned_ids_are_used_for_that_span_only(recorded: Recorded) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    recorded.traces.finished("task", TASK, parent="", start=start, end=start, attributes={})
    with recorded.traces.span("later", ""):
        pass
    later = recorded.spans()["later"]
    assert trace_id(context_of(later)) != trace_id(TASK)


def test_a_task_without_a_valid_context_is_not_recorded(recorded: Recorded) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    recorded.traces.finished("task", "nonsense", parent="", start=start, end=start, attributes={})
    assert recorded.spans() == {}
