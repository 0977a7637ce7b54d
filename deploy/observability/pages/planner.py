"""The page `planner`: how tasks move."""

from __future__ import annotations

from deploy.observability.panels import (
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
    total,
)

PLANNER = Dashboard(
    "planner",
    "Planner",
    "How tasks move: transitions, commits, races, and what the reconciler finds.",
    (
        Row(
            "Tasks move",
            (
                Panel(
                    "Transitions",
                    "Committed steps of tasks, by the phase they led to.",
                    (Query(rate("holdfast_task_transitions_total", "phase"), "{{phase}}"),),
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    "Time in a phase",
                    "The slowest of twenty. `ToolCallsPending`: tools and people take it; `ReadyForLLM`: models.",
                    (Query(quantile(0.95, "holdfast_task_phase_seconds", "phase"), "{{phase}}"),),
                    unit="s",
                ),
                Panel(
                    "Time of a commit",
                    "Writing a state and its commands. It is the server's disk that is measured here.",
                    (
                        *quantiles("holdfast_commit_seconds"),
                        Query(quantile(0.99, "holdfast_commit_seconds"), "p99"),
                    ),
                    unit="s",
                    alarm_above=0.5,
                ),
            ),
        ),
        Row(
            "Races and repetitions",
            (
                Panel(
                    "Lost races",
                    "Commits that another replica was faster with. They are decided again and cost a read each.",
                    (Query(rate("holdfast_task_conflicts_total"), "conflicts"),),
                    unit="ops",
                    quiet=True,
                ),
                Panel(
                    "Events that changed nothing",
                    "Late and duplicate ones. They rise when replicas are killed; that is how nothing is lost.",
                    (Query(busy(rate("holdfast_task_events_ignored_total", "event")), "{{event}}"),),
                    unit="ops",
                    stacked=True,
                    quiet=True,
                ),
                Panel(
                    "Model calls that are made again",
                    "By what they failed of.",
                    (Query(busy(rate("holdfast_model_retries_total", "cause", per=PER_MINUTE)), "{{cause}}"),),
                    unit="opm",
                    stacked=True,
                ),
            ),
        ),
        Row(
            "The reconciler",
            (
                calm(
                    "Repairs",
                    "In the time shown. Anything but 0 is a defect: the log line `reconcile.repair` names the task.",
                    Query(grown("holdfast_reconciler_repairs_total")),
                ),
                Panel(
                    "Repairs by what was missing",
                    "`command`, `event` and `timer`: a message was lost. `deadline`: nobody looked at it in time.",
                    (Query(rate("holdfast_reconciler_repairs_total", "what"), "{{what}}"),),
                    unit="ops",
                    width=10,
                    quiet=True,
                ),
                Panel(
                    "Time of a walk",
                    "Over all live tasks, by one planner.",
                    quantiles("holdfast_reconciler_walk_seconds"),
                    unit="s",
                    width=10,
                ),
            ),
        ),
        Row(
            "Its consumers",
            (
                Panel(
                    "Messages taken",
                    "Events, requests and wake-ups.",
                    (
                        Query(
                            rate('holdfast_messages_delivered_total{consumer=~"planner.*"}', "consumer"), "{{consumer}}"
                        ),
                    ),
                    unit="ops",
                ),
                Panel(
                    "Backlog",
                    "Messages that no planner has taken yet.",
                    (
                        Query(
                            total(
                                'holdfast_consumer_pending{consumer=~"planner.*"}',
                                "consumer",
                                "partition",
                                keep=["consumer"],
                            ),
                            "{{consumer}}",
                        ),
                    ),
                    quiet=True,
                ),
                Panel(
                    "Handed back or failed",
                    "Messages that come again.",
                    (
                        Query(
                            rate(
                                'holdfast_messages_handled_total{consumer=~"planner.*", outcome!="done"}',
                                "consumer",
                                "outcome",
                            ),
                            "{{consumer}} {{outcome}}",
                        ),
                    ),
                    unit="ops",
                    quiet=True,
                ),
            ),
        ),
    ),
)
