"""Whether a final answer is what the response format asks for, and if not, in words that the model can act on.

The recorded answer is what the model wrote. One fence of Markdown around the JSON is looked through, because models
like to put it there; whoever reads the answer may find it.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec

from schemas.messages import AssistantMessage
from schemas.requests import ResponseFormat

STEPS_MAX = 50_000
"""Keywords that the check of one answer may look at: a quarter of a second."""
PROBLEM_LENGTH_MAX = 4_000

_FENCED = re.compile(r"```[A-Za-z]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


def flaw_of(response_format: ResponseFormat) -> str:
    """Why no answer can be checked against the format; empty if one can."""
    return _flaw_of(msgspec.json.encode(response_format.schema))


def problem_of(message: AssistantMessage, response_format: ResponseFormat | None) -> str:
    """What is wrong with an answer; empty if nothing is, or if it is not a final one."""
    if response_format is None or message.tool_calls or not message.content.strip():
        return ""
    return _problem(message.content.strip(), response_format)[:PROBLEM_LENGTH_MAX]


def _problem(content: str, response_format: ResponseFormat) -> str:
    from services.runtime.json_schema import Unusable, problems  # noqa: PLC0415 - some MB that few tasks need

    fenced = _FENCED.fullmatch(content)
    try:
        value: Any = msgspec.json.decode(fenced[1] if fenced else content)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        return f"It is not valid JSON ({error}). It must be JSON and nothing else, without words around it."
    try:
        found = problems(response_format.schema, value, steps_max=STEPS_MAX)
    except Unusable as error:
        return f"It cannot be checked against the schema: {error}. A shorter or simpler answer may be."
    return "It does not fit the schema:\n" + "\n".join(found) if found else ""


@functools.lru_cache(maxsize=64)
def _flaw_of(schema: bytes) -> str:
    from services.runtime.json_schema import flaw_of  # noqa: PLC0415 - some MB that few tasks need

    return flaw_of(msgspec.json.decode(schema))
