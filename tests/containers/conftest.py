"""The engine and the images, once for all tests of containers."""

# ruff: noqa: T201 - a skip of all of this prints its reason
from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from testcontainers.core.config import testcontainers_config

from tests.containers import engine
from tests.containers.engine import Builds, Engine
from tests.containers.stack import Stack

# What it would start to clean up after us cannot be had without a registry, and every test here cleans up itself.
testcontainers_config.ryuk_disabled = True


@pytest.fixture(scope="session")
def running() -> Generator[Engine]:
    """An engine that answers; all is skipped where there is none and none can be brought up."""
    if reason := engine.why_not():
        print(f"\nskipped: {reason}")
        pytest.skip(reason)
    found = engine.start()
    yield found
    engine.stop(found)


@pytest.fixture(scope="session")
def builds(running: Engine, tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """Two builds of this project."""
    return engine.build(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def stack(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """Everything that `docker compose up` starts, of the older build. Nothing of it is left at the end."""
    yield from _stack(tmp_path_factory.mktemp("stack"), builds)


@pytest.fixture
def cluster(builds: Builds, tmp_path: Path) -> Generator[Stack]:
    """The same with three servers."""
    yield from _stack(tmp_path, builds, "cluster.yaml")


def _stack(directory: Path, builds: Builds, *files: str) -> Generator[Stack]:
    engine.have(engine.NATS_IMAGE)
    found = Stack(directory, builds.old, files)
    try:
        found.up()
        yield found
    finally:
        found.close()
