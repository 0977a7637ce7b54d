"""E-mail between services of a test and a real SMTP server: messages, their links, replies to them."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

from schemas.events import ApprovalGranted
from schemas.resources import (
    ContactChannel,
    ContactChannelSpec,
    EmailOptions,
    IMAPOptions,
    Metadata,
    Ref,
    SMTPOptions,
)
from schemas.subjects import TaskSubjects
from schemas.wire import decode
from services.human_contact.channels.registry import ChannelKey
from tests.support.answering import Answering, answering, secret
from tests.support.mail_server import MailServer, mail_server
from tests.support.stage import until
from tests.unit.planner.test_delegation import calls

ANN = "ann@example.com"
Security = Literal["tls", "starttls", "none"]

AGENT = "agent@holdfast.example"
WRITE = ("box__write", {"path": "<script>alert(1)</script>"})
QUESTION = "oncall__human_contact_email"


def email(
    smtp: int, *, imap: int = 0, imap_security: Security = "none", inbound: bool = False, **fields: Any
) -> ContactChannel:
    mailbox = IMAPOptions(
        host="127.0.0.1", port=imap, security=imap_security, username=AGENT, password_from=secret("mail")
    )
    options = EmailOptions(
        address=f"Ann <{ANN}>",
        smtp=SMTPOptions(host="127.0.0.1", port=smtp, security="none", sender=f"Agent <{AGENT}>"),
        imap=mailbox if imap else None,
        inbound_secret_from=secret("webhook") if inbound else None,
    )
    return ContactChannel(
        metadata=Metadata(name="oncall"), spec=ContactChannelSpec(type="email", email=options, **fields)
    )


@asynccontextmanager
async def by_mail(
    directory: Path, *, imap: int = 0, imap_security: Security = "none", inbound: bool = False, **fields: Any
) -> AsyncGenerator[tuple[Answering, MailServer]]:
    with mail_server() as server:
        async with answering(directory) as people:
            channel = email(server.port, imap=imap, imap_security=imap_security, inbound=inbound, **fields)
            await people.agent(channel, human_contact_channels=(Ref(name="oncall"),))
            yield people, server


async def begin(people: Answering, *wanted: tuple[str, object]) -> TaskSubjects:
    task = await people.stage.submit()
    await calls(people.stage, task, 1, *(wanted or (WRITE,)))
    return task


async def mailed(server: MailServer, count: int = 1) -> EmailMessage:
    async def there() -> bool:
        return len(server.messages) >= count

    await until(there, f"{count} messages")
    return server.messages[count - 1]


def part(message: EmailMessage, kind: str) -> str:
    body = message.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def links(message: EmailMessage) -> dict[str, str]:
    return dict(re.findall(r"^([A-Z][a-z, ]+): (http\S+)$", part(message, "plain"), re.MULTILINE))


async def approval(people: Answering, task: TaskSubjects) -> ApprovalGranted:
    return decode(await people.stage.stored(task, task.approval_event("r1", 1)), ApprovalGranted)


async def is_open(people: Answering, task: TaskSubjects) -> bool:
    return await people.stage.bus.log(task.partition).get(task.interaction_answered("r1", 1, 0)) is None


def reply_to(message: EmailMessage, text: str, *, sender: str = ANN, **headers: str) -> bytes:
    reply = EmailMessage(policy=policy.SMTP.clone(max_line_length=998))
    reply["From"] = f"Ann <{sender}>"
    reply["To"] = AGENT
    reply["Subject"] = f"Re: {message['Subject']}"
    reply["Message-ID"] = "<reply-1@example.com>"
    reply["In-Reply-To"] = str(message["Message-ID"]).strip()
    for name, value in headers.items():
        del reply[name.replace("_", "-")]
        reply[name.replace("_", "-")] = value
    old = "".join(f"> {line}\n" for line in part(message, "plain").splitlines())
    reply.set_content(f"{text}\n\nOn Friday, the agent wrote:\n{old}")
    return bytes(reply)


async def looked(people: Answering) -> None:
    await people.entrance._mailboxes.look(ChannelKey("default", "oncall"))
