"""The page `tools`: tool calls and their effects."""

from __future__ import annotations

from deploy.observability.panels import (
    OF_OURS,
    PER_MINUTE,
    Dashboard,
    Panel,
    Query,
    Row,
    busy,
    calm,
    grown,
    quantile,
    quantiles,
    rate,
    share,
    total,
)

CALLS = "holdfast_tool_call_seconds_count"

TOOLS = Dashboard(
    "tools",
    "Tools",
    "Tool calls: how many, how long, how they end, and what happened to those whose replica died.",
    (
        Row(
            "Calls",
            (
                Panel(
                    "Calls a minute",
                    "By outcome. `rejected`: people said no; `unknown`: nobody can say whether it took effect.",
                    (Query(busy(rate(CALLS, "outcome", per=PER_MINUTE)), "{{outcome}}"),),
                    unit="opm",
                    stacked=True,
                ),
                Panel(
                    "Time of a call",
                    "Of all outcomes.",
                    (
                        *quantiles("holdfast_tool_call_seconds"),
                        Query(quantile(0.99, "holdfast_tool_call_seconds"), "p99"),
                    ),
                    unit="s",
                ),
                Panel(
                    "Calls that fail",
                    "The share that failed or took too long. Models often mend their own mistakes: some are normal.",
                    (
                        Query(
                            share(rate(f'{CALLS}{{outcome=~"failed|timed_out|unknown"}}'), rate(CALLS)),
                            "failed",
                        ),
                    ),
                    unit="percentunit",
                    alarm_above=0.3,
                ),
            ),
        ),
        Row(
            "Effects",
            (
                calm(
                    "Unknown outcomes",
                    "Calls in the time shown of which nobody can say whether they took effect.",
                    Query(grown('holdfast_tool_takeovers_total{decision="unknown"}')),
                ),
                Panel(
                    "Takeovers",
                    "Calls that a replica had begun which then was lost. `retried`: their tool may be called again.",
                    (Query(rate("holdfast_tool_takeovers_total", "decision", per=PER_MINUTE), "{{decision}}"),),
                    unit="opm",
                    width=10,
                    quiet=True,
                ),
                Panel(
                    "MCP servers connected",
                    "By process. All replicas should have the same.",
                    (Query(f"holdfast_mcp_servers_connected {OF_OURS}", "{{service}} {{job}} {{instance}}"),),
                    width=10,
                ),
            ),
        ),
        Row(
            "The executors",
            (
                Panel(
                    "Backlog",
                    "Calls that no executor has taken yet.",
                    (Query(total('holdfast_consumer_pending{consumer="tool-executor"}', "partition"), "calls"),),
                    quiet=True,
                ),
                Panel(
                    "In hand",
                    "Calls that are under way, or wait until their server has room.",
                    (Query(total('holdfast_consumer_ack_pending{consumer="tool-executor"}', "partition"), "calls"),),
                    quiet=True,
                ),
                Panel(
                    "Taken more than once",
                    "Calls that were handed back or whose replica was lost.",
                    (
                        Query(
                            rate('holdfast_messages_delivered_total{consumer="tool-executor", redelivered="true"}'),
                            "redelivered",
                        ),
                    ),
                    unit="ops",
                    quiet=True,
                ),
            ),
        ),
    ),
)
