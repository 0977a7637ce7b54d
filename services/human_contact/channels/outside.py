"""The way out of channels: through the guard against request forgery, with an operator's own addresses let through."""

from __future__ import annotations

from urllib.parse import urlsplit

from services.human_contact.channels.base import ChannelFailed
from services.runtime.egress import BadRule, Egress, Rules
from services.runtime.outbound import Answer, Call, Client, NoAnswer, NotSent
from services.runtime.settings import Settings

EXCERPT_LENGTH = 300


def egress_of(settings: Settings, own_url: str = "") -> Egress:
    """The guard. `own_url`: an address of the operator's settings, which may be private. Raises `ChannelFailed`."""
    own = urlsplit(own_url).hostname or ""
    entries = [entry for entry in [*settings.egress_allow.split(","), own] if entry.strip()]
    try:
        return Egress(Rules.of(entries))
    except BadRule as error:
        raise ChannelFailed(f"HOLDFAST_EGRESS_ALLOW: {error}", transient=False) from error


async def send(client: Client, call: Call) -> Answer:
    """Make a request; raises `ChannelFailed` if nothing came back."""
    try:
        return await client.send(call)
    except NoAnswer as error:
        raise ChannelFailed(str(error), transient=True) from error
    except NotSent as error:
        raise ChannelFailed(str(error), transient=False) from error


def excerpt(answer: Answer) -> str:
    """What was said with a refusal."""
    words = " ".join(answer.text.split())[:EXCERPT_LENGTH]
    return f": {words}" if words else ""
