"""What the environment says about exporting by OTLP, without the SDK: a process that exports nothing never loads it.

The variables are OpenTelemetry's own (`OTEL_*`). Nothing is exported unless an endpoint is set.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from services.runtime.telemetry.otlp_metrics import MetricExport

logger = logging.getLogger(__name__)

Signal = Literal["traces", "metrics", "logs"]
END_S = 3.0
"""How long the end of a process waits for the last export: it is worth that, and not more."""
PROTOCOL = "http/protobuf"


def endpoint_of(signal: Signal, environ: Mapping[str, str]) -> str:
    """The URL that a signal is exported to; empty: nowhere.

    The common endpoint is a base, to which the signal's path is added; a signal's own is taken as it is. Both may come
    without a scheme.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ""
    exporters = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "") or "otlp"
    if "otlp" not in (name.strip().lower() for name in exporters.split(",")):
        return ""
    if own := environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "").strip():
        return _with_scheme(own)
    common = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    return f"{_with_scheme(common).rstrip('/')}/v1/{signal}" if common else ""


def check_protocol(environ: Mapping[str, str]) -> None:
    """Say so if the environment asks for another protocol than the one that is spoken."""
    for variable in ("OTEL_EXPORTER_OTLP_PROTOCOL", *(f"OTEL_EXPORTER_OTLP_{name}_PROTOCOL" for name in _NAMES)):
        asked = environ.get(variable, "") or PROTOCOL
        if asked != PROTOCOL:
            logger.warning(
                "%s is %s, and only %s is spoken: give the port of that (4318, usually)",
                variable,
                asked[:40],
                PROTOCOL,
                extra={"action": "telemetry.protocol"},
            )


_NAMES = ("TRACES", "METRICS", "LOGS")


def _with_scheme(endpoint: str) -> str:
    return endpoint if "://" in endpoint else f"http://{endpoint}"


def export_metrics(registry: CollectorRegistry, service: str, replica: str) -> MetricExport | None:
    """What a registry shows is sent every so often from now on, if the environment names an endpoint for it."""
    endpoint = endpoint_of("metrics", os.environ)
    if not endpoint:
        return None
    from services.runtime.telemetry.otlp_metrics import make_metric_export  # noqa: PLC0415 - loads the SDK

    return make_metric_export(registry, service, replica, endpoint)


@contextmanager
def exported_logs(service: str, replica: str) -> Generator[None]:
    """What is logged inside is sent as well, if the environment names an endpoint for it."""
    endpoint = endpoint_of("logs", os.environ)
    if not endpoint:
        yield
        return
    from services.runtime.telemetry.otlp_logs import make_log_export  # noqa: PLC0415 - loads the SDK

    handler = make_log_export(service, replica, endpoint)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        in_time(END_S, handler.send)


def in_time(seconds: float, *jobs: Callable[[], object]) -> bool:
    """Do all jobs at once, in threads that no process waits for; whether they were done within `seconds`.

    The SDK's own `force_flush` takes a time limit and does not keep it.
    """
    done = threading.Semaphore(0)

    def do(job: Callable[[], object]) -> None:
        try:
            job()
        finally:
            done.release()

    for job in jobs:
        threading.Thread(target=do, args=(job,), name="telemetry-flush", daemon=True).start()
    until = time.monotonic() + seconds
    return all(done.acquire(timeout=max(until - time.monotonic(), 0.0)) for _ in jobs)
