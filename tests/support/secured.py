"""A real server whose accounts `holdfast nats init` made, and what each party is told to connect with.

with secured_server(tmp_path, tenants=("team-a",)) as secured:
    connection = Connection(secured.settings("llm-gateway"), service="llm-gateway")
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from services.cli.nats.setup import Folder, Server, Wanted
from services.runtime.settings import Settings
from tests.support.nats_server import NatsServer

DAYS = 2


class Secured:
    """The server, and the folder of its identities."""

    def __init__(self, directory: Path, tenants: tuple[str, ...]) -> None:
        self.path = directory / "identities"
        self.folder = Folder(self.path)
        self.server = NatsServer(directory)
        hosts = ("127.0.0.1", "localhost")
        self.wanted = Wanted(
            servers=(Server(name="nats", hosts=hosts),), tenants=tenants, port=self.server.port, monitor_port=0
        )
        self.folder.make(self.wanted, days=DAYS)
        self.server._config = self.path / "servers" / "nats" / "nats.conf"

    def reload(self) -> None:
        """Have the server read its configuration again."""
        os.kill(self.server.pid, signal.SIGHUP)

    def environ(self, user: str) -> dict[str, str]:
        """The settings of a user, as a process is given them."""
        lines = (self.path / "users" / user / "holdfast.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def settings(self, user: str, **changes: object) -> Settings:
        """The settings of a user."""
        return msgspec.structs.replace(Settings.from_env(self.environ(user)), **changes)


@contextmanager
def secured_server(directory: Path, tenants: tuple[str, ...] = ()) -> Generator[Secured]:
    """Run a server with accounts; it is dead at the end."""
    secured = Secured(directory, tenants)
    secured.server.start()
    try:
        yield secured
    finally:
        secured.server.close()
