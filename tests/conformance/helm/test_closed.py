"""Who sees which secret, and who reaches whom: nobody by accident."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml

from services.cli.serve import SERVICES
from services.runtime.egress import METADATA, PRIVATE
from services.runtime.settings import Settings
from tests.support.chart import (
    CASES,
    CHART,
    KUBE_NEWEST,
    Object,
    Rendered,
    by_service,
    container,
    environment,
    of_kind,
    selects,
)

every_case = pytest.mark.parametrize("case", CASES)


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
