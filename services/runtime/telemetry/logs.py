"""Logs: one JSON object a line, with the ids of the task at hand and the closed list of actions in `action`.

Never prompts, tool arguments or secrets above DEBUG: sizes and digests instead.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from typing import Literal

import msgspec

_ids: ContextVar[dict[str, str]] = ContextVar("holdfast_log_ids", default={})  # noqa: B039 - never mutated
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class log_ids:  # noqa: N801 - used like the function it was: a class takes half the time of a generator
    """Puts ids (`namespace`, `task`, `toolcall`, `trace`) on every line that is logged inside."""

    __slots__ = ("_ids", "_token")

    def __init__(self, **ids: str) -> None:
        self._ids = ids
        self._token: Token[dict[str, str]] | None = None

    def __enter__(self) -> None:
        self._token = _ids.set(_ids.get() | self._ids)

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _ids.reset(self._token)


def ids_at_hand() -> Mapping[str, str]:
    """The ids that every line has now."""
    return _ids.get()


def extras_of(record: logging.LogRecord) -> dict[str, object]:
    """What a line says beside its text."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


_ENDS_OF_LINES = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
"""What JSON allows in a string, and some readers of logs take for the end of a line."""


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def __init__(self, service: str, replica: str) -> None:
        super().__init__()
        self._fixed = {"service": service, "replica": replica}
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            **self._fixed,
            "logger": record.name,
            "msg": record.getMessage(),
            **_ids.get(),
        }
        line.update(extras_of(record))
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = "".join(traceback.format_exception(record.exc_info[1]))
        return self._encoder.encode(line).decode().translate(_ENDS_OF_LINES)


class TextFormatter(logging.Formatter):
    """A record for people."""

    def __init__(self, service: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {service:<13} %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's
        """The message as one line: what a stranger wrote in it begins no other, and moves no cursor."""
        record.message = "".join(one if one.isprintable() else repr(one)[1:-1] for one in record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """The line, with the ids at hand behind it."""
        line = super().format(record)
        ids = " ".join(f"{key}={value}" for key, value in _ids.get().items() if key != "trace")
        return f"{line}  [{ids}]" if ids else line


def configure_logs(service: str, replica: str, *, level: str, form: Literal["json", "text"]) -> None:
    """Send all logs of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service, replica) if form == "json" else TextFormatter(service))
    # Libraries log requests and answers with all their headers where they are asked for everything.
    logging.basicConfig(level="INFO" if level == "DEBUG" else level, handlers=[handler], force=True)
    logging.getLogger("services").setLevel(level)
    _leave_out_what_no_line_says()
    for noisy in ("nats", "httpx", "httpx2", "openai", "anthropic", "mcp", "asyncio", "urllib3"):
        logging.getLogger(noisy).setLevel("WARNING" if level != "DEBUG" else "INFO")


def _leave_out_what_no_line_says() -> None:
    """Thread, process, task and place in the code: finding them takes longer than writing the line."""
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 - the library's own documentation says to
