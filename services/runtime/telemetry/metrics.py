"""The metrics: every name, with a sentence and the labels of each. `docs/operations/metrics.md` is made of this.

Labels are closed sets; an id, a name that somebody chose, or a text is never a label. Units are in the names. Gauges
of what all replicas share (streams, consumers, live tasks, open questions) are exported by every planner: they are the
same thing seen several times, so a query takes the `max` of them, and never the sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, disable_created_metrics

from schemas import subjects
from schemas.dead_letters import DeadReason
from schemas.interactions import AnsweredVia, InteractionAction, InteractionKind
from schemas.messages import ToolOutcome
from schemas.notifications import Receiver
from schemas.requests import FailureCause
from schemas.task import Phase
from services.runtime.telemetry.families import (
    LONG_SECONDS,
    Declared,
    Label,
    counter,
    counters,
    gauge,
    gauges,
    histogram,
    histograms,
)

Handled = Literal["done", "retried", "failed", "dead"]

PLANNER = "planner"
GATEWAY = "llm-gateway"
EXECUTOR = "tool-executor"
PEOPLE = "human-contact"
NOTIFIER = "notifier"

SERVICE = Label("service", (PLANNER, GATEWAY, EXECUTOR, PEOPLE, NOTIFIER))
VERSION = Label("version", form=r"[0-9A-Za-z.+-]{1,40}", says="the version of the distribution")
PARTITION = Label("partition", form=r"[0-9]{1,4}|-", says="of the task stream, up to `HOLDFAST_PARTITIONS`; `-`: none")
CONSUMER = Label(
    "consumer",
    (
        subjects.PLANNER,
        subjects.PLANNER_REQUESTS,
        subjects.PLANNER_TIMERS,
        subjects.LLM_GATEWAY,
        subjects.TOOL_EXECUTOR,
        "tool-executor-answers",
        subjects.HUMAN_CONTACT,
        subjects.HUMAN_CONTACT_ANSWERS,
        subjects.HUMAN_CONTACT_TIMERS,
        subjects.NOTIFIER,
        subjects.NOTIFIER_TIMERS,
    ),
)
STREAM = Label(
    "stream",
    (
        "tasks",
        "requests",
        "timers",
        "people-timers",
        "notify-timers",
        "dead-letters",
        "resources",
        "flow",
        "payloads",
    ),
)
PHASE = Label("phase", get_args(Phase))
OUTCOME = Label("outcome", ("FinalAnswer", "Failed", "Cancelled"))
PROVIDER = Label("provider", ("openai", "anthropic", "mistral", "google", "vertex", "scripted"))
KIND = Label("kind", get_args(InteractionKind))
SINK = Label("sink", ("responseURL", "contactChannel", "webhook", "slack", "email"))


class Metrics:
    """All metrics of one process, in a registry of its own.

    With `services`, only what these count is shown; what others count may still be counted, and is not shown.
    """

    # --- every process -------------------------------------------------------------------

    build = gauges("holdfast_build_info", "Version of this process; always 1.", SERVICE, VERSION)
    loop_lag = histogram("holdfast_event_loop_lag_seconds", "How late the event loop ran a timer, twice a second.")
    delivered = counters(
        "holdfast_messages_delivered_total",
        "Messages taken from a consumer; `redelivered`: somebody had taken them before.",
        CONSUMER,
        Label("redelivered", ("false", "true")),
        zeros=False,
    )
    handled = counters(
        "holdfast_messages_handled_total",
        "Messages settled, by how. `retried`: handed back, to come again; `failed`: a defect, tried again; `dead`: a"
        " dead letter.",
        CONSUMER,
        Label("outcome", get_args(Handled)),
        zeros=False,
    )
    buried = counters(
        "holdfast_dead_letters_total",
        "Messages that became dead letters, by their consumer and why.",
        CONSUMER,
        Label("reason", get_args(DeadReason)),
        zeros=False,
    )

    # --- tasks ---------------------------------------------------------------------------

    tasks = gauges(
        "holdfast_tasks", "Live tasks by phase, at the newest walk of this planner.", PHASE, by=PLANNER, shared=True
    )
    transitions = counters(
        "holdfast_task_transitions_total", "Committed transitions, by the phase they led to.", PHASE, by=PLANNER
    )
    phase_seconds = histograms(
        "holdfast_task_phase_seconds",
        "Time a task was in a phase before it left it.",
        PHASE,
        by=PLANNER,
        buckets=LONG_SECONDS,
    )
    task_seconds = histograms(
        "holdfast_task_seconds",
        "Time from submission to the end, by outcome.",
        OUTCOME,
        by=PLANNER,
        buckets=LONG_SECONDS,
    )
    conflicts = counter("holdfast_task_conflicts_total", "Commits that lost a race and were decided again.", by=PLANNER)
    ignored = counters(
        "holdfast_task_events_ignored_total",
        "Late or duplicate events, which changed nothing.",
        Label(
            "event",
            (
                "TaskSubmitted",
                "ModelAnswered",
                "ModelFailed",
                "WindowCompacted",
                "ApprovalGranted",
                "ToolFinished",
                "MessageSent",
                "CancelRequested",
            ),
        ),
        by=PLANNER,
    )
    commit_seconds = histogram("holdfast_commit_seconds", "Time to write a state and its commands.", by=PLANNER)
    repaired = counters(
        "holdfast_reconciler_repairs_total",
        "Things the reconciler had to repair; must stay 0.",
        Label("what", ("malformed", "deadline", "broken", "timer", "event", "command")),
        by=PLANNER,
    )
    walk_seconds = histogram("holdfast_reconciler_walk_seconds", "Time of a walk over all live tasks.", by=PLANNER)

    # --- models --------------------------------------------------------------------------

    model_seconds = histograms(
        "holdfast_model_call_seconds",
        "Time of a model call, by provider and outcome.",
        PROVIDER,
        Label("outcome", ("answered", "transient", "refused")),
        by=GATEWAY,
    )
    first_token_seconds = histograms(
        "holdfast_model_first_token_seconds",
        "Time until the first piece of an answer's text came.",
        PROVIDER,
        by=GATEWAY,
    )
    tokens = counters(
        "holdfast_model_tokens_total",
        "Tokens used by model calls.",
        PROVIDER,
        Label("direction", ("input", "output")),
        by=GATEWAY,
    )
    cost = counters(
        "holdfast_model_cost_usd_total",
        "Cost of model calls whose price is known, in US dollars.",
        PROVIDER,
        by=GATEWAY,
    )
    retries = counters(
        "holdfast_model_retries_total",
        "Failed model calls that are made again, perhaps by a fallback, by what they failed of.",
        Label("cause", get_args(FailureCause)),
        by=PLANNER,
    )
    model_waits = counters(
        "holdfast_model_waits_total",
        "Model calls that were not made because a limit of ours left no room, by what was full.",
        Label("reason", ("requests", "tokens", "concurrency", "provider", "line", "day")),
        by=GATEWAY,
    )
    model_parked = histogram(
        "holdfast_model_parked_seconds",
        "Time that a model call which had to wait for limits of ours has waited.",
        by=GATEWAY,
        buckets=LONG_SECONDS,
    )
    limit_refusals = counters(
        "holdfast_model_limit_refusals_total",
        "Model calls that were refused before they were made, by the budget or limit that has no room.",
        Label("reason", ("maxTokens", "maxCost", "day", "tooLarge")),
        by=GATEWAY,
    )

    # --- tools ---------------------------------------------------------------------------

    tool_seconds = histograms(
        "holdfast_tool_call_seconds",
        "Time of a tool call, by outcome.",
        Label("outcome", get_args(ToolOutcome)),
        by=EXECUTOR,
        buckets=LONG_SECONDS,
    )
    takeovers = counters(
        "holdfast_tool_takeovers_total",
        "Calls that another replica had started, by what was decided. `unknown`: nobody can say whether it took"
        " effect; `asked`: people are asked.",
        Label("decision", ("retried", "unknown", "asked")),
        by=EXECUTOR,
    )
    mcp_connected = gauge(
        "holdfast_mcp_servers_connected", "MCP servers that this process is connected to.", by=EXECUTOR
    )

    # --- people --------------------------------------------------------------------------

    interactions = gauges(
        "holdfast_interactions_open",
        "Questions to people that have no answer yet, by kind.",
        KIND,
        by=PLANNER,
        shared=True,
    )
    interaction_age = gauges(
        "holdfast_interactions_oldest_age_seconds",
        "Age of the oldest question of a kind that has no answer yet; 0: there is none.",
        KIND,
        by=PLANNER,
        shared=True,
    )
    answers = counters(
        "holdfast_interaction_answers_total",
        "Answers to questions, by the way they came and what they say. `expired`, `withdrawn`: nobody answered.",
        Label("via", get_args(AnsweredVia)),
        Label("action", get_args(InteractionAction)),
        by=PEOPLE,
    )
    answer_seconds = histograms(
        "holdfast_interaction_answer_seconds",
        "Time from a question to its answer.",
        KIND,
        by=PEOPLE,
        buckets=LONG_SECONDS,
    )

    # --- notifications -------------------------------------------------------------------

    notifications = counters(
        "holdfast_notifications_total",
        "Notifications that came to their end, by the receiver and how.",
        Label("receiver", get_args(Receiver)),
        Label("outcome", ("delivered", "failed", "unwanted")),
        by=NOTIFIER,
    )
    notification_attempts = counters(
        "holdfast_notification_attempts_total",
        "Attempts at a notification, by the kind of sink and outcome.",
        SINK,
        Label("outcome", ("taken", "retried", "failed", "unwanted")),
        by=NOTIFIER,
    )
    notification_seconds = histograms(
        "holdfast_notification_attempt_seconds",
        "Time of an attempt at a notification, by the kind of sink.",
        SINK,
        by=NOTIFIER,
    )
    notifier_circuits = gauge(
        "holdfast_notifier_circuits_open", "Receivers that this process leaves alone for a while.", by=NOTIFIER
    )

    # --- the bus -------------------------------------------------------------------------

    stream_messages = gauges(
        "holdfast_stream_messages", "Messages in a stream.", STREAM, PARTITION, by=PLANNER, shared=True
    )
    stream_bytes = gauges("holdfast_stream_bytes", "Bytes in a stream.", STREAM, PARTITION, by=PLANNER, shared=True)
    stream_stored = gauges(
        "holdfast_stream_last_sequence",
        "Messages that were ever stored in a stream; its rate is the rate of writing.",
        STREAM,
        PARTITION,
        by=PLANNER,
        shared=True,
    )
    stream_missing = gauges(
        "holdfast_stream_replicas_missing",
        "Copies of a stream that are away or behind; must be 0.",
        STREAM,
        PARTITION,
        by=PLANNER,
        shared=True,
    )
    pending = gauges(
        "holdfast_consumer_pending",
        "Messages of a consumer that nobody has taken yet: its lag.",
        CONSUMER,
        PARTITION,
        by=PLANNER,
        shared=True,
    )
    ack_pending = gauges(
        "holdfast_consumer_ack_pending",
        "Messages of a consumer that were taken and are not settled.",
        CONSUMER,
        PARTITION,
        by=PLANNER,
        shared=True,
    )
    redelivering = gauges(
        "holdfast_consumer_redelivering",
        "Messages of a consumer that were taken more than once and are not settled.",
        CONSUMER,
        PARTITION,
        by=PLANNER,
        shared=True,
    )
    pending_age = gauges(
        "holdfast_consumer_oldest_pending_age_seconds",
        "Age of the oldest message of a consumer that nobody has taken yet; 0: there is none.",
        CONSUMER,
        PARTITION,
        by=PLANNER,
        shared=True,
    )
    letters = gauge(
        "holdfast_dead_letters_kept", "Dead letters that were neither sent again nor removed.", by=PLANNER, shared=True
    )
    survey_seconds = histogram(
        "holdfast_survey_seconds", "Time that a planner took to look at all streams and consumers.", by=PLANNER
    )

    def __init__(self, registry: CollectorRegistry | None = None, *, services: Iterable[str] | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # twice as many series, for what nobody asks
        self.registry = registry or CollectorRegistry()
        shown = set(services) if services is not None else None
        for declared in catalogue():
            by = declared.description.services
            is_shown = shown is None or not by or not shown.isdisjoint(by)
            declared.open(self, self.registry if is_shown else None)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def consumer(self, name: str) -> ConsumerMetrics:
        """The metrics of one consumer."""
        return ConsumerMetrics(self, name)


def catalogue() -> list[Declared[object]]:
    """All that is declared, in that order."""
    return [declared for declared in vars(Metrics).values() if isinstance(declared, Declared)]


class ConsumerMetrics:
    """What a consumer counts."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._fresh = metrics.delivered.labels(name, "false")
        self._again = metrics.delivered.labels(name, "true")
        self._handled = {outcome: metrics.handled.labels(name, outcome) for outcome in get_args(Handled)}
        self._buried = {reason: metrics.buried.labels(name, reason) for reason in get_args(DeadReason)}

    def delivered(self, *, redelivered: bool) -> None:
        """A message was taken."""
        (self._again if redelivered else self._fresh).inc()

    def handled(self, outcome: Handled) -> None:
        """A message was settled."""
        self._handled[outcome].inc()

    def buried(self, reason: DeadReason) -> None:
        """A message became a dead letter."""
        self._handled["dead"].inc()
        self._buried[reason].inc()
