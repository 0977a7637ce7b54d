"""`/metrics`, `/healthz` and `/readyz`, on loopback unless told otherwise.

Served by a thread of its own, so that a busy event loop still answers; `/healthz` fails when the loop has not run for a
while, `/readyz` while the process is starting, draining, or without its bus.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from threading import Thread
from typing import TYPE_CHECKING, Any, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app  # pyright: ignore[reportUnknownVariableType]  # untyped there

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 5
Problem = Callable[[], str]
"""What is wrong, or an empty string."""


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Scrapes are not logged."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 16


class HealthServer:
    """The HTTP server of one process."""

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, *, unhealthy: Problem, unready: Problem
    ) -> None:
        self._metrics = cast("Callable[..., Iterable[bytes]]", make_wsgi_app(registry))
        self._unhealthy = unhealthy
        self._unready = unready
        self._server = make_server(host, port, self._answer, server_class=_Server, handler_class=_Handler)
        self.port = int(self._server.server_port)
        self._thread = Thread(target=self._server.serve_forever, name="health", daemon=True)

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        match environ.get("PATH_INFO"):
            case "/metrics":
                return self._metrics(environ, start_response)
            case "/healthz":
                return _say(self._unhealthy(), start_response)
            case "/readyz":
                return _say(self._unready(), start_response)
            case _:
                start_response("404 Not Found", [("Content-Type", "text/plain")])
                return [b"there are /metrics, /healthz and /readyz\n"]


def _say(problem: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("503 Service Unavailable" if problem else "200 OK", [("Content-Type", "text/plain")])
    return [f"{problem or 'ok'}\n".encode()]
