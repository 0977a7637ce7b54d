"""Recording spans with the OpenTelemetry SDK. Imported only by a process that exports traces."""

from __future__ import annotations

import random
import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

if TYPE_CHECKING:
    from services.runtime.telemetry.traces import Attributes

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_KINDS = {
    "internal": SpanKind.INTERNAL,
    "consumer": SpanKind.CONSUMER,
    "producer": SpanKind.PRODUCER,
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
}
_pinned: ContextVar[tuple[int, int] | None] = ContextVar("holdfast_pinned_ids", default=None)


class _Ids(IdGenerator):
    """Random ids, but for the span whose ids were pinned long ago."""

    def generate_trace_id(self) -> int:
        pinned = _pinned.get()
        return pinned[0] if pinned else random.getrandbits(128) or 1

    def generate_span_id(self) -> int:
        pinned = _pinned.get()
        return pinned[1] if pinned else random.getrandbits(64) or 1


class SpanRecorder:
    """Spans of one process, exported in batches."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("holdfast")

    @contextmanager
    def span(self, name: str, parent: str, kind: str, attributes: Attributes) -> Generator[tuple[str, dict[str, Any]]]:
        """A span around what happens inside: its context, and a dictionary that becomes attributes."""
        extra: dict[str, Any] = {}
        span = self._tracer.start_span(name, context=_context(parent), kind=_KINDS[kind], attributes=dict(attributes))
        try:
            yield _traceparent(span.get_span_context()), extra
        except BaseException as error:
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
            raise
        finally:
            span.set_attributes({key: value for key, value in extra.items() if value is not None})
            span.end()

    def finished(
        self,
        name: str,
        context: str,
        *,
        parent: str,
        start: datetime,
        end: datetime,
        attributes: Attributes,
        error: str,
    ) -> None:
        """A span that is over, under the ids of `context`."""
        match = _TRACEPARENT.fullmatch(context)
        if match is None:
            return
        token = _pinned.set((int(match[1], 16), int(match[2], 16)))
        try:
            span = self._tracer.start_span(
                name,
                context=_context(parent) if parent else trace.set_span_in_context(trace.INVALID_SPAN),
                kind=SpanKind.SERVER,
                attributes=dict(attributes),
                start_time=int(start.timestamp() * 1e9),
            )
        finally:
            _pinned.reset(token)
        span.set_status(Status(StatusCode.ERROR, error) if error else Status(StatusCode.OK))
        span.end(int(end.timestamp() * 1e9))

    def flush(self) -> None:
        """Send what was recorded, waiting for a few seconds at most."""
        self._provider.force_flush(3000)


def make_recorder(service: str, replica: str, exporter: SpanExporter | None) -> SpanRecorder:
    """A recorder that exports to `exporter`, or by OTLP over HTTP as the environment says."""
    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - heavy

        exporter = OTLPSpanExporter()
    resource = Resource.create({"service.name": f"holdfast-{service}", "service.instance.id": replica})
    provider = TracerProvider(resource=resource, id_generator=_Ids())
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return SpanRecorder(provider)


def _context(traceparent: str) -> Context:
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return trace.set_span_in_context(trace.INVALID_SPAN)
    remote = SpanContext(
        int(match[1], 16), int(match[2], 16), is_remote=True, trace_flags=TraceFlags(int(match[3], 16))
    )
    return trace.set_span_in_context(NonRecordingSpan(remote))


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
