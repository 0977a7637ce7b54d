"""What is told of notifications: a span for each attempt in the task's trace, counts, and never what was said."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from schemas.notifications import NotificationDelivered, NotificationFailed
from schemas.task import FinalAnswer
from services.notifier.core import endpoints, machine
from services.runtime.telemetry.conventions import flaws
from services.runtime.telemetry.traces import trace_id
from tests.support.notifying import notifying
from tests.support.raw_http import raw_server, response
from tests.support.waiting import until

SECRET_WORDS = "the launch code is 0000"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BACKOFF_BASE_S", 0.1)
    monkeypatch.setattr(machine, "BACKOFF_MAX_S", 0.1)


async def test_each_attempt_is_a_span_in_the_task_s_trace() -> None:
    exporter = InMemorySpanExporter()
    async with raw_server() as server, notifying(exporter=exporter) as here:
        server.paths["/hook"] = response(status="503 Down")
        url = f"http://127.0.0.1:{server.port}/hook?token=very-secret"
        task = await here.finished(SECRET_WORDS, responseURL=url)
        await here.until_tried(task, 1)
        server.paths["/hook"] = response()
        (done,) = await here.until_all(task, NotificationDelivered)
        state = await here.until_state(task, FinalAnswer)

        def attempts() -> list[ReadableSpan]:
            here.replica._traces.flush()
            return [span for span in exporter.get_finished_spans() if span.name == "notify responseURL"]

        await until(lambda: len(attempts()) == done.attempts, "a span for each attempt")
        spans = attempts()
        for span in spans:
            assert span.context is not None
            assert f"{span.context.trace_id:032x}" == trace_id(state.traceparent)
            attributes = dict(span.attributes or {})
            assert attributes["holdfast.notification"] == done.id
            assert flaws("notifier", span.name, "client", attributes) == []
            assert SECRET_WORDS not in str(attributes)
            assert "very-secret" not in str(attributes)
        assert [dict(span.attributes or {})["http.response.status_code"] for span in spans][-1] == 200
        (whole,) = [span for span in exporter.get_finished_spans() if span.name == "notification responseURL"]
        assert (whole.start_time, whole.end_time) == tuple(
            int(at.timestamp() * 1e9) for at in (done.created_at, done.at)
        )


async def test_what_is_counted() -> None:
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = response()
        server.paths["/gone"] = response(status="410 Gone")
        base = f"http://127.0.0.1:{server.port}"
        await here.until_all(await here.finished(responseURL=f"{base}/hook"), NotificationDelivered)
        await here.until_all(await here.finished(userMessage="2", responseURL=f"{base}/gone"), NotificationFailed)
        counted = here.counted
        assert counted("holdfast_notifications_total", receiver="responseURL", outcome="delivered") == 1
        assert counted("holdfast_notifications_total", receiver="responseURL", outcome="failed") == 1
        assert counted("holdfast_notification_attempts_total", sink="responseURL", outcome="taken") == 1
        assert counted("holdfast_notification_attempts_total", sink="responseURL", outcome="failed") == 1
        assert counted("holdfast_notification_attempt_seconds_count", sink="responseURL") == 2


async def test_open_circuits_are_counted_and_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "OPEN_S", 0.2)
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = response(status="503 Down")
        task = await here.finished(responseURL=f"http://127.0.0.1:{server.port}/hook")
        await until(lambda: here.counted("holdfast_notifier_circuits_open") == 1, "an open circuit", within_s=10)
        server.paths["/hook"] = response()
        await here.until_all(task, NotificationDelivered)
        assert here.counted("holdfast_notifier_circuits_open") == 0
