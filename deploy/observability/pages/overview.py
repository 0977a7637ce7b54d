"""The page `overview`: whether it is well, and where work waits."""

from __future__ import annotations

from deploy.observability.panels import (
    OF_OURS,
    PER_MINUTE,
    Dashboard,
    Panel,
    Query,
    Row,
    calm,
    grown,
    quantile,
    quantiles,
    rate,
    shared,
    total,
)

OVERVIEW = Dashboard(
    "overview",
    "Overview",
    "Whether it is well, and where work waits. The other dashboards say why.",
    (
        Row(
            "Is it well",
            (
                Panel(
                    "Replicas",
                    "Processes of each service that are scraped. Any number above 0 is enough to go on.",
                    (Query("count by (service) (holdfast_build_info)", "{{service}}"),),
                    kind="stat",
                    height=4,
                ),
                Panel(
                    "Live tasks",
                    "Tasks that have not ended, at the planner's newest walk.",
                    (Query(total("holdfast_tasks", "phase")),),
                    kind="stat",
                    width=4,
                    height=4,
                    quiet=True,
                ),
                calm(
                    "Dead letters",
                    "Messages that could not be processed, and wait for somebody: `holdfast dlq list`.",
                    Query(shared("holdfast_dead_letters_kept")),
                ),
                calm(
                    "Repairs",
                    "What the reconciler had to mend in the time shown. Anything but 0 is a defect.",
                    Query(grown("holdfast_reconciler_repairs_total")),
                ),
                calm(
                    "Alerts",
                    "Alerts that fire.",
                    Query('count(ALERTS{alertstate="firing", alertname=~"Holdfast.*"}) or vector(0)'),
                ),
            ),
        ),
        Row(
            "Tasks",
            (
                Panel(
                    "Tasks ended",
                    "A minute, by outcome.",
                    (Query(rate("holdfast_task_seconds_count", "outcome", per=PER_MINUTE), "{{outcome}}"),),
                    unit="opm",
                    stacked=True,
                ),
                Panel(
                    "Live tasks by phase",
                    "`Pending`: their agent is not ready. `ToolCallsPending`: tools run, or people are asked.",
                    (Query(shared("holdfast_tasks", "phase"), "{{phase}}"),),
                    stacked=True,
                    quiet=True,
                ),
                Panel(
                    "Time of a task",
                    "From submission to the end: the middle, and the slowest of twenty.",
                    quantiles("holdfast_task_seconds"),
                    unit="s",
                ),
            ),
        ),
        Row(
            "Where work waits",
            (
                Panel(
                    "Backlog",
                    "Messages that nobody has taken yet. It grows where a service has too few replicas, or none.",
                    (
                        Query(
                            total("holdfast_consumer_pending", "consumer", "partition", keep=["consumer"]),
                            "{{consumer}}",
                        ),
                    ),
                    stacked=True,
                    quiet=True,
                ),
                Panel(
                    "Oldest message in the backlog",
                    "How long the first message waits already. Normal is below a second.",
                    (Query(shared("holdfast_consumer_oldest_pending_age_seconds", "consumer"), "{{consumer}}"),),
                    unit="s",
                    alarm_above=60,
                    quiet=True,
                ),
                Panel(
                    "Messages handled",
                    "By how they ended. `retried` is normal in small numbers; `failed` is a defect of ours.",
                    (Query(rate("holdfast_messages_handled_total", "outcome"), "{{outcome}}"),),
                    unit="ops",
                ),
            ),
        ),
        Row(
            "Processes",
            (
                Panel(
                    "Memory",
                    "Of each process.",
                    (Query(f"process_resident_memory_bytes {OF_OURS}", "{{service}} {{job}} {{instance}}"),),
                    unit="bytes",
                ),
                Panel(
                    "Processors",
                    "How many each process keeps busy. A process uses one at most for its own work.",
                    (
                        Query(
                            f"rate(process_cpu_seconds_total[$__rate_interval]) {OF_OURS}",
                            "{{service}} {{job}} {{instance}}",
                        ),
                    ),
                    unit="percentunit",
                ),
                Panel(
                    "Lateness of the event loop",
                    "The slowest of a hundred timers. Above half a second the process has too much to do.",
                    (
                        Query(
                            quantile(0.99, "holdfast_event_loop_lag_seconds", "service", "job", "instance"),
                            "{{service}} {{job}} {{instance}}",
                        ),
                    ),
                    unit="s",
                    alarm_above=0.5,
                ),
                Panel(
                    "Versions",
                    "Processes by version. More than one is an upgrade under way, or one that was left unfinished.",
                    (Query("count by (version) (holdfast_build_info)", "{{version}}"),),
                    kind="stat",
                    height=4,
                ),
            ),
        ),
    ),
)
