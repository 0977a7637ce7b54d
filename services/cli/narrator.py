"""Telling what happens to a task: lines in a pipe, a live view with streamed text on a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TextIO

from schemas.events import (
    CancelRequested,
    MessageSent,
    ModelAnswered,
    ModelFailed,
    TaskSubmitted,
    ToolFinished,
    WindowCompacted,
)
from schemas.live import ToolProgress
from schemas.streamed_text import TextPiece, TextRestarted
from schemas.task import AwaitingModel, AwaitingTools, RetryingModel, State, Waiting
from schemas.task_view import describe_state
from services.cli.follow import BusAway, Happening, StateSeen
from services.cli.history import Recorded
from services.cli.question_words import name_of, outcome_text, passed_text, text_of
from services.cli.questions import QuestionAsked, QuestionClosed, QuestionNews, QuestionPassed
from services.cli.text import one_line, safe, seconds_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

LINE_WIDTH = 160
ARGUMENTS_WIDTH = 100
PEOPLE = "people are asked about"


class Narrator(Protocol):
    """Tells happenings as they come."""

    def tell(self, happening: Happening) -> None:
        """One more happened."""
        ...

    def close(self) -> None:
        """Leave the stream to others: nothing more comes, or somebody is asked there before it goes on."""
        ...


def narrator(stream: TextIO, *, live: bool) -> Narrator:
    """The narrator for a terminal (`live`) or for anything else."""
    return LiveNarrator(stream) if live else LineNarrator(stream)


class LineNarrator:
    """One line for each thing that happened; the model's own text as it is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._detail = ""
        self._away = False

    def tell(self, happening: Happening) -> None:
        """Write its lines."""
        match happening:
            case Recorded():
                lines = said(happening)
            case StateSeen(state=state):
                lines = self._changed(state)
            case QuestionAsked() | QuestionPassed() | QuestionClosed():
                lines = question_lines(happening)
            case BusAway(why=why):
                lines = [] if self._away else [f"the bus does not answer, waiting for it: {one_line(why, LINE_WIDTH)}"]
            case TextPiece() | TextRestarted() | ToolProgress():
                lines = []
        self._away = isinstance(happening, BusAway)
        for line in lines:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is open."""

    def _changed(self, state: State) -> list[str]:
        if isinstance(state, AwaitingModel | AwaitingTools):
            return []  # the lines before and after say it
        view = describe_state(state)
        detail = f"{view.phase}: {one_line(view.status_detail, LINE_WIDTH)}"
        if detail == self._detail:
            return []
        self._detail = detail
        return [detail]


class WaitNarrator:
    """Only what a task waits for and would not come by itself: an agent that is not ready, and people."""

    def __init__(self, stream: TextIO, task: str) -> None:
        self._stream = stream
        self._task = task

    def tell(self, happening: Happening) -> None:
        """Write its lines, if it is such a thing."""
        match happening:
            case StateSeen(state=Waiting(reason=reason)):
                lines = [f"task {self._task} waits: {reason}"]
            case QuestionAsked() | QuestionPassed() | QuestionClosed():
                lines = question_lines(happening)
            case _:
                lines = []
        for line in lines:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing is open."""


class LiveNarrator:
    """Streamed text, tool calls as they come and end, and a line at the bottom with what is being waited for."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console  # noqa: PLC0415 - only for a terminal

        self._console: Console = Console(file=stream, highlight=False, emoji=False)
        self._status: Status | None = None
        self._midline = False

    def tell(self, happening: Happening) -> None:
        """Show it."""
        match happening:
            case TextPiece(text=text):
                self._say(text)
            case TextRestarted():
                self._end_text()
                self._hush()
                self._line("! the model call is made again, and its text starts again", "yellow")
            case ToolProgress(tool=tool, progress=progress, total=total, message=message):
                share = f" {progress:g}{f' of {total:g}' if total else ''}" if progress is not None else ""
                self._wait(f"{tool}{share} {one_line(message, 60)}".rstrip())
            case BusAway(why=why):
                self._end_text()
                self._wait(f"the bus does not answer, waiting for it: {why}")
            case QuestionAsked() | QuestionPassed() | QuestionClosed():
                self._end_text()
                self._hush()
                self._question(happening)
            case Recorded():
                self._hush()
                self._record(happening)
            case StateSeen(state=state):
                self._state(state)

    def close(self) -> None:
        """Leave the terminal as it was, without a line that changes."""
        self._end_text()
        self._hush()

    def _question(self, news: QuestionNews) -> None:
        head, *lines = question_lines(news)
        self._line(f"? {head}", "bold yellow" if isinstance(news, QuestionAsked) else "yellow")
        for line in lines:
            self._line(line, "")
        if isinstance(news, QuestionAsked):
            self._wait(f"waiting for an answer to {name_of(news.asked)}")

    def _record(self, record: Recorded) -> None:
        match record.fact:
            case ModelAnswered(message=message) as answer:
                self._end_text()
                for line in misfit(answer):
                    self._line(f"! {line}", "yellow")
                for call in message.tool_calls:
                    arguments = one_line(call.arguments, ARGUMENTS_WIDTH)
                    self._line(f"→ {call.name} {arguments}", "cyan")
            case ToolFinished() as result:
                self._end_text()
                good = result.outcome == "succeeded"
                self._line(f"{'✓' if good else '✗'} {_result(result)}", "green" if good else "red")
            case ModelFailed() | WindowCompacted():
                self._end_text()
                for line in said(record):
                    self._line(f"! {line}", "yellow")
            case CancelRequested() | MessageSent():
                for line in said(record):
                    self._line(line, "yellow")
            case _:
                pass

    def _state(self, state: State) -> None:
        view = describe_state(state)
        match state:
            case AwaitingModel(turn=turn):
                self._wait(f"waiting for the model, turn {turn}")
            case AwaitingTools(calls=calls):
                asked = [call.tool for call in calls if call.gate is not None and not call.approved_seq]
                running = [call.tool for call in calls if call.gate is None or call.approved_seq]
                parts = [
                    f"{what} {', '.join(tools)}" for what, tools in (("running", running), (PEOPLE, asked)) if tools
                ]
                self._wait("; ".join(parts))
            case Waiting() | RetryingModel():
                self._wait(view.status_detail)
            case _:
                self._hush()

    def _say(self, text: str) -> None:
        if text:
            self._hush()
            self._console.print(safe(text), end="", markup=False, soft_wrap=True)
            self._midline = True

    def _end_text(self) -> None:
        if self._midline:
            self._console.print()
            self._midline = False

    def _line(self, text: str, style: str) -> None:
        self._console.print(text, style=style, markup=False, soft_wrap=True)

    def _wait(self, text: str) -> None:
        if self._midline:
            return
        if self._status is None:
            self._status = self._console.status("")
            self._status.start()
        from rich.text import Text  # noqa: PLC0415 - only for a terminal

        self._status.update(Text(one_line(text, LINE_WIDTH), style="dim"))

    def _hush(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def said(record: Recorded) -> list[str]:
    """A recorded fact as lines; nothing for what the change of the state says as well."""
    match record.fact:
        case TaskSubmitted(task=task, spec=spec):
            return [f"task {task} for agent {spec.agent}"]
        case ModelAnswered(message=message) as answer:
            lines = safe(message.content).splitlines()
            return [
                *lines,
                *(f"call {call.name} {one_line(call.arguments, ARGUMENTS_WIDTH)}" for call in message.tool_calls),
                *misfit(answer),
            ]
        case ModelFailed(failure="throttled", error=error):
            return [f"the model call waits for a limit: {one_line(error, LINE_WIDTH)}"]
        case WindowCompacted(policy=policy, tokens_before=before, tokens_after=after):
            return [f"the conversation was made shorter by {policy}: about {before} tokens became {after}"]
        case ModelFailed(error=error, status=status, attempt=attempt):
            code = f" with status {status}" if status is not None else ""
            return [f"model call failed{code}, attempt {attempt}: {one_line(error, LINE_WIDTH)}"]
        case ToolFinished() as result:
            return [f"result {_result(result)}"]
        case MessageSent(content=content, by=by):
            return [f"{one_line(by) or 'somebody'} says: {one_line(content, LINE_WIDTH)}"]
        case CancelRequested(by=by, reason=reason):
            return [f"cancel requested{f' by {by}' if by else ''}{f': {one_line(reason)}' if reason else ''}"]
        case _:
            return []


def question_lines(news: QuestionNews) -> list[str]:
    """What people are asked, or what became of it, as lines."""
    whose = f"child {news.asked.task}: " if news.child else ""
    now = datetime.now(UTC)
    match news:
        case QuestionAsked(asked=asked, step=step):
            return [f"{whose}people are asked:", *(f"  {line}" for line in text_of(asked, now, step).split("\n"))]
        case QuestionPassed(asked=asked, step=step):
            return [f"{whose}{passed_text(asked, step, now)}"]
        case QuestionClosed(asked=asked, answered=answered):
            return [f"{whose}{outcome_text(asked, answered)}"]


def misfit(answer: ModelAnswered) -> list[str]:
    """That an answer does not fit the response format, and why, if it does not."""
    why = one_line(answer.invalid, LINE_WIDTH)
    return [f"the answer does not fit the response format: {why}"] if why else []


def _result(result: ToolFinished) -> str:
    took = f" in {seconds_text(result.latency_s)}" if result.latency_s else ""
    return one_line(f"{result.tool} {result.outcome}{took}: {result.content}", LINE_WIDTH)
