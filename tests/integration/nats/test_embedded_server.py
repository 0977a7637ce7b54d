"""The embedded server: found, refused when too old, started, restarted on its port, and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from schemas.subjects import TaskSubjects
from services.runtime.nats import server as embedded
from services.runtime.nats.server import EmbeddedServer, ServerError, find_binary, free_port, parse_version
from services.runtime.ports import Outgoing
from tests.support.nats_server import Connect

TASK = TaskSubjects(0, "default", "t1")


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def test_it_keeps_what_it_acknowledged_and_its_port_over_restarts(tmp_path: Path, connected: Connect) -> None:
    server = EmbeddedServer(tmp_path / "data")
    await server.start()
    port = server.port
    try:
        bus = await connected(server.url, strict_durability=True)
        assert bus.durability == "synced"
        seq = await bus.log(0).record(Outgoing(TASK.submitted, b"{}"))
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert await server.wait() != 0
        assert server.pid is None
        await server.start()
        assert server.port == port
        entry = await bus.log(0).get(TASK.submitted)
        assert entry is not None
        assert entry.seq == seq
        await bus.close()
    finally:
        await server.stop()
    again = EmbeddedServer(tmp_path / "data")
    await again.start()
    assert again.port == port
    await again.stop()
    assert await again.wait() is not None


async def test_nobody_else_may_look_and_only_this_machine_may_connect(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "data")
    await server.start()
    try:
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        text = (tmp_path / "data" / "nats-server.conf").read_text()
        assert f"listen: 127.0.0.1:{server.port}" in text
        assert "sync_interval: always" in text
        assert "0.0.0.0" not in text
    finally:
        await server.stop()


async def test_a_port_that_somebody_took_meanwhile_is_changed(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "data")
    await server.start()
    await server.stop()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", server.port))
        taken.listen()
        again = EmbeddedServer(tmp_path / "data")
        await again.start()
        assert again.port != server.port
        await again.stop()


async def test_a_port_that_was_asked_for_is_used_or_refused(tmp_path: Path) -> None:
    port = free_port()
    server = EmbeddedServer(tmp_path / "data", port=port)
    await server.start()
    assert server.port == port
    try:
        other = EmbeddedServer(tmp_path / "other", port=port)
        with pytest.raises(ServerError, match=f"port {port} is in use"):
            await other.start()
    finally:
        await server.stop()


async def test_a_server_that_is_too_old_is_refused_before_it_starts(tmp_path: Path) -> None:
    old = executable(tmp_path / "old", 'echo "nats-server: v2.14.5"')
    with pytest.raises(ServerError, match=r"is nats-server 2\.14\.5; holdfast needs 2\.14\.6 or newer"):
        await EmbeddedServer(tmp_path / "data", binary=str(old)).start()
    assert not (tmp_path / "data").exists()


async def test_a_server_that_ends_at_once_is_said_with_its_log(tmp_path: Path) -> None:
    fails = f'echo "disk on fire" > {tmp_path}/data/nats-server.log; exit 3'
    broken = executable(tmp_path / "broken", f'case "$1" in --version) echo "nats-server: v2.15.1";; *) {fails};; esac')
    with pytest.raises(ServerError, match=r"(?s)code 3.*disk on fire"):
        await EmbeddedServer(tmp_path / "data", binary=str(broken)).start()


async def test_a_server_that_never_answers_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_S", 0.3)
    mute = executable(
        tmp_path / "mute", 'case "$1" in --version) echo "nats-server: v2.15.1";; *) exec sleep 60;; esac'
    )
    server = EmbeddedServer(tmp_path / "data", binary=str(mute))
    with pytest.raises(ServerError, match="did not answer"):
        await server.start()
    assert server.pid is None


async def test_a_start_that_is_broken_off_leaves_no_process(tmp_path: Path) -> None:
    mute = executable(
        tmp_path / "mute", 'case "$1" in --version) echo "nats-server: v2.15.1";; *) exec sleep 60;; esac'
    )
    server = EmbeddedServer(tmp_path / "data", binary=str(mute))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(server.start(), 0.5)
    assert server.pid is None


def test_an_executable_that_is_not_there_is_named() -> None:
    with pytest.raises(ServerError, match="--nats-server /none/such"):
        find_binary("/none/such")


def test_the_executable_of_the_installed_package_is_found() -> None:
    assert find_binary().name == "nats-server"
    assert embedded.check_binary(find_binary()) >= embedded.VERSION_MIN


@pytest.mark.parametrize(
    ("text", "version"),
    [("nats-server: v2.15.1", (2, 15, 1)), ("2.14.6-RC.1", (2, 14, 6)), ("v10.0.12+x", (10, 0, 12))],
)
def test_versions_are_read_as_they_are_written(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version
