"""Traces: one trace per task, through all services, by `traceparent` headers (W3C Trace Context).

Without an OTLP endpoint nothing is recorded and nothing is imported, but the context is still passed on. No span is
open for longer than a message is handled: what lasts longer (a task, a wait for people, a delegated call) is recorded
when it is over, under ids that derive from its name (`schemas.tracing`).

Every message that is handled is a span right under the span of its task, with a link to the span that the message was
made in: whoever made it may be dead and its span lost, and then only a link leads nowhere (ADR 0036).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from schemas.subjects import TRACEPARENT, TaskSubjects
from schemas.tracing import is_traceparent, task_context, trace_id
from services.runtime.telemetry.exports import END_S, endpoint_of, in_time

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from services.runtime.consumer import Inbound
    from services.runtime.ports import Entry
    from services.runtime.telemetry.otel import SpanRecorder

_current: ContextVar[str] = ContextVar("holdfast_traceparent", default="")

Kind = Literal["internal", "consumer", "producer", "client", "server"]
Value = str | int | float | bool | Sequence[str]
Attributes = Mapping[str, Value]


def new_traceparent() -> str:
    """The context of a new trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def current_traceparent() -> str:
    """The context at hand; empty if there is none."""
    return _current.get()


def trace_headers() -> dict[str, str]:
    """The context at hand, as headers for a message."""
    current = _current.get()
    return {TRACEPARENT: current} if current else {}


def traced_like(entry: Entry | None) -> dict[str, str]:
    """The context that an entry came with, as headers for a message about the same task.

    Whoever asks for something more has another trace, or none.
    """
    found = entry.headers.get(TRACEPARENT, "") if entry is not None else ""
    return {TRACEPARENT: found} if found else {}


class Traces:
    """Makes spans, or only passes contexts on."""

    def __init__(self, recorder: SpanRecorder | None = None, *, content: bool = False) -> None:
        self._recorder = recorder
        self.captures = content and recorder is not None
        """Whether spans may show what was said: prompts, answers, arguments, results."""

    @property
    def recording(self) -> bool:
        """Whether attributes of spans are of any use."""
        return self._recorder is not None

    def begin(self, requester: str, namespace: str, task: str) -> str:
        """The context of a new task's span: in the requester's trace, or in a new one if that is no context.

        Whether the trace is sampled is decided here, for all services and for as long as the task lives.
        """
        within = requester if is_traceparent(requester) else new_traceparent()
        context = task_context(within, namespace, task)
        if self._recorder is None:
            return context
        return self._recorder.decided(context, parent=requester if within == requester else "")

    def process(
        self, inbound: Inbound, task: TaskSubjects, group: str, *, attributes: Attributes | None = None
    ) -> AbstractContextManager[dict[str, Any]]:
        """A span around the handling of a message about a task by the consumer `group`.

        None for a message that comes without a context: it would begin a trace that is not its task's.
        """
        made_in = inbound.headers.get(TRACEPARENT, "")
        if self._recorder is None or not is_traceparent(made_in):
            return _Passing(made_in)
        return _processed(self._recorder, inbound, task, group, attributes or {})

    def span(
        self, name: str, *, kind: Kind = "internal", attributes: Attributes | None = None
    ) -> AbstractContextManager[dict[str, Any]]:
        """A span around what happens inside, itself inside of the one at hand.

        What is put in the dictionary becomes attributes of it; `error.type` makes it a failed one.
        """
        if self._recorder is None:
            return _Passing("")
        return _recorded(self._recorder, name, _current.get(), kind, attributes or {})

    def finished(
        self,
        name: str,
        context: str,
        *,
        parent: str,
        start: datetime,
        end: datetime,
        attributes: Attributes,
        link: str = "",
    ) -> None:
        """Record a span that is over, under the ids of `context`; with `link`, linked to the span of that context."""
        if self._recorder is not None:
            self._recorder.finished(
                name, context, parent=parent, start=start, end=end, attributes=attributes, link=link
            )

    def flush(self) -> None:
        """Send what was recorded, waiting for a few seconds at most."""
        in_time(END_S, self.send)

    def send(self) -> None:
        """Send what was recorded, for as long as it takes."""
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
    recorder: SpanRecorder, name: str, parent: str, kind: Kind, attributes: Attributes, *, link: str = ""
) -> Generator[dict[str, Any]]:
    with recorder.span(name, parent, kind, attributes, link) as (context, extra):
        token = _current.set(context)
        try:
            yield extra
        finally:
            _current.reset(token)


def _processed(
    recorder: SpanRecorder, inbound: Inbound, task: TaskSubjects, group: str, attributes: Attributes
) -> AbstractContextManager[dict[str, Any]]:
    from services.runtime.telemetry.conventions import process_attributes, process_name  # noqa: PLC0415 - as above

    made_in = inbound.headers.get(TRACEPARENT, "")
    parent = task_context(made_in, task.namespace, task.task)
    known = {**process_attributes(inbound, task, group), **attributes}
    return _recorded(recorder, process_name(inbound.subject), parent, "consumer", known, link=made_in)


def make_traces(service: str, replica: str, exporter: SpanExporter | None = None, *, content: bool = False) -> Traces:
    """Traces by OTLP if the environment names an endpoint for them; otherwise contexts only."""
    endpoint = endpoint_of("traces", os.environ)
    if exporter is None and not endpoint:
        return Traces()
    from services.runtime.telemetry.otel import make_recorder  # noqa: PLC0415 - 15 MB that only a traced process needs

    return Traces(make_recorder(service, replica, exporter, endpoint), content=content)


__all__ = [
    "Attributes",
    "Traces",
    "current_traceparent",
    "is_traceparent",
    "make_traces",
    "new_traceparent",
    "trace_headers",
    "trace_id",
    "traced_like",
]
