"""The container engine, the images that tests run, and the command line of both.

python -m tests.containers.engine    says whether there is an engine or can be; the exit code is 0 if so

An engine that answers is used as it is. Otherwise a program called `container-engine` may bring one up (`up`, `down`,
and `image TAG` for base images where no registry can be reached); it is looked for in `CONTAINER_ENGINE` and in `PATH`.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PYTHON_IMAGE = "python:3.11-slim-bookworm"
NATS_IMAGE = "nats:2.15.1-alpine"
PROMETHEUS_IMAGE = "prom/prometheus:v3.5.0"
ANSWER_S = 30.0
UP_S = 400.0
BUILD_S = 900.0
CONTEXT = ("LICENSE", "README.md", "pyproject.toml", "requirements", "schemas", "services", "deploy/docker")
"""What the image is made of."""
PLANTED = "planted-secret-7c1f0a"
"""Stands in files of the build's folder that must not come along."""

Json = dict[str, Any]


class Failed(AssertionError):
    """A command ended with an error. The text has its output."""


def call(command: Sequence[str | Path], *, within_s: float = 60.0, env: Mapping[str, str] | None = None) -> str:
    """What a command says on standard output; raises `Failed`."""
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, timeout=within_s, env=env, cwd=ROOT
    )
    if done.returncode:
        words = " ".join(map(str, command))
        raise Failed(f"{words} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout.strip()


def docker(*arguments: str, within_s: float = 60.0) -> str:
    """What `docker` says; raises `Failed`."""
    return call(["docker", *arguments], within_s=within_s)


def logs(container: str) -> str:
    """What a container has said, on standard output and error alike."""
    return call(["sh", "-c", 'exec docker logs "$0" 2>&1', container])


def inspect(name: str) -> Json:
    """All that the engine knows of a container or an image."""
    found: list[Json] = json.loads(docker("inspect", name))
    return found[0]


@functools.cache
def compose_command() -> tuple[str, ...]:
    """`docker compose`, or the older `docker-compose`."""
    modern = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    return ("docker", "compose") if modern else ("docker-compose",)


# --- the engine ---


def tool() -> Path | None:
    """The program that can bring an engine up, if there is one."""
    places = (os.environ.get("CONTAINER_ENGINE"), shutil.which("container-engine"))
    found = (Path(place) for place in places if place)
    return next((path for path in found if os.access(path, os.X_OK) and path.is_file()), None)


def answers() -> bool:
    """Whether an engine runs."""
    if shutil.which("docker") is None:
        return False
    try:
        docker("info", "--format", "{{.ServerVersion}}", within_s=ANSWER_S)
    except (Failed, subprocess.TimeoutExpired):
        return False
    return True


def why_not() -> str:
    """Why there is no engine and none can be brought up; empty if one runs or can."""
    if answers() or tool() is not None:
        return ""
    return "no container engine answers, and there is no `container-engine` that could bring one up"


class Engine(NamedTuple):
    """An engine that answers."""

    ours: bool
    """It runs because of these tests, and is stopped after them."""


def start() -> Engine:
    """The engine; brought up if it is not. Raises `Failed`."""
    running = answers()
    if not running:
        helper = tool()
        if helper is None:
            raise Failed(why_not())
        call([helper, "up"], within_s=UP_S)
    if not compose_command()[1:] and shutil.which("docker-compose") is None:
        raise Failed("there is an engine, and neither `docker compose` nor `docker-compose`")
    return Engine(ours=not running)


def stop(engine: Engine) -> None:
    """Stop an engine that was started here."""
    helper = tool()
    if engine.ours and helper is not None:
        call([helper, "down"])


# --- images ---


def have(tag: str) -> None:
    """Get a base image: it is there, or a stand-in is made, or it is pulled. Raises `Failed`."""
    try:
        docker("image", "inspect", tag)
    except Failed:
        helper = tool()
        call([helper, "image", tag] if helper else ["docker", "pull", tag], within_s=UP_S)


class Builds(NamedTuple):
    """Two builds of the same project, the second one of a later version."""

    old: str
    new: str
    old_version: str
    new_version: str


def build(directory: Path) -> Builds:
    """Build both, from a copy of the project in which secrets lie about."""
    have(PYTHON_IMAGE)
    context = directory / "context"
    for name in CONTEXT:
        source, target = ROOT / name, context / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    shutil.copy(ROOT / ".dockerignore", context)
    for place in (".env", "services/.env", "deploy/compose/secrets/openai", "deploy/docker/key.pem", ".git/config"):
        (context / place).parent.mkdir(parents=True, exist_ok=True)
        (context / place).write_text(f"TOKEN={PLANTED}\n")
    pyproject = (context / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', pyproject, re.MULTILINE)
    assert version is not None
    builds = Builds("holdfast-test:old", "holdfast-test:new", version[1], f"{version[1]}.post1")
    _build(context, builds.old, builds.old_version)
    (context / "pyproject.toml").write_text(pyproject.replace(version[0], f'version = "{builds.new_version}"'))
    _build(context, builds.new, builds.new_version)
    return builds


def _build(context: Path, tag: str, version: str) -> None:
    given = {"BASE_IMAGE": PYTHON_IMAGE, "LOCK": "demo", "VERSION": version, "REVISION": f"revision-of-{version}"}
    arguments = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
    dockerfile = context / "deploy" / "docker" / "Dockerfile"
    docker("build", "-q", "-t", tag, "-f", str(dockerfile), *arguments, str(context), within_s=BUILD_S)


def main() -> int:
    """Say whether these tests can run."""
    reason = why_not()
    sys.stdout.write(f"{reason or 'there is a container engine, or one can be brought up'}\n")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
