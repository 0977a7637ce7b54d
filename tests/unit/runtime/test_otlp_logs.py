"""Lines of log by OTLP: with the ids of their trace, and none about exporting."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter

from schemas.subjects import TRACEPARENT, TaskSubjects
from services.runtime.consumer import Inbound
from services.runtime.telemetry.logs import log_ids
from services.runtime.telemetry.otlp_logs import BODY_LENGTH_MAX, OTLPHandler
from services.runtime.telemetry.traces import Traces

TRACE = "0af7651916cd43dd8448eb211c80319c"
MADE_IN = f"00-{TRACE}-b7ad6b7169203331-01"
NAME = "services.runtime.otlp"


class Sent:
    """A handler, and what it has sent."""

    def __init__(self) -> None:
        self._exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        self.handler = OTLPHandler("planner", "r1", self._exporter)

    def lines(self) -> list[ReadableLogRecord]:
        self.handler.send()
        return list(self._exporter.get_finished_logs())


@pytest.fixture
def sent() -> Iterator[Sent]:
    made = Sent()
    logger = logging.getLogger()
    level = logger.level
    logger.addHandler(made.handler)
    logger.setLevel(logging.INFO)
    yield made
    logger.removeHandler(made.handler)
    logger.setLevel(level)


def test_a_line_has_what_it_has_on_standard_error(sent: Sent) -> None:
    with log_ids(namespace="team", task="job"):
        logging.getLogger(NAME).warning("%d tasks", 3, extra={"action": "task.step", "size": 12, "what": {1: 2}})
    (line,) = sent.lines()
    assert line.log_record.body == "3 tasks"
    assert (line.log_record.severity_text, line.log_record.severity_number) == ("WARNING", SeverityNumber.WARN)
    assert dict(line.log_record.attributes or {}) == {
        "holdfast.namespace": "team",
        "holdfast.task": "job",
        "holdfast.action": "task.step",
        "holdfast.size": 12,
        "holdfast.what": "{1: 2}",
    }
    assert line.resource.attributes["service.name"] == "holdfast-planner"
    assert line.instrumentation_scope is not None
    assert line.instrumentation_scope.name == NAME
    assert not line.log_record.trace_id


def test_a_line_is_found_by_the_trace_and_span_that_it_was_logged_in(sent: Sent) -> None:
    inbound = Inbound(
        "hf.0.team.evt.job.submitted", b"", {TRACEPARENT: MADE_IN}, 1, 1, datetime(2030, 1, 1, tzinfo=UTC)
    )
    with Traces().process(inbound, TaskSubjects(0, "team", "job"), "planner"):
        logging.getLogger(NAME).info("inside")
    with log_ids(trace=TRACE):
        logging.getLogger(NAME).info("of the trace")
    inside, outside = sent.lines()
    assert (f"{inside.log_record.trace_id:032x}", f"{inside.log_record.span_id:016x}") == tuple(MADE_IN.split("-")[1:3])
    assert (f"{outside.log_record.trace_id:032x}", outside.log_record.span_id) == (TRACE, 0)
    assert "holdfast.trace" not in (outside.log_record.attributes or {})


def test_an_error_comes_with_its_traceback(sent: Sent) -> None:
    try:
        int("what happened")
    except ValueError:
        logging.getLogger(NAME).exception("it failed")
    (line,) = sent.lines()
    attributes = dict(line.log_record.attributes or {})
    assert attributes["exception.type"] == "ValueError"
    assert "test_otlp_logs.py" in str(attributes["exception.stacktrace"])


def test_a_long_line_is_cut_and_lines_about_exporting_stay_here(sent: Sent) -> None:
    logging.getLogger(NAME).info("x" * (BODY_LENGTH_MAX + 1))
    for name in ("opentelemetry.exporter", "urllib3.connectionpool", "requests"):
        logging.getLogger(name).error("Failed to export")
    (line,) = sent.lines()
    assert line.log_record.body == "x" * BODY_LENGTH_MAX
