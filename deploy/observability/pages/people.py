"""The page `people`: questions to people, and notifications."""

from __future__ import annotations

from deploy.observability.panels import (
    PER_MINUTE,
    RANGE,
    Dashboard,
    Panel,
    Query,
    Row,
    busy,
    calm,
    quantile,
    rate,
    shared,
    total,
)

PEOPLE = Dashboard(
    "people",
    "People",
    "Questions to people and their answers, and who is told that tasks have ended.",
    (
        Row(
            "Questions",
            (
                Panel(
                    "Open questions",
                    "By kind: `holdfast inbox` lists them.",
                    (Query(shared("holdfast_interactions_open", "kind"), "{{kind}}"),),
                    stacked=True,
                ),
                Panel(
                    "Age of the oldest question",
                    "How long somebody has been asked without an answer.",
                    (Query(shared("holdfast_interactions_oldest_age_seconds", "kind"), "{{kind}}"),),
                    unit="s",
                ),
                Panel(
                    "Time until people answer",
                    "Of the answers that came in the time shown, by kind.",
                    tuple(
                        Query(
                            f"histogram_quantile({q}, sum by (kind, le)"
                            f" (increase(holdfast_interaction_answer_seconds_bucket[{RANGE}]))) >= 0",
                            f"{{{{kind}}}} p{round(q * 100)}",
                        )
                        for q in (0.5, 0.95)
                    ),
                    unit="s",
                    kind="stat",
                ),
                Panel(
                    "Answers by the way they came",
                    "`expired`: nobody answered in time; `withdrawn`: the task did not wait any more.",
                    (Query(busy(rate("holdfast_interaction_answers_total", "via", per=PER_MINUTE)), "{{via}}"),),
                    unit="opm",
                    stacked=True,
                ),
                Panel(
                    "Answers by what they say",
                    "`cancel`: nobody said yes or no.",
                    (Query(rate("holdfast_interaction_answers_total", "action", per=PER_MINUTE), "{{action}}"),),
                    unit="opm",
                    stacked=True,
                ),
                Panel(
                    "Backlog of human-contact",
                    "Questions, answers and wake-ups that nobody has taken yet.",
                    (
                        Query(
                            total(
                                'holdfast_consumer_pending{consumer=~"human-contact.*"}',
                                "consumer",
                                "partition",
                                keep=["consumer"],
                            ),
                            "{{consumer}}",
                        ),
                    ),
                    quiet=True,
                ),
            ),
        ),
        Row(
            "Notifications",
            (
                Panel(
                    "Notifications that came to their end",
                    "By receiver and how. `unwanted`: there was nobody to tell any more.",
                    (
                        Query(
                            busy(rate("holdfast_notifications_total", "receiver", "outcome", per=PER_MINUTE)),
                            "{{receiver}} {{outcome}}",
                        ),
                    ),
                    unit="opm",
                    stacked=True,
                ),
                Panel(
                    "Attempts",
                    "By kind of sink and outcome. `retried`: it is tried again later.",
                    (
                        Query(
                            busy(rate("holdfast_notification_attempts_total", "sink", "outcome", per=PER_MINUTE)),
                            "{{sink}} {{outcome}}",
                        ),
                    ),
                    unit="opm",
                    stacked=True,
                ),
                Panel(
                    "Time of an attempt",
                    "The slowest of twenty, by kind of sink.",
                    (Query(quantile(0.95, "holdfast_notification_attempt_seconds", "sink"), "{{sink}}"),),
                    unit="s",
                ),
                calm(
                    "Receivers left alone",
                    "Receivers that were down so often that a process leaves them alone for a while.",
                    Query(shared("holdfast_notifier_circuits_open")),
                    width=8,
                ),
            ),
        ),
    ),
)
