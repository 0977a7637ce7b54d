"""The catalogue of metrics: what a label may say, what is shown, and that everything declared is counted somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from prometheus_client import Counter, generate_latest

from schemas import subjects
from schemas.events import TaskEvent
from schemas.resources import LLMSpec
from services.cli.serve import SERVICES
from services.llm_gateway.core.meter import Reason
from services.notifier.sinks.base import SinkKind
from services.planner.gauges import LIVE_PHASES, NOT_OF_A_PARTITION, stream_labels
from services.runtime.nats.topology import consumer_plans, stream_plans
from services.runtime.settings import Settings
from services.runtime.telemetry import metrics
from services.runtime.telemetry.families import OTHER, Declared, Description
from services.runtime.telemetry.metrics import Metrics, catalogue

SERVICES_FOLDER = Path(metrics.__file__).parents[2]
UNITS = ("_seconds", "_bytes", "_total", "_info")
COUNTS = {
    "holdfast_tasks",
    "holdfast_mcp_servers_connected",
    "holdfast_interactions_open",
    "holdfast_notifier_circuits_open",
    "holdfast_stream_messages",
    "holdfast_stream_last_sequence",
    "holdfast_stream_replicas_missing",
    "holdfast_consumer_pending",
    "holdfast_consumer_ack_pending",
    "holdfast_consumer_redelivering",
    "holdfast_dead_letters_kept",
}
"""Gauges that count things: their names say which."""
every_metric = pytest.mark.parametrize(
    "description", [one.description for one in catalogue()], ids=lambda description: description.name
)


@every_metric
def test_a_metric_has_a_sentence_a_unit_and_closed_labels(description: Description) -> None:
    assert re.fullmatch(r"[A-Z].{10,}[.]", description.sentence)
    assert description.name.startswith("holdfast_")
    assert description.name.endswith(UNITS) or description.name in COUNTS
    assert description.name.endswith("_total") == (description.kind is Counter)
    for label in description.labels:
        assert bool(label.values) != bool(label.form)
        assert not label.form or label.says
        assert len(label.values) == len(set(label.values)) <= 20
    assert set(description.services) <= SERVICES.keys()


HOSTILE_FORMS = ("", "../../etc", 'a"} 1\n', "x" * 10_000, "GPT; DROP TABLE", "ünïcode")
HOSTILE = (*HOSTILE_FORMS, "task-4mq6xaaw7f7d")


@every_metric
def test_whatever_is_said_a_label_has_one_of_its_values(description: Description) -> None:
    for label in description.labels:
        for text in HOSTILE if label.values else HOSTILE_FORMS:
            assert label.checked(text) == OTHER, (label.name, text)
        for value in label.values:
            assert label.checked(value) == value


def test_a_thousand_names_are_one_series() -> None:
    here = Metrics()
    for n in range(1000):
        here.model_seconds.labels(f"provider-{n}", "answered").observe(1)
    assert here.registry.get_sample_value(
        "holdfast_model_call_seconds_count", {"provider": OTHER, "outcome": "answered"}
    ) == pytest.approx(1000)
    text = generate_latest(here.registry).decode()
    assert "provider-7" not in text
    assert len([line for line in text.splitlines() if not line.startswith("#")]) < 1500


def test_a_count_of_trouble_is_there_before_there_is_any() -> None:
    here = Metrics()
    for labels in ({"what": "command"}, {"what": "deadline"}):
        assert here.registry.get_sample_value("holdfast_reconciler_repairs_total", labels) == 0
    assert here.registry.get_sample_value("holdfast_tool_takeovers_total", {"decision": "unknown"}) == 0
    assert (
        here.registry.get_sample_value("holdfast_messages_handled_total", {"consumer": "planner", "outcome": "dead"})
        is None
    )
    here.consumer("planner")
    assert (
        here.registry.get_sample_value("holdfast_messages_handled_total", {"consumer": "planner", "outcome": "dead"})
        == 0
    )


def test_a_gauge_says_nothing_of_what_is_not_known_any_more() -> None:
    here = Metrics()
    here.pending.replace({("planner", "0"): 3, ("planner", "1"): 0})
    here.pending.replace({("planner", "1"): 4})
    value = here.registry.get_sample_value
    assert value("holdfast_consumer_pending", {"consumer": "planner", "partition": "0"}) is None
    assert value("holdfast_consumer_pending", {"consumer": "planner", "partition": "1"}) == 4
    here.pending.replace({})
    assert "holdfast_consumer_pending{" not in generate_latest(here.registry).decode()


def test_a_process_shows_what_its_services_count() -> None:
    here = Metrics(services=["notifier"])
    here.repaired.labels("command").inc()
    text = generate_latest(here.registry).decode()
    assert "holdfast_notifications_total{" in text
    assert "holdfast_event_loop_lag_seconds_count" in text
    assert "holdfast_reconciler_repairs_total" not in text


# --- the closed sets are those of the code ------------------------------------------------


def values_of(declared: Declared[object], name: str) -> set[str]:
    (label,) = [label for label in declared.description.labels if label.name == name]
    return set(label.values)


def test_the_labels_know_every_consumer_and_stream() -> None:
    settings = Settings(partitions=2)
    consumers = {plan.name for plan in consumer_plans(settings)}
    assert consumers <= values_of(Metrics.pending, "consumer")
    labels = [stream_labels(plan.name) for plan in stream_plans(settings)]
    assert {one.stream for one in labels} == values_of(Metrics.stream_bytes, "stream")
    assert len(set(labels)) == len(labels)
    assert stream_labels(subjects.task_stream(17)) == ("tasks", "17")
    assert {one.partition for one in labels} == {"0", "1", NOT_OF_A_PARTITION}


def test_the_labels_know_what_the_services_say() -> None:
    assert {*get_args(Reason), "day"} == values_of(Metrics.model_waits, "reason")
    assert set(get_args(SinkKind)) == values_of(Metrics.notification_attempts, "sink")
    assert {event.__name__ for event in get_args(TaskEvent)} == values_of(Metrics.ignored, "event")
    assert set(LIVE_PHASES) | values_of(Metrics.task_seconds, "outcome") == values_of(Metrics.tasks, "phase")
    assert set(get_args(get_type_hints(LLMSpec)["provider"])) == values_of(Metrics.model_seconds, "provider")
    assert SERVICES.keys() <= values_of(Metrics.build, "service")


def test_the_labels_know_every_word_that_the_source_says() -> None:
    """Where a label's value stands in the source as a word, it is one of the label's."""
    said: dict[str, set[str]] = {}
    for path in SERVICES_FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "labels":
                attribute = ast.unparse(node.func.value).rpartition(".")[2]
                words = [one.value for one in node.args if isinstance(one, ast.Constant)]
                said.setdefault(attribute, set()).update(map(str, words))
    known = vars(Metrics)
    for attribute in said.keys() & known.keys():
        declared = known[attribute]
        values = {value for label in declared.description.labels for value in label.values}
        assert said[attribute] <= values | {"true", "false"}, attribute
    assert said["repaired"] == {"malformed"}
    reconciler = (SERVICES_FOLDER / "planner" / "reconciler.py").read_text(encoding="utf-8")
    repaired = set(re.findall(r'_repaired\(task, "(\w+)"\)', reconciler)) | said["repaired"]
    assert repaired == values_of(Metrics.repaired, "what")


# --- and everything is counted ------------------------------------------------------------


def used_by() -> dict[str, set[str]]:
    """Which packages under `services` use an attribute of a `metrics`."""
    found: dict[str, set[str]] = {}
    for path in SERVICES_FOLDER.rglob("*.py"):
        package = path.relative_to(SERVICES_FOLDER).parts[0].replace("_", "-")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("metrics"):
                found.setdefault(node.attr, set()).add(package)
    return found


def test_every_metric_is_counted_by_the_services_that_it_names() -> None:
    used = used_by()
    for attribute, declared in vars(Metrics).items():
        if isinstance(declared, Declared):
            wanted = set(declared.description.services) or {"runtime"}
            assert used.get(attribute) == wanted, f"{attribute}: {used.get(attribute)}, and it says {wanted}"
