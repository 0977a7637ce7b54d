"""A tool-executor on a bench: the test plays the planner and the model, the servers are real."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import msgspec

from schemas import subjects
from schemas.commands import RunTool
from schemas.events import ModelAnswered, ToolFinished
from schemas.interactions import InteractionAction, InteractionAnswered, InteractionRequested, interaction_id
from schemas.messages import AssistantMessage, ToolCall, Usage
from schemas.resources import (
    Agent,
    AgentSpec,
    EnvVar,
    MCPServer,
    MCPServerSpec,
    Metadata,
    OAuthClient,
    Ref,
    ResourceStatus,
    SecretSource,
    ServerRef,
    ToolPolicy,
)
from schemas.subjects import TaskSubjects
from schemas.wire import decode, encode
from services.runtime.memory.bus import MemoryBus, Pause, let_others_run
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Bus, Outgoing
from services.runtime.replica import Replica
from services.runtime.settings import Settings
from services.tool_executor.main import build
from tests.support import waiting

WAIT_S = 30.0
ROOT = Path(__file__).resolve().parents[3]


async def until(condition: Callable[[], Awaitable[bool] | bool], what: str, *, within_s: float = WAIT_S) -> None:
    """Wait until a condition holds; fails after `within_s`, saying what never came true."""
    await waiting.until(condition, what, within_s=within_s)


def module(name: str, *args: str) -> tuple[str, ...]:
    """The command of one of our servers."""
    return (sys.executable, "-m", f"tests.support.mcp_servers.{name}", *args)


def alive(pid: int) -> bool:
    """Whether a process is there and not just a corpse."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def stdio_server(
    name: str,
    command: Sequence[str],
    *,
    namespace: str = "default",
    env: Mapping[str, str] | None = None,
    secret_env: Sequence[EnvVar] = (),
    policies: Sequence[ToolPolicy] = (),
    timeout_s: float = 20.0,
    concurrency: int = 16,
    elicitation: bool = True,
    elicitation_timeout_s: float = 60.0,
) -> MCPServer:
    """The manifest of a server that is a process. Our own servers are found through PYTHONPATH."""
    variables = {"PYTHONPATH": str(ROOT), **(env or {})}
    return MCPServer(
        metadata=Metadata(name=name, namespace=namespace),
        spec=MCPServerSpec(
            transport="stdio",
            command=command[0],
            args=tuple(command[1:]),
            env=(*(EnvVar(name=key, value=value) for key, value in variables.items()), *secret_env),
            policies=tuple(policies),
            timeout_s=timeout_s,
            concurrency=concurrency,
            elicitation=elicitation,
            elicitation_timeout_s=elicitation_timeout_s,
        ),
    )


def plain(name: str, record: Path, *, namespace: str = "default", **config: Any) -> MCPServer:
    """The manifest of the server of the older protocol, which is as odd as `config` says."""
    variables = {"RECORD": str(record), "PLAIN": json.dumps(config)}
    return stdio_server(name, module("plain"), namespace=namespace, env=variables)


def kitchen(
    name: str,
    record: Path,
    *,
    namespace: str = "default",
    secret_env: Sequence[EnvVar] = (),
    policies: Sequence[ToolPolicy] = (),
    concurrency: int = 16,
) -> MCPServer:
    """The manifest of the SDK's server."""
    return stdio_server(
        name,
        module("kitchen"),
        namespace=namespace,
        env={"RECORD": str(record)},
        secret_env=secret_env,
        policies=policies,
        concurrency=concurrency,
    )


def http_server(
    name: str,
    url: str,
    *,
    headers: Sequence[EnvVar] = (),
    policies: Sequence[ToolPolicy] = (),
    timeout_s: float = 20.0,
    bearer_from: SecretSource | None = None,
    oauth: OAuthClient | None = None,
) -> MCPServer:
    """The manifest of a server that is reached by URL; by the old transport if the URL says `/sse`."""
    spec = MCPServerSpec(
        transport="sse" if url.endswith("/sse") else "http",
        url=url,
        headers=tuple(headers),
        policies=tuple(policies),
        timeout_s=timeout_s,
        bearer_from=bearer_from,
        oauth=oauth,
    )
    return MCPServer(metadata=Metadata(name=name), spec=spec)


class HttpKitchen:
    """The SDK's server as a process behind a port; or another module with its `serve`."""

    def __init__(self, record: Path, *flags: str, token: str = "", name: str = "kitchen") -> None:
        self._record = record
        self._name = name
        self._flags = flags
        self._token = token
        self._port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._port}/{'sse' if '--sse' in self._flags else 'mcp'}"

    def start(self) -> None:
        """Start it, on the same port as before; returns when it listens."""
        self._process = subprocess.Popen(
            module(self._name, "--http", str(self._port), *self._flags),
            env=environ_of(RECORD=str(self._record), TOKEN=self._token),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def end(self) -> None:
        """Let it finish what it does for a second, and end."""
        assert self._process is not None
        self._process.terminate()
        self._process.communicate(timeout=WAIT_S)
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Bench:
    """What a test does and sees. Everything it asks for is asked in one task per namespace and call."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._numbers = itertools.count(1)

    # --- playing the person ---

    async def question(self, task: TaskSubjects, k: int = 1) -> InteractionRequested:
        """Wait for a question of a task's call."""
        found: list[InteractionRequested] = []

        async def there() -> bool:
            entry = await self.bus.log(0).get(task.interaction_asked("r1", 1, k))
            found[:] = [decode(entry.data, InteractionRequested)] if entry is not None else []
            return bool(found)

        await until(there, f"question {k} of {task.task}")
        return found[0]

    async def reply(
        self, task: TaskSubjects, action: InteractionAction, content: dict[str, Any] | None = None, k: int = 1
    ) -> None:
        """Answer a question as the planner would."""
        answered = InteractionAnswered(
            namespace=task.namespace,
            task=task.task,
            interaction=interaction_id("r1", 1, k),
            action=action,
            content=content,
            at=self.bus.clock.now(),
        )
        await self.bus.log(0).record(Outgoing(task.interaction_answered("r1", 1, k), encode(answered)))
        await self.bus.signals.publish(task.live, encode(answered))

    async def reply_to(self, task: TaskSubjects, k: int = 1) -> InteractionAnswered | None:
        """The answer to a question, if there is one."""
        entry = await self.bus.log(0).get(task.interaction_answered("r1", 1, k))
        return decode(entry.data, InteractionAnswered) if entry is not None else None

    # --- playing the planner and the model ---

    async def declare(self, server: MCPServer, *, agent: str = "helper", servers: Sequence[str] = ()) -> None:
        """Apply a server, and an agent that has it (or `servers`)."""
        meta = server.metadata
        await self.bus.resources.put(subjects.spec_key("MCPServer", meta.namespace, meta.name), encode(server))
        await self.declare_agent(*(servers or (meta.name,)), agent=agent, namespace=meta.namespace)

    async def declare_agent(self, *servers: str | ServerRef, agent: str = "helper", namespace: str = "default") -> None:
        """Apply an agent that has these servers."""
        refs = tuple(ServerRef(name=one) if isinstance(one, str) else one for one in servers)
        spec = AgentSpec(llm_ref=Ref(name="model"), system="s", mcp_servers=refs)
        declared = Agent(metadata=Metadata(name=agent, namespace=namespace), spec=spec)
        await self.bus.resources.put(subjects.spec_key("Agent", namespace, agent), encode(declared))

    async def delete(self, name: str, *, namespace: str = "default") -> None:
        """Delete a server."""
        await self.bus.resources.delete(subjects.spec_key("MCPServer", namespace, name))

    async def status(self, name: str, *, namespace: str = "default") -> ResourceStatus | None:
        """What is said of a server."""
        entry = await self.bus.resources.get(subjects.status_key("MCPServer", namespace, name))
        return decode(entry.data, ResourceStatus) if entry is not None and entry.data is not None else None

    async def until_status(
        self, name: str, status: str, *, namespace: str = "default", detail: str = ""
    ) -> ResourceStatus:
        """Wait for a status of a server, as it is declared now."""
        found: list[ResourceStatus | None] = [None]

        async def there() -> bool:
            spec = await self.bus.resources.get(subjects.spec_key("MCPServer", namespace, name))
            found[0] = said = await self.status(name, namespace=namespace)
            return (
                said is not None
                and spec is not None
                and said.observed_revision == spec.revision
                and said.status == status
                and detail in said.status_detail
            )

        try:
            await until(there, f"{name} {status} {detail}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {found[0]}") from None
        assert found[0] is not None
        return found[0]

    async def until_ready(self, name: str, *, namespace: str = "default") -> ResourceStatus:
        """Wait until a server is ready, and its status known everywhere."""
        return await self.until_status(name, "Ready", namespace=namespace)

    async def ask(
        self, tool: str, arguments: object = None, *, agent: str = "helper", namespace: str = "default"
    ) -> TaskSubjects:
        """Record a model's answer with one call, and the command to run it, in a task of its own."""
        task = TaskSubjects(0, namespace, f"task-{next(self._numbers)}")
        text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments or {}).decode()
        call = ToolCall(id="call-1", name=tool, arguments=text)
        answer = ModelAnswered(
            turn=1, attempt=1, message=AssistantMessage(tool_calls=(call,)), usage=Usage(), at=self.bus.clock.now()
        )
        log = self.bus.log(0)
        seq = await log.record(Outgoing(task.model_event(1, 1), encode(answer)))
        assert seq is not None
        run = RunTool(namespace=namespace, task=task.task, agent=agent, request="r1", n=1, answer_seq=seq, tool=tool)
        await log.record(Outgoing(task.tool_command("r1", 1), encode(run)))
        return task

    async def result(self, task: TaskSubjects) -> ToolFinished | None:
        """The result of a task's call, if there is one."""
        entry = await self.bus.log(0).get(task.tool_event("r1", 1))
        return decode(entry.data, ToolFinished) if entry is not None else None

    async def until_result(self, task: TaskSubjects, *, within_s: float = WAIT_S) -> ToolFinished:
        """Wait for the result of a task's call."""
        found: list[ToolFinished] = []

        async def there() -> bool:
            result = await self.result(task)
            if result is not None:
                found.append(result)
            return bool(found)

        await until(there, f"a result of {task.task}", within_s=within_s)
        return found[0]

    async def call(
        self, tool: str, arguments: object = None, *, agent: str = "helper", namespace: str = "default"
    ) -> ToolFinished:
        """Ask for a call and wait for its result."""
        return await self.until_result(await self.ask(tool, arguments, agent=agent, namespace=namespace))


async def called(bench: Bench, tool: str, **arguments: object) -> Any:
    """The result of a call, which must succeed, as JSON."""
    result = await bench.call(tool, arguments)
    assert result.outcome == "succeeded", result.content
    return json.loads(result.content)


@asynccontextmanager
async def executor(
    server: MemoryServer,
    *,
    settings: Settings | None = None,
    environ: Mapping[str, str] | None = None,
    pause: Pause = let_others_run,
) -> AsyncGenerator[Replica]:
    """A replica of the tool-executor, drained and stopped at the end."""
    replica = Replica(MemoryBus(server, pause=pause), settings or Settings(), {"tool-executor": build}, environ or {})
    await replica.start()
    try:
        yield replica
    finally:
        await replica.stop()
        assert not replica.failed, replica.failed


@asynccontextmanager
async def on_bench(
    *, settings: Settings | None = None, environ: Mapping[str, str] | None = None
) -> AsyncGenerator[Bench]:
    """An executor and a bench on a memory bus."""
    server = MemoryServer()
    async with executor(server, settings=settings, environ=environ):
        yield Bench(MemoryBus(server))


def record_of(path: Path) -> list[str]:
    """What the tools noted of what they did."""
    return path.read_text().splitlines() if path.exists() else []


def environ_of(**more: str) -> dict[str, str]:
    """The environment of a child process of a test."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **more}
