"""Log lines: one JSON object each, with the ids at hand."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from services.runtime.telemetry.logs import JsonFormatter, TextFormatter, configure_logs, log_ids

NAME = "services.runtime.test"


def record(message: str, *args: object, error: BaseException | None = None, **extra: object) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord(NAME, logging.INFO, __file__, 1, message, args, exc_info)
    vars(made).update(extra)
    return made


def line(made: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter("planner", "r1").format(made)
    assert "\n" not in text
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_a_line_says_who_when_and_what() -> None:
    made = record("%d tasks", 3, action="task.step", size=12)
    parsed = line(made)
    assert datetime.fromisoformat(parsed.pop("ts")).tzinfo == UTC
    assert parsed == {
        "level": "INFO",
        "service": "planner",
        "replica": "r1",
        "logger": NAME,
        "msg": "3 tasks",
        "action": "task.step",
        "size": 12,
    }


def test_the_ids_at_hand_are_on_every_line_inside_and_on_none_outside() -> None:
    with log_ids(namespace="default", task="t1"):
        with log_ids(toolcall="t1-r1-tc-01"):
            inner = line(record("x"))
        outer = line(record("x"))
    after = line(record("x"))
    assert (inner["namespace"], inner["task"], inner["toolcall"]) == ("default", "t1", "t1-r1-tc-01")
    assert outer["task"] == "t1"
    assert "toolcall" not in outer
    assert "task" not in after


def test_an_error_comes_with_its_traceback() -> None:
    with pytest.raises(ValueError, match="what happened") as raised:
        int("what happened")
    parsed = line(record("it failed", error=raised.value))
    assert "ValueError: invalid literal for int() with base 10: 'what happened'" in parsed["error"]
    assert "test_logs.py" in parsed["error"]


def test_whatever_is_given_as_extra_can_be_written() -> None:
    parsed = line(record("x", what=object(), newline="a\nb", at=datetime(2030, 1, 1, tzinfo=UTC)))
    assert parsed["what"].startswith("<object object")
    assert parsed["newline"] == "a\nb"
    assert parsed["at"] == "2030-01-01T00:00:00Z"


def test_what_a_stranger_wrote_begins_no_line_for_machines() -> None:
    said = "x\n{}\r\x0b\x0c\x1c\x85\u2028\u2029\x1b[2J"
    text = JsonFormatter("planner", "r").format(record(said))
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    assert json.loads(text)["msg"] == said


def test_a_line_for_people_ends_with_the_ids() -> None:
    with log_ids(task="t1", trace="0af7"):
        text = TextFormatter("planner").format(record("hello"))
    assert "planner" in text
    assert text.endswith("hello  [task=t1]")


def test_what_a_stranger_wrote_begins_no_line_for_people() -> None:
    text = TextFormatter("planner").format(record("mail of %s", "eve\n10:00:00 INFO    planner  all is well\x1b[2J"))
    assert text.endswith(r"mail of eve\n10:00:00 INFO    planner  all is well\x1b[2J")
    failed = TextFormatter("planner").format(record("failed", error=ValueError("x")))
    assert failed.splitlines()[-1] == "ValueError: x"


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("services", "nats", "httpx", "asyncio", "mcp")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


@pytest.mark.usefixtures("logging_as_before")
def test_logs_go_to_standard_error_from_the_level_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("planner", "r1", level="WARNING", form="json")
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is sys.stderr  # pyright: ignore[reportUnknownMemberType]  # generic without a parameter
    logging.getLogger(NAME).info("not said")
    logging.getLogger(NAME).warning("said")
    logging.getLogger("httpx").info("GET https://api.example.com/?key=...")
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(text)["msg"] for text in lines] == ["said"]


@pytest.mark.usefixtures("logging_as_before")
def test_everything_is_asked_for_of_ours_only(capsys: pytest.CaptureFixture[str]) -> None:
    """At DEBUG, clients of HTTP log all headers, and keys are in them."""
    configure_logs("planner", "r1", level="DEBUG", form="json")
    logging.getLogger(NAME).debug("said")
    for library in ("httpcore2.http11", "openai._base_client", "anthropic", "mcp.client", "whatever.comes.next"):
        logging.getLogger(library).debug("Authorization: Bearer ...")
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(text)["msg"] for text in lines] == ["said"]
