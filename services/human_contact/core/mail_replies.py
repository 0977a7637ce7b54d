"""Replies to questions by e-mail: what a message says, and what it answers. Pure."""

from __future__ import annotations

import codecs
import re
from email import message_from_bytes
from email.message import Message
from email.utils import getaddresses
from html.parser import HTMLParser

import msgspec

from schemas.interactions import AnswerInteraction, InteractionRequested
from services.human_contact.core.elicitations import Misfit, content_of_text
from services.human_contact.core.forms import Answerer, answer
from services.human_contact.core.mails import shows_all

TEXT_LENGTH_MAX = 64 * 1024
IDS_MAX = 20
PARTS_MAX = 50
NO_CHARSETS = frozenset(("idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"))
"""Codecs that no mail is written in, some of which take minutes for a long text."""
APPROVE = frozenset(("approve", "approved", "yes"))
REJECT = frozenset(("reject", "rejected", "no"))
ACCEPT = frozenset(("accept", "accepted", "yes"))

_ID = re.compile(r"<[^<>\s]{3,2000}>")
_MARKS = re.compile(r"(-{2,} ?(original message|forwarded message) ?-{2,}|_{20,}|-- ?)", re.IGNORECASE)
_DECISION = re.compile(r"(?:(run (?:it )?again)|leave (?:it|alone)(?: as it is)?)\b[\s.,;:!-]*", re.IGNORECASE)
_WORD = re.compile(r"([A-Za-z]+)\b[\s.,;:!-]*(.*)", re.DOTALL)


class BadReply(ValueError):
    """A reply that answers nothing. The text is for whoever sent it."""


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """A message that came in."""

    sender: str
    """The one address in `From`; empty if there is not exactly one."""
    subject: str = ""
    text: str = ""
    message_id: str = ""
    replies_to: tuple[str, ...] = ()
    """The ids that it names as answered, the nearest first."""
    automatic: bool = False
    """No person has sent it."""


def mail_of(data: bytes) -> Mail:
    """A message, whatever state it is in. One that the library cannot read is nobody's, and says nothing."""
    try:
        return _mail_of(data)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return Mail(sender="")


def _mail_of(data: bytes) -> Mail:
    message = message_from_bytes(data)
    named = [str(value) for name in ("In-Reply-To", "References") for value in message.get_all(name, [])]
    submitted = str(message.get("Auto-Submitted", "no")).split(";")[0].strip().lower()
    bulk = str(message.get("Precedence", "")).strip().lower() in ("bulk", "list", "junk", "auto_reply")
    return Mail(
        sender=sender_of([str(value) for value in message.get_all("From", [])]),
        subject=str(message.get("Subject", ""))[:500],
        text=_body(message)[:TEXT_LENGTH_MAX],
        message_id="".join(ids_in(str(message.get("Message-ID", "")))[:1]),
        replies_to=_nearest(named),
        automatic=submitted != "no" or bulk or message.get("X-Autoreply") is not None,
    )


def sender_of(headers: list[str]) -> str:
    """The address in `From`, in lower case; empty if there is not exactly one."""
    try:
        addresses = [address for _, address in getaddresses(headers) if address]
    except (RecursionError, ValueError):
        return ""
    return addresses[0].lower() if len(headers) == 1 and len(addresses) == 1 else ""


def ids_in(text: str) -> list[str]:
    """The message ids in a header field."""
    return _ID.findall(text[: 4 * 1024 * IDS_MAX])[:IDS_MAX]


def reply_answer(asked: InteractionRequested, who: Answerer, text: str) -> AnswerInteraction:
    """What a reply answers; raises `BadReply`."""
    own = own_words(text)
    if not own:
        raise BadReply("There is nothing above the quoted text of your reply.")
    if asked.kind == "question":
        return answer(asked, who, "accept", content={"answer": _choice(asked, own)})
    if asked.kind == "elicitation":
        return _filled_in(asked, who, own)
    first, _, rest = own.partition("\n")
    if asked.kind == "uncertain":
        first = _plainly(first)
    found = _WORD.fullmatch(first.strip())
    word, more = (found[1].lower(), found[2].strip()) if found else ("", "")
    if word in REJECT:
        return answer(asked, who, "decline", comment=more or rest.strip())
    if word in APPROVE and not more:
        if not shows_all(asked):
            raise BadReply("The arguments are too long for a message: look at the page behind the link to approve.")
        return answer(asked, who, "accept")
    yes, no = ("run again", "leave it") if asked.kind == "uncertain" else ("approve", "reject")
    raise BadReply(f"The first line of a reply is `{yes}` and nothing else, or `{no}` and a comment.")


def _plainly(first: str) -> str:
    """The first line of a reply about a call whose outcome nobody knows, in the words of an approval."""
    found = _DECISION.match(first.strip())
    if found is None:
        return first
    return f"{'approve' if found[1] else 'reject'} {first.strip()[found.end() :]}"


def _filled_in(asked: InteractionRequested, who: Answerer, own: str) -> AnswerInteraction:
    first, _, rest = own.partition("\n")
    if first.strip().rstrip(".!").lower() == "decline":
        return answer(asked, who, "decline", comment=rest.strip())
    if asked.schema is None:
        if first.strip().rstrip(".!").lower() in ACCEPT:
            return answer(asked, who, "accept")
        raise BadReply("The first line of a reply is `accept`, when you go there, or `decline`.")
    try:
        return answer(asked, who, "accept", content=content_of_text(own))
    except Misfit as misfit:
        raise BadReply(
            f"A reply is `decline`, or a JSON object. {misfit} The page behind the link is easier."
        ) from misfit


def own_words(text: str) -> str:
    """What somebody wrote above the text that they reply to, without their signature."""
    lines: list[str] = []
    for one in text.replace("\r\n", "\n").split("\n"):
        if one.lstrip().startswith(">"):
            _drop_attribution(lines)
            break
        if _MARKS.fullmatch(one.strip()) or one == "-- ":
            break
        lines.append(one.rstrip())
    return "\n".join(lines).strip()


def _drop_attribution(lines: list[str]) -> None:
    """`On Monday, somebody wrote:`, on one line or two, before what is quoted."""
    while lines and not lines[-1].strip():
        lines.pop()
    if lines and lines[-1].strip().endswith(":"):
        begun = lines.pop().lstrip()
        if lines and lines[-1].strip() and not re.match(r"(On|Am|Le|El|Il|Op)\b", begun):
            lines.pop()


def _choice(asked: InteractionRequested, text: str) -> str:
    first = text.partition("\n")[0].strip()
    if asked.choices and first.isdecimal() and 1 <= int(first[:4]) <= len(asked.choices):
        return asked.choices[int(first[:4]) - 1]
    return next((choice for choice in asked.choices if choice.casefold() == first.casefold()), text)


def _nearest(headers: list[str]) -> tuple[str, ...]:
    if not headers:
        return ()
    return tuple(dict.fromkeys([*ids_in(headers[0]), *reversed(ids_in(" ".join(headers[1:])))]))


def _body(message: Message) -> str:
    """The text of a message: its first plain part, or else its first HTML part without the tags."""
    parts = [part for part in list(message.walk())[:PARTS_MAX] if part.get_filename() is None]
    for kind in ("text/plain", "text/html"):
        for part in parts:
            if part.get_content_type() == kind:
                text = _decoded(part)
                return text if kind == "text/plain" else _without_tags(text)
    return ""


def _decoded(part: Message) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    try:
        charset = codecs.lookup(part.get_content_charset("utf-8")).name
        text = data.decode("utf-8" if charset in NO_CHARSETS else charset, "replace")
    except (LookupError, ValueError):
        text = data.decode("utf-8", "replace")
    return text.encode("utf-8", "replace").decode()


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the base class's
        if tag in ("script", "style", "blockquote", "head"):
            self._hidden += 1
        elif tag in ("br", "p", "div", "tr", "li"):
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style", "blockquote", "head"):
            self._hidden = max(self._hidden - 1, 0)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(" ".join(data.split()) if data.strip() else "")


def _without_tags(html: str) -> str:
    parser = _Text()
    parser.feed(html[: 4 * TEXT_LENGTH_MAX])
    return "".join(parser.pieces)
