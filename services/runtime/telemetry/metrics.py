"""The metrics: every name, with a sentence each. Labels are closed sets; an id is never a label."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

Handled = Literal["done", "retried", "failed", "dead"]


class Metrics:
    """All metrics of one process, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        r = self.registry
        self.build = Gauge(
            "holdfast_build_info", "Version of this process; always 1.", ["service", "version"], registry=r
        )
        self.delivered = Counter(
            "holdfast_messages_delivered_total",
            "Messages taken from a consumer.",
            ["consumer", "redelivered"],
            registry=r,
        )
        self.handled = Counter(
            "holdfast_messages_handled_total", "Messages settled, by how.", ["consumer", "outcome"], registry=r
        )
        self.transitions = Counter(
            "holdfast_task_transitions_total", "Committed transitions, by the phase they led to.", ["phase"], registry=r
        )
        self.conflicts = Counter(
            "holdfast_task_conflicts_total", "Commits that lost a race and were decided again.", registry=r
        )
        self.ignored = Counter(
            "holdfast_task_events_ignored_total",
            "Late or duplicate events, which changed nothing.",
            ["event"],
            registry=r,
        )
        self.commit_seconds = Histogram(
            "holdfast_commit_seconds", "Time to write a state and its commands.", registry=r, buckets=SECONDS
        )
        self.phase_seconds = Histogram(
            "holdfast_task_phase_seconds",
            "Time a task was in a phase before it left it.",
            ["phase"],
            registry=r,
            buckets=SECONDS,
        )
        self.task_seconds = Histogram(
            "holdfast_task_seconds",
            "Time from submission to the end, by outcome.",
            ["outcome"],
            registry=r,
            buckets=SECONDS,
        )
        self.repaired = Counter(
            "holdfast_reconciler_repairs_total",
            "Things the reconciler had to repair; must stay 0.",
            ["what"],
            registry=r,
        )
        self.walked = Gauge("holdfast_reconciler_live_tasks", "Live tasks at the reconciler's last walk.", registry=r)
        self.model_seconds = Histogram(
            "holdfast_model_call_seconds",
            "Time of a model call, by provider and outcome.",
            ["provider", "outcome"],
            registry=r,
            buckets=SECONDS,
        )
        self.tokens = Counter(
            "holdfast_model_tokens_total", "Tokens used by model calls.", ["provider", "direction"], registry=r
        )
        self.cost = Counter(
            "holdfast_model_cost_usd_total",
            "Cost of model calls whose price is known, in US dollars.",
            ["provider"],
            registry=r,
        )
        self.model_waits = Counter(
            "holdfast_model_waits_total",
            "Model calls that were not made because a limit of ours left no room, by what was full.",
            ["reason"],
            registry=r,
        )
        self.model_parked = Histogram(
            "holdfast_model_parked_seconds",
            "Time that a model call which had to wait for limits of ours has waited.",
            registry=r,
            buckets=SECONDS,
        )
        self.limit_refusals = Counter(
            "holdfast_model_limit_refusals_total",
            "Model calls that were refused before they were made, by the budget or limit that has no room.",
            ["reason"],
            registry=r,
        )
        self.tool_seconds = Histogram(
            "holdfast_tool_call_seconds", "Time of a tool call, by outcome.", ["outcome"], registry=r, buckets=SECONDS
        )
        self.takeovers = Counter(
            "holdfast_tool_takeovers_total",
            "Calls that another replica had started, by what was decided.",
            ["decision"],
            registry=r,
        )
        self.mcp_connected = Gauge(
            "holdfast_mcp_servers_connected", "MCP servers that this process is connected to.", registry=r
        )
        self.notifications = Counter(
            "holdfast_notifications_total",
            "Notifications that came to their end, by the receiver and how.",
            ["receiver", "outcome"],
            registry=r,
        )
        self.notification_attempts = Counter(
            "holdfast_notification_attempts_total",
            "Attempts at a notification, by the kind of sink and outcome.",
            ["sink", "outcome"],
            registry=r,
        )
        self.notification_seconds = Histogram(
            "holdfast_notification_attempt_seconds",
            "Time of an attempt at a notification, by the kind of sink.",
            ["sink"],
            registry=r,
            buckets=SECONDS,
        )
        self.notifier_circuits = Gauge(
            "holdfast_notifier_circuits_open", "Receivers that this process leaves alone for a while.", registry=r
        )
        self.loop_lag = Gauge(
            "holdfast_event_loop_lag_seconds", "How late the event loop ran its last timer.", registry=r
        )

    def consumer(self, name: str) -> ConsumerMetrics:
        """The metrics of one consumer."""
        return ConsumerMetrics(self, name)


class ConsumerMetrics:
    """What a consumer counts."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._fresh = metrics.delivered.labels(name, "false")
        self._again = metrics.delivered.labels(name, "true")
        self._handled = {
            outcome: metrics.handled.labels(name, outcome) for outcome in ("done", "retried", "failed", "dead")
        }

    def delivered(self, *, redelivered: bool) -> None:
        """A message was taken."""
        (self._again if redelivered else self._fresh).inc()

    def handled(self, outcome: Handled) -> None:
        """A message was settled."""
        self._handled[outcome].inc()
