"""The kinds that can be read, what people call them, and their columns."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from services.cli.exits import ExitCode, Stop


class Column(NamedTuple):
    """A column of a kind's table; a wide one is shown with `-o wide` only."""

    header: str
    wide: bool = False


class KindInfo(NamedTuple):
    """A kind, the service that says how its resources are, and its columns after the name."""

    kind: str
    names: tuple[str, ...]
    owner: str
    columns: tuple[Column, ...]


KINDS: tuple[KindInfo, ...] = (
    KindInfo(
        "LLM",
        ("llm", "llms"),
        "llm-gateway",
        (
            Column("PROVIDER"),
            Column("MODEL", wide=True),
            Column("READY"),
            Column("STATUS"),
            Column("DETAIL", wide=True),
        ),
    ),
    KindInfo(
        "MCPServer",
        ("mcpserver", "mcpservers", "mcp"),
        "tool-executor",
        (
            Column("CONNECTED"),
            Column("STATUS"),
            Column("TOOLS"),
            Column("TRANSPORT", wide=True),
            Column("DETAIL", wide=True),
        ),
    ),
    KindInfo(
        "Toolset",
        ("toolset", "toolsets"),
        "tool-executor",
        (Column("READY"), Column("STATUS"), Column("TYPE"), Column("TOOLS"), Column("DETAIL", wide=True)),
    ),
    KindInfo(
        "Quota",
        ("quota", "quotas"),
        "",
        (
            Column("REQUESTS/MIN"),
            Column("TOKENS/MIN"),
            Column("TOKENS/DAY"),
            Column("COST/DAY"),
            Column("WHEN-SPENT", wide=True),
            Column("WEIGHT", wide=True),
        ),
    ),
    KindInfo(
        "Grant",
        ("grant", "grants"),
        "",
        (
            Column("AGENT"),
            Column("TOOL"),
            Column("ARGUMENTS"),
            Column("BY"),
            Column("VIA", wide=True),
            Column("TASK", wide=True),
        ),
    ),
    KindInfo(
        "ContactChannel",
        ("contactchannel", "contactchannels", "channel", "channels"),
        "human-contact",
        (Column("TYPE"), Column("READY"), Column("STATUS"), Column("DETAIL", wide=True)),
    ),
    KindInfo(
        "Subscription",
        ("subscription", "subscriptions", "sub", "subs"),
        "notifier",
        (
            Column("SINK"),
            Column("EVENTS", wide=True),
            Column("READY"),
            Column("STATUS"),
            Column("DETAIL", wide=True),
        ),
    ),
    KindInfo(
        "Agent",
        ("agent", "agents"),
        "planner",
        (Column("READY"), Column("STATUS"), Column("LLM", wide=True), Column("DETAIL", wide=True)),
    ),
    KindInfo(
        "Task",
        ("task", "tasks"),
        "planner",
        (
            Column("AGENT"),
            Column("READY"),
            Column("STATUS"),
            Column("DETAIL", wide=True),
            Column("PHASE"),
            Column("PREVIEW"),
            Column("OUTPUT"),
            Column("ERROR", wide=True),
            Column("THREAD", wide=True),
            Column("STARTED", wide=True),
            Column("COMPLETED", wide=True),
            Column("AGE"),
        ),
    ),
    KindInfo(
        "ToolCall",
        ("toolcall", "toolcalls", "tc"),
        "tool-executor",
        (
            Column("PHASE"),
            Column("TASK"),
            Column("TOOL"),
            Column("ARGUMENTS", wide=True),
            Column("STARTED", wide=True),
            Column("COMPLETED", wide=True),
            Column("ERROR", wide=True),
            Column("AGE"),
        ),
    ),
)
ALL = ("Quota", "LLM", "MCPServer", "Toolset", "ContactChannel", "Subscription", "Agent", "Grant", "Task")
"""What `get all` shows: not tool calls, of which there are many."""
_BY_NAME = {name: info for info in KINDS for name in (*info.names, info.kind)}


def kind_named(name: str) -> KindInfo:
    """The kind that somebody calls `name`; the command ends when there is none."""
    if info := _BY_NAME.get(name) or _BY_NAME.get(name.lower()):
        return info
    near = difflib.get_close_matches(name.lower(), _BY_NAME, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(info.names[0] for info in KINDS)} and all"
    raise Stop(f"there is no kind {name!r}; {hint}", ExitCode.USAGE)


def kinds_named(text: str) -> list[KindInfo]:
    """The kinds in a list like `agents,llms`; `all` is the declared ones and the tasks."""
    if text == "all":
        return [_BY_NAME[kind] for kind in ALL]
    return [kind_named(part) for part in text.split(",") if part]
