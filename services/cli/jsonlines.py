"""Telling what happens to a task as JSON, an object a line, for programs that watch the command line's output."""

from __future__ import annotations

import json
from typing import Any, TextIO, assert_never

import msgspec

from schemas.live import ToolProgress
from schemas.streamed_text import TextPiece, TextRestarted
from schemas.task_view import describe_state
from services.cli.follow import BusAway, Happening, StateSeen
from services.cli.history import Recorded
from services.cli.question_words import commands_of
from services.cli.questions import QuestionAsked, QuestionClosed, QuestionPassed


class JSONNarrator:
    """One object for each thing that happened; `event` says what. All of it is ASCII, so no terminal obeys it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def tell(self, happening: Happening) -> None:
        """Write its line."""
        self._stream.write(json.dumps(object_of(happening)) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is open."""


def object_of(happening: Happening) -> dict[str, Any]:
    """What happened, as plain data."""
    match happening:
        case Recorded(seq=seq, at=at, subject=subject, fact=fact):
            return {"event": "recorded", **_plain({"seq": seq, "at": at, "subject": subject, "fact": fact})}
        case StateSeen(state=state, revision=revision):
            view = describe_state(state)
            seen = {"phase": view.phase, "status": view.status, "detail": view.status_detail}
            return {"event": "state", **seen, "revision": revision}
        case TextPiece(turn=turn, attempt=attempt, text=text):
            return {"event": "text", "turn": turn, "attempt": attempt, "text": text}
        case TextRestarted(turn=turn, attempt=attempt):
            return {"event": "textRestarted", "turn": turn, "attempt": attempt}
        case ToolProgress():
            return {"event": "progress", **_plain(happening)}
        case BusAway(why=why):
            return {"event": "busAway", "why": why}
        case QuestionAsked(asked=asked, step=step, child=child):
            told = {"child": child, "question": asked, "step": step, "commands": commands_of(asked)}
            return {"event": "asked", **_plain(told)}
        case QuestionPassed(asked=asked, step=step, child=child):
            return {"event": "passed", **_plain({"child": child, "question": asked, "step": step})}
        case QuestionClosed(asked=asked, answered=answered, child=child):
            return {"event": "closed", **_plain({"child": child, "question": asked, "answer": answered})}
        case _:
            assert_never(happening)


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    plain.pop("type", None)
    return plain
