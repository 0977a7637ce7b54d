"""E-mail: questions by a real SMTP server, replies by IMAP and by signed posts."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from html import unescape
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from schemas.resources import (
    ContactChannel,
    ContactChannelSpec,
    EmailOptions,
    Metadata,
    SMTPOptions,
)
from schemas.subjects import status_key
from services.human_contact import mailboxes
from services.human_contact.channels import email as email_channel
from services.human_contact.channels.base import ChannelFailed
from services.human_contact.channels.mail_servers import Visit, check_password_is_safe
from services.human_contact.channels.registry import ChannelKey
from services.human_contact.core.questions import asking
from services.human_contact.core.tokens import ReplyTo, reply_id
from services.human_contact.mailboxes import MAILS_MAX
from services.runtime.signing import key_of, signed_headers
from tests.support.answering import LINK_KEY, WEBHOOK_SECRET, Answering, answering, secret
from tests.support.by_mail import (
    AGENT,
    ANN,
    QUESTION,
    WRITE,
    approval,
    begin,
    by_mail,
    email,
    is_open,
    links,
    looked,
    mailed,
    part,
    reply_to,
)
from tests.support.certificates import certified
from tests.support.imap_server import imap_server
from tests.support.mail_server import mail_server
from tests.support.raw_http import hung_up
from tests.support.stage import until
from tests.unit.planner.test_delegation import calls


async def test_a_message_says_what_is_asked_and_nothing_in_it_is_markup(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        task = await begin(people)
        message = await mailed(server)
        assert message["To"] == ANN
        assert message["From"] == f"Agent <{AGENT}>"
        assert message["Subject"] == "Approve box__write? (helper)"
        assert message["Auto-Submitted"] == "auto-generated"
        text, html = part(message, "plain"), part(message, "html")
        assert "alert(1)" in text
        assert task.task in text
        assert "<script>" not in html
        assert "alert(1)" in unescape(html)
        assert set(links(message)) == {"Approve", "Reject", "Look, and decide"}
        assert "Or reply" not in text


async def test_no_stranger_writes_a_header(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        asked = "Now?\r\nBcc: eve@example.com\r\n\r\nhello"
        await begin(people, (QUESTION, {"message": asked}))
        message = await mailed(server)
        assert message["Bcc"] is None
        assert server.envelopes[0].rcpt_tos == [ANN]
        assert "\n" not in str(message["Subject"])


async def test_reminders_and_later_questions_are_replies_to_the_first(tmp_path: Path) -> None:
    async with by_mail(tmp_path, remind_s=1.0) as (people, server):
        task = await begin(people)
        first, reminder = await mailed(server), await mailed(server, 2)
        assert str(reminder["Subject"]).startswith("Reminder: ")
        assert str(reminder["In-Reply-To"]).strip() == str(first["Message-ID"]).strip()
        assert reminder["Message-ID"] != first["Message-ID"]
        await people.send("POST", links(first)["Approve"], data={"action": "accept"})
        await approval(people, task)
        await people.stage.finish(task, "r1", 1)
        await calls(people.stage, task, 2, WRITE)

        async def again() -> bool:
            return sum(str(one["Subject"]).startswith("Approve") for one in server.messages) == 2

        await until(again, "the second question")
        second = [one for one in server.messages if str(one["Subject"]).startswith("Approve")][1]
        assert str(second["References"]).strip() == str(first["Message-ID"]).strip()


async def test_tls_and_starttls_check_certificates_and_sign_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server_side, client_side = certified("127.0.0.1", tmp_path)
    monkeypatch.setattr(email_channel, "_trust", lambda: client_side)
    for security in ("starttls", "tls"):
        how: dict[str, Any] = {security: server_side}
        with mail_server(**how, auth=True) as server:
            async with answering(tmp_path) as people:
                smtp = SMTPOptions(
                    host="127.0.0.1",
                    port=server.port,
                    security=security,
                    username="agent",
                    password_from=secret("mail"),
                    sender=AGENT,
                )
                spec = ContactChannelSpec(type="email", email=EmailOptions(address=ANN, smtp=smtp))
                await people.agent(ContactChannel(metadata=Metadata(name="oncall"), spec=spec))
                await begin(people)
                await mailed(server)
                assert ("agent", "right") in server.logins


async def test_a_certificate_that_nobody_vouches_for_ends_the_call(tmp_path: Path) -> None:
    server_side, _ = certified("127.0.0.1", tmp_path)
    with mail_server(starttls=server_side) as server:
        async with answering(tmp_path) as people:
            smtp = SMTPOptions(host="127.0.0.1", port=server.port, sender=AGENT)
            spec = ContactChannelSpec(type="email", email=EmailOptions(address=ANN, smtp=smtp))
            await people.agent(ContactChannel(metadata=Metadata(name="oncall"), spec=spec))
            task = await begin(people)
            assert "certificate" in (await people.result(task)).content
            assert server.messages == []


@pytest.mark.parametrize("missing", ["people_link_key_file", "egress_allow"])
async def test_a_channel_that_lacks_something_says_what(tmp_path: Path, missing: str) -> None:
    with mail_server() as server:
        allow = {"egress_allow": "10.0.0.1"} if missing == "egress_allow" else {missing: ""}
        settings: dict[str, Any] = {"egress_allow": "127.0.0.1", **allow}
        async with answering(tmp_path, **settings) as people:
            await people.stage.apply(email(server.port))

            async def says_what() -> bool:
                entry = await people.stage.bus.resources.get(status_key("ContactChannel", "default", "oncall"))
                return (
                    entry is not None
                    and entry.data is not None
                    and f"HOLDFAST_{missing.upper()}".encode() in entry.data
                )

            await until(says_what, "its status says what is missing")


def test_a_password_is_not_sent_in_the_clear_to_another_machine() -> None:
    with pytest.raises(ChannelFailed, match="in the clear"):
        check_password_is_safe("mail.example.com", "none", ["127.0.0.1", "192.0.2.1"])
    check_password_is_safe("mail.example.com", "tls", ["192.0.2.1"])


# --- replies ---


async def test_a_reply_in_the_mailbox_approves(tmp_path: Path) -> None:
    async with imap_server(AGENT) as imap, by_mail(tmp_path, imap=imap.port) as (people, server):
        task = await begin(people)
        message = await mailed(server)
        assert "Or reply to this message" in part(message, "plain")
        imap.arrive(b"From: someone@example.com\r\nSubject: other\r\n\r\nhello\r\n")
        arrived = imap.arrive(reply_to(message, "Approve."))
        await looked(people)
        granted = await approval(people, task)
        assert (granted.by, granted.via) == (ANN, "email")
        assert [one.seen for one in imap.messages] == [False, True]
        assert arrived.seen
        assert len(server.messages) == 1


async def test_a_reply_that_says_nothing_clear_is_asked_about(tmp_path: Path) -> None:
    async with imap_server(AGENT) as imap, by_mail(tmp_path, imap=imap.port) as (people, server):
        task = await begin(people)
        message = await mailed(server)
        imap.arrive(reply_to(message, "yes, but only on Monday"))
        await looked(people)
        told = await mailed(server, 2)
        assert "`approve` and nothing else" in str(told.get_content())
        assert str(told["In-Reply-To"]).strip() == "<reply-1@example.com>"
        assert told["Auto-Submitted"] == "auto-replied"
        assert await is_open(people, task)
        imap.arrive(reply_to(message, "reject not on a Friday"))
        await looked(people)
        assert (await people.result(task)).content == "Rejected: not on a Friday"


@pytest.mark.parametrize(
    "change",
    [
        {"sender": "eve@example.com"},
        {"In_Reply_To": "<holdfast.W10.AAAA@holdfast.example>"},
        {"In_Reply_To": "<something@example.com>"},
        {"Auto_Submitted": "auto-replied"},
        {"Precedence": "bulk"},
    ],
)
async def test_a_sender_alone_proves_nothing(tmp_path: Path, change: dict[str, str]) -> None:
    async with imap_server(AGENT) as imap, by_mail(tmp_path, imap=imap.port) as (people, server):
        task = await begin(people)
        message = await mailed(server)
        imap.arrive(reply_to(message, "approve", **change))
        await looked(people)
        assert await is_open(people, task)
        assert len(server.messages) == 1


async def test_a_reply_to_what_another_task_of_this_name_was_asked_answers_nothing(tmp_path: Path) -> None:
    async with imap_server(AGENT) as imap, by_mail(tmp_path, imap=imap.port) as (people, server):
        task = await begin(people)
        message = await mailed(server)
        asked = await people.asked(task)
        earlier = asking(msgspec.structs.replace(asked, at=asked.at - timedelta(days=1)))
        named = ReplyTo("default", task.task, asked.interaction, "oncall", 0, earlier)
        old = reply_id([LINK_KEY.encode()], named, ANN, "holdfast.example")
        imap.arrive(reply_to(message, "approve", In_Reply_To=old))
        await looked(people)
        assert "not there any more" in str((await mailed(server, 2)).get_content())
        assert await is_open(people, task)


async def test_a_mailbox_behind_tls_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server_side, client_side = certified("127.0.0.1", tmp_path)
    monkeypatch.setattr(email_channel, "_trust", lambda: client_side)
    async with imap_server(AGENT, tls=server_side) as imap:
        async with by_mail(tmp_path, imap=imap.port, imap_security="tls") as (people, server):
            task = await begin(people)
            imap.arrive(reply_to(await mailed(server), "approve"))
            await looked(people)
            assert (await approval(people, task)).by == ANN
        monkeypatch.undo()
        async with by_mail(tmp_path, imap=imap.port, imap_security="tls") as (people, _):
            with pytest.raises(ChannelFailed, match="certificate"):
                await looked(people)


def nothing(_: Visit) -> None:
    """Look at nothing."""


@pytest.mark.parametrize("imap", [False, True], ids=["smtp", "imap"])
async def test_a_server_that_says_a_letter_now_and_then_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imap: bool
) -> None:
    monkeypatch.setattr("services.runtime.smtp.LIMIT_S", 0.4)
    monkeypatch.setattr("services.human_contact.channels.mail_servers.VISIT_S", 0.4)
    gone = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while not await hung_up(reader, 0.05):
                writer.write(b"*" if imap else b"2")
                await writer.drain()
        gone.set()

    listening = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        channel = email(1 if imap else port, imap=port if imap else 0)
        async with answering(tmp_path) as people:
            await people.stage.apply(channel)
            channels, key = people.entrance._reception.channels, ChannelKey("default", "oncall")

            async def known() -> bool:
                return channels.spec(key) is not None

            await until(known, "the channel is known")
            mine = channels.get(key)
            assert isinstance(mine, email_channel.EmailChannel)
            async with asyncio.timeout(5):
                with pytest.raises(ChannelFailed):
                    await (mine.visited(nothing) if imap else mine._send(None))
                await gone.wait()


@pytest.mark.parametrize("garbage", [b"", b"hello\r\n", b"* OK\r\n* SEARCH {99999999\r\n", b"\xff\x00" * 100 + b"\r\n"])
async def test_a_server_that_does_not_speak_imap_harms_nobody(tmp_path: Path, garbage: bytes) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        async with by_mail(tmp_path, imap=port) as (people, _):
            with pytest.raises(ChannelFailed):
                await looked(people)


async def test_what_strangers_send_to_the_mailbox_holds_up_no_reply(tmp_path: Path) -> None:
    async with imap_server(AGENT) as imap, by_mail(tmp_path, imap=imap.port) as (people, server):
        task = await begin(people)
        message = await mailed(server)
        forged = b"From: " + ANN.encode() + b"\r\nIn-Reply-To: <holdfast.W10.AAAA@holdfast.example>\r\n"
        nested = b"".join(
            b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n) for n in range(2_000)
        )
        for n in range(MAILS_MAX + 10):
            imap.arrive(forged + (nested if n % 20 == 0 else b"\r\napprove\r\n"))
        imap.arrive(reply_to(message, "approve"))
        await looked(people)
        assert (await approval(people, task)).by == ANN
        for _ in range(10):
            imap.arrive(forged + b"\r\napprove\r\n")
        imap.arrive(reply_to(message, "approve"))
        await looked(people)
        assert imap.messages[-1].seen


async def test_a_mailbox_that_hangs_holds_no_other_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes, "TICK_S", 0.01)
    monkeypatch.setattr(mailboxes, "POLL_S", 0.01)
    async with imap_server(AGENT) as imap, by_mail(tmp_path, imap=imap.port) as (people, server):
        hanging = asyncio.Event()
        keys = [ChannelKey("default", "hangs"), ChannelKey("default", "oncall")]
        mine = people.entrance._mailboxes
        look = mine.look

        def both(_: str) -> list[ChannelKey]:
            return keys

        async def hang(key: ChannelKey) -> None:
            if key.name == "hangs":
                hanging.set()
                await asyncio.Event().wait()
            await look(key)

        monkeypatch.setattr(mine, "look", hang)
        monkeypatch.setattr(mine._channels, "of_family", both)
        mine.start()
        async with asyncio.timeout(5):
            await hanging.wait()
        task = await begin(people)
        imap.arrive(reply_to(await mailed(server), "approve"))
        assert (await approval(people, task)).by == ANN


async def test_a_mailbox_whose_replica_is_gone_is_taken_over_when_the_lease_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailboxes, "TICK_S", 0.02)
    monkeypatch.setattr(mailboxes, "LEASE_S", 0.5)
    async with imap_server(AGENT) as imap, by_mail(tmp_path, imap=imap.port) as (people, _):
        await until(lambda: ready(people), "the channel is ready")
        mine, key = people.entrance._mailboxes, ChannelKey("default", "oncall")
        await mine.stop()
        gone, other = (
            mailboxes.Mailboxes(people.stage.bus, mine._channels, people.entrance._reception.door, name)
            for name in ("gone", "other")
        )
        await until(lambda: gone._leased(key), "the lease is another replica's")
        visits = imap.visits
        other.start()

        async def again() -> bool:
            return imap.visits > visits

        await until(again, "the next replica has looked")
        await other.stop()


async def test_one_replica_at_a_time_looks_into_a_mailbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with imap_server(AGENT) as imap, by_mail(tmp_path, imap=imap.port) as (people, _):
        await until(lambda: ready(people), "the channel is ready")
        key = ChannelKey("default", "oncall")
        mine = people.entrance._mailboxes
        door = people.entrance._reception.door
        other = mailboxes.Mailboxes(people.stage.bus, mine._channels, door, "another")
        visits = imap.visits
        await other.look(key)
        await mine.look(key)
        assert imap.visits == visits + 1
        monkeypatch.setattr(mailboxes, "LEASE_S", -1.0)
        await other.look(key)
        await mine.look(key)
        assert imap.visits == visits + 3


async def ready(people: Answering) -> bool:
    entry = await people.stage.bus.resources.get(status_key("ContactChannel", "default", "oncall"))
    return entry is not None and entry.data is not None and b'"Ready"' in entry.data


async def posted(
    people: Answering,
    message: EmailMessage,
    text: str,
    *,
    key: str = WEBHOOK_SECRET,
    age_s: float = 0,
    sender: str = ANN,
    **fields: str,
) -> httpx2.Response:
    body = {
        "from": sender,
        "to": AGENT,
        "subject": "Re: it",
        "text": text,
        "message_id": "<reply-2@example.com>",
        "in_reply_to": str(message["Message-ID"]).strip(),
        **fields,
    }
    data = msgspec.json.encode(body)
    headers = signed_headers([key_of(key)], "msg_1", datetime.now(UTC) - timedelta(seconds=age_s), data)
    return await people.send("POST", "/email/inbound", content=data, headers=headers)


async def test_a_provider_posts_a_reply(tmp_path: Path) -> None:
    async with by_mail(tmp_path, inbound=True) as (people, server):
        task = await begin(people, (QUESTION, {"message": "Which?", "choices": ["Red", "Blue"]}))
        message = await mailed(server)
        forged = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        assert (await posted(people, message, "2", key=forged)).status_code == 401
        assert (await posted(people, message, "2", age_s=400)).status_code == 401
        assert (await posted(people, message, "2", in_reply_to="<x@y.z>")).status_code == 401
        assert "answers no message" in (await posted(people, message, "2", sender="eve@example.com")).text
        assert await is_open(people, task)
        for _ in range(2):
            assert (await posted(people, message, "2")).status_code == 200
        assert (await people.result(task)).content == "Blue"
