"""What a metric is declared with, so that a mistake in a label can neither grow a series for ever nor show a secret.

A label has a closed set of values, or a form that only a bounded number of them has. A value that is neither becomes
`other`. What is counted shows a zero from the start: the first count is then an increase, and a query about trouble
that never was has an answer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, Self, TypeVar, overload

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
LONG_SECONDS = (0.05, 0.25, 1, 5, 15, 60, 300, 900, 3600, 14_400, 43_200, 86_400, 259_200)
"""For what may wait for people."""
OTHER = "other"
"""In place of a value that a label does not have."""

M = TypeVar("M", bound=MetricWrapperBase)
F_co = TypeVar("F_co", covariant=True)


class Label(NamedTuple):
    """A label, and all the values that it may have."""

    name: str
    values: tuple[str, ...] = ()
    form: str = ""
    """Instead of `values`: a regular expression that matches a bounded number of values."""
    says: str = ""
    """What the values are, where that cannot be seen."""

    def checked(self, value: str) -> str:
        """`value` if it is one of this label's; `other` if not."""
        known = re.fullmatch(self.form, value) if self.form else value in self.values
        return value if known else OTHER


class Description(NamedTuple):
    """All that is known of a metric before it is counted."""

    name: str
    kind: type[Counter | Gauge | Histogram]
    sentence: str
    labels: tuple[Label, ...]
    services: tuple[str, ...]
    """Who counts it; empty: every process."""
    buckets: tuple[float, ...]
    zeros: bool
    """Whether every series shows a zero before anything was counted."""
    is_shared: bool = False
    """Whether every replica tells the same, so that the highest counts and never the sum."""

    def make(self, registry: CollectorRegistry | None) -> Counter | Gauge | Histogram:
        """The metric, shown by `registry`."""
        names = [label.name for label in self.labels]
        if self.kind is Histogram:
            return Histogram(self.name, self.sentence, names, registry=registry, buckets=self.buckets)
        return self.kind(self.name, self.sentence, names, registry=registry)


class Labelled(Generic[M]):
    """A metric with labels. Finding a series that was used before is one look into a dictionary."""

    def __init__(self, description: Description, metric: M) -> None:
        self._labels = description.labels
        self._metric: M = metric
        self._children: dict[tuple[str, ...], M] = {}
        if description.zeros:
            for values in itertools.product(*(label.values for label in description.labels)):
                self.labels(*values)

    def labels(self, *values: str) -> M:
        """The series of these values, in the order of the declaration."""
        child = self._children.get(values)
        return child if child is not None else self._made(values)

    def replace(self, series: Mapping[tuple[str, ...], float]) -> None:
        """A gauge whose series are these and no others: what is not known any more is not shown any more."""
        for values in [values for values in self._children if values not in series]:
            self._metric.remove(*values)
            del self._children[values]
        for values, value in series.items():
            child = self.labels(*values)
            assert isinstance(child, Gauge)
            child.set(value)

    def collect(self) -> Iterable[Metric]:
        """What is shown of it."""
        return self._metric.collect()

    def _made(self, values: tuple[str, ...]) -> M:
        assert len(values) == len(self._labels), f"{values} for {[label.name for label in self._labels]}"
        checked = tuple(label.checked(value) for label, value in zip(self._labels, values, strict=True))
        child = self._children.get(checked)
        if child is None:
            child = self._children[checked] = self._metric.labels(*checked)
        return child


class Declared(Generic[F_co]):
    """A line of the catalogue: on the class, its description; on an instance, what counts."""

    def __init__(self, description: Description, *, labelled: bool) -> None:
        self.description = description
        self._labelled = labelled
        self._attribute = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._attribute = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> F_co: ...
    def __get__(self, instance: object | None, owner: type) -> Self | F_co:
        if instance is None:
            return self
        found: F_co = vars(instance)[self._attribute]
        return found

    def open(self, instance: object, registry: CollectorRegistry | None) -> None:
        """Make the metric of an instance. Its attribute then hides this one."""
        metric = self.description.make(registry)
        vars(instance)[self._attribute] = Labelled(self.description, metric) if self._labelled else metric


def counter(name: str, sentence: str, *, by: str | Sequence[str] = ()) -> Declared[Counter]:
    """One number that only grows. `by`: the services that count it."""
    return Declared(Description(name, Counter, sentence, (), _names(by), (), zeros=True), labelled=False)


def counters(
    name: str, sentence: str, *labels: Label, by: str | Sequence[str] = (), zeros: bool = True
) -> Declared[Labelled[Counter]]:
    """Numbers that only grow. Without `zeros`, a series is shown once it was asked for: not all are this process's."""
    return Declared(Description(name, Counter, sentence, labels, _names(by), (), zeros=zeros), labelled=True)


def gauge(name: str, sentence: str, *, by: str | Sequence[str] = (), shared: bool = False) -> Declared[Gauge]:
    """A number as it is now. `shared`: every replica tells the same."""
    return Declared(
        Description(name, Gauge, sentence, (), _names(by), (), zeros=True, is_shared=shared), labelled=False
    )


def gauges(
    name: str, sentence: str, *labels: Label, by: str | Sequence[str] = (), shared: bool = False
) -> Declared[Labelled[Gauge]]:
    """Numbers as they are now. A series that is not known is not shown."""
    description = Description(name, Gauge, sentence, labels, _names(by), (), zeros=False, is_shared=shared)
    return Declared(description, labelled=True)


def histogram(
    name: str, sentence: str, *, by: str | Sequence[str] = (), buckets: tuple[float, ...] = SECONDS
) -> Declared[Histogram]:
    """How often something took how long."""
    return Declared(Description(name, Histogram, sentence, (), _names(by), buckets, zeros=True), labelled=False)


def histograms(
    name: str, sentence: str, *labels: Label, by: str | Sequence[str] = (), buckets: tuple[float, ...] = SECONDS
) -> Declared[Labelled[Histogram]]:
    """How often something took how long, by label."""
    return Declared(Description(name, Histogram, sentence, labels, _names(by), buckets, zeros=True), labelled=True)


def _names(by: str | Sequence[str]) -> tuple[str, ...]:
    return (by,) if isinstance(by, str) else tuple(by)
