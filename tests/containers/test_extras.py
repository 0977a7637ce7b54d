"""What is added by file: secrets, the port for people, Prometheus, accounts. And compose reads every combination."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.cli.serve import SERVICES
from tests.containers import engine
from tests.containers.engine import ROOT, Builds, Engine, call, compose_command, docker, inspect
from tests.containers.stack import Stack

KEY = "sk-secret-of-a-test-5d0c"
LINK_KEY = "link-key-of-a-test-93ab"
NOT_HERE = ("grafana", "otel-collector", "tempo")
"""Images that cannot be had without a registry; their files are read, and not run."""
EXTRA = [path.name for path in sorted((ROOT / "deploy" / "compose").glob("*.yaml"))]


@pytest.fixture(scope="module")
def stack(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """All services with a secret, the port for people, and Prometheus; nobody is there to take the traces."""
    engine.have(engine.NATS_IMAGE)
    engine.have(engine.PROMETHEUS_IMAGE)
    directory = tmp_path_factory.mktemp("extras")
    for name, value in (("openai", KEY), ("people-link-key", LINK_KEY)):
        (directory / name).write_text(f"{value}\n")
        (directory / name).chmod(0o644)
    found = Stack(directory, builds.old, ["openai.yaml", "people.yaml", "observability.yaml"])
    try:
        found.up("nats")
        found.up(*SERVICES, "prometheus", scale={"llm-gateway": 2})
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and certificates, made as the file says."""
    folder = tmp_path_factory.mktemp("bus")
    where = ("--server-path", "/etc/nats", "--user-path", "/etc/holdfast/nats", "--store-dir", "/data")
    names = ("--server", "nats=nats,localhost,127.0.0.1", "--listen", "0.0.0.0")
    call([sys.executable, "-m", "services.cli.main", "nats", "init", folder, *names, *where])
    for part in ("servers", "users"):
        call(["chmod", "-R", "a+rX", folder / part])
    return folder


@pytest.mark.parametrize(
    "names", [[], *([name] for name in EXTRA), EXTRA], ids=lambda names: "+".join(names) or "alone"
)
def test_compose_reads_every_file(running: Engine, names: list[str], bus: Path) -> None:
    files = [word for name in names for word in ("-f", f"deploy/compose/{name}")]
    command = [*compose_command(), "-f", "docker-compose.yml", *files, "config", "--quiet"]
    call(command, env={**os.environ, "BUS": str(bus)})


def test_a_secret_is_in_the_containers_of_one_service_and_nowhere_else(stack: Stack) -> None:
    for service in SERVICES:
        for container in stack.containers(service):
            listed = docker("exec", container, "sh", "-c", "cat /run/secrets/*/* 2>/dev/null || true")
            known = {"llm-gateway": KEY, "human-contact": LINK_KEY}.get(service, "")
            assert listed == known, service
            assert KEY not in json.dumps(inspect(container))
            assert KEY not in docker("exec", container, "sh", "-c", "cat /proc/1/environ")


def test_a_task_ends_with_its_traces_lost_and_all_of_this_there(stack: Stack) -> None:
    assert "I am only a script" in stack.compose("run", "--rm", "--no-deps", "-T", "demo")


def test_prometheus_scrapes_every_replica(stack: Stack) -> None:
    wanted = sorted([*SERVICES, "llm-gateway"])

    def scraped() -> bool:
        targets = _json(f"http://127.0.0.1:{stack.ports['PROMETHEUS_PORT']}/api/v1/targets")["data"]["activeTargets"]
        ours = [each for each in targets if each["labels"]["job"] == "holdfast"]
        return sorted(each["labels"]["service"] for each in ours if each["health"] == "up") == wanted

    stack.until(scraped, "Prometheus has scraped every replica")


def test_peoples_answers_come_in_at_a_port_of_this_machine(stack: Stack) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{stack.ports['PEOPLE_PORT']}/no-such-link", timeout=10)
    assert refused.value.code == 404


async def test_with_accounts_each_service_has_its_own_keys_and_strangers_are_refused(
    builds: Builds, bus: Path, tmp_path: Path
) -> None:
    secured = Stack(tmp_path, builds.old, ["accounts.yaml"], BUS=str(bus))
    try:
        await asyncio.to_thread(secured.up)
        said = await asyncio.to_thread(secured.compose, "run", "--rm", "-T", "demo")
        assert "I am only a script" in said
        seeds = {
            docker("exec", container, "sh", "-c", "cat /etc/holdfast/nats/nkey.seed")
            for service in SERVICES
            for container in secured.containers(service)
        }
        assert len(seeds) == len(SERVICES)
        with pytest.raises((NatsError, ssl.SSLError, OSError)):
            await Client().connect(secured.url, allow_reconnect=False, connect_timeout=3, max_reconnect_attempts=1)
    finally:
        await asyncio.to_thread(secured.close)


def _json(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
