"""Tool names: how a server's tool is called in front of a model, and mapped back exactly.

`server__tool` where providers accept that: letters, digits, `_` and `-`, 64 characters at most. Any other name is
cleaned and ends in a digest of the exact one. The table is built from the agent's servers in the same way by whoever
offers tools and by whoever runs them, so a name never has to be taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from schemas.ids import digest
from schemas.resources import ToolInfo

NAME_LENGTH_MAX = 64
DIGEST_LENGTH = 8
SEPARATOR = "__"

_INVALID = re.compile(r"[^A-Za-z0-9_-]")


class OfferedTool(NamedTuple):
    """A tool as an agent's model sees it, and where it comes from."""

    name: str
    server: str
    info: ToolInfo


def offered_name(server: str, tool: str) -> str:
    """The name of a server's tool in front of a model."""
    exact = f"{server}{SEPARATOR}{tool}"
    cleaned = _INVALID.sub("_", exact)
    if cleaned == exact and len(exact) <= NAME_LENGTH_MAX:
        return exact
    return f"{cleaned[: NAME_LENGTH_MAX - DIGEST_LENGTH - 1]}_{digest(server, tool)[:DIGEST_LENGTH]}"


def tool_table(servers: Iterable[tuple[str, Iterable[ToolInfo]]]) -> Mapping[str, OfferedTool]:
    """All tools of `servers` by offered name, sorted by name.

    Two tools whose plain names coincide (server `a__b` with `c`, and `a` with `b__c`) both get a digest.
    """
    found: dict[str, list[tuple[str, ToolInfo]]] = {}
    for server, tools in servers:
        for info in tools:
            found.setdefault(offered_name(server, info.name), []).append((server, info))
    table: list[OfferedTool] = []
    for name, candidates in found.items():
        if len(candidates) == 1:
            table.append(OfferedTool(name, *candidates[0]))
            continue
        for server, info in candidates:
            stem = name[: NAME_LENGTH_MAX - DIGEST_LENGTH - 1]
            table.append(OfferedTool(f"{stem}_{digest(server, info.name)[:DIGEST_LENGTH]}", server, info))
    return {tool.name: tool for tool in sorted(table)}
