"""Whoever the services export to: OTLP over HTTP, all three signals, remembered."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_FAILED = 2


class Span(NamedTuple):
    """A span as it came."""

    service: str
    replica: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    """The ids of the spans that it is linked to."""
    start_s: float
    end_s: float
    failed: bool
    attributes: dict[str, Any]


class Line(NamedTuple):
    """A line of log as it came."""

    service: str
    trace: str
    span: str
    severity: str
    body: str
    attributes: dict[str, Any]


class Receiver:
    """What has come."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.lines: list[Line] = []
        self.points: dict[tuple[str, str], list[Any]] = {}
        """The newest data points, by service and metric."""
        self.headers: list[dict[str, str]] = []
        self._spans: dict[str, Span] = {}

    @property
    def spans(self) -> list[Span]:
        """All spans, each once: one that was said again is the same."""
        return list(self._spans.values())

    def of_trace(self, trace: str) -> list[Span]:
        """The spans of a trace."""
        return [span for span in self.spans if span.trace == trace]

    def take(self, path: str, body: bytes) -> None:
        """A request as it comes."""
        takers: dict[str, Callable[[bytes], None]] = {
            "/v1/traces": self._take_traces,
            "/v1/metrics": self._take_metrics,
            "/v1/logs": self._take_logs,
        }
        takers[path](body)

    def _take_traces(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = _values(resource.resource.attributes)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    assert span.end_time_unix_nano >= span.start_time_unix_nano
                    self._spans[span.span_id.hex()] = Span(
                        service=about["service.name"].removeprefix("holdfast-"),
                        replica=about["service.instance.id"],
                        name=span.name,
                        kind=_KINDS[span.kind],
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        links=tuple(link.span_id.hex() for link in span.links),
                        start_s=span.start_time_unix_nano / 1e9,
                        end_s=span.end_time_unix_nano / 1e9,
                        failed=span.status.code == _FAILED,
                        attributes=_values(span.attributes),
                    )

    def _take_metrics(self, body: bytes) -> None:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            service = _values(resource.resource.attributes)["service.name"].removeprefix("holdfast-")
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    data = getattr(metric, str(metric.WhichOneof("data")))
                    self.points[service, metric.name] = list(data.data_points)

    def _take_logs(self, body: bytes) -> None:
        for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
            service = _values(resource.resource.attributes)["service.name"].removeprefix("holdfast-")
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    self.lines.append(
                        Line(
                            service=service,
                            trace=record.trace_id.hex(),
                            span=record.span_id.hex(),
                            severity=record.severity_text,
                            body=record.body.string_value,
                            attributes=_values(record.attributes),
                        )
                    )


def orphans(spans: Iterable[Span]) -> list[Span]:
    """The spans whose parent is not there."""
    spans = list(spans)
    known = {span.id for span in spans}
    return [span for span in spans if span.parent and span.parent not in known]


def _values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, str(which))


@contextmanager
def otlp_receiver() -> Generator[Receiver]:
    """A receiver on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.headers.append(dict(self.headers))
            received.take(self.path, gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Receiver(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
