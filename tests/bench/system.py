"""The system under measurement: an embedded server that syncs always, and every service in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from schemas import subjects
from schemas.ids import partition_of
from schemas.requests import Limits, SubmitTask
from schemas.resources import Resource, ResourceStatus
from schemas.subjects import TaskSubjects
from schemas.wire import decode, encode
from services.runtime.nats import api
from services.runtime.nats.bus import NatsBus, connect
from services.runtime.nats.server import EmbeddedServer, free_port
from services.runtime.settings import Settings

ROOT = Path(__file__).parents[2]
NAMESPACE = "default"
START_S = 60.0
PLANNER, GATEWAY, EXECUTOR = "planner", "llm-gateway", "tool-executor"
SERVICES = (PLANNER, GATEWAY, EXECUTOR)


class Process:
    """A replica of a service."""

    def __init__(self, service: str, number: int, directory: Path, env: Mapping[str, str]) -> None:
        self.service = service
        self.port = free_port()
        self.log = directory / f"{service}-{number}.log"
        command = [str(Path(sys.executable).with_name("holdfast")), "serve", service]
        with self.log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **env, "HOLDFAST_HTTP_PORT": str(self.port)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def rss_mb(self) -> float:
        """Resident memory of this process alone."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    @property
    def cpu_s(self) -> float:
        """Processor time used so far."""
        return cpu_s(self.pid)

    async def ready(self) -> None:
        """Wait until it takes messages."""

        async def answers() -> bool:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.service} ended:\n{self.log.read_text(errors='replace')[-4000:]}")
            return await asyncio.to_thread(_answers, self.port)

        await until(answers, f"a ready {self.service}", within_s=START_S)

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """SIGKILL, and no zombie left."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Let it drain, and be sure that it is gone."""
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, within_s: float, every_s: float = 0.05) -> None:
    """Wait until a condition holds; raises `RuntimeError` with what never came true."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not await condition():
        if asyncio.get_running_loop().time() > deadline:
            raise RuntimeError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(every_s)


class Step(NamedTuple):
    """A stored message of a task."""

    subject: str
    seq: int
    at: datetime
    size: int


class System:
    """The server, the processes, and a client of our own to drive and read them."""

    def __init__(self, directory: Path, server: EmbeddedServer, bus: NatsBus) -> None:
        self.directory = directory
        self.server = server
        self.bus = bus
        self.processes: list[Process] = []
        self._started = Counter[str]()

    @property
    def url(self) -> str:
        return self.server.url

    async def start(self, *services: str) -> list[Process]:
        """Start one replica of each service and wait until all are ready."""
        started: list[Process] = []
        for service in services:
            self._started[service] += 1
            process = Process(service, self._started[service], self.directory, self._env())
            self.processes.append(process)
            started.append(process)
        await asyncio.gather(*(process.ready() for process in started))
        return started

    def _env(self) -> dict[str, str]:
        return {
            "NATS_URL": self.url,
            "HOLDFAST_LOG_LEVEL": os.environ.get("BENCH_LOG_LEVEL", "INFO"),
            "BENCH_API_KEY": "no-key",
        }

    def cpu_s(self) -> dict[str, float]:
        """Processor time used so far, by service, and by the server."""
        assert self.server.pid is not None
        return {process.service: process.cpu_s for process in self.processes} | {"server": cpu_s(self.server.pid)}

    def replicas(self, service: str) -> list[Process]:
        return [process for process in self.processes if process.service == service]

    def forget(self, process: Process) -> None:
        """It was killed."""
        self.processes.remove(process)

    def end_services(self) -> None:
        while self.processes:
            self.processes.pop().end()

    # --- resources and tasks ---

    async def apply(self, *resources: Resource) -> None:
        """Put resources on the bus."""
        for resource in resources:
            meta = resource.metadata
            key = subjects.spec_key(type(resource).__name__, meta.namespace, meta.name)
            await self.bus.resources.put(key, encode(resource))

    async def status(self, kind: str, name: str) -> ResourceStatus | None:
        """What its owner says of a resource now."""
        spec = await self.bus.resources.get(subjects.spec_key(kind, NAMESPACE, name))
        said = await self.bus.resources.get(subjects.status_key(kind, NAMESPACE, name))
        if spec is None or said is None or said.data is None:
            return None
        status = decode(said.data, ResourceStatus)
        return status if status.observed_revision == spec.revision else None

    async def until_ready(self, *resources: Resource) -> None:
        """Wait until the owners of these say that they are ready."""
        for resource in resources:
            await self._until_status(resource, ready=True)

    async def until_said(self, resource: Resource) -> None:
        """Wait until the owner of a resource has said anything of it."""
        await self._until_status(resource, ready=False)

    async def _until_status(self, resource: Resource, *, ready: bool) -> None:
        kind, name = type(resource).__name__, resource.metadata.name

        async def said() -> bool:
            status = await self.status(kind, name)
            return status is not None and (status.ready or not ready)

        await until(said, f"a status of {kind} {name}", within_s=START_S)

    async def submit(self, agent: str, name: str, *, turns: int, message: str = "go") -> TaskSubjects:
        """Store a request for a task."""
        request = SubmitTask(agent_name=agent, name=name, user_message=message, limits=Limits(max_turns=turns))
        await self.bus.signals.store(subjects.submit(NAMESPACE), encode(request), {subjects.MSG_ID: name})
        return self.task(name)

    def task(self, name: str) -> TaskSubjects:
        return TaskSubjects(partition_of(NAMESPACE, name, self.bus.partitions), NAMESPACE, name)

    async def until_stored(self, subject: str, *, within_s: float) -> None:
        """Wait for a message on a subject of the task stream."""

        async def there() -> bool:
            return await self.bus.log(0).get(subject) is not None

        await until(there, f"a message on {subject}", within_s=within_s)

    # --- looking at the stream ---

    async def steps(self, task: TaskSubjects) -> list[Step]:
        """All that is stored about a task now, in order."""
        entries = await self.bus.log(task.partition).last(list(task.everything))
        return [Step(entry.subject, entry.seq, entry.at, len(entry.data)) for entry in entries]

    async def model_commands(self, tasks: Sequence[TaskSubjects]) -> dict[str, list[Step]]:
        """The first attempts at every turn of some tasks, in the order of turns."""
        return dict(
            zip(
                (task.task for task in tasks),
                await asyncio.gather(*(self._model_commands(task) for task in tasks)),
                strict=True,
            )
        )

    async def _model_commands(self, task: TaskSubjects) -> list[Step]:
        entries = await self.bus.log(task.partition).last([f"{task.root}.cmd.llm.{task.task}.*.1"])
        steps = [Step(entry.subject, entry.seq, entry.at, len(entry.data)) for entry in entries]
        return sorted(steps, key=lambda step: turn_of(step.subject))

    async def states(self, prefix: str) -> list[str]:
        """The subjects of the states of all tasks whose name begins so."""
        found = await self.bus.log(0).subjects(f"$KV.{subjects.state_bucket(0)}.{NAMESPACE}.*")
        return [subject for subject in found if subject.rpartition(".")[2].startswith(prefix)]

    async def stream(self) -> Mapping[str, int]:
        """The task stream's counts: messages, bytes, last_seq, consumer_count."""
        info = await api.ask(self.bus._connection, f"STREAM.INFO.{subjects.task_stream(0)}")
        return {name: int(info["state"][name]) for name in ("messages", "bytes", "last_seq", "consumer_count")}

    async def consumers(self) -> int:
        """All consumers of all streams, watchers included."""
        return int((await api.ask(self.bus._connection, "INFO"))["consumers"])


def turn_of(subject: str) -> int:
    """The turn of a model command."""
    return int(subject.split(".")[-2])


@asynccontextmanager
async def running_system(directory: Path) -> AsyncGenerator[System]:
    """A server and no services yet; everything that was started is gone at the end."""
    server = EmbeddedServer(directory / "nats")
    await server.start()
    try:
        async with await connect(Settings(nats_url=server.url), service="bench") as bus:
            system = System(directory, server, bus)
            try:
                yield system
            finally:
                system.end_services()
    finally:
        await server.stop()
