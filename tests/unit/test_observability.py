"""Dashboards, alerts, catalogue and runbook: what one of them names, the others have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import Histogram

from deploy.observability.dashboards import DASHBOARDS, FOLDER, text_of
from deploy.observability.pages.planner import PLANNER
from deploy.observability.panels import COLUMNS, Dashboard, to_grafana
from deploy.observability.reference import DOCUMENT, document
from services.cli.serve import SERVICES
from services.runtime.telemetry.families import Description
from services.runtime.telemetry.metrics import catalogue
from tests.support import alerts as rules
from tests.support.alerts import Alert, alerts

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "operations" / "runbook.md"
KNOWN = {declared.description.name: declared.description for declared in catalogue()}
STALE = "stale: run `make dashboards`"
TARGET_LABELS = {"job", "instance", "le", "service", "alertname", "alertstate"}
every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)
every_alert = pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert.name)
EXPRESSIONS = [
    *(query.expr for dashboard in DASHBOARDS for panel in dashboard.panels for query in panel.queries),
    *(alert.expr for alert in alerts()),
]


def described(series: str) -> Description:
    """The metric that a series belongs to."""
    if series in KNOWN:
        return KNOWN[series]
    name, _, part = series.rpartition("_")
    assert part in ("bucket", "count", "sum"), f"{series} is no metric of ours"
    assert KNOWN[name].kind is Histogram, f"{series} is no histogram"
    return KNOWN[name]


# --- what is generated --------------------------------------------------------------------


@every_dashboard
def test_a_dashboard_is_what_its_page_says(dashboard: Dashboard) -> None:
    assert (FOLDER / f"{dashboard.name}.json").read_text(encoding="utf-8") == text_of(dashboard), STALE


def test_there_is_no_dashboard_that_no_page_makes() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {dashboard.name for dashboard in DASHBOARDS}


def test_the_document_of_the_metrics_is_what_the_catalogue_says() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), STALE


# --- dashboards ---------------------------------------------------------------------------


@every_dashboard
def test_a_dashboard_has_its_data_source_as_a_variable_and_links_to_the_others(dashboard: Dashboard) -> None:
    content = to_grafana(dashboard)
    assert content["uid"] == f"holdfast-{dashboard.name}"
    assert [variable["name"] for variable in content["templating"]["list"]] == ["datasource"]
    assert content["links"][0]["tags"] == content["tags"] == ["holdfast"]
    uids = set(re.findall(r'"uid": "([^"]+)"', json.dumps(content))) - {content["uid"]}
    assert uids == {"${datasource}"}
    assert len(json.dumps(content)) < 1 << 20


@every_dashboard
def test_panels_say_what_they_show_and_do_not_overlap(dashboard: Dashboard) -> None:
    titles = [panel.title for panel in dashboard.panels]
    assert len(set(titles)) == len(titles)
    for panel in dashboard.panels:
        assert re.fullmatch(r".{10,}[.]`?", panel.description), panel.title
        assert len(panel.queries) == 1 or all(query.legend for query in panel.queries), panel.title
    taken: set[tuple[int, int]] = set()
    for panel in to_grafana(dashboard)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in to_grafana(dashboard)["panels"]]
    assert len(set(ids)) == len(ids)


def test_a_stale_dashboard_is_found() -> None:
    changed = PLANNER._replace(title="Another")
    assert (FOLDER / "planner.json").read_text(encoding="utf-8") != text_of(changed)


# --- queries ------------------------------------------------------------------------------


def test_queries_name_metrics_and_labels_that_there_are() -> None:
    for expr in EXPRESSIONS:
        for series, selector in re.findall(r"\b(holdfast_\w+)(\{[^}]*\})?", expr):
            labels = {label.name: label for label in described(series).labels}
            for name, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', selector):
                assert name in labels, f"{series} has no label {name}"
                if operator in ("=", "!="):
                    assert labels[name].checked(value) == value, f"{name} of {series} is never {value}"
                else:
                    assert any(re.fullmatch(value, one) for one in labels[name].values), f"{name} matches no {value}"


def test_queries_group_by_labels_that_the_metric_has() -> None:
    for expr in EXPRESSIONS:
        names = {label.name for series in re.findall(r"\bholdfast_\w+", expr) for label in described(series).labels}
        for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expr):
            assert set(re.findall(r"\w+", group)) <= names | TARGET_LABELS, expr


def test_what_all_replicas_share_is_never_summed_over_them() -> None:
    for expr in EXPRESSIONS:
        for series in re.findall(r"\bholdfast_\w+", expr):
            if described(series).is_shared:
                inner = rf"(?:max(?: by \([^)]*\))? \(|max\(|absent\()(?:rate\()?{series}"
                assert len(re.findall(inner, expr)) == len(re.findall(rf"\b{series}\b", expr)), expr


def test_every_metric_is_shown_somewhere() -> None:
    shown = {described(series).name for expr in EXPRESSIONS for series in re.findall(r"\bholdfast_\w+", expr)}
    assert KNOWN.keys() - shown == set()


# --- who reads the rules ------------------------------------------------------------------


def test_prometheus_in_compose_reads_these_rules() -> None:
    config = yaml.safe_load(rules.CONFIG.read_text(encoding="utf-8"))
    (pattern,) = config["rule_files"]
    compose = yaml.safe_load((ROOT / "deploy" / "compose" / "observability.yaml").read_text(encoding="utf-8"))
    mounts = dict(mount.split(":")[:2] for mount in compose["services"]["prometheus"]["volumes"])
    (folder,) = [source for source, target in mounts.items() if target == str(Path(pattern).parent)]
    assert (ROOT / folder).resolve() == rules.FOLDER
    assert set(rules.FOLDER.glob(Path(pattern).name)) == set(rules.FOLDER.glob("*.yaml"))
    assert not any(path.is_symlink() for path in rules.FOLDER.iterdir()), "a link out of a mounted folder leads nowhere"


def test_the_scraped_jobs_are_those_that_an_alert_looks_at() -> None:
    config = yaml.safe_load(rules.CONFIG.read_text(encoding="utf-8"))
    (expr,) = [alert.expr for alert in alerts() if alert.name == "HoldfastTargetDown"]
    (jobs,) = re.findall(r'job=~"([^"]+)"', expr)
    ours = [job["job_name"] for job in config["scrape_configs"] if "dns_sd_configs" in job]
    assert ours == ["holdfast"]
    for job in (*ours, *SERVICES):
        assert re.fullmatch(jobs, job), "in Kubernetes, a job is named like its service"


# --- alerts and the runbook ---------------------------------------------------------------


@every_alert
def test_an_alert_has_a_severity_and_says_what_is_wrong(alert: Alert) -> None:
    assert alert.name.startswith("Holdfast")
    assert alert.severity in rules.SEVERITIES
    assert alert.annotations.keys() == {"summary", "description", "runbook_url"}
    assert alert.annotations["description"].strip().endswith(".")
    assert alert.annotations["runbook_url"] == f"docs/operations/runbook.md#{alert.name.lower()}"
    assert alert.asked


def test_the_runbook_has_one_entry_for_each_alert() -> None:
    entries = re.findall(r"^## (.+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    assert entries == [alert.name for alert in alerts()]


@every_alert
def test_an_entry_says_what_it_means_what_to_look_at_and_what_to_do(alert: Alert) -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    entry = re.split(r"^## ", text.partition(f"## {alert.name}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    assert entry.strip().startswith(f"*{alert.severity}.* **Means.** ")
    for part in ("**Look at.** ", "**Do.** "):
        assert f"\n\n{part}" in entry


def test_the_runbook_names_panels_that_there_are() -> None:
    text = " ".join(RUNBOOK.read_text(encoding="utf-8").split())
    titles = {dashboard.title: {panel.title for panel in dashboard.panels} for dashboard in DASHBOARDS}
    found = re.findall(rf"\b({'|'.join(titles)})[,:] \*([^*]+)\*(?: and \*([^*]+)\*)?", text)
    assert len(found) > 15
    for title, *panels in found:
        assert {panel for panel in panels if panel} <= titles[title], (title, panels)


@every_alert
def test_an_alert_is_tested_when_it_fires_and_when_it_does_not(alert: Alert) -> None:
    tests = yaml.safe_load((rules.TESTS / "holdfast_test.yaml").read_text(encoding="utf-8"))["tests"]
    about = [one for one in tests if one["name"].startswith(f"{alert.name}: ")]
    asked = [question for one in about for question in one["promql_expr_test"]]
    assert all(f'alertname="{alert.name}"' in question["expr"] for question in asked)
    assert {question["exp_samples"][0]["value"] for question in asked} == {0, 1}


def test_the_test_of_the_alerts_names_series_that_there_are() -> None:
    text = (rules.TESTS / "holdfast_test.yaml").read_text(encoding="utf-8")
    for series in re.findall(r"series: '(holdfast_\w+)", text):
        described(series)
