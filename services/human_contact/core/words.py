"""What people read about a question, in words. Pure."""

from __future__ import annotations

from schemas.interactions import InteractionAnswered, InteractionRequested
from schemas.visible import visible

TITLE_LENGTH_MAX = 120


def line(text: str, length: int = TITLE_LENGTH_MAX) -> str:
    """A text as one line, not longer than that."""
    one = visible(" ".join(text.split()))
    return one if len(one) <= length else f"{one[: length - 1]}…"


def headline(asked: InteractionRequested) -> str:
    """What is asked, in one line."""
    if asked.kind == "approval":
        return line(f"Approve {asked.tool}? ({asked.agent})")
    return line(f"{asked.agent} asks: {asked.message}")


def ending(answered: InteractionAnswered) -> str:
    """What became of a question, in a sentence."""
    who = f" by {visible(answered.by)}" if answered.by else ""
    when = answered.at.strftime("%Y-%m-%d %H:%M:%S UTC")
    if answered.via == "withdrawn":
        return f"Withdrawn at {when}: {visible(answered.comment) or 'nobody waits for an answer any more'}"
    if answered.via == "expired":
        outcome = {"accept": "approved", "cancel": "failed"}.get(answered.action, "not approved")
        return f"Closed at {when}, {outcome}: {visible(answered.comment)}"
    said = {"accept": "Accepted", "decline": "Declined", "cancel": "Cancelled"}[answered.action]
    text = f"{said}{who} at {when}"
    if answered.action == "accept" and answered.arguments:
        text += ", with other arguments"
    if answered.action == "accept" and answered.scope != "once":
        text += f", {SCOPES[answered.scope]}"
    if answered.content is not None and isinstance(answered.content.get("answer"), str):
        text += f": {visible(answered.content['answer'])}"
    return f"{text}: {visible(answered.comment)}" if answered.comment else f"{text}."


SCOPES = {
    "once": "this one call",
    "task": "every call of this tool in this task",
    "arguments": "this tool with these arguments, always",
    "tool": "this tool, always",
}
"""The scopes of an approval, as people read them."""
