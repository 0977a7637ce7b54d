"""`holdfast dev`: a server and all services on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
import socket
import sys
from collections.abc import Generator, Mapping
from pathlib import Path

import msgspec

from services.cli.exits import ExitCode, Stop
from services.cli.serve import SERVICES, chosen
from services.cli.statedir import RunningDev, announce, state_dir, withdraw
from services.cli.supervisor import GaveUp, LogLine, Supervisor, first_of, service_command, service_env
from services.runtime.nats.server import EmbeddedServer, ServerError
from services.runtime.settings import BadSettings, Settings
from services.runtime.tasks import spawn

READY_S = 60.0
SERVER_BACKOFF_S = 0.5
REPLICAS_MAX = 16


class DevOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command was told."""

    data_dir: Path | None = None
    port: int = 0
    nats_server: str = ""
    services: str = "all"
    once_ready_file: Path | None = None


def run_dev(options: DevOptions) -> int:
    """Run everything until a signal; the exit code."""
    data_dir = (options.data_dir or state_dir(os.environ) / "dev").expanduser().absolute()
    replicas = replicas_of(options.services)
    try:
        Settings.from_env(os.environ)
    except BadSettings as error:
        raise Stop(str(error), ExitCode.USAGE) from error
    if options.port and not _is_free(options.port):
        raise Stop(f"port {options.port} is in use: leave --port out for a free one", ExitCode.REFUSED)
    with locked(data_dir):
        return asyncio.run(_Dev(options, data_dir, replicas).run())


def replicas_of(text: str) -> dict[str, int]:
    """How many of each service: `all`, or `planner:2,llm-gateway`."""
    if text == "all":
        return dict.fromkeys(SERVICES, 1)
    found: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, count = part.partition(":")
        if count and not (count.isdigit() and 1 <= int(count) <= REPLICAS_MAX):
            raise Stop(f"--services {part!r}: the number of replicas is 1 to {REPLICAS_MAX}", ExitCode.USAGE)
        for service in chosen([name]):
            found[service] = int(count or 1)
    if not found:
        raise Stop("--services names no service", ExitCode.USAGE)
    return found


@contextlib.contextmanager
def locked(data_dir: Path) -> Generator[None]:
    """The directory is ours for as long as the block lasts; the command ends when it is somebody else's."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (data_dir / "lock").open("a+")
    except OSError as error:
        raise Stop(f"cannot use {data_dir} for data: {error.strerror}", ExitCode.REFUSED) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise Stop(
                f"{data_dir} is in use by {holder}: end it first, or give another --data-dir", ExitCode.REFUSED
            ) from None
        file.truncate(0)
        file.write(f"`holdfast dev` with process id {os.getpid()}\n")
        file.flush()
        yield


def link_key(data_dir: Path) -> Path:
    """The file with the key that signs links, made when it is first needed."""
    file = data_dir / "link-key"
    if not file.exists():
        draft = data_dir / "link-key.draft"
        draft.touch(mode=0o600)
        draft.write_text(f"{secrets.token_hex(32)}\n")
        draft.replace(file)
    return file


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class _Dev:
    def __init__(self, options: DevOptions, data_dir: Path, replicas: Mapping[str, int]) -> None:
        self._options = options
        self._data_dir = data_dir
        self._replicas = replicas
        self._ended = asyncio.Event()
        self._printer = LogPrinter()

    async def run(self) -> int:
        server = self._server()
        self._supervisor = Supervisor(self._printer.line)
        self._on_signals()
        try:
            await server.start()
        except ServerError as error:
            raise Stop(str(error), ExitCode.REFUSED) from error
        keeping = spawn(self._keep(server), name="nats-server")
        announced = RunningDev(url=server.url, pid=os.getpid(), data_dir=str(self._data_dir))
        try:
            self._start_services(server.url)
            await first_of(self._supervisor.until_ready(READY_S), self._ended.wait())
            if not self._ended.is_set():
                announce(os.environ, announced)
                self._tell_ready(server.url)
            await first_of(self._supervisor.failure(), self._ended.wait())
        except (GaveUp, TimeoutError) as error:
            raise Stop(
                str(error) or f"not everything was ready within {READY_S:.0f} s", ExitCode.TASK_FAILED
            ) from error
        finally:
            withdraw(os.environ, os.getpid())
            self._printer.say("ending: services drain, then the server stops")
            await self._supervisor.stop()
            keeping.cancel()
            await server.stop()
        return ExitCode.OK

    def _server(self) -> EmbeddedServer:
        try:
            return EmbeddedServer(self._data_dir / "nats", port=self._options.port, binary=self._options.nats_server)
        except ServerError as error:
            raise Stop(str(error), ExitCode.REFUSED) from error

    def _start_services(self, url: str) -> None:
        work_dir = os.environ.get("HOLDFAST_WORK_DIR") or str(self._data_dir / "work")
        env = service_env(
            os.environ,
            url,
            HOLDFAST_HTTP_PORT="0",
            HOLDFAST_WORK_DIR=work_dir,
            HOLDFAST_PEOPLE_LINK_KEY_FILE=os.environ.get("HOLDFAST_PEOPLE_LINK_KEY_FILE")
            or str(link_key(self._data_dir)),
        )
        for service, count in self._replicas.items():
            for n in range(1, count + 1):
                self._supervisor.start(service if count == 1 else f"{service}-{n}", service_command(service), env)

    async def _keep(self, server: EmbeddedServer) -> None:
        """Start the server again if it dies."""
        while True:
            code = await server.wait()
            self._printer.say(f"nats-server ended with code {code}; starting it again (its log: {server.log})")
            await asyncio.sleep(SERVER_BACKOFF_S)
            with contextlib.suppress(ServerError):
                await server.start()

    def _on_signals(self) -> None:
        def on_signal() -> None:
            if self._ended.is_set():
                self._supervisor.kill_all()
            self._ended.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)

    def _tell_ready(self, url: str) -> None:
        if self._options.once_ready_file is not None:
            draft = self._options.once_ready_file.with_name(f".{self._options.once_ready_file.name}.{os.getpid()}")
            draft.write_text(f"{url}\n")
            draft.replace(self._options.once_ready_file)
        services = ", ".join(name if count == 1 else f"{name} x{count}" for name, count in self._replicas.items())
        self._printer.say(f"ready at {url} ({services}); data in {self._data_dir}")
        for child in self._supervisor.children.values():
            self._printer.say(
                f"  {child.name}: process {child.pid}, metrics at http://127.0.0.1:{child.http_port}/metrics"
            )
        self._printer.say("next, in another terminal:")
        self._printer.say("  holdfast apply -f examples/helper.yaml --wait")
        self._printer.say('  holdfast run helper "What time is it in Tokyo?"')


class LogPrinter:
    """Log lines of children, each under its name, and our own."""

    def __init__(self) -> None:
        self._width = max(len(name) for name in SERVICES) + 2

    def line(self, line: LogLine) -> None:
        """Print a child's line."""
        self._print(line.child, line.message if line.level == "INFO" else f"{line.level}: {line.message}")
        for more in line.detail.splitlines():
            self._print(line.child, f"  {more}")

    def say(self, text: str) -> None:
        """Print something of our own."""
        self._print("holdfast", text)

    def _print(self, name: str, text: str) -> None:
        sys.stdout.write(f"{name.ljust(self._width)} | {text}\n")
        sys.stdout.flush()
