"""The rows of the crash table: at which step of handling what, who is killed.

A step is whatever the rest of the world can notice of a process: a message to the bus, a call of a model, a call of a
tool. Between two of them a crash makes no difference that anybody could see, so killing before and after every one of
them is killing everywhere. Rows are found by watching the services at work (`test_crash_table.py`), not listed by hand.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple, cast, get_args

Commit = Literal["two-step", "batch"]
When = Literal["before", "during", "after"]
Victim = Literal["self", "server"]

BACKGROUND = "background"
"""What a process does beside handling a message."""


class Step(NamedTuple):
    """One step of a service's handling of one kind of message."""

    service: str
    handling: str
    name: str
    """With its number among the steps of that name in the same handling: `write-state.1`."""


class Row(NamedTuple):
    """One line of the crash table."""

    commit: Commit
    scenario: str
    step: Step
    when: When
    victim: Victim

    def __str__(self) -> str:
        return "/".join((self.commit, self.scenario, *self.step, self.when, self.victim))

    @classmethod
    def parse(cls, text: str) -> Row:
        """The row that prints as `text`."""
        commit, scenario, service, handling, name, when, victim = text.split("/")
        if commit not in get_args(Commit) or when not in get_args(When) or victim not in get_args(Victim):
            raise ValueError(f"{text!r} is not a row of the crash table")
        step = Step(service, handling, name)
        return cls(cast("Commit", commit), scenario, step, cast("When", when), cast("Victim", victim))


_ANSWERS = {b"+ACK": "ack", b"-NAK": "nak", b"+WPI": "still-working", b"+TER": "give-up"}
_STORED = {
    ("cmd", "llm"): "ensure-model-command",
    ("cmd", "tool"): "ensure-tool-command",
    ("cmd", "notify"): "ensure-notify-command",
    ("cmd", "ask"): "ensure-ask-command",
    ("evt", "submitted"): "record-submission",
    ("evt", "llm"): "record-model-outcome",
    ("evt", "tool"): "record-tool-result",
    ("evt", "cancel"): "record-cancellation",
    ("evt", "approval"): "record-approval",
    ("int", "asked"): "record-question",
    ("int", "answered"): "record-answer",
    ("int", "step"): "write-delivery",
    ("int", "vote"): "record-vote",
}


def message_step(subject: str, data: bytes, *, batch: bool = False) -> str:
    """What sending this to the bus does, in two or three words; empty for what only asks for more work."""
    if batch:
        return "commit-batch"
    match subject.split("."):
        case ["$JS", "ACK", *_]:
            return _ANSWERS.get(data[:4], "")
        case ["$JS", "API", "DIRECT", "GET", *rest]:
            return _read_step(rest)
        case ["$JS", "API", "STREAM", ("PURGE" | "INFO" | "MSG") as what, *_]:
            return {"PURGE": "purge", "INFO": "list-subjects", "MSG": "read-from-leader"}[what]
        case ["$KV", "holdfast_resources", *_]:
            return "write-status"
        case ["$KV", *_]:
            return "write-state"
        case ["hf", "timer", "notify", "fire", *_]:
            return "wake"
        case ["hf", ("timer" | "live" | "stop" | "tasks" | "dlq") as what, *_]:
            return {
                "timer": "set-timer",
                "live": "tell-watchers",
                "stop": "say-stop",
                "tasks": "store-request",
                "dlq": "write-dead-letter",
            }[what]
        case ["hf", _, _, ("msg" | "led" | "ntf" | "thr") as what, *_]:
            names = {"msg": "record-context", "led": "write-ledger", "ntf": "write-notification"}
            return names.get(what, "record-thread")
        case ["hf", _, _, "int", _, _, _, _, what, *_]:
            return _STORED.get(("int", what), "")
        case ["hf", _, _, "evt", _, what, *_]:
            return _STORED.get(("evt", what), "")
        case ["hf", _, _, "cmd", what, *_]:
            return _STORED.get(("cmd", what), "")
        case [inbox, *_] if inbox.startswith("_INBOX"):
            return "reply"
        case _:
            return ""


def _read_step(rest: list[str]) -> str:
    match rest:
        case ["KV_holdfast_resources", *_]:
            return ""
        case [_]:
            return "read-entries"
        case [_, "$KV", *_]:
            return "read-state"
        case _:
            return "read-one"


def handling_of(subject: str, data: bytes) -> str:
    """What a message asks a service to do, as finely as the steps differ."""
    match subject.split("."):
        case ["hf", "tasks", _, verb]:
            return f"{verb}-request"
        case ["hf", "timer", "notify", *_]:
            return "notification"
        case ["hf", "timer", "people", *_]:
            return "people-timer"
        case ["hf", "timer", *_, timer]:
            return f"{timer.partition('-')[0]}-timer"
        case ["hf", _, _, "cmd", "llm", *_]:
            return "model-command"
        case ["hf", _, _, "cmd", "notify", *_]:
            return "notify-command"
        case ["hf", _, _, "cmd", "ask", *_, last]:
            return f"{last}-command" if last in ("withdraw", "look") else "ask-command"
        case ["hf", _, _, "int", *_, "answered"]:
            return "answer"
        case ["hf", _, _, "cmd", "tool", *_]:
            return f"tool-command-{json.loads(data)['tool']}"
        case ["hf", _, _, "evt", _, "llm", *_]:
            return _model_event(json.loads(data))
        case ["hf", _, _, "evt", _, "tool", *_]:
            return "tool-result"
        case ["hf", _, _, "evt", _, "approval", *_]:
            return "approval"
        case ["hf", _, _, "evt", _, what]:
            return what
        case _:
            return "other"


def _model_event(event: dict[str, Any]) -> str:
    if event["type"] != "model.answered.v1":
        return "model-failure"
    return "model-calls" if event["message"].get("toolCalls") else "model-answer"
