"""Recording spans with the OpenTelemetry SDK. Imported only by a process that exports.

What fails has its class in `error.type`, and no text of the error: an error's words may repeat what was said, and the
log has them, under the same trace.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as AnySpan

from schemas.tracing import is_sampled, is_traceparent, span_id, trace_id
from services.runtime.errors import RetryLater

if TYPE_CHECKING:
    from services.runtime.telemetry.traces import Attributes

SCOPE = "holdfast"
ATTRIBUTE_LENGTH_MAX = 64_000
"""Characters of one attribute; the environment may say less (`OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`)."""
_KINDS = {
    "internal": SpanKind.INTERNAL,
    "consumer": SpanKind.CONSUMER,
    "producer": SpanKind.PRODUCER,
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
}
_pinned: ContextVar[tuple[int, int] | None] = ContextVar("holdfast_pinned_ids", default=None)


class _Ids(IdGenerator):
    """Random ids, but for the span whose ids derive from its name."""

    def generate_trace_id(self) -> int:
        pinned = _pinned.get()
        return pinned[0] if pinned else random.getrandbits(128) or 1

    def generate_span_id(self) -> int:
        pinned = _pinned.get()
        return pinned[1] if pinned else random.getrandbits(64) or 1


class Whole(SpanProcessor):
    """Passes a span on together with the spans inside of it, itself first.

    So none is exported whose parent could still be lost with this process. What is held is as much as the messages in
    hand have made.
    """

    def __init__(self, then: SpanProcessor) -> None:
        self._then = then
        self._open: dict[int, list[ReadableSpan]] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - as the SDK calls it
        self._open[span.get_span_context().span_id] = []

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        assert context is not None
        inside = self._open.pop(context.span_id, [])
        around = self._open.get(span.parent.span_id) if span.parent is not None else None
        if around is not None:
            around += [span, *inside]
            return
        for one in (span, *inside):
            self._then.on_end(one)

    def shutdown(self) -> None:
        self._then.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._then.force_flush(timeout_millis)


class SpanRecorder:
    """Spans of one process, exported in batches. A full queue drops the oldest: nobody waits for an exporter."""

    def __init__(self, asking: TracerProvider, decided: TracerProvider) -> None:
        self._provider = asking
        self._sampler = asking.sampler
        self._tracer = asking.get_tracer(SCOPE, _version())
        self._finished = decided.get_tracer(SCOPE, _version())

    def decided(self, context: str, *, parent: str) -> str:
        """`context` with what the sampler says of it; `parent`: the requester's, if there is one."""
        around = _context(parent) if parent else None
        said = self._sampler.should_sample(around, int(trace_id(context), 16), "invoke_agent").decision
        return f"{context[:-2]}{'01' if said is Decision.RECORD_AND_SAMPLE else '00'}"

    @contextmanager
    def span(
        self, name: str, parent: str, kind: str, attributes: Attributes, link: str = ""
    ) -> Generator[tuple[str, dict[str, Any]]]:
        """A span around what happens inside: its context, and a dictionary that becomes attributes."""
        extra: dict[str, Any] = {}
        span = self._tracer.start_span(
            name, context=_context(parent), kind=_KINDS[kind], attributes=dict(attributes), links=_links(link, parent)
        )
        try:
            yield _traceparent(span.get_span_context()), extra
        except RetryLater:
            extra["holdfast.handed_back"] = True  # to come again, and so not failed
            raise
        except BaseException as error:
            extra.setdefault("error.type", type(error).__name__)
            raise
        finally:
            _end(span, extra, None)

    def finished(
        self,
        name: str,
        context: str,
        *,
        parent: str,
        start: datetime,
        end: datetime,
        attributes: Attributes,
        link: str,
    ) -> None:
        """A span that is over, under the ids of `context`; none if that is none, or not sampled."""
        if not is_traceparent(context) or not is_sampled(context):
            return
        token = _pinned.set((int(trace_id(context), 16), int(span_id(context), 16)))
        try:
            span = self._finished.start_span(
                name,
                context=_context(parent),
                attributes=dict(attributes),
                links=_links(link, parent),
                start_time=_nanoseconds(start),
            )
        finally:
            _pinned.reset(token)
        _end(span, dict(attributes), max(end, start))

    def flush(self) -> None:
        """Send what was recorded, for as long as that takes."""
        self._provider.force_flush()


def resource(service: str, replica: str) -> Resource:
    """Who says it. What the environment says (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`) goes first."""
    ours = {
        "service.name": f"holdfast-{service}",
        "service.namespace": "holdfast",
        "service.instance.id": replica,
        "service.version": _version(),
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())


def remote_context(traceparent: str, trace: str) -> Context:
    """The context of a line of log: a span, or a trace only, or neither."""
    if not is_traceparent(traceparent) and trace:
        alone = SpanContext(int(trace, 16), 0, is_remote=True)
        return set_span_in_context(NonRecordingSpan(alone), Context())
    return _context(traceparent)


def make_recorder(service: str, replica: str, exporter: SpanExporter | None, endpoint: str) -> SpanRecorder:
    """A recorder that exports to `exporter`, or by OTLP over HTTP to `endpoint`, as the environment says."""
    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - heavy

        exporter = OTLPSpanExporter(endpoint=endpoint)
    limits = SpanLimits()
    if limits.max_span_attribute_length is None:
        limits = SpanLimits(max_span_attribute_length=ATTRIBUTE_LENGTH_MAX)
    about, processor = resource(service, replica), Whole(BatchSpanProcessor(exporter))
    asking = TracerProvider(resource=about, span_limits=limits, shutdown_on_exit=False)
    # Of the others it was decided when their task was submitted.
    decided = TracerProvider(ALWAYS_ON, about, id_generator=_Ids(), span_limits=limits, shutdown_on_exit=False)
    asking.add_span_processor(processor)
    decided.add_span_processor(processor)
    return SpanRecorder(asking, decided)


def _version() -> str:
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown"


def _end(span: AnySpan, attributes: dict[str, Any], end: datetime | None) -> None:
    span.set_attributes({key: value for key, value in attributes.items() if value is not None})
    if error := attributes.get("error.type"):
        span.set_status(Status(StatusCode.ERROR, str(error)))
    span.end(None if end is None else _nanoseconds(end))


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1e9)


def _remote(traceparent: str) -> SpanContext | None:
    if not is_traceparent(traceparent):
        return None
    flags = TraceFlags(TraceFlags.SAMPLED if is_sampled(traceparent) else TraceFlags.DEFAULT)
    return SpanContext(int(trace_id(traceparent), 16), int(span_id(traceparent), 16), is_remote=True, trace_flags=flags)


def _context(traceparent: str) -> Context:
    remote = _remote(traceparent)
    return set_span_in_context(NonRecordingSpan(remote) if remote is not None else INVALID_SPAN)


def _links(to: str, parent: str) -> list[Link]:
    """A link, unless the parent says the same."""
    linked = _remote(to) if to != parent else None
    return [Link(linked)] if linked is not None else []


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}"
