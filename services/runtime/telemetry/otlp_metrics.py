"""Metrics by OTLP: what `/metrics` shows, read from the same registry and sent as OpenTelemetry's data points.

There is one catalogue (`metrics.py`) and one place that counts. Names are those of the catalogue without `_total`,
which a receiver that speaks Prometheus adds to counters again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from services.runtime.telemetry.otel import SCOPE, resource

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.samples import Sample

logger = logging.getLogger(__name__)

EVERY_S = 60.0
"""As the SDK has it; the environment may say otherwise (`OTEL_METRIC_EXPORT_INTERVAL`, in milliseconds)."""
EVERY_MIN_S = 0.1
_UNITS = {"_seconds": "s", "_bytes": "By"}
_UNKNOWN = cast("float", None)
"""The least and the most of what a histogram counted: not kept by Prometheus, and left out on the wire."""


class MetricExport:
    """Reads a registry every so often in a thread of its own, and sends what it shows."""

    def __init__(
        self, registry: CollectorRegistry, about: Resource, exporter: MetricExporter, *, every_s: float
    ) -> None:
        self._registry = registry
        self._about = about
        self._exporter = exporter
        self._every_s = every_s
        self._since = time.time_ns()
        self._sending = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="telemetry-metrics", daemon=True).start()

    def send(self) -> None:
        """Send what is shown now, for as long as that takes."""
        with self._sending:
            self._exporter.export(self._data())  # pyright: ignore[reportUnknownMemberType]  # untyped there

    def end(self) -> None:
        """Send no more by itself."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self.send()
            except Exception:
                logger.exception("metrics were not exported this time", extra={"action": "telemetry.metrics"})

    def _data(self) -> MetricsData:
        metrics = translated(self._registry.collect(), self._since, time.time_ns())
        scope = ScopeMetrics(InstrumentationScope(SCOPE), metrics, schema_url="")
        return MetricsData([ResourceMetrics(self._about, [scope], schema_url="")])


def translated(families: Iterable[Family], since: int, now: int) -> list[Metric]:
    """Prometheus families as OpenTelemetry's metrics, counted from `since` to `now`, in nanoseconds."""
    found: list[Metric] = []
    for family in families:
        unit = next((unit for suffix, unit in _UNITS.items() if family.name.endswith(suffix)), "")
        data = _data_of(family, since, now)
        if data.data_points:
            found.append(Metric(family.name, family.documentation, unit, data))
    return found


def _data_of(family: Family, since: int, now: int) -> Sum | Gauge | Histogram:
    cumulative = AggregationTemporality.CUMULATIVE
    match family.type:
        case "counter":
            counted = [one for one in family.samples if one.name.endswith("_total")]
            return Sum([_number(one, since, now) for one in counted], cumulative, is_monotonic=True)
        case "histogram":
            return Histogram(_histograms(family.samples, since, now), cumulative)
        case _:
            return Gauge([_number(one, 0, now) for one in family.samples])


def _number(sample: Sample, since: int, now: int) -> NumberDataPoint:
    return NumberDataPoint(dict(sample.labels), since, now, sample.value)


def _histograms(samples: Sequence[Sample], since: int, now: int) -> list[HistogramDataPoint]:
    """One data point for each set of labels. Prometheus counts each bucket with all below it; OTLP does not."""
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in samples:
        key = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        if sample.name.endswith("_bucket"):
            buckets.setdefault(key, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_sum"):
            sums[key] = sample.value
    points: list[HistogramDataPoint] = []
    for key, below in buckets.items():
        bounds, totals = zip(*sorted(below), strict=True)
        counts = [int(total - before) for total, before in zip(totals, (0.0, *totals), strict=False)]
        points.append(
            HistogramDataPoint(
                attributes=dict(key),
                start_time_unix_nano=since,
                time_unix_nano=now,
                count=int(totals[-1]),
                sum=sums.get(key, 0.0),
                bucket_counts=counts,
                explicit_bounds=bounds[:-1],
                min=_UNKNOWN,
                max=_UNKNOWN,
            )
        )
    return points


def make_metric_export(registry: CollectorRegistry, service: str, replica: str, endpoint: str) -> MetricExport:
    """An export to `endpoint`, as the environment says."""
    exporter = OTLPMetricExporter(endpoint=endpoint)
    return MetricExport(registry, resource(service, replica), exporter, every_s=_every_s())


def _every_s() -> float:
    try:
        return max(float(os.environ["OTEL_METRIC_EXPORT_INTERVAL"]) / 1000, EVERY_MIN_S)
    except (KeyError, ValueError):
        return EVERY_S
