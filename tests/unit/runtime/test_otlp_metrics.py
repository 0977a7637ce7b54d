"""The bridge from the registry to OTLP: the same numbers, once more."""

from __future__ import annotations

import threading

import pytest
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    Sum,
)
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Gauge as PrometheusGauge
from prometheus_client import Histogram as PrometheusHistogram

from services.runtime.telemetry.metrics import Metrics, catalogue
from services.runtime.telemetry.otel import resource
from services.runtime.telemetry.otlp_metrics import MetricExport, translated

SINCE, NOW = 1_000, 2_000


def metrics_of(registry: CollectorRegistry) -> dict[str, Metric]:
    return {metric.name: metric for metric in translated(registry.collect(), SINCE, NOW)}


def numbers(data: Sum | Gauge) -> dict[tuple[tuple[str, object], ...], float]:
    found: dict[tuple[tuple[str, object], ...], float] = {}
    for point in data.data_points:
        assert isinstance(point, NumberDataPoint)
        found[tuple((point.attributes or {}).items())] = point.value
    return found


def test_a_counter_is_a_sum_that_only_grows() -> None:
    registry = CollectorRegistry()
    counter = PrometheusCounter("holdfast_x_total", "What x is.", ["kind"], registry=registry)
    counter.labels("a").inc(3)
    counter.labels("b")
    found = metrics_of(registry)["holdfast_x"]
    assert (found.description, found.unit) == ("What x is.", "")
    assert isinstance(found.data, Sum)
    assert found.data.is_monotonic
    assert found.data.aggregation_temporality is AggregationTemporality.CUMULATIVE
    assert numbers(found.data) == {(("kind", "a"),): 3, (("kind", "b"),): 0}
    assert {(point.start_time_unix_nano, point.time_unix_nano) for point in found.data.data_points} == {(SINCE, NOW)}


def test_a_gauge_is_what_it_is_now() -> None:
    registry = CollectorRegistry()
    PrometheusGauge("holdfast_stream_bytes", "How large.", registry=registry).set(7)
    found = metrics_of(registry)["holdfast_stream_bytes"]
    assert isinstance(found.data, Gauge)
    assert found.unit == "By"
    assert numbers(found.data) == {(): 7}


def test_a_histogram_counts_each_bucket_for_itself() -> None:
    registry = CollectorRegistry()
    seconds = PrometheusHistogram("holdfast_x_seconds", "How long.", ["kind"], buckets=(0.1, 1, 5), registry=registry)
    for value in (0.05, 0.1, 0.5, 3, 9, 10):
        seconds.labels("a").observe(value)
    seconds.labels("b").observe(2)
    found = metrics_of(registry)["holdfast_x_seconds"]
    assert isinstance(found.data, Histogram)
    assert found.unit == "s"
    points = {str((point.attributes or {})["kind"]): point for point in found.data.data_points}
    assert points["a"].explicit_bounds == (0.1, 1, 5)
    assert points["a"].bucket_counts == [2, 1, 1, 2]
    assert points["a"].count == 6
    assert abs(points["a"].sum - 22.65) < 1e-9
    assert (points["b"].count, points["b"].bucket_counts) == (1, [0, 0, 1, 0])


def test_what_shows_nothing_is_left_out() -> None:
    registry = CollectorRegistry()
    PrometheusGauge("holdfast_x", "What x is.", ["kind"], registry=registry)
    assert metrics_of(registry) == {}


class Kept(MetricExporter):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[MetricsData] = []
        self.came = threading.Event()

    def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **kwargs: object) -> MetricExportResult:
        self.given.append(metrics_data)
        self.came.set()
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **kwargs: object) -> None: ...


def test_every_metric_of_the_catalogue_that_has_a_zero_goes_out_under_its_name() -> None:
    metrics, exporter = Metrics(services=["planner"]), Kept()
    export = MetricExport(metrics.registry, resource("planner", "r1"), exporter, every_s=3600)
    export.send()
    export.end()
    (about,) = exporter.given[0].resource_metrics
    assert about.resource.attributes["service.name"] == "holdfast-planner"
    names = {metric.name for scope in about.scope_metrics for metric in scope.metrics}
    shown = {family.name for family in metrics.registry.collect() if family.samples}
    assert names == shown
    described = [declared.description for declared in catalogue()]
    of_planners = [one for one in described if one.zeros and one.services == ("planner",)]
    assert len(of_planners) > 5
    assert {one.name.removesuffix("_total") for one in of_planners} <= names


class Shy(Kept):
    """Fails the first time."""

    def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **kwargs: object) -> MetricExportResult:
        if not self.given:
            self.given.append(metrics_data)
            raise OSError("not this time")
        return super().export(metrics_data, timeout_millis, **kwargs)


@pytest.mark.parametrize("exporter", [Kept(), Shy()])
def test_it_goes_out_every_so_often_until_the_end(exporter: Kept) -> None:
    registry = CollectorRegistry()
    PrometheusGauge("holdfast_x", "What x is.", registry=registry)
    export = MetricExport(registry, resource("planner", "r1"), exporter, every_s=0.01)
    assert exporter.came.wait(5)
    export.end()
