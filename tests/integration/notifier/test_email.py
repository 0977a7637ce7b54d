"""E-mail, handed to real SMTP servers on this machine."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from schemas.notifications import NotificationDelivered, NotificationFailed
from schemas.resources import EmailSink, SMTPServer
from services.notifier.core import machine
from services.notifier.core.outcomes import NotTaken, Taken
from services.notifier.sinks import email
from services.notifier.sinks.base import Letter
from services.notifier.sinks.email import Email, Postman
from services.runtime.egress import Egress, Rules
from tests.support.certificates import certified
from tests.support.mail_server import MailServer, mail_server
from tests.support.notifying import notifying, told


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BACKOFF_BASE_S", 0.1)
    monkeypatch.setattr(machine, "BACKOFF_MAX_S", 0.1)


def sink(
    server: MailServer, *, host: str = "127.0.0.1", to: tuple[str, ...] = ("ada@example.com",), **fields: Any
) -> EmailSink:
    smtp = SMTPServer(host=host, port=server.port, security="none", timeout_s=5.0)
    smtp = msgspec.structs.replace(smtp, **fields)
    return EmailSink(to=to, from_="Holdfast <holdfast@example.org>", smtp=smtp)


def letter() -> Letter:
    return Letter(id="abc", told=told(), at=datetime.now(UTC), again=False)


OPEN = Egress(Rules.of(["127.0.0.1"]))


async def test_a_subscriber_gets_an_e_mail_that_says_which_task_and_what_came_of_it() -> None:
    with mail_server() as server:
        async with notifying() as here:
            await here.subscribe("mail", email=sink(server, to=("ada@example.com", "bob@example.com")))
            task = await here.finished("Es ist zwölf Uhr: 12 < 13.")
            (done,) = await here.until_all(task, NotificationDelivered)
        (message,) = server.messages
        assert server.envelopes[0].rcpt_tos == ["ada@example.com", "bob@example.com"]
        assert message["Subject"] == f"Task {task.task} of agent helper finished"
        assert message["Message-ID"] == f"<{done.id}@example.org>"
        assert message["Auto-Submitted"] == "auto-generated"
        assert "Es ist zwölf Uhr: 12 < 13." in message.get_content()
        assert parsedate_to_datetime(message["Date"]).tzinfo is not None


async def test_a_server_that_has_no_room_now_is_asked_again_with_the_same_message() -> None:
    with mail_server() as server:
        server.answers = ["451 try later"]
        async with notifying() as here:
            await here.subscribe("mail", email=sink(server))
            task = await here.finished()
            (done,) = await here.until_all(task, NotificationDelivered)
        assert [one.status for one in done.tried] == [451, 250]
        assert len(server.messages) == 1


async def test_a_server_that_refuses_for_good_makes_a_dead_letter() -> None:
    with mail_server() as server:
        server.answers = ["550 no such person"]
        async with notifying() as here:
            await here.subscribe("mail", email=sink(server))
            task = await here.finished()
            (failed,) = await here.until_all(task, NotificationFailed)
        assert "550" in failed.error
        assert "no such person" in failed.error
        assert failed.attempts == 1


async def test_a_server_in_a_private_network_is_refused() -> None:
    with mail_server() as server:
        async with notifying(egress_allow="") as here:
            await here.subscribe("mail", email=sink(server))
            task = await here.finished()
            (failed,) = await here.until_all(task, NotificationFailed)
        assert "loopback" in failed.error
        assert server.messages == []


async def test_nobody_at_the_port_is_tried_again() -> None:
    with mail_server() as server:
        pass
    async with notifying() as here:
        await here.subscribe("mail", email=sink(server))
        task = await here.finished()
        pending = await here.until_tried(task, 1)
        assert "refused" in pending.tried[0].error.lower()


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # the whole connection is
@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_passwords_go_over_tls_with_a_certificate_for_the_server_s_name(
    security: Literal["starttls", "tls"], tmp_path: Path
) -> None:
    server_side, trust = certified("mail.test", tmp_path)

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    egress = Egress(Rules.of(["mail.test", "other.test"]), resolve=resolve)
    postman = Postman(egress, trust=trust)
    starttls, tls = (server_side, None) if security == "starttls" else (None, server_side)
    with mail_server(starttls=starttls, tls=tls, auth=True) as server:
        good = sink(server, host="mail.test", security=security)
        assert await Email(postman, good, ("ada", "right")).send(letter()) == Taken(
            status=250, thread="<abc@example.org>"
        )
        assert server.logins == [("ada", "right")]
        wrong = await Email(postman, good, ("ada", "wrong")).send(letter())
        assert isinstance(wrong, NotTaken)
        assert (wrong.again, wrong.status) == (False, 535)
        elsewhere = sink(server, host="other.test", security=security)
        refused = await Email(postman, elsewhere, ("ada", "right")).send(letter())
        assert isinstance(refused, NotTaken)
        assert not refused.again
        assert "certificate" in refused.error.lower()
        assert len(server.messages) == 1
    postman.close()


async def test_a_server_that_offers_no_tls_gets_no_password() -> None:
    postman = Postman(OPEN)
    with mail_server() as server:
        outcome = await Email(postman, sink(server, security="starttls"), ("ada", "right")).send(letter())
    assert isinstance(outcome, NotTaken)
    assert not outcome.again
    assert server.logins == []
    postman.close()


async def test_a_server_that_says_nothing_is_left_after_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        smtp = SMTPServer(host="127.0.0.1", port=port, security="none", timeout_s=0.3)
        postman = Postman(OPEN)
        outcome = await Email(postman, EmailSink(to=("a@b.example",), from_="c@d.example", smtp=smtp), None).send(
            letter()
        )
        postman.close()
    assert isinstance(outcome, NotTaken)
    assert outcome.again
    assert "timed out" in outcome.error.lower()


async def test_an_address_with_a_line_break_makes_no_header() -> None:
    bad = EmailSink(to=("a@b.example\r\nBcc: c@d.example",), from_="e@f.example", smtp=SMTPServer(host="127.0.0.1"))
    with pytest.raises(ValueError, match="linefeed"):
        email.composed(bad, letter())
