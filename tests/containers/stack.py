"""What `docker compose up` starts, as an operator handles it: scaled, killed, replaced, and looked at."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from services.cli.serve import SERVICES
from services.runtime.nats.server import free_port
from tests.chaos.live import workload
from tests.chaos.live.record import Kill
from tests.containers.engine import NATS_IMAGE, PROMETHEUS_IMAGE, PYTHON_IMAGE, call, compose_command, docker, logs
from tests.support.waiting import wait_until

HERE = Path(__file__).parent
PORTS = ("NATS_PORT", "PEOPLE_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
COMPOSE_S = 180.0
HEALTHY_S = 90.0
LOOK_S = 0.2
STOP_S = 30
"""What `docker compose` gives a container to end, when it is told nothing else."""


class Stack:
    """One project of compose."""

    def __init__(self, directory: Path, image: str, files: Sequence[str] = (), **more: str) -> None:
        self.project = f"holdfast-test-{os.getpid()}-{free_port()}"
        self.effects = directory / "effects"
        self.effects.mkdir()
        self.effects.chmod(0o777)  # the image's user is nobody here
        shutil.copy(workload.TOOLS, self.effects / "tools.py")
        self.record = self.effects / "record"
        self.kills: list[Kill] = []
        self.crashed: set[str] = set()
        """Containers that were made to end, and are allowed to have been started again."""
        self._files = ["docker-compose.yml", *(f"deploy/compose/{name}" for name in files), str(HERE / "effects.yaml")]
        self._env = {key: value for key, value in os.environ.items() if not key.startswith(("HOLDFAST_", "NATS_"))}
        self.ports = {name: free_port() for name in PORTS}
        self._env |= {name: str(port) for name, port in self.ports.items()}
        self._env |= {
            "IMAGE": image,
            "BASE_IMAGE": PYTHON_IMAGE,
            "NATS_IMAGE": NATS_IMAGE,
            "PROMETHEUS_IMAGE": PROMETHEUS_IMAGE,
            "EFFECTS": str(self.effects),
            "SECRETS": str(directory),
            **more,
        }

    @property
    def url(self) -> str:
        """The server, as this machine reaches it."""
        return f"nats://127.0.0.1:{self.ports['NATS_PORT']}"

    # --- compose ---

    def compose(self, *arguments: str, image: str = "", files: Sequence[str] = ()) -> str:
        """What `docker compose` says."""
        chosen = [word for file in (*self._files, *files) for word in ("-f", file)]
        env = self._env | ({"IMAGE": image} if image else {})
        return call([*compose_command(), "-p", self.project, *chosen, *arguments], within_s=COMPOSE_S, env=env)

    def up(self, *services: str, image: str = "", scale: Mapping[str, int] | None = None) -> None:
        """Start or replace services, so many of each, and wait until they are healthy."""
        scaled = [word for name, count in (scale or {}).items() for word in ("--scale", f"{name}={count}")]
        alone = ["--no-deps"] if services else []
        self.compose("up", "-d", "--no-build", *alone, *scaled, *services, image=image)
        for service in services or ("nats", *SERVICES):
            self.until_healthy(service, (scale or {}).get(service, 1))

    def close(self) -> None:
        """Remove all of it: containers, network, volumes."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", str(STOP_S))

    # --- containers ---

    def containers(self, service: str) -> list[str]:
        """Those of a service that run."""
        labels = (f"project={self.project}", f"service={service}", "oneoff=False")
        chosen = [word for label in labels for word in ("--filter", f"label=com.docker.compose.{label}")]
        return docker("ps", "-q", "--no-trunc", *chosen).split()

    def look(self, container: str, what: str) -> str:
        """A part of what the engine knows of a container."""
        return docker("inspect", "--format", what, container)

    def image_of(self, service: str) -> set[str]:
        """The images that a service runs."""
        return {self.look(container, "{{.Config.Image}}") for container in self.containers(service)}

    def metrics(self, container: str) -> str:
        """What a service's container shows to Prometheus."""
        program = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
        return docker("exec", container, "python", "-c", program)

    def until_healthy(self, service: str, count: int = 1) -> None:
        """Wait until so many of a service are healthy, and no other of it is there."""

        def healthy() -> bool:
            states = [self.look(each, "{{.State.Health.Status}}") for each in self.containers(service)]
            return states == ["healthy"] * count

        self.until(healthy, f"{count} of {service} healthy")

    def until(self, holds: Callable[[], bool], what: str, within_s: float = HEALTHY_S) -> None:
        """Wait until it holds; fails with the end of all logs."""
        try:
            wait_until(holds, what, within_s=within_s, every_s=LOOK_S)
        except AssertionError as error:
            ended = self.compose("logs", "--no-color", "--tail", "15")
            raise AssertionError(f"{error}\n{self.compose('ps')}\n{ended}") from error

    # --- what happens to them ---

    def kill(self, service: str) -> None:
        """`docker kill` one of a service; the engine leaves it where it lies."""
        container = self.containers(service)[0]
        self._note_kill(service)
        docker("kill", "--signal", "KILL", container)
        docker("start", container)

    def crash(self, service: str) -> None:
        """Kill the process in a container; the engine starts the container again by itself."""
        container = self.containers(service)[0]
        self.crashed.add(container)
        self._note_kill(service)
        docker("exec", container, "sh", "-c", "kill -KILL $(cat /proc/1/task/1/children)")
        self.until(lambda: self.look(container, "{{.RestartCount}}") != "0", f"{service} is started again")

    def restart(self, service: str) -> None:
        """`docker restart` one of a service."""
        self._note_kill(service)
        docker("restart", "--time", str(STOP_S), self.containers(service)[0], within_s=COMPOSE_S)

    def _note_kill(self, service: str) -> None:
        self.kills.append(Kill("server" if service.startswith("nats") else service, datetime.now(UTC)))

    # --- what became of them ---

    def surprises(self) -> list[str]:
        """What must not have happened: processes that ended by themselves, and work that a reconciler had to repair."""
        found: list[str] = []
        for service in SERVICES:
            for container in self.containers(service):
                if container not in self.crashed and self.look(container, "{{.RestartCount}}") != "0":
                    found.append(f"a {service} ended by itself:\n{logs(container)[-3000:]}")
                found += (
                    f"{service}: {line}"
                    for line in logs(container).splitlines()
                    if _action(line) in ("reconcile.repair", "reconcile.broken", "process.failed")
                )
        return found


def _action(line: str) -> str:
    try:
        return str(json.loads(line).get("action", ""))
    except (ValueError, AttributeError):
        return ""
