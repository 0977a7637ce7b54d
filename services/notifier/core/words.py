"""What is said of a task that has ended, to people and to programs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from schemas.notifications import ending_of
from schemas.resources import Ending
from schemas.task import Cancelled, Failed, FinalAnswer, Spend
from schemas.task_view import describe_state

PHASES: dict[Ending, str] = {"task.finished": "FinalAnswer", "task.failed": "Failed", "task.cancelled": "Cancelled"}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A task that has ended, as others are told of it. The same at every attempt."""

    namespace: str
    task: str
    agent: str
    event: Ending
    at: datetime
    started_at: datetime
    output: str
    error: str
    labels: dict[str, str]
    spend: Spend
    preview: str
    thread: str
    """The first task of its thread."""
    thread_id: str
    """The caller's own name for the thread."""


def told_of(state: FinalAnswer | Failed | Cancelled, output: str) -> Told:
    """What is told of a task. `output`: its answer, which the state only refers to."""
    return Told(
        namespace=state.namespace,
        task=state.task,
        agent=state.agent,
        event=ending_of(state),
        at=state.ended_at,
        started_at=state.created_at,
        output=output,
        error=describe_state(state).error,
        labels=state.labels,
        spend=state.spend,
        preview=state.preview,
        thread=state.thread or state.task,
        thread_id=state.thread_id,
    )


def message(told: Told) -> str:
    """For whoever asked: the answer itself, or why there is none."""
    match told.event:
        case "task.finished":
            return told.output
        case "task.failed":
            return f"Task {told.task} failed: {told.error}"
        case "task.cancelled":
            return f"Task {told.task} was cancelled: {told.error}"


def headline(told: Told) -> str:
    """For those who look on: which task, and how it ended."""
    return f"Task {told.task} of agent {told.agent} {told.event.removeprefix('task.')}"


def announcement(told: Told) -> str:
    """The headline, what was asked, and what came of it."""
    asked = f"Asked: {told.preview}\n\n" if told.preview else ""
    return f"{headline(told)}\n\n{asked}{told.output if told.event == 'task.finished' else told.error}".rstrip() + "\n"


def human_contact(told: Told, id_: str) -> bytes:
    """The body that a `responseURL` is sent: the predecessor's."""
    return msgspec.json.encode({"run_id": told.agent, "call_id": id_, "spec": {"msg": message(told)}})


def event(told: Told) -> bytes:
    """The body that a Subscription's webhook is sent."""
    result = {"output": told.output} if told.event == "task.finished" else {"error": told.error}
    data: dict[str, Any] = {
        "namespace": told.namespace,
        "task": told.task,
        "thread": told.thread,
        **({"threadID": told.thread_id} if told.thread_id else {}),
        "agent": told.agent,
        "phase": PHASES[told.event],
        **result,
        "labels": told.labels,
        "usage": {
            "modelCalls": told.spend.model_calls,
            "inputTokens": told.spend.input_tokens,
            "outputTokens": told.spend.output_tokens,
            "costUsd": told.spend.cost_usd,
        },
        "startedAt": told.started_at,
        "endedAt": told.at,
    }
    return msgspec.json.encode({"type": told.event, "timestamp": told.at, "data": data})


def shortened(text: str, length: int) -> str:
    """`text`, or its beginning and a word that it goes on."""
    return text if len(text) <= length else f"{text[: length - 20].rstrip()} … (shortened)"
