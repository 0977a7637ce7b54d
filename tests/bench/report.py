"""The numbers, as a table for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

REQUIRED = (
    "turn_ms_p50",
    "turn_ms_p99",
    "transitions_per_s",
    "floor_transitions_per_s",
    "recovery_s_p50",
    "recovery_s_p99",
    "storage_amplification",
    "stored_messages_per_turn",
    "first_text_ms_p50",
    "first_text_over_hop",
    "per_turn_ms_at_200_over_at_10",
    "rss_mb_idle",
    "sync",
    "commit",
)
"""What every report says, whatever else it says."""


class Row(NamedTuple):
    """A line of the table."""

    what: str
    value: float
    unit: str = ""
    most: float | None = None
    """The goal: not more."""
    least: float | None = None
    """The goal: not less."""

    @property
    def goal(self) -> str:
        """The goal in words, and whether it was reached."""
        if self.most is not None:
            return f"<= {self.most:g}  {'reached' if self.value <= self.most else 'MISSED'}"
        if self.least is not None:
            return f">= {self.least:g}  {'reached' if self.value >= self.least else 'MISSED'}"
        return ""


def rows(found: Mapping[str, Any]) -> list[Row]:
    """What people want to read first, first."""
    floor = found["floor_transitions_per_s"]
    rss = found["rss_mb_idle"]
    recovery = found["recovery_s_by_service"]
    return [
        Row("turn of a lone task, p50", found["turn_ms_p50"], "ms", most=8),
        Row("turn of a lone task, p99", found["turn_ms_p99"], "ms"),
        Row("  the floor's turn", found["floor_turn_ms_p50"], "ms"),
        Row("  the tool call alone (MCP, stdio), p50", found["mcp_call_ms_p50"], "ms"),
        Row(f"transitions a second, {found['tasks_at_once']} tasks", found["transitions_per_s"], "/s"),
        Row("  the floor's", floor, "/s"),
        Row("  of the floor's", found["transitions_over_floor"], "", least=0.4),
        *(Row(f"  processor time a turn, {name}", value, "ms") for name, value in found["cpu_ms_per_turn"].items()),
        Row("  tool calls alone (MCP, stdio)", found["mcp_calls_per_s"], "/s"),
        Row("first text of a model, provider to watcher, p50", found["first_text_ms_p50"], "ms", most=5),
        Row("  p99", found["first_text_ms_p99"], "ms"),
        Row("  a bare hop over the server, p50", found["hop_ms_p50"], "ms"),
        Row("  of a bare hop", found["first_text_over_hop"]),
        Row("stored messages a turn", found["stored_messages_per_turn"], "", most=6),
        Row("recovery after kill -9, p50", found["recovery_s_p50"], "s"),
        Row("recovery after kill -9, p99", found["recovery_s_p99"], "s", most=2),
        *(Row(f"  of the {service}, p99", times["p99"], "s", most=2) for service, times in recovery.items()),
        Row(
            f"stored bytes / content, {found['long_turns']} turns of 5 KB", found["storage_amplification"], "", most=1.5
        ),
        Row("  with every replaced state", found["written_amplification"]),
        Row("time of a turn, at 200 / at 10", found["per_turn_ms_at_200_over_at_10"]),
        Row("idle planner", rss["planner"], "MB", most=60),
        Row("idle tool-executor, one MCP server", rss["tool-executor"], "MB", most=90),
        Row("idle llm-gateway, both SDKs", rss["llm-gateway"], "MB", most=120),
        Row(f"consumers added by {found['parked_tasks']} parked tasks", found["parked_consumers_added"], "", most=0),
        *(Row(f"  memory added, {name}", value, "MB") for name, value in found["parked_rss_mb_added"].items()),
    ]


def table(found: Mapping[str, Any]) -> str:
    """The rows in columns, and where they come from."""
    host = found["machine"]
    head = (
        f"{host['cpus']} processors, {host['memory_gb']} GB, Python {host['python']}, load {host['load_before']}"
        f" before and {host['load_after']} after,"
        f" fsync {host['fsync_ms_p50']} ms; sync {found['sync']}, commit form {found['commit']}"
    )
    return f"{head}\n\n{columns(rows(found))}"


def columns(lines: Sequence[Row]) -> str:
    """Rows in columns."""
    width = max(len(row.what) for row in lines)
    return "\n".join(f"{row.what:<{width}}  {row.value:>9.4g} {row.unit:<3} {row.goal}".rstrip() for row in lines)


def write(found: Mapping[str, Any], path: Path, required: Sequence[str] = ()) -> None:
    """The JSON file; raises `KeyError` if something that must be said is missing."""
    missing = [name for name in required if name not in found]
    if missing:
        raise KeyError(f"the report lacks {', '.join(missing)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
