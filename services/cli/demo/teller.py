"""The demo on the screen: the conversation as it comes, and what is done to the processes meanwhile."""

from __future__ import annotations

import sys
from textwrap import wrap
from typing import TextIO

from schemas.events import ModelAnswered, ModelFailed, TaskSubmitted, ToolFinished
from schemas.streamed_text import TextPiece, TextRestarted
from services.cli.follow import BusAway, Happening
from services.cli.history import Recorded
from services.cli.text import one_line, safe, seconds_text

WIDTH = 105
ARGUMENTS_WIDTH = 70
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Teller:
    """Writes lines; on a terminal with colours, and the model's text as it comes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._midline = False

    def heading(self, text: str) -> None:
        """Begin a part."""
        self.line("")
        self.line(self.styled(text, "bold"))

    def line(self, text: str) -> None:
        """A line of its own."""
        self._stream.write(f"\n{text}\n" if self._midline else f"{text}\n")
        self._midline = False
        self._stream.flush()

    def act(self, text: str) -> None:
        """Something that is done to the system."""
        self.line(self.styled(f"  !! {text}", "red", "bold"))

    def explain(self, text: str) -> None:
        """Why something is as it is."""
        self.line(self.styled(f"     {text}", "yellow"))

    def check(self, good: bool, text: str) -> None:
        """The result of a check."""
        self.line(f"  {self.styled('ok  ', 'green') if good else self.styled('FAIL', 'red', 'bold')} {text}")

    def tell(self, happening: Happening) -> None:
        """What happened to the task."""
        match happening:
            case TextPiece(text=text) if self._live:
                self._say(text)
            case TextRestarted() if self._live:
                self.explain("the model call is made again, and its text starts again")
            case BusAway():
                self.explain("the bus does not answer; waiting for it")
            case Recorded():
                self._record(happening)
            case _:
                pass

    def _record(self, record: Recorded) -> None:
        match record.fact:
            case TaskSubmitted(spec=spec):
                for n, text in enumerate(wrap(spec.user_message or "", WIDTH)):
                    self.line(f"  {'' if n else 'you':<8} {text}")
            case ModelAnswered(message=message):
                self._answer(message.content)
                for call in message.tool_calls:
                    arguments = one_line(call.arguments, ARGUMENTS_WIDTH)
                    self.line(self.styled(f"  calls    {call.name} {arguments}", "cyan"))
            case ModelFailed(error=error):
                self.line(self.styled(f"  model    failed: {one_line(error, WIDTH)}", "yellow"))
            case ToolFinished() as result:
                good = result.outcome == "succeeded"
                took = f" in {seconds_text(result.latency_s)}" if good else ""
                text = one_line(f"{result.tool} {result.outcome}{took}: {result.content}", WIDTH)
                self.line(self.styled(f"  result   {text}", "green" if good else "yellow"))
            case _:
                pass

    def _answer(self, content: str) -> None:
        """The end of what was streamed, or all of it where nothing is streamed."""
        if not self._live:
            self._say(content)
        if self._midline:
            self._stream.write("\n")
            self._midline = False

    def _say(self, text: str) -> None:
        if text and not self._midline:
            self._stream.write("  model    ")
            self._midline = True
        self._stream.write(safe(text).replace("\n", "\n           "))
        self._stream.flush()

    def styled(self, text: str, *styles: str) -> str:
        """A text in colours, on a terminal."""
        if not self._live:
            return text
        return f"\x1b[{';'.join(_STYLES[style] for style in styles)}m{text}\x1b[0m"
