"""What people read about a question, in words. Pure."""

from __future__ import annotations

from typing import assert_never

from schemas.interactions import InteractionAnswered, InteractionRequested
from schemas.visible import visible

TITLE_LENGTH_MAX = 120


def line(text: str, length: int = TITLE_LENGTH_MAX) -> str:
    """A text as one line, not longer than that."""
    one = visible(" ".join(text.split()))
    return one if len(one) <= length else f"{one[: length - 1]}…"


def headline(asked: InteractionRequested) -> str:
    """What is asked, in one line."""
    match asked.kind:
        case "approval":
            return line(f"Approve {asked.tool}? ({asked.agent})")
        case "uncertain":
            return line(f"Run {asked.tool} again? Nobody knows how it ended ({asked.agent})")
        case "elicitation":
            return line(f"{asked.server or asked.tool} asks: {asked.message}")
        case "question":
            return line(f"{asked.agent} asks: {asked.message}")
        case _:
            assert_never(asked.kind)


def facts(asked: InteractionRequested) -> list[tuple[str, str]]:
    """What people should know of a question, but for what is asked and the arguments: names and values."""
    found = [("Agent", asked.agent), ("Task", f"{asked.namespace}/{asked.task}"), ("The task is about", asked.title)]
    if asked.kind != "question":
        found.append(("Tool", asked.tool))
    if asked.kind in ("elicitation", "uncertain"):
        found.append(("Server", asked.server))
    if asked.began is not None:
        begun = asked.began.strftime("%Y-%m-%d %H:%M:%S UTC")
        found.append(("Begun", f"{begun}, for the {asked.attempt}. time" if asked.attempt > 1 else begun))
    if asked.kind == "approval":
        found.append(("Why, in the model's words", asked.message))
    return [(name, visible(value)) for name, value in found if value]


def has_arguments(asked: InteractionRequested) -> bool:
    """Whether it is about a call, and what it is called with is what people decide on."""
    return asked.kind in ("approval", "uncertain")


def buttons(asked: InteractionRequested) -> tuple[str, str]:
    """What yes and no are called."""
    match asked.kind:
        case "approval":
            return "Approve", "Reject"
        case "uncertain":
            return "Run it again", "Leave it"
        case "elicitation":
            return ("Answer" if asked.schema is not None else "I go there"), "Decline"
        case "question":
            return "Answer", "Decline"
        case _:
            assert_never(asked.kind)


def ending(asked: InteractionRequested, answered: InteractionAnswered) -> str:
    """What became of a question, in a sentence."""
    who = f" by {visible(answered.by)}" if answered.by else ""
    when = answered.at.strftime("%Y-%m-%d %H:%M:%S UTC")
    if answered.via == "withdrawn":
        return f"Withdrawn at {when}: {visible(answered.comment) or 'nobody waits for an answer any more'}"
    if answered.via == "expired":
        outcome = {"accept": ", approved", "cancel": ", failed"}.get(answered.action, ", not approved")
        closed = f"Closed at {when}{outcome if asked.kind not in ('elicitation', 'uncertain') else ''}"
        return f"{closed}: {visible(answered.comment)}" if answered.comment else f"{closed}: nobody answered in time."
    said = {"accept": "Accepted", "decline": "Declined", "cancel": "Cancelled"}[answered.action]
    if asked.kind == "uncertain":
        said = {"accept": "Run again", "decline": "Left as it is", "cancel": "Left as it is"}[answered.action]
    text = f"{said}{who} at {when}"
    if answered.action == "accept" and answered.arguments:
        text += ", with other arguments"
    if answered.action == "accept" and answered.scope != "once":
        text += f", {SCOPES[answered.scope]}"
    if asked.kind == "question" and answered.content is not None and isinstance(answered.content.get("answer"), str):
        text += f": {visible(answered.content['answer'])}"
    return f"{text}: {visible(answered.comment)}" if answered.comment else f"{text}."


SCOPES = {
    "once": "this one call",
    "task": "every call of this tool in this task",
    "arguments": "this tool with these arguments, always",
    "tool": "this tool, always",
}
"""The scopes of an approval, as people read them."""
