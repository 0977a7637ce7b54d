"""Real NATS servers for tests: free loopback ports, a store in a folder of the test, kill -9 and restart.

    with nats_server(tmp_path) as server:          # one, file-backed, syncs always
    with nats_cluster(tmp_path) as cluster:        # three

Every server that was started is dead when its `with` ends, however the test ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

from services.runtime.nats.bus import NatsBus
from services.runtime.nats.server import find_binary, free_port

START_S = 20.0
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1

Connect = Callable[..., Awaitable[NatsBus]]
"""`await connect(url, ack_wait_s=1)`: a bus that its fixture closes."""


class NatsServer:
    """One server process. `kill` and `start` again: same port, same store."""

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "test",
        max_payload: int = 8 << 20,
        sync: str = "always",
        cluster: str = "",
        extra: str = "",
        ack_form_v2: bool = False,
    ) -> None:
        self.name = name
        self.port = free_port()
        self.directory = directory / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / "log"
        self._config = self.directory / "nats.conf"
        self._config.write_text(f"""\
server_name: {name}
listen: 127.0.0.1:{self.port}
max_payload: {max_payload}
logfile: "{self.log}"
jetstream {{ store_dir: "{self.directory / "store"}", sync_interval: {sync} }}
feature_flags {{ js_ack_fc_v2: {str(ack_form_v2).lower()} }}
{cluster}
{extra}
""")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        assert self._process is None, "it runs already"
        self._process = subprocess.Popen(
            [find_binary(), "-c", self._config],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent if LIBC else None,  # noqa: PLW1509 - one system call, and no lock
        )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it accepts connections and says that JetStream is on."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"nats-server ended with {self._process.returncode}:\n{self.log_text()}")
            if self._says_hello():
                return
            time.sleep(0.02)
        raise AssertionError(f"nats-server did not start in {START_S} s:\n{self.log_text()}")

    def _says_hello(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 0.5) as sock,
        ):
            return b'"jetstream":true' in sock.recv(4096)
        return False

    def kill(self) -> None:
        """SIGKILL: as in a crash."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: in an orderly way."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        return self._process is not None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else "(no log)"

    def close(self) -> None:
        """Make sure that it is dead."""
        if self._process is not None:
            self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _die_with_parent() -> None:
    """A test run that is killed leaves no server behind."""
    assert LIBC is not None
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class NatsCluster:
    """Three servers that replicate streams among them."""

    def __init__(self, directory: Path, *, max_payload: int = 8 << 20, sync: str = "always", extra: str = "") -> None:
        ports = [free_port() for _ in range(3)]
        routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
        self.servers = [
            NatsServer(
                directory,
                name=f"n{n}",
                max_payload=max_payload,
                sync=sync,
                cluster=f"cluster {{ name: test, listen: 127.0.0.1:{port}, routes: [{routes}] }}",
                extra=extra,
            )
            for n, port in enumerate(ports, 1)
        ]

    @property
    def url(self) -> str:
        """All servers, as `HOLDFAST_NATS_URL` takes them."""
        return ",".join(server.url for server in self.servers)

    def server(self, name: str) -> NatsServer:
        """The server of a name, as stream and consumer infos tell leaders."""
        return next(server for server in self.servers if server.name == name)

    def start(self) -> None:
        for server in self.servers:
            server.start(wait=False)
        for server in self.servers:
            server.wait_until_ready()

    def close(self) -> None:
        for server in self.servers:
            server.close()


@contextlib.contextmanager
def nats_server(
    directory: Path, *, max_payload: int = 8 << 20, sync: str = "always", extra: str = "", ack_form_v2: bool = False
) -> Generator[NatsServer]:
    """A running server, stopped at the end."""
    server = NatsServer(directory, max_payload=max_payload, sync=sync, extra=extra, ack_form_v2=ack_form_v2)
    try:
        server.start()
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def nats_cluster(directory: Path, *, max_payload: int = 8 << 20, sync: str = "always") -> Generator[NatsCluster]:
    """Three running servers, stopped at the end. JetStream may need a second more until it has a leader."""
    cluster = NatsCluster(directory, max_payload=max_payload, sync=sync)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
