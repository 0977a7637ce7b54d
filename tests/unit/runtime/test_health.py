"""What a process answers about itself."""

from __future__ import annotations

import http.client

import pytest

from services.runtime.health import HealthServer
from services.runtime.telemetry.metrics import Metrics


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("unhealthy", "unready", "health", "readiness"),
    [
        ("", "", (200, "ok\n"), (200, "ok\n")),
        ("", "draining", (200, "ok\n"), (503, "draining\n")),
        ("stuck", "stuck", (503, "stuck\n"), (503, "stuck\n")),
    ],
)
def test_a_process_says_how_it_is(
    unhealthy: str, unready: str, health: tuple[int, str], readiness: tuple[int, str]
) -> None:
    server = HealthServer("127.0.0.1", 0, Metrics().registry, unhealthy=lambda: unhealthy, unready=lambda: unready)
    server.start()
    try:
        assert get(server.port, "/healthz") == health
        assert get(server.port, "/readyz") == readiness
        assert get(server.port, "/else")[0] == 404
        status, text = get(server.port, "/metrics")
        assert (status, "holdfast_" in text) == (200, True)
    finally:
        server.stop()
