"""Who one is on a server of `holdfast nats init`: certificates and keys, asked for, replaced, and waited with."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.subjects import TaskSubjects
from services.cli.nats.setup import BadFolder
from services.runtime.errors import Conflict, Unavailable
from services.runtime.nats.bus import connect
from services.runtime.nats.connection import Connection
from services.runtime.ports import Outgoing
from services.runtime.settings import Settings
from services.runtime.tasks import spawn
from tests.support.secured import Secured, secured_server
from tests.support.waiting import until

TASK = TaskSubjects(0, "team-a", "t1")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured_server(tmp_path_factory.mktemp("secured")) as running:
        yield running


async def cannot_connect(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("services.runtime.nats.connection.CONNECT_S", 1.0)
    connection = Connection(settings, service="test")
    with pytest.raises(Unavailable) as caught:
        await connection.open()
    return str(caught.value)


async def test_nobody_connects_without_a_certificate_and_a_key(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = secured.settings("notifier").nats_url.replace("tls://", "nats://")
    for missing in (
        {"nats_tls_cert": "", "nats_tls_key": ""},
        {"nats_nkey_seed_file": ""},
        {"nats_tls_ca": "", "nats_tls_cert": "", "nats_tls_key": ""},
        {"nats_url": plain, "nats_tls_ca": "", "nats_tls_cert": "", "nats_tls_key": ""},
    ):  # fmt: skip
        assert "cannot connect" in await cannot_connect(secured.settings("notifier", **missing), monkeypatch)


async def test_another_authoritys_certificate_counts_nothing(
    secured: Secured, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Secured(tmp_path_factory.mktemp("other"), ())
    mine = secured.settings("notifier")
    theirs = other.settings("notifier")
    cert = {"nats_tls_cert": theirs.nats_tls_cert, "nats_tls_key": theirs.nats_tls_key}
    assert "cannot connect" in await cannot_connect(secured.settings("notifier", **cert), monkeypatch)
    key = {"nats_nkey_seed_file": theirs.nats_nkey_seed_file}
    assert "cannot connect" in await cannot_connect(secured.settings("notifier", **key), monkeypatch)
    with pytest.raises(ssl.SSLError):  # and the server is not believed by who trusts another
        await greeted(secured.server.port, theirs.nats_tls_ca, mine)


async def greeted(port: int, ca: str, mine: Settings) -> None:
    """Shake hands with the server as a client does: its greeting comes in the clear, and then TLS."""
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(mine.nats_tls_cert, mine.nats_tls_key)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    await writer.start_tls(context, server_hostname="127.0.0.1")


async def works(settings: Settings) -> bool:
    """Whether somebody can connect."""
    connection = Connection(settings, service="notifier")
    try:
        await connection.open()
    except Unavailable:
        return False
    await connection.close()
    return True


async def test_a_key_is_replaced_while_everything_runs(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with secured_server(tmp_path_factory.mktemp("rotated")) as rotated:
        old = rotated.path.parent / "old"
        shutil.copytree(rotated.path / "users" / "notifier", old)
        former = rotated.settings("notifier", nats_nkey_seed_file=str(old / "nkey.seed"))

        monkeypatch.setattr("services.runtime.nats.connection.CONNECT_S", 1.0)
        assert await works(former)
        rotated.folder.rotate(["notifier"], days=2)
        rotated.reload()
        await until(lambda: works(rotated.settings("notifier")), "that the new key counts")
        assert await works(former)
        with pytest.raises(BadFolder, match="not finished"):
            rotated.folder.rotate(["notifier"], days=2)
        assert rotated.folder.finish() == ["notifier"]
        rotated.reload()

        async def is_refused() -> bool:
            return not await works(former)

        await until(is_refused, "that the old key does not count", within_s=10)
        assert await works(rotated.settings("notifier"))


async def test_the_authority_is_replaced_in_three_steps(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.nats.connection.CONNECT_S", 1.0)
    with secured_server(tmp_path_factory.mktemp("authority")) as rotated:
        before = rotated.path.parent / "before"
        shutil.copytree(rotated.path / "users" / "notifier", before)

        def settings(ca: Path, cert: Path) -> Settings:
            return rotated.settings(
                "notifier",
                nats_tls_ca=str(ca / "ca.crt"),
                nats_tls_cert=str(cert / "tls.crt"),
                nats_tls_key=str(cert / "tls.key"),
            )

        now = rotated.path / "users" / "notifier"
        rotated.folder.rotate_authority()
        rotated.reload()
        await until(lambda: works(settings(before, before)), "that who has nothing new yet still connects")
        assert await works(settings(now, before))
        rotated.folder.rotate([], days=2)
        rotated.reload()
        await until(lambda: works(settings(now, now)), "that the new certificates count")
        assert await works(settings(now, before))
        rotated.folder.finish()
        rotated.reload()

        async def is_refused() -> bool:
            return not await works(settings(now, before))

        await until(is_refused, "that the old authority does not count", within_s=10)
        assert await works(settings(now, now))


async def test_a_service_waits_until_a_planner_has_made_the_streams(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with secured_server(tmp_path_factory.mktemp("fresh")) as fresh:
        waiting = spawn(connect(fresh.settings("notifier"), service="notifier"), name="waiting")
        await asyncio.wait((waiting,), timeout=0.5)
        assert not waiting.done()
        async with await connect(fresh.settings("planner"), service="planner"), await waiting as bus:
            with pytest.raises(Conflict):
                await bus.log(0).write(Outgoing(TASK.notification("n"), b""), expected=7)
