"""Every query of every dashboard and alert, asked of a real Prometheus that has watched a real stack do real tasks."""

from __future__ import annotations

import asyncio
import math
import re
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest

from deploy.observability.dashboards import DASHBOARDS
from deploy.observability.panels import Panel, Query
from services.runtime.telemetry.families import OTHER
from services.runtime.telemetry.metrics import catalogue
from tests.support.alerts import FOLDER, TESTS, Alert, alerts
from tests.support.observed import Observed, observed
from tests.support.prometheus import Prometheus, program

QUERIES = [
    pytest.param(panel, query, id=f"{dashboard.name}: {panel.title} {n}")
    for dashboard in DASHBOARDS
    for panel in dashboard.panels
    for n, query in enumerate(panel.queries, start=1)
]
TARGET_LABELS = {"__name__", "instance", "job", "service", "exported_service", "le"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    program("prometheus")
    with asyncio.Runner() as runner:
        context = observed(tmp_path_factory.mktemp("observed"))
        here = runner.run(context.__aenter__())
        try:
            runner.run(here.round())
            runner.run(here.leave_open())
            runner.run(asyncio.to_thread(_until_seen, here.prometheus))
            yield here
        finally:
            runner.run(context.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def watching(running: Observed) -> Prometheus:
    return running.prometheus


def _until_seen(watching: Prometheus) -> None:
    """Wait until all that has happened was scraped and surveyed."""
    for expr, what in (
        ('sum(holdfast_task_seconds_count{outcome="FinalAnswer"}) == 8', "eight tasks have an answer"),
        ('sum(holdfast_task_seconds_count{outcome="Failed"}) == 1', "one has failed"),
        (
            "max(holdfast_dead_letters_kept) == 2",
            "a notification that was not taken and a message that nobody can read",
        ),
        ('sum(holdfast_notifications_total{outcome="delivered"}) == 1', "one was taken"),
        ('max(holdfast_interactions_oldest_age_seconds{kind="approval"}) > 0', "one question is open"),
        ("sum(rate(holdfast_interaction_answers_total[1m])) > 0", "one was answered"),
        (
            "histogram_quantile(0.5, sum by (le) (rate(holdfast_model_parked_seconds_bucket[1m]))) > 0",
            "a call has waited",
        ),
        ('ALERTS{alertname="HoldfastNotificationsFailed", alertstate="firing"}', "an alert fires"),
    ):
        watching.until(expr, what)


def now(expr: str) -> str:
    """A query as Grafana would send it."""
    return expr.replace("$__rate_interval", "1m").replace("$__range", "5m")


@pytest.mark.parametrize(("panel", "query"), QUERIES)
def test_every_query_of_a_dashboard_has_an_answer(watching: Prometheus, panel: Panel, query: Query) -> None:
    expr = now(query.expr)
    if panel.quiet:
        # About trouble that there may be none of: then what it is about exists, and is not counted yet.
        expr = expr.removesuffix(" > 0")
    found = watching.query(expr)
    assert found, expr
    if not panel.quiet:
        assert any(math.isfinite(sample.last) and sample.last > 0 for sample in found), (expr, found)
    for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
        assert all(label in sample.labels for sample in found), f"the legend of {panel.title} names {label}"


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
def test_what_an_alert_compares_exists(watching: Prometheus, alert: Alert) -> None:
    for expr in alert.asked:
        assert watching.query(expr), expr


def test_every_rule_is_evaluated(watching: Prometheus) -> None:
    groups = watching.ask("rules")["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert rules.keys() == {alert.name for alert in alerts()}
    assert {name: rule.get("lastError") for name, rule in rules.items() if rule["health"] != "ok"} == {}


def test_an_alert_fires_with_its_words_filled_in_and_none_fires_for_nothing(watching: Prometheus) -> None:
    firing = {
        alert["labels"]["alertname"]: alert for alert in watching.ask("alerts")["alerts"] if alert["state"] == "firing"
    }
    assert "(responseURL)" in firing["HoldfastNotificationsFailed"]["annotations"]["summary"]
    assert firing.keys() <= {"HoldfastNotificationsFailed", "HoldfastDeadLetters"}, "a repair, perhaps, or a defect"


def test_labels_have_no_other_values_than_the_catalogue_says(watching: Prometheus) -> None:
    """Ids, names that people chose, and texts are in no label: whatever the tasks did, these are all the series."""
    known = {declared.description.name: declared.description for declared in catalogue()}
    seen: set[str] = set()
    for series in watching.ask("series", **{"match[]": '{__name__=~"holdfast_.+"}'}):
        name = re.sub(r"_(bucket|count|sum)$", "", series["__name__"])
        description = known.get(name) or known[f"{name}_total"]
        seen.add(description.name)
        values = {label.name: label for label in description.labels}
        own = {key: value for key, value in series.items() if key not in TARGET_LABELS}
        assert own.keys() <= values.keys(), series
        for key, value in own.items():
            assert value != OTHER or OTHER in values[key].values, series
            assert values[key].checked(value) == value, series
    assert seen == known.keys(), "a metric of the catalogue that no process shows"


def test_a_process_shows_what_its_service_counts_and_nothing_else(watching: Prometheus) -> None:
    for declared in catalogue():
        description = declared.description
        name = description.name if description.kind.__name__ != "Histogram" else f"{description.name}_count"
        services = {sample.labels["service"] for sample in watching.query(f"count by (service) ({name})")}
        assert services <= set(description.services) or not description.services, (description.name, services)


def test_a_process_has_a_bounded_number_of_series(watching: Prometheus) -> None:
    counts = watching.query('sum by (service) (scrape_samples_scraped{job="holdfast"})')
    assert len(counts) == 5
    assert max(sample.last for sample in counts) < 1000


def test_the_format_and_the_names_are_as_prometheus_wants_them(running: Observed) -> None:
    targets = running.prometheus.ask("targets", state="active")["activeTargets"]
    for target in targets:
        with urllib.request.urlopen(target["scrapeUrl"], timeout=5) as answer:
            text = answer.read()
        done = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [("check", "rules"), ("test", "rules")], ids=["check", "test"])
def test_promtool_is_content_with_the_rules(arguments: tuple[str, str]) -> None:
    folder = FOLDER if arguments[0] == "check" else TESTS
    files = [str(path) for path in sorted(folder.glob("*.yaml"))]
    done = subprocess.run([program("promtool"), *arguments, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
