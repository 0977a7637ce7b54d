"""The health check of the image, against the server that it asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.runtime.health import HealthServer
from services.runtime.nats.server import free_port

HEALTH = Path(__file__).parents[3] / "deploy" / "docker" / "health.py"


class Told:
    """What the service says of itself."""

    unhealthy = ""
    unready = ""


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def port(told: Told) -> Generator[int]:
    server = HealthServer(
        "127.0.0.1", 0, CollectorRegistry(), unhealthy=lambda: told.unhealthy, unready=lambda: told.unready
    )
    server.start()
    yield server.port
    server.stop()


def ask(port: int, *path: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", HEALTH, *path],
        env=os.environ | {"HOLDFAST_HTTP_PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return done.returncode, done.stdout.strip()


def test_a_service_that_is_well_is_healthy(port: int) -> None:
    assert ask(port) == ask(port, "/healthz") == ask(port, "/readyz") == (0, "ok")


def test_a_service_that_starts_is_healthy_and_not_ready(port: int, told: Told) -> None:
    told.unready = "starting or draining"
    assert ask(port) == (0, "ok")
    assert ask(port, "/readyz") == (1, "starting or draining")


def test_a_service_that_hangs_is_not_healthy_and_says_why(port: int, told: Told) -> None:
    told.unhealthy = "the event loop has not run for 20 s"
    assert ask(port) == (1, told.unhealthy)


def test_a_service_that_is_not_there_is_not_healthy() -> None:
    code, said = ask(free_port())
    assert code == 1
    assert said.startswith("no answer: ")
