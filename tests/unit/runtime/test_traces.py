"""Traces: contexts are passed on without a recorder, and spans are recorded under the right ids with one."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from schemas.catalog import CHANNELS, Channel
from schemas.subjects import TRACEPARENT, TaskSubjects
from schemas.tracing import call_context, is_traceparent, task_context, trace_id
from services.runtime.consumer import Inbound
from services.runtime.errors import RetryLater
from services.runtime.tasks import spawn
from services.runtime.telemetry.conventions import CONTENT, FORMS, destination_template, flaws, reference
from services.runtime.telemetry.traces import Traces, make_traces, new_traceparent, trace_headers

TRACE = "0af7651916cd43dd8448eb211c80319c"
MADE_IN = f"00-{TRACE}-b7ad6b7169203331-01"
SUBJECTS = TaskSubjects(0, "team", "job")
TASK = task_context(MADE_IN, "team", "job")
AT = datetime(2030, 1, 1, tzinfo=UTC)


class Recorded:
    """Traces that record, and what they recorded."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.traces = make_traces("planner", "r1", self.exporter)

    def spans(self) -> dict[str, ReadableSpan]:
        self.traces.flush()
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)
    return Recorded()


def inbound(traceparent: str = MADE_IN) -> Inbound:
    headers: Mapping[str, str] = {TRACEPARENT: traceparent} if traceparent else {}
    return Inbound(SUBJECTS.model_event(2, 1), b"12345", headers, 17, 3, AT)


def context_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def parent_of(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"00-{span.parent.trace_id:032x}-{span.parent.span_id:016x}-01"


def links_of(span: ReadableSpan) -> list[str]:
    return [f"00-{link.context.trace_id:032x}-{link.context.span_id:016x}-01" for link in span.links]


# --- contexts ---


def test_a_new_context_is_valid_and_its_own() -> None:
    one, other = new_traceparent(), new_traceparent()
    assert is_traceparent(one)
    assert trace_id(one) != trace_id(other)


def test_a_task_is_in_the_trace_of_whoever_asks_for_it_and_has_the_same_span_each_time() -> None:
    traces = Traces()
    begun = traces.begin(MADE_IN, "team", "job")
    assert trace_id(begun) == TRACE
    assert begun == TASK == traces.begin(MADE_IN, "team", "job")
    others = {traces.begin(MADE_IN, "team", "other"), traces.begin(MADE_IN, "they", "job"), MADE_IN}
    assert begun not in others
    assert call_context(MADE_IN, "team", "job") not in {begun, *others}
    assert is_traceparent(traces.begin("nonsense", "team", "job"))


@pytest.mark.parametrize(
    "value",
    [
        *("", "nonsense", MADE_IN.upper(), MADE_IN + "-more", "01" + MADE_IN[2:]),
        *(f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{TRACE}-{'0' * 16}-01"),
    ],
)
def test_what_is_no_context_is_not_taken_for_one(value: str) -> None:
    assert not is_traceparent(value)
    assert trace_id(value) == task_context(value, "team", "job") == ""


def test_without_a_recorder_the_context_is_passed_on() -> None:
    traces = Traces()
    assert trace_headers() == {}
    with traces.process(inbound(), SUBJECTS, "planner"):
        assert trace_headers() == {TRACEPARENT: MADE_IN}
        with traces.span("inner"):
            assert trace_headers() == {TRACEPARENT: MADE_IN}
        with traces.process(inbound(TASK), SUBJECTS, "planner"):
            assert trace_headers() == {TRACEPARENT: TASK}
        assert trace_headers() == {TRACEPARENT: MADE_IN}
    assert trace_headers() == {}
    traces.finished("task", TASK, parent="", start=AT, end=AT, attributes={})
    traces.flush()


def test_nothing_is_recorded_unless_the_environment_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    traces = make_traces("planner", "r1", content=True)
    assert not traces.recording
    assert not traces.captures
    with traces.span("x") as attributes:
        assert attributes == {}
        assert trace_headers() == {}


# --- spans ---


def test_a_message_is_handled_under_its_task_and_linked_to_where_it_was_made(recorded: Recorded) -> None:
    with recorded.traces.process(inbound(), SUBJECTS, "planner", attributes={"holdfast.event": "ModelAnswered"}):
        headers = trace_headers()
    (span,) = recorded.spans().values()
    assert span.name == "process hf.{partition}.{namespace}.evt.{task}.llm.{turn}.{attempt}"
    assert parent_of(span) == TASK
    assert links_of(span) == [MADE_IN]
    assert headers == {TRACEPARENT: context_of(span)}
    assert span.kind is SpanKind.CONSUMER
    attributes = dict(span.attributes or {})
    assert attributes == {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": "hf.0.team.evt.job.llm.2.1",
        "messaging.destination.template": "hf.{partition}.{namespace}.evt.{task}.llm.{turn}.{attempt}",
        "messaging.destination.partition.id": "0",
        "messaging.consumer.group.name": "planner",
        "messaging.message.id": "17",
        "messaging.message.body.size": 5,
        "holdfast.namespace": "team",
        "holdfast.task": "job",
        "holdfast.delivery": 3,
        "holdfast.event": "ModelAnswered",
    }
    assert flaws("planner", span.name, "consumer", attributes) == []


def test_a_message_that_was_made_in_the_task_s_own_span_needs_no_link(recorded: Recorded) -> None:
    with recorded.traces.process(inbound(TASK), SUBJECTS, "planner"):
        pass
    (span,) = recorded.spans().values()
    assert (parent_of(span), links_of(span)) == (TASK, [])


def test_a_message_without_a_context_begins_no_trace_of_its_own(recorded: Recorded) -> None:
    with recorded.traces.process(inbound(""), SUBJECTS, "planner"):
        assert trace_headers() == {}
    assert recorded.spans() == {}


def test_who_says_it_can_be_said_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.instance.id=mine")
    own = Recorded()
    with own.traces.span("x"):
        pass
    about = own.spans()["x"].resource.attributes
    assert about["service.name"] == "holdfast-planner"
    assert about["service.instance.id"] == "mine"
    assert about["deployment.environment.name"] == "test"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    named = Recorded()
    with named.traces.span("x"):
        pass
    assert named.spans()["x"].resource.attributes["service.name"] == "ours"


def test_spans_inside_are_children_and_what_is_not_known_is_left_out(recorded: Recorded) -> None:
    with recorded.traces.span("outer"), recorded.traces.span("inner", kind="client") as extra:
        extra |= {"b": "2", "none": None}
    spans = recorded.spans()
    assert parent_of(spans["inner"]) == context_of(spans["outer"])
    assert spans["inner"].kind is SpanKind.CLIENT
    assert dict(spans["inner"].attributes or {}) == {"b": "2"}
    assert spans["outer"].parent is None


def test_a_span_that_failed_says_how_and_not_in_which_words(recorded: Recorded) -> None:
    with pytest.raises(ValueError, match="a private word"), recorded.traces.span("handle"):
        raise ValueError("a private word")
    span = recorded.spans()["handle"]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError")
    assert dict(span.attributes or {}) == {"error.type": "ValueError"}
    assert "private" not in span.to_json()


def test_a_message_that_is_handed_back_has_not_failed(recorded: Recorded) -> None:
    with pytest.raises(RetryLater), recorded.traces.process(inbound(), SUBJECTS, "planner"):
        raise RetryLater("too early")
    (span,) = recorded.spans().values()
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {})["holdfast.handed_back"] is True


def test_what_is_over_is_a_span_with_ids_and_times_of_its_own(recorded: Recorded) -> None:
    end = AT + timedelta(days=5)
    with recorded.traces.process(inbound(), SUBJECTS, "planner"):
        recorded.traces.finished(
            "task",
            TASK,
            parent=MADE_IN,
            start=AT,
            end=end,
            attributes={"task": "t1"},
            link=call_context(TASK, "a", "b"),
        )
    with recorded.traces.span("later"):
        pass
    spans = recorded.spans()
    task = spans["task"]
    assert context_of(task) == TASK
    assert parent_of(task) == MADE_IN
    assert links_of(task) == [call_context(TASK, "a", "b")]
    assert (task.start_time, task.end_time) == (int(AT.timestamp() * 1e9), int(end.timestamp() * 1e9))
    assert task.kind is SpanKind.INTERNAL
    assert task.status.status_code is StatusCode.UNSET
    assert trace_id(context_of(spans["later"])) != TRACE


def test_a_task_that_nobody_traced_before_begins_its_trace(recorded: Recorded) -> None:
    recorded.traces.finished("task", TASK, parent="", start=AT, end=AT, attributes={"error.type": "timeout"})
    task = recorded.spans()["task"]
    assert context_of(task) == TASK
    assert task.parent is None
    assert (task.status.status_code, task.status.description) == (StatusCode.ERROR, "timeout")


def test_a_task_without_a_valid_context_is_not_recorded(recorded: Recorded) -> None:
    recorded.traces.finished("task", "nonsense", parent="", start=AT, end=AT, attributes={})
    assert recorded.spans() == {}


# --- what is lost with a process, and what is not ---


def test_no_span_is_exported_before_the_one_that_it_is_inside_of() -> None:
    exporter = InMemorySpanExporter()
    traces = make_traces("planner", "r1", exporter)
    with traces.span("outer"):
        with traces.span("inner"), traces.span("innermost"):
            pass
        traces.send()
        assert exporter.get_finished_spans() == ()
    traces.send()
    assert [span.name for span in exporter.get_finished_spans()] == ["outer", "inner", "innermost"]


async def test_a_span_that_outlives_the_one_around_it_is_exported_by_itself(recorded: Recorded) -> None:
    go_on = asyncio.Event()

    async def outlive() -> None:
        with recorded.traces.span("inner"):
            await go_on.wait()

    with recorded.traces.span("outer"):
        task = spawn(outlive(), name="outlive")
        await asyncio.sleep(0)
    go_on.set()
    await task
    spans = recorded.spans()
    assert parent_of(spans["inner"]) == context_of(spans["outer"])


# --- the table of conventions ---


def test_the_document_has_the_table_of_spans() -> None:
    document = Path(__file__).parents[3] / "docs" / "operations" / "tracing.md"
    assert reference() in document.read_text(encoding="utf-8")


def test_every_attribute_that_is_not_ours_is_one_of_the_conventions() -> None:
    known: set[str] = set()
    for name in ("opentelemetry.semconv.attributes", "opentelemetry.semconv._incubating.attributes"):
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__):
            found = vars(importlib.import_module(f"{package.__name__}.{module.name}"))
            known |= {value for value in found.values() if isinstance(value, str)}
    named = {name for form in FORMS for name in (*form.required, *form.optional)} | CONTENT
    assert {name for name in named if not name.startswith("holdfast.")} <= known


@pytest.mark.parametrize(
    "channel", [one for one in CHANNELS if one.consumer or one.other_consumers], ids=lambda one: str(one.name)
)
def test_every_message_that_is_consumed_has_a_template_without_ids(channel: Channel) -> None:
    names = iter("abcdefghij")
    subject = re.sub(r"\{\w+\}", lambda _: next(names), channel.address)
    template = destination_template(subject)
    assert template.count(".") == subject.count(".")
    assert [part for part in template.split(".") if "{" not in part] == [
        part for part in channel.address.split(".") if "{" not in part
    ]
    assert destination_template("nothing.like.that") == ""


@pytest.mark.parametrize(
    ("change", "flaw"),
    [
        ({"gen_ai.tool.name": None}, "lacks gen_ai.tool.name"),
        ({"holdfast.prompt": "hello"}, "has holdfast.prompt"),
        ({"gen_ai.tool.call.result": "noon"}, "shows content in gen_ai.tool.call.result"),
    ],
)
def test_a_span_that_is_not_in_the_table_is_noticed(change: dict[str, str | None], flaw: str) -> None:
    (form,) = [one for one in FORMS if one.service == "tool-executor"]
    attributes = {key: value for key, value in (dict.fromkeys(form.required, "x") | change).items() if value}
    name = f"execute_tool {attributes.get('gen_ai.tool.name', '')}"
    assert flaws("tool-executor", name, "internal", attributes) == [f"{name} {flaw}"]
    assert flaws("tool-executor", "elsewhere", "internal", {}) == ["tool-executor has no span 'elsewhere'"]
    good = dict.fromkeys(form.required, "x")
    assert flaws("tool-executor", "execute_tool x", "client", good) == ["execute_tool x is client and not internal"]


# --- sampling ---


@pytest.mark.parametrize(
    ("sampler", "requester", "flags"),
    [
        ("parentbased_always_on", "", "01"),
        ("parentbased_always_on", MADE_IN[:-2] + "00", "00"),
        ("parentbased_always_off", MADE_IN, "01"),
        ("parentbased_always_off", "", "00"),
        ("always_off", MADE_IN, "00"),
        ("always_on", MADE_IN[:-2] + "00", "01"),
    ],
)
def test_whether_a_task_is_sampled_is_decided_once_for_all_of_its_spans(
    monkeypatch: pytest.MonkeyPatch, sampler: str, requester: str, flags: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    own = Recorded()
    begun = own.traces.begin(requester, "team", "job")
    assert begun.endswith(flags)
    with own.traces.process(inbound(begun), SUBJECTS, "planner"):
        assert trace_headers()[TRACEPARENT].endswith(flags)
    own.traces.finished("task", begun, parent=requester, start=AT, end=AT, attributes={})
    assert len(own.spans()) == (2 if flags == "01" else 0)


def test_a_share_of_the_tasks_is_whole_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    own = Recorded()
    for n in range(40):
        begun = own.traces.begin("", "team", f"job-{n}")
        task = TaskSubjects(0, "team", f"job-{n}")
        with own.traces.process(inbound(begun), task, "planner"):
            pass
        own.traces.finished(f"task {n}", begun, parent="", start=AT, end=AT, attributes={})
    own.traces.flush()
    spans = own.exporter.get_finished_spans()
    roots = {context_of(span) for span in spans if span.parent is None}
    assert 0 < len(roots) < 40
    assert len(spans) == 2 * len(roots)
    assert {parent_of(span) for span in spans if span.parent is not None} == roots
