"""Traces: one trace per task, through all services, by `traceparent` headers (W3C Trace Context).

Without `OTEL_EXPORTER_OTLP_ENDPOINT` nothing is recorded and nothing is imported, but the context is still passed on.
The span of a whole task is made when the task ends, with the ids that were pinned when it was submitted, because no
process lives as long as a task may.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from datetime import datetime
from typing import TYPE_CHECKING, Any

from schemas.subjects import TRACEPARENT

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_current: ContextVar[str] = ContextVar("holdfast_traceparent", default="")

Attributes = Mapping[str, str | int | float | bool]


def new_traceparent() -> str:
    """The context of a new trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def child_traceparent(parent: str) -> str:
    """A context for a new span in the trace of `parent`; of a new trace if that is not a valid context."""
    match = _TRACEPARENT.fullmatch(parent)
    return f"00-{match[1]}-{secrets.token_hex(8)}-{match[3]}" if match else new_traceparent()


def is_traceparent(value: str) -> bool:
    """Whether `value` is a W3C trace context."""
    return bool(_TRACEPARENT.fullmatch(value))


def trace_id(traceparent: str) -> str:
    """The trace id of a context; empty if it is not a valid one."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match else ""


def trace_headers() -> dict[str, str]:
    """The context at hand, as headers for a message."""
    current = _current.get()
    return {TRACEPARENT: current} if current else {}


class Traces:
    """Makes spans, or only passes contexts on."""

    def __init__(self, recorder: SpanRecorder | None = None) -> None:
        self._recorder = recorder

    @property
    def recording(self) -> bool:
        """Whether attributes of spans are of any use."""
        return self._recorder is not None

    def span(
        self, name: str, parent: str, *, kind: str = "internal", attributes: Attributes | None = None
    ) -> AbstractContextManager[dict[str, Any]]:
        """A span around what happens inside. What is put in the dictionary becomes attributes of it."""
        if self._recorder is None:
            return _Passing(parent)
        return _recorded(self._recorder, name, parent, kind, attributes or {})

    def finished(
        self,
        name: str,
        context: str,
        *,
        parent: str,
        start: datetime,
        end: datetime,
        attributes: Attributes,
        error: str = "",
    ) -> None:
        """Record a span that is over, under the ids of `context`."""
        if self._recorder is not None and is_traceparent(context):
            self._recorder.finished(
                name, context, parent=parent, start=start, end=end, attributes=attributes, error=error
            )

    def flush(self) -> None:
        """Send what was recorded."""
        if self._recorder is not None:
            self._recorder.flush()


class _Passing:
    """Passes the context on, and records nothing."""

    __slots__ = ("_parent", "_token")

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._token: Token[str] | None = None

    def __enter__(self) -> dict[str, Any]:
        self._token = _current.set(self._parent or _current.get())
        return {}

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _current.reset(self._token)


@contextmanager
def _recorded(
    recorder: SpanRecorder, name: str, parent: str, kind: str, attributes: Attributes
) -> Generator[dict[str, Any]]:
    with recorder.span(name, parent or _current.get(), kind, attributes) as (context, extra):
        token = _current.set(context)
        try:
            yield extra
        finally:
            _current.reset(token)


def make_traces(service: str, replica: str, exporter: SpanExporter | None = None) -> Traces:
    """Traces by OTLP if `OTEL_EXPORTER_OTLP_ENDPOINT` (or `..._TRACES_ENDPOINT`) is set; otherwise contexts only."""
    if exporter is None and not (
        os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    ):
        return Traces()
    from services.runtime.telemetry.otel import make_recorder  # noqa: PLC0415 - 15 MB that only a traced process needs

    return Traces(make_recorder(service, replica, exporter))


if TYPE_CHECKING:
    from services.runtime.telemetry.otel import SpanRecorder
