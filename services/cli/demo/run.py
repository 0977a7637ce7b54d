"""The demo, from the first process to the last check."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from schemas.requests import SubmitTask
from schemas.subjects import TaskSubjects
from services.cli.client import Client
from services.cli.commands.resources import wait_until_ready
from services.cli.connect import ServerOptions, connected
from services.cli.demo.stage import Stage, provider_of, set_up
from services.cli.demo.striker import Striker
from services.cli.demo.teller import Teller
from services.cli.demo.verify import verify
from services.cli.exits import ExitCode, Stop
from services.cli.follow import Follower
from services.cli.kinds import kind_named
from services.cli.manifests import parse
from services.cli.supervisor import GaveUp, LogLine, Supervisor, service_command, service_env, without_server
from services.runtime.nats.server import EmbeddedServer, ServerError
from services.runtime.tasks import spawn

READY_S = 45.0
TASK_S = 60.0
CHILDREN = {
    "planner": "planner",
    "llm-gateway": "llm-gateway",
    "tool-executor-1": "tool-executor",
    "tool-executor-2": "tool-executor",
}


def run_demo(*, keep: bool, scripted: bool, model: str) -> int:
    """Play the demo; the exit code."""
    provider = provider_of(os.environ, scripted=scripted)
    directory = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    code: int = ExitCode.INTERNAL
    try:
        stage = set_up(directory, provider, model=model)
        code = asyncio.run(_Demo(stage).run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = ExitCode.INTERRUPTED
    finally:
        if keep or code in (ExitCode.TASK_FAILED, ExitCode.INTERNAL):
            sys.stdout.write(f"everything is in {directory}\n")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return code


class _Demo:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._teller = Teller()
        self._log = (stage.directory / "services.log").open("w")

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        this = asyncio.current_task()
        assert this is not None
        loop.add_signal_handler(signal.SIGTERM, this.cancel)
        began = loop.time()
        self._introduce()
        supervisor = Supervisor(self._on_line)
        server = EmbeddedServer(self._stage.directory / "nats")
        try:
            await server.start()
            await self._start(supervisor, server)
            async with connected(ServerOptions(nats_url=server.url), without_server(os.environ)) as client:
                code = await self._play(client, supervisor)
            self._teller.line(f"  {loop.time() - began:.1f} s in all")
        except (ServerError, GaveUp) as error:
            raise Stop(str(error), ExitCode.TASK_FAILED) from error
        except TimeoutError as error:
            raise Stop(
                f"it took too long; the services' log is {self._stage.directory / 'services.log'}", ExitCode.TASK_FAILED
            ) from error
        finally:
            await supervisor.stop()
            await server.stop()
            self._log.close()
        return code

    def _introduce(self) -> None:
        tell = self._teller.line
        if self._stage.provider == "scripted":
            tell("The model is scripted: it follows a script and is no model. Set OPENAI_API_KEY or ANTHROPIC_API_KEY")
            tell("for a real one. Everything else is real: the server, the services, the MCP servers, the kills.")
        else:
            tell(f"The model is a real one, of {self._stage.provider}; this costs a fraction of a cent.")
        if self._stage.repository is None:
            tell("There is no git on this machine, so the agent has only the clock (mcp-server-time).")
        else:
            tell("The agent has two MCP servers from PyPI: mcp-server-time, and mcp-server-git on a new repository")
            tell("whose pre-commit hook takes its time, as tests before a commit do.")

    async def _start(self, supervisor: Supervisor, server: EmbeddedServer) -> None:
        self._teller.heading("1. Starting")
        for name, service in CHILDREN.items():
            env = service_env(os.environ, server.url, HOLDFAST_REPLICA=name, HOLDFAST_HTTP_PORT="0")
            supervisor.start(name, service_command(service), env, cwd=str(self._stage.directory))
        await supervisor.until_ready(READY_S)
        self._teller.line(f"  nats-server {server.pid} at {server.url}; it syncs every write before it acknowledges it")
        running = ", ".join(f"{child.name} {child.pid}" for child in supervisor.children.values())
        self._teller.line(f"  {running} (names and process ids)")

    async def _play(self, client: Client, supervisor: Supervisor) -> int:
        parsed = parse(self._stage.manifests)
        for resource in parsed.resources:
            await client.apply(resource)
        names = [(kind_named(type(r).__name__), r.metadata.namespace, r.metadata.name) for r in parsed.resources]
        await wait_until_ready(client, names, READY_S)
        self._teller.line("  the agent is ready: its model answers and its MCP servers are connected")
        self._teller.heading("2. The task, and the kills")
        accepted = await client.submit("default", SubmitTask(agent_name="clerk", user_message=self._stage.message))
        task = client.subjects_of("default", accepted.task)
        striker = Striker(client, supervisor, self._stage, self._teller)
        striking = spawn(striker.run(task), name="striker")
        try:
            async with asyncio.timeout(TASK_S):
                await self._follow(client, task)
        finally:
            striking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await striking
        read = "the stream" if self._stage.repository is None else "the stream and the repository"
        self._teller.heading(f"3. The checks, by reading {read}")
        checks = await verify(client, self._stage, accepted.task, striker.strikes)
        for check in checks:
            self._teller.check(check.good, check.text)
        return ExitCode.OK if all(check.good for check in checks) else ExitCode.TASK_FAILED

    async def _follow(self, client: Client, task: TaskSubjects) -> None:
        async for happening in Follower(client, task).run():
            self._teller.tell(happening)

    def _on_line(self, line: LogLine) -> None:
        detail = "".join(f"    {more}\n" for more in line.detail.splitlines())
        self._log.write(f"{line.at or '-':<29} {line.child:<16} {line.level:<7} {line.message}\n{detail}")
        self._log.flush()
