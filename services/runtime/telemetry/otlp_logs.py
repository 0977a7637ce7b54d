"""Logs by OTLP: the lines that go to standard error, sent as well, with the ids of their trace and span."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider, LogRecordLimits
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter

from services.runtime.telemetry.logs import extras_of, ids_at_hand
from services.runtime.telemetry.otel import remote_context, resource
from services.runtime.telemetry.traces import current_traceparent

BODY_LENGTH_MAX = 16_000
ATTRIBUTE_LENGTH_MAX = 16_000
ABOUT_EXPORTING = ("opentelemetry", "urllib3", "requests")
"""Loggers whose lines are not exported: each export would make the next one."""
_SEVERITIES = (
    (logging.CRITICAL, SeverityNumber.FATAL),
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
)


class OTLPHandler(logging.Handler):
    """Puts records into a queue that a thread of the SDK empties. A full queue drops the oldest."""

    def __init__(self, service: str, replica: str, exporter: LogRecordExporter) -> None:
        super().__init__()
        limits = LogRecordLimits(max_log_record_attribute_length=ATTRIBUTE_LENGTH_MAX)
        self._provider = LoggerProvider(
            resource=resource(service, replica), shutdown_on_exit=False, log_record_limits=limits
        )
        self._provider.add_log_record_processor(BatchLogRecordProcessor(exporter))

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        if record.name.split(".", 1)[0] in ABOUT_EXPORTING:
            return
        self._provider.get_logger(record.name).emit(translated(record))

    def send(self) -> None:
        """Send what was taken, for as long as that takes."""
        self._provider.force_flush()


def translated(record: logging.LogRecord) -> LogRecord:
    """A record as OpenTelemetry has it. Ids and extras begin with `holdfast.`, as on spans."""
    ids = dict(ids_at_hand())
    trace = ids.pop("trace", "")
    attributes: dict[str, Any] = {f"holdfast.{key}": value for key, value in ids.items()}
    for key, value in extras_of(record).items():
        attributes[f"holdfast.{key}"] = value if isinstance(value, str | bool | int | float) else str(value)
    if record.exc_info and record.exc_info[1] is not None:
        attributes |= _exception(record.exc_info[1])
    return LogRecord(
        timestamp=int(record.created * 1e9),
        context=remote_context(current_traceparent(), trace),
        severity_text=record.levelname,
        severity_number=next((ours for level, ours in _SEVERITIES if record.levelno >= level), SeverityNumber.DEBUG),
        body=record.getMessage()[:BODY_LENGTH_MAX],
        attributes=attributes,
    )


def _exception(error: BaseException) -> dict[str, str]:
    return {
        "exception.type": type(error).__name__,
        "exception.message": str(error),
        "exception.stacktrace": "".join(traceback.format_exception(error)),
    }


def make_log_export(service: str, replica: str, endpoint: str) -> OTLPHandler:
    """An export to `endpoint`, as the environment says."""
    return OTLPHandler(service, replica, OTLPLogExporter(endpoint=endpoint))
