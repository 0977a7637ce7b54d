"""Questions as e-mail. Pure.

What a stranger wrote is in the body only, escaped, and in the subject as one line; the ids of messages are ours.
"""

from __future__ import annotations

from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from html import escape
from typing import assert_never

import msgspec

from schemas.interactions import InteractionRequested
from schemas.visible import visible
from services.human_contact.core.elicitations import NO_SECRETS, described, host_of, server_line
from services.human_contact.core.words import buttons, facts, has_arguments, headline, line

SHOWN_MAX = 20_000
"""Characters of arguments or message that a mail shows. What is longer is approved by its page, which shows all."""
LINE = "\n    "
"""Between lines of what a stranger wrote."""
POLICY = SMTP.clone(max_line_length=998)
"""Ids are longer than the usual line, and must not be broken."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """The outside of a message."""

    sender: str
    to: str
    subject: str
    message_id: str
    thread: str = ""
    """The message that it is kept together with."""
    at: datetime


class MailLinks(msgspec.Struct, frozen=True, kw_only=True):
    """Where the links of a message lead."""

    page: str
    accept: str
    decline: str


def shows_all(asked: InteractionRequested) -> bool:
    """Whether a mail shows all that is to be approved."""
    return len(visible(asked.arguments)) <= SHOWN_MAX


def question_mail(
    asked: InteractionRequested, envelope: Envelope, links: MailLinks, *, replies: bool, reminder: bool
) -> EmailMessage:
    """A message that asks."""
    title = f"{'Reminder: ' if reminder else ''}{headline(asked)}"
    message = mail(msgspec.structs.replace(envelope, subject=line(envelope.subject or title, 180)), "auto-generated")
    how = _how(asked) if replies else ""
    message.set_content(_text(asked, links, how))
    message.add_alternative(_html(asked, title, links, how), subtype="html")
    return message


def sentence_mail(envelope: Envelope, text: str) -> EmailMessage:
    """A sentence, to somebody who has replied."""
    message = mail(envelope, "auto-replied")
    message.set_content(visible(text) + "\n")
    return message


def mail(envelope: Envelope, automatic: str) -> EmailMessage:
    """A message without its body."""
    message = EmailMessage(policy=POLICY)
    message["Message-ID"] = envelope.message_id
    message["Date"] = format_datetime(envelope.at)
    message["From"] = envelope.sender
    message["To"] = envelope.to
    message["Subject"] = envelope.subject
    if envelope.thread:
        message["In-Reply-To"] = envelope.thread
        message["References"] = envelope.thread
    message["Auto-Submitted"] = automatic
    return message


def _how(asked: InteractionRequested) -> str:
    match asked.kind:
        case "approval":
            approve = "`approve`, or " if shows_all(asked) else ""
            first = f"{approve}`reject` and a comment, which the model is told"
        case "uncertain":
            again = "`run again`, or " if shows_all(asked) else ""
            first = f"{again}`leave it` and a comment, which the model is told"
        case "elicitation":
            if asked.schema is not None:
                return (
                    f"Or reply to this message, with `decline` or with JSON above the quoted text. {described(asked)}"
                )
            first = "`accept`, when you go there, or `decline`"
        case "question":
            return "Or reply to this message: what you write above the quoted text is the answer."
        case _:
            assert_never(asked.kind)
    return f"Or reply to this message: its first line is {first}."


def _shown(asked: InteractionRequested) -> list[tuple[str, str]]:
    """What is asked, in pieces, each with its title."""
    if asked.kind == "approval":
        return [("Arguments", _cut(asked.arguments or "(no arguments)"))]
    pieces = [("Asked", _cut(asked.message))]
    if asked.kind == "uncertain":
        pieces.append(("Arguments", _cut(asked.arguments or "(no arguments)")))
    if asked.kind == "elicitation":
        pieces.insert(0, ("From", server_line(asked)))
        if asked.url:
            pieces.append(
                (f"It wants you to go to a page of {host_of(asked.url)}; look at the address", _cut(asked.url))
            )
        else:
            pieces.append(("Before you answer", NO_SECRETS))
    return pieces


def _cut(text: str) -> str:
    text = visible(text)
    if len(text) <= SHOWN_MAX:
        return text
    return f"{text[:SHOWN_MAX]}\n… {len(text) - SHOWN_MAX} characters more: see the page."


def _links(asked: InteractionRequested, links: MailLinks) -> list[tuple[str, str]]:
    if has_arguments(asked):
        yes, no = buttons(asked)
        return [(yes, links.accept), (no, links.decline), ("Look, and decide", links.page)]
    return [("Answer", links.page)]


def _expires(asked: InteractionRequested) -> str:
    return f"Open until {asked.expires.strftime('%Y-%m-%d %H:%M UTC')}. The links are for you: do not pass them on."


def _text(asked: InteractionRequested, links: MailLinks, how: str) -> str:
    # Further lines of a stranger's begin like none of ours: a link of theirs is not taken for one of these.
    parts = [f"{name}: {value.replace(chr(10), LINE)}" for name, value in facts(asked)]
    for title, shown in _shown(asked):
        parts += ["", f"{title}:", *(f"    {one}" for one in shown.split("\n"))]
    parts += [
        "",
        *(f"{name}: {url}" for name, url in _links(asked, links)),
        "",
        *([how] if how else []),
        _expires(asked),
    ]
    return "\n".join(parts) + "\n"


def _html(asked: InteractionRequested, title: str, links: MailLinks, how: str) -> str:
    listed = "".join(f"<p><b>{escape(name)}:</b> {escape(value)}</p>" for name, value in facts(asked))
    shown = "".join(
        f'<p><b>{escape(name)}:</b></p><pre style="white-space:pre-wrap">{escape(text)}</pre>'
        for name, text in _shown(asked)
    )
    buttons_ = " &nbsp; ".join(f'<a href="{escape(url)}">{escape(name)}</a>' for name, url in _links(asked, links))
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title></head><body>'
        f"<h3>{escape(title)}</h3>{listed}{shown}"
        f"<p>{buttons_}</p><p>{escape(how)}</p><p>{escape(_expires(asked))}</p></body></html>\n"
    )
