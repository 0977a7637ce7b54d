"""Lists of tools as foreign servers give them: what is broken in one tool stays in that tool.

The SDK refuses a whole list for one tool that is not as the protocol has it, and a provider refuses a whole request for
one schema that is none. So a tool with a broken schema is offered with an open one, and its description says what
its server declared; a tool that is broken beyond that is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import msgspec
from mcp.client import Client
from mcp_types import methods
from pydantic import ValidationError

from schemas.resources import ToolInfo
from services.runtime.json_schema import flaw_of

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

OPEN: dict[str, Any] = {"type": "object"}
SHOWN_LENGTH_MAX = 2_000
FLAWS_KEPT = 2_048
_METHOD = "tools/list"


def take_lists_apart(client: Client, name: str) -> None:
    """Have the SDK judge the tools of a list one by one."""
    session = client.session
    dispatcher: Any = vars(session)["_dispatcher"]
    send: Callable[..., Any] = dispatcher.send_raw_request

    async def send_and_mend(method: str, *arguments: Any) -> Any:
        raw = await send(method, *arguments)
        if method == _METHOD and isinstance(raw, dict):
            return _mended(cast("dict[str, Any]", raw), session.protocol_version or "2025-11-25", name)
        return raw

    vars(dispatcher)["send_raw_request"] = send_and_mend


def offered(tool: ToolInfo) -> tuple[ToolInfo, str]:
    """A tool as models may be told of it, and what is wrong with its schema, if anything is."""
    declared = msgspec.json.encode(tool.input_schema)
    wrong = _flaw(declared)
    if not wrong:
        return tool, ""
    words = declared.decode()[:SHOWN_LENGTH_MAX]
    description = f"{tool.description}\nThe arguments, as its server declares them: {words}".strip()
    return msgspec.structs.replace(tool, description=description, input_schema=OPEN), wrong


@lru_cache(maxsize=FLAWS_KEPT)
def _flaw(schema: bytes) -> str:
    """What is wrong with a schema. It takes some milliseconds, and servers list the same again and again."""
    return flaw_of(msgspec.json.decode(schema))


def _mended(raw: dict[str, Any], version: str, name: str) -> dict[str, Any]:
    if _is_valid(raw, version) or not isinstance(raw.get("tools"), list):
        return raw
    kept: list[Any] = []
    for tool in raw["tools"]:
        form = next((form for form in _forms(tool) if _is_valid({**raw, "tools": [form]}, version)), None)
        if form is not None:
            kept.append(form)
        else:
            logger.warning("%s: a tool is left out: it is no tool", name, extra={"action": "mcp.schema"})
    return {**raw, "tools": kept}


def _forms(tool: Any) -> list[dict[str, Any]]:
    """A tool, and what may be left of it."""
    if not isinstance(tool, dict):
        return []
    given = cast("dict[str, Any]", tool)
    plain = {key: value for key, value in given.items() if key in ("name", "description", "inputSchema")}
    declared = msgspec.json.encode(given.get("inputSchema")).decode()[:SHOWN_LENGTH_MAX]
    text = f"{given.get('description') or ''}\nThe arguments, as its server declares them: {declared}".strip()
    return [given, plain, {**plain, "description": text, "inputSchema": OPEN}]


def _is_valid(raw: Mapping[str, Any], version: str) -> bool:
    try:
        methods.validate_server_result(_METHOD, version, raw)
    except KeyError:
        return True
    except ValidationError:
        return False
    return True
