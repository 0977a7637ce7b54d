"""What the environment says about exporting, and that an exporter holds nobody up."""

from __future__ import annotations

import logging
import threading

import pytest

from services.runtime.telemetry.exports import Signal, check_protocol, endpoint_of, exported_logs, in_time

BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"
OWN = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "signal", "endpoint"),
    [
        ({}, "traces", ""),
        ({BASE: ""}, "traces", ""),
        ({BASE: "http://c:4318"}, "traces", "http://c:4318/v1/traces"),
        ({BASE: "http://c:4318/"}, "metrics", "http://c:4318/v1/metrics"),
        ({BASE: "c:4318"}, "logs", "http://c:4318/v1/logs"),
        ({BASE: "https://c/otlp/"}, "logs", "https://c/otlp/v1/logs"),
        ({OWN: "https://c/in"}, "traces", "https://c/in"),
        ({OWN: "c:4318/v1/traces", BASE: "http://other"}, "traces", "http://c:4318/v1/traces"),
        ({OWN: "https://c/in"}, "metrics", ""),
        ({BASE: "http://c", "OTEL_SDK_DISABLED": "TRUE"}, "traces", ""),
        ({BASE: "http://c", "OTEL_SDK_DISABLED": "false"}, "traces", "http://c/v1/traces"),
        ({BASE: "http://c", "OTEL_METRICS_EXPORTER": "none"}, "metrics", ""),
        ({BASE: "http://c", "OTEL_METRICS_EXPORTER": "none"}, "traces", "http://c/v1/traces"),
        ({BASE: "http://c", "OTEL_LOGS_EXPORTER": "console, otlp"}, "logs", "http://c/v1/logs"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "traces", ""),
    ],
)
def test_where_a_signal_goes(environ: dict[str, str], signal: Signal, endpoint: str) -> None:
    assert endpoint_of(signal, environ) == endpoint


def test_a_protocol_that_is_not_spoken_is_said_so(caplog: pytest.LogCaptureFixture) -> None:
    check_protocol({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": ""})
    assert caplog.text == ""
    check_protocol({"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"})
    assert "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL is grpc, and only http/protobuf is spoken" in caplog.text


def test_logs_are_not_touched_without_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (BASE, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    before = logging.getLogger().handlers[:]
    with exported_logs("planner", "r1"):
        assert logging.getLogger().handlers == before


def test_jobs_are_done_at_once_and_waited_for_no_longer_than_that() -> None:
    both = threading.Barrier(2, timeout=5)
    assert in_time(5, both.wait, both.wait)
    never = threading.Event()
    done: list[int] = []
    assert not in_time(0.05, never.wait, lambda: done.append(1))
    assert done == [1]
    assert {thread.daemon for thread in threading.enumerate() if thread.name == "telemetry-flush"} <= {True}
    never.set()


def test_a_job_that_fails_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def hear(failed: threading.ExceptHookArgs) -> None:
        said.append(str(failed.exc_value))

    monkeypatch.setattr(threading, "excepthook", hear)

    def fail() -> None:
        raise OSError("no route")

    assert in_time(5, fail)
    assert said == ["no route"]
