"""Replies in a mailbox of Debian's dovecot. Opt-in: it runs where `dovecot` is installed (package dovecot-imapd)."""

from __future__ import annotations

import asyncio
import getpass
import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.runtime.nats.server import free_port
from tests.support.by_mail import (
    AGENT,
    approval,
    begin,
    by_mail,
    is_open,
    looked,
    mailed,
    reply_to,
)
from tests.support.stage import until

DOVECOT = shutil.which("dovecot") or shutil.which("dovecot", path="/usr/sbin")
pytestmark = pytest.mark.skipif(DOVECOT is None, reason="dovecot is not installed (Debian: dovecot-imapd)")

CONFIG = """
protocols = imap
listen = 127.0.0.1
base_dir = {at}/run
state_dir = {at}/state
log_path = {at}/log
ssl = no
disable_plaintext_auth = no
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
mail_location = maildir:{at}/mail
passdb {{
  driver = static
  args = password=right
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={at}/home
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service anvil {{
  chroot =
}}
"""


def start(at: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the server, with all that is its own below a folder; it takes another user when we are root."""
    assert DOVECOT is not None
    at.mkdir()
    for shared in (*at.parents[:3], at):
        if os.getuid() == 0:
            shared.chmod(0o755)
    user = pwd.getpwnam("nobody" if os.getuid() == 0 else getpass.getuser())
    for folder in ("run", "state", "home", "mail", "mail/new", "mail/cur", "mail/tmp"):
        (at / folder).mkdir(parents=True)
        if os.getuid() == 0:
            os.chown(at / folder, user.pw_uid, user.pw_gid)
    group = grp.getgrgid(user.pw_gid).gr_name
    config = CONFIG.format(at=at, user=user.pw_name, group=group, uid=user.pw_uid, gid=user.pw_gid, port=port)
    (at / "dovecot.conf").write_text(config)
    return subprocess.Popen([DOVECOT, "-F", "-c", str(at / "dovecot.conf")])


@asynccontextmanager
async def dovecot(at: Path) -> AsyncGenerator[int]:
    """A running server; its port. Messages are files in `mail/new`."""
    port = free_port()
    process = start(at, port)

    async def listening() -> bool:
        assert process.poll() is None, (at / "log").read_text()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    try:
        await until(listening, "dovecot listens", wait_s=10)
        yield port
    finally:
        process.terminate()
        process.wait(10)


async def test_a_reply_in_dovecots_mailbox_approves_and_is_seen(tmp_path: Path) -> None:
    mail = tmp_path / "dovecot"
    async with dovecot(mail) as port, by_mail(tmp_path, imap=port) as (people, server):
        task = await begin(people)
        message = await mailed(server)
        for name, text in {"1": "perhaps", "2": "approve"}.items():
            await put(mail, name, reply_to(message, text))
            await looked(people)
            assert await is_open(people, task) == (name == "1")
        assert (await approval(people, task)).via == "email"
        assert AGENT in message["From"]
        seen = [file.name.endswith("S") for file in (mail / "mail/cur").iterdir()]
        assert seen == [True, True]


async def put(mail: Path, name: str, data: bytes) -> None:
    """Deliver a message as a mail server does: written elsewhere, and then moved."""
    draft = mail / "mail/tmp" / name
    draft.write_bytes(data)
    draft.chmod(0o644)
    if os.getuid() == 0:
        os.chown(draft, *pwd.getpwnam("nobody")[2:4])
    draft.rename(mail / "mail/new" / name)
