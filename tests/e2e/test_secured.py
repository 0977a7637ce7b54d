"""All services and two tenants on a server with accounts of `holdfast nats init`: everything works as without them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.secured import Secured, secured_server

REPOSITORY = Path(__file__).parents[2]
SERVICES = ("planner", "llm-gateway", "tool-executor", "human-contact", "notifier")
READY_S = 60.0
RUN_S = 60.0

MANIFESTS = """\
apiVersion: holdfast.dev/v1
kind: LLM
metadata: {name: scripted}
spec:
  provider: scripted
  scripted:
    rules:
      - {userContains: and then, reply: {text: "Then: {user}"}}
      - turn: 1
        reply:
          text: Let me look at the clock.
          calls:
            - {tool: time__get_current_time, arguments: {timezone: Asia/Tokyo}}
    transcript:
      - text: ""
      - text: "It said: {results}"
---
apiVersion: holdfast.dev/v1
kind: MCPServer
metadata: {name: time}
spec: {transport: stdio, command: mcp-server-time, approvalContactChannel: {name: console}}
---
apiVersion: holdfast.dev/v1
kind: ContactChannel
metadata: {name: console}
spec: {type: console}
---
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: helper}
spec:
  llmRef: {name: scripted}
  system: Help.
  mcpServers: [{name: time}]
"""


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


class Installation:
    """The processes of one test."""

    def __init__(self, secured: Secured, directory: Path) -> None:
        self._secured = secured
        self._directory = directory
        self._base = {
            name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "NATS_", "OTEL_"))
        }
        self._base["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), self._base["PATH"]))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, service: str) -> None:
        with (self._directory / f"{service}.log").open("ab") as log:
            self._processes[service] = subprocess.Popen(
                [sys.executable, "-m", "services.cli.main", "serve", service],
                cwd=REPOSITORY,
                env={**self._base, **self._secured.environ(service), "HOLDFAST_HTTP_PORT": "-1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def log(self, service: str) -> str:
        return (self._directory / f"{service}.log").read_text()

    def until_ready(self, *services: str) -> None:
        deadline = time.monotonic() + READY_S
        for service in services:
            while "process.ready" not in self.log(service):
                assert time.monotonic() < deadline, f"{service} is not ready:\n{self.log(service)}"
                assert self._processes[service].poll() is None, self.log(service)
                time.sleep(0.05)

    def kill(self, service: str) -> None:
        process = self._processes.pop(service)
        process.kill()
        process.wait()

    def end(self) -> None:
        for service in list(self._processes):
            self.kill(service)

    def run(self, user: str, *arguments: str, given: str = "") -> Done:
        """A command line with somebody's credentials."""
        ended = subprocess.run(
            [sys.executable, "-m", "services.cli.main", *arguments],
            cwd=REPOSITORY,
            env={**self._base, **self._secured.environ(user), "COLUMNS": "200"},
            input=given,
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        return Done(ended.returncode, ended.stdout, ended.stderr)

    def good(self, user: str, *arguments: str, given: str = "") -> str:
        done = self.run(user, *arguments, given=given)
        assert done.code == 0, (arguments, done)
        return done.out

    def interaction(self, user: str, task: str) -> str:
        """The question that a task asks, once it does."""
        deadline = time.monotonic() + RUN_S
        while time.monotonic() < deadline:
            listed = self.good(user, "inbox", task)
            if "r1.1.0" in listed:
                return "r1.1.0"
            time.sleep(0.2)
        raise AssertionError(f"task {task} asks nothing:\n{self.good(user, 'describe', 'task', task)}")


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    directory = tmp_path_factory.mktemp("secured")
    with secured_server(directory, tenants=("team-a", "team-b")) as secured:
        running = Installation(secured, directory)
        try:
            for service in SERVICES:
                running.start(service)
            running.until_ready(*SERVICES)
            for namespace in ("team-a", "team-b"):
                running.good("operator", "apply", "-n", namespace, "-f", "-", "--wait", given=MANIFESTS)
            yield running
        finally:
            running.end()


def test_a_tenant_submits_approves_watches_and_goes_on(installation: Installation) -> None:
    tenant = "tenant-team-a"
    installation.good(tenant, "submit", "-a", "helper", "What time is it?", "--name", "asked")
    question = installation.interaction(tenant, "asked")
    installation.good(tenant, "approve", "asked", question)
    watched = installation.good(tenant, "watch", "asked")
    assert "It said:" in watched
    assert "Asia/Tokyo" in watched
    assert "asked" in installation.good(tenant, "get", "tasks")
    described = installation.good(tenant, "describe", "task", "asked")
    assert "FinalAnswer" in described
    assert "time__get_current_time" in described
    assert installation.good(tenant, "events", "asked")
    assert "helper" in installation.good(tenant, "get", "agents")
    assert "Ready" in installation.good(tenant, "get", "mcpservers")
    following = installation.good(tenant, "send", "asked", "and then?").strip()
    assert "Then:" in installation.good(tenant, "watch", following)


def test_a_killed_service_comes_back_with_its_own_credentials(installation: Installation) -> None:
    tenant = "tenant-team-a"
    installation.good(tenant, "submit", "-a", "helper", "What time is it?", "--name", "interrupted")
    question = installation.interaction(tenant, "interrupted")
    for service in ("human-contact", "tool-executor", "planner"):
        installation.kill(service)
    for service in ("human-contact", "tool-executor", "planner"):
        (installation._directory / f"{service}.log").unlink()
        installation.start(service)
    installation.until_ready("human-contact", "tool-executor", "planner")
    installation.good(tenant, "approve", "interrupted", question)
    assert "It said:" in installation.good(tenant, "watch", "interrupted")


def test_another_tenant_sees_and_does_nothing_of_it(installation: Installation) -> None:
    installation.good("tenant-team-a", "submit", "-a", "helper", "What time is it?", "--name", "secret-plan")
    other = "tenant-team-b"
    assert "secret-plan" not in installation.good(other, "get", "tasks")
    for arguments in (
        ("describe", "task", "secret-plan"),
        ("describe", "task", "secret-plan", "-n", "team-a"),
        ("get", "tasks", "-n", "team-a"),
        ("cancel", "secret-plan", "-n", "team-a"),
        ("submit", "-a", "helper", "hi", "-n", "team-a"),
        ("approve", "secret-plan", "r1.1.0", "-n", "team-a"),
    ):
        done = installation.run(other, *arguments)
        assert done.code != 0, (arguments, done)
        assert "secret-plan" not in done.out
    installation.good("tenant-team-a", "cancel", "secret-plan")


def test_a_tenant_is_told_in_a_sentence_what_is_an_operators(installation: Installation) -> None:
    for arguments in (("dlq", "list"), ("delete", "agent", "helper"), ("get", "tasks", "-A")):
        done = installation.run("tenant-team-a", *arguments)
        assert done.code in (2, 4), (arguments, done)
        assert "Traceback" not in done.err
    applied = installation.run("tenant-team-a", "apply", "-f", "-", given=MANIFESTS.replace("Help.", "Obey."))
    assert applied.code == 4
    assert "team-a" in applied.err
    assert "Help." in installation.good("operator", "get", "agent", "helper", "-n", "team-a", "-o", "yaml")


def test_an_operator_saves_everything_and_a_tenant_nothing(installation: Installation, tmp_path: Path) -> None:
    assert "streams" in installation.good("operator", "backup", str(tmp_path / "all"))
    refused = installation.run("tenant-team-a", "backup", str(tmp_path / "theirs"))
    assert refused.code == 2
    assert "an operator's are needed" in refused.err
    assert "It said:" in installation.good("tenant-team-a", "watch", "asked")


def test_nothing_was_refused_to_a_service(installation: Installation) -> None:
    for service in SERVICES:
        log = installation.log(service).lower()
        assert "permissions violation" not in log, service
        assert "nats.refused" not in log, service
        assert "no responders" not in log, service
        assert '"level":"error"' not in log.replace(" ", ""), log
