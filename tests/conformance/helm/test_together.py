"""The chart and the rest of the project say the same: services, consumers, settings, versions."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas import subjects
from services.cli.serve import SERVICES
from services.human_contact.links import PATH
from services.runtime.nats.topology import consumer_plans
from services.runtime.settings import Settings
from tests.support.chart import (
    CASES,
    CHART,
    DEPLOY,
    KUBE_NEWEST,
    ROOT,
    Object,
    Rendered,
    by_service,
    container,
    environment,
    of_kind,
    selects,
)

every_case = pytest.mark.parametrize("case", CASES)

OF_THE_CHART = {
    "nats_url",
    "nats_creds",
    "nats_nkey_seed_file",
    "nats_tls_ca",
    "nats_tls_cert",
    "nats_tls_key",
    "nats_api_prefix",
    "topology",
    "payload_keys_dir",
    "drain_s",
    "secrets_dir",
    "work_dir",
    "http_host",
    "http_port",
    "people_http_host",
    "people_http_port",
    "people_url",
    "people_link_key_file",
    "people_proxies",
}
"""Settings that follow from other values of the chart."""
NOT_OFFERED = {
    "nats_namespace": "for a tenant's own credentials: the services are there for all namespaces",
    "nats_user": "a password would be in the environment",
    "nats_password": "a password would be in the environment",
    "nats_token": "a token would be in the environment",
    "replica": "a pod's name is one already",
}
"""Settings that the chart has no value for, and why."""


def of_service(name: str) -> tuple[str, ...]:
    """The consumers of a service, as the subjects' names have it: its own name, or that and what follows."""
    names = {value for key, value in vars(subjects).items() if isinstance(value, str) and key.isupper()}
    return tuple(found for found in names if found == name or found.startswith(f"{name}-"))


# --- services ---------------------------------------------------------------------------------


def test_chart_compose_file_and_entry_points_have_the_same_services(rendered: Rendered) -> None:
    objects = rendered("prod", KUBE_NEWEST)

    assert set(by_service(objects, "Deployment")) == set(SERVICES)
    for name, found in by_service(objects, "Deployment").items():
        assert container(found)["args"] == ["serve", name]
    for kind in ("Service", "ServiceAccount", "PodDisruptionBudget", "ScaledObject", "NetworkPolicy"):
        assert set(by_service(objects, kind)) == set(SERVICES), kind
    for path in composed():
        assert served_by(path) <= set(SERVICES), path
    if (ROOT / "docker-compose.yml").exists():
        assert served_by(ROOT / "docker-compose.yml") == set(SERVICES)


def composed() -> list[Path]:
    """The compose files."""
    return [
        *ROOT.glob("docker-compose*.yml"),
        *(DEPLOY / "compose").glob("*.yaml"),
        *(DEPLOY / "compose").glob("*.yml"),
    ]


def served_by(path: Path) -> set[str]:
    """The services that a compose file runs."""
    found: set[str] = set()
    described: dict[str, Object] = yaml.safe_load(path.read_text()).get("services") or {}
    for one in described.values():
        command: str | list[str] = one.get("command", [])
        words = command.split() if isinstance(command, str) else command
        if words[:1] == ["serve"]:
            found |= set(words[1:])
    return found


def test_whatever_scrapes_metrics_scrapes_every_service(rendered: Rendered) -> None:
    objects = rendered("prod", KUBE_NEWEST)

    (monitor,) = of_kind(objects, "PodMonitor").values()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for name, found in by_service(objects, "Deployment").items():
        assert selects(monitor["spec"]["selector"], found["spec"]["template"]["metadata"]["labels"]), name
        assert endpoint["port"] in [port["name"] for port in container(found)["ports"]], name
    (test,) = of_kind(objects, "Pod").values()
    assert not selects(monitor["spec"]["selector"], test["metadata"]["labels"])
    for path in DEPLOY.rglob("prometheus*.y*ml"):
        if "helm" not in path.parts and "scrape_configs" in (scraping := yaml.safe_load(path.read_text())):
            hosts = {target.split(":")[0] for target in targets(scraping["scrape_configs"])}
            assert hosts >= set(SERVICES), path


def targets(scraping: Any) -> Iterator[str]:
    """The hosts that Prometheus scrapes, by address or by name."""
    for job in scraping:
        for way in (*job.get("static_configs", ()), *job.get("dns_sd_configs", ())):
            yield from (*way.get("targets", ()), *way.get("names", ()))


@every_case
def test_a_service_selects_the_pods_that_have_its_ports(rendered: Rendered, case: str) -> None:
    objects = rendered(case, KUBE_NEWEST)
    deployments = by_service(objects, "Deployment")
    for name, found in by_service(objects, "Service").items():
        assert selects(
            {"matchLabels": found["spec"]["selector"]}, deployments[name]["spec"]["template"]["metadata"]["labels"]
        )
        inside = [port["name"] for port in container(deployments[name])["ports"]]
        assert [port["targetPort"] for port in found["spec"]["ports"]] == inside, name


# --- scaling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [name for name in CASES if CASES[name].files or CASES[name].values])
def test_services_are_scaled_on_the_queues_that_they_consume(rendered: Rendered, case: str) -> None:
    objects = rendered(case, KUBE_NEWEST)
    scaled = by_service(objects, "ScaledObject")
    deployments = by_service(objects, "Deployment")
    for name, found in scaled.items():
        settings = Settings.from_env(environment(deployments[name]))
        wanted = {(plan.stream, plan.name) for plan in consumer_plans(settings) if plan.name in of_service(name)}
        triggers = [trigger["metadata"] for trigger in found["spec"]["triggers"]]
        assert {(one["stream"], one["consumer"]) for one in triggers} == wanted, name
        assert len(triggers) == len(wanted), name
        assert found["spec"]["scaleTargetRef"]["name"] == deployments[name]["metadata"]["name"]
        assert "replicas" not in deployments[name]["spec"], "KEDA's count would be reset by every upgrade"
    assert scaled.keys() in ({}.keys(), deployments.keys())


def test_no_consumer_is_without_a_service_that_is_scaled_on_it(rendered: Rendered) -> None:
    objects = rendered("KEDA over three partitions", KUBE_NEWEST)
    scaled_on = [
        (one["metadata"]["stream"], one["metadata"]["consumer"])
        for found in by_service(objects, "ScaledObject").values()
        for one in found["spec"]["triggers"]
    ]

    plans = consumer_plans(Settings(partitions=3))
    assert sorted(scaled_on) == sorted((plan.stream, plan.name) for plan in plans)


def test_a_replica_is_not_asked_for_more_than_it_takes_at_once() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert values["defaults"]["autoscaling"]["messagesPerReplica"] <= Settings().slots


# --- settings ---------------------------------------------------------------------------------


@every_case
def test_every_service_understands_its_environment(rendered: Rendered, case: str) -> None:
    """`from_env` refuses unknown names and bad values."""
    for found in by_service(rendered(case, KUBE_NEWEST), "Deployment").values():
        Settings.from_env(environment(found))


def test_the_services_get_what_was_set(rendered: Rendered) -> None:
    objects = by_service(rendered("everything", KUBE_NEWEST), "Deployment")
    gateway, planner = (Settings.from_env(environment(objects[name])) for name in ("llm-gateway", "planner"))

    assert (gateway.slots, planner.slots) == (128, Settings().slots)
    assert planner.partitions == 3
    assert planner.retention_s == 2_592_000
    assert planner.ack_wait_s == 2.5
    assert planner.nats_url == "tls://nats-0.example.com:4222,tls://nats-1.example.com:4333"
    told = environment(objects["planner"])
    assert told["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.observability:4318"
    assert (told["OTEL_METRICS_EXPORTER"], told["OTEL_LOGS_EXPORTER"]) == ("none", "none")
    assert Settings.from_env(environment(objects["human-contact"])).people_url == "https://people.example.com"


def test_every_setting_can_be_set_or_is_left_out_for_a_reason() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    offered = {snake(name) for name in schema["properties"]["settings"]["properties"]}
    own = {snake(name) for name in schema["definitions"]["service"]["properties"]["settings"]["properties"]}

    assert own <= offered
    assert offered | OF_THE_CHART | NOT_OFFERED.keys() == set(Settings.__struct_fields__), (
        "a setting is new or gone: give it a place in values.schema.json, or in the tables of this test"
    )
    assert not offered & (OF_THE_CHART | NOT_OFFERED.keys())
    assert not OF_THE_CHART & NOT_OFFERED.keys()


def snake(name: str) -> str:
    """`ackWaitS` as the settings have it."""
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name)


def test_what_all_replicas_must_agree_on_cannot_differ_by_service() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    own = {snake(name) for name in schema["definitions"]["service"]["properties"]["settings"]["properties"]}

    assert own == {"slots", "deliveries_max", "log_level", "egress_allow"}


def test_people_reach_human_contact_and_nobody_else(rendered: Rendered) -> None:
    objects = rendered("everything", KUBE_NEWEST)
    deployments = by_service(objects, "Deployment")
    settings = Settings.from_env(environment(deployments["human-contact"]))

    (ingress,) = of_kind(objects, "Ingress").values()
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["path"] == "/", f"links are below /{PATH}/, and channels below folders of their own"
    service = of_kind(objects, "Service")[path["backend"]["service"]["name"]]
    (port,) = [one for one in service["spec"]["ports"] if one["name"] == path["backend"]["service"]["port"]["name"]]
    (inside,) = [one for one in container(deployments["human-contact"])["ports"] if one["name"] == port["targetPort"]]
    assert (inside["containerPort"], settings.people_http_host) == (settings.people_http_port, "0.0.0.0")
    assert settings.people_url == f"https://{rule['host']}"
    for name, found in by_service(rendered("defaults", KUBE_NEWEST), "Deployment").items():
        assert "people" not in [one["name"] for one in container(found)["ports"]]
        if name == "human-contact":
            assert Settings.from_env(environment(found)).people_http_port == -1


# --- versions and words -----------------------------------------------------------------------


def test_the_chart_has_the_version_of_the_distribution() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert chart["appVersion"] == chart["version"] == project["version"]


def test_the_user_is_that_of_the_image(rendered: Rendered) -> None:
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    security = yaml.safe_load((CHART / "values.yaml").read_text())["podSecurity"]

    assert f"USER {security['user']}:{security['group']}" in dockerfile
    entry = re.search(r"^ENTRYPOINT (\[.*\])$", dockerfile, re.MULTILINE)
    assert entry
    assert json.loads(entry[1])[-1] == "holdfast", "the chart gives it `serve` and a service's name"
