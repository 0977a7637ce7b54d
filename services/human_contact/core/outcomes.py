"""What an answer means for the call that it is about: an approval, or the call's one result. Pure."""

from __future__ import annotations

from datetime import datetime

from schemas.events import ApprovalGranted, ToolFinished
from schemas.ids import call_digest
from schemas.interactions import InteractionAnswered, InteractionRequested, parse_interaction_id
from schemas.messages import ToolOutcome
from schemas.resources import Grant, GrantSpec, Metadata, OnTimeout

NOBODY = "Nobody answered within {seconds:.0f} s."
NOBODY_ASKED = "Nobody could be reached within {seconds:.0f} s."


def outcome_of(asked: InteractionRequested, answered: InteractionAnswered) -> ApprovalGranted | ToolFinished | None:
    """What to record; None if the call needs nothing any more, or whoever carries it out acts on the answer itself."""
    if answered.via == "withdrawn" or asked.kind in ("elicitation", "uncertain"):
        return None
    if asked.kind == "question":
        return _answer(asked, answered)
    if answered.action != "accept":
        return _rejection(asked, answered)
    which = parse_interaction_id(asked.interaction)
    arguments = answered.arguments or asked.arguments
    return ApprovalGranted(
        request=which.request,
        n=which.n,
        tool_call_id=asked.tool_call_id,
        tool=asked.tool,
        arguments=arguments,
        digest=call_digest(asked.tool, arguments),
        scope=answered.scope,
        by=answered.by,
        via=answered.via,
        at=answered.at,
    )


def grant_of(asked: InteractionRequested, granted: ApprovalGranted) -> Grant | None:
    """The approval for good, if this is one. Its name derives from what it says, so there is never a second one."""
    if granted.scope not in ("tool", "arguments"):
        return None
    with_arguments = granted.scope == "arguments"
    digest = granted.digest if with_arguments else ""
    name = f"grant-{call_digest(f'{asked.agent}/{granted.tool}', digest)[:12]}"
    return Grant(
        metadata=Metadata(name=name, namespace=asked.namespace),
        spec=GrantSpec(
            agent=asked.agent,
            tool=granted.tool,
            digest=digest,
            arguments=granted.arguments if with_arguments else "",
            by=granted.by,
            via=granted.via,
            task=asked.task,
            at=granted.at,
        ),
    )


def given_up(
    asked: InteractionRequested, outcome: OnTimeout, waited_s: float, at: datetime, *, anybody: bool = True
) -> InteractionAnswered:
    """The answer to a question that nobody answered in time, or that has not reached anybody."""
    action = {"approve": "accept", "fail": "cancel"}.get(outcome, "decline")
    if asked.kind in ("elicitation", "uncertain"):
        action = "cancel"  # nobody has said no
    return InteractionAnswered(
        namespace=asked.namespace,
        task=asked.task,
        interaction=asked.interaction,
        action=action,  # type: ignore[arg-type]  # one of the three
        at=at,
        via="expired",
        comment=(NOBODY if anybody else NOBODY_ASKED).format(seconds=waited_s),
    )


def undelivered(asked: InteractionRequested, reason: str, at: datetime) -> InteractionAnswered:
    """The answer to a question of whoever carries out a call, that no channel takes."""
    return InteractionAnswered(
        namespace=asked.namespace,
        task=asked.task,
        interaction=asked.interaction,
        action="cancel",
        at=at,
        via="expired",
        comment=f"Nobody was asked: {reason}",
    )


def result(asked: InteractionRequested, outcome: ToolOutcome, content: str, at: datetime) -> ToolFinished:
    """The result of the call that people were asked about."""
    which = parse_interaction_id(asked.interaction)
    return ToolFinished(
        request=which.request,
        n=which.n,
        tool_call_id=asked.tool_call_id,
        tool=asked.tool,
        outcome=outcome,
        content=content,
        at=at,
        latency_s=round(max((at - asked.at).total_seconds(), 0.0), 6),
    )


def _answer(asked: InteractionRequested, answered: InteractionAnswered) -> ToolFinished:
    if answered.action == "accept":
        return result(asked, "succeeded", str((answered.content or {}).get("answer", "")), answered.at)
    if answered.via == "expired":
        outcome: ToolOutcome = "failed" if answered.action == "cancel" else "timed_out"
        return result(asked, outcome, answered.comment, answered.at)
    return result(asked, "rejected", _with_comment("The person declined to answer", answered.comment), answered.at)


def _rejection(asked: InteractionRequested, answered: InteractionAnswered) -> ToolFinished:
    if answered.via == "expired":
        said = f"Not approved, and not done: {answered.comment}"
        return result(asked, "failed" if answered.action == "cancel" else "rejected", said, answered.at)
    return result(asked, "rejected", _with_comment("Rejected", answered.comment), answered.at)


def _with_comment(text: str, comment: str) -> str:
    return f"{text}: {comment}" if comment else f"{text}, without a comment."
