"""The page `bus`: streams and consumers."""

from __future__ import annotations

from deploy.observability.panels import (
    Dashboard,
    Panel,
    Query,
    Row,
    busy,
    calm,
    grown,
    quantiles,
    rate,
    share,
    shared,
    total,
)

BUS = Dashboard(
    "bus",
    "Bus",
    "JetStream as the planners see it: streams, consumers, dead letters.",
    (
        Row(
            "Streams",
            (
                Panel(
                    "Bytes",
                    "In each stream. Ended tasks stay until they are removed (`HOLDFAST_RETENTION_S`).",
                    (Query(total("holdfast_stream_bytes", "stream", "partition", keep=["stream"]), "{{stream}}"),),
                    unit="bytes",
                    stacked=True,
                ),
                Panel(
                    "Messages",
                    "In each stream.",
                    (Query(total("holdfast_stream_messages", "stream", "partition", keep=["stream"]), "{{stream}}"),),
                    stacked=True,
                ),
                Panel(
                    "Messages stored",
                    "A second, by stream. On one server with a disk, thousands are the limit.",
                    (
                        Query(
                            "sum by (stream) (max by (stream, partition)"
                            " (rate(holdfast_stream_last_sequence[$__rate_interval])))",
                            "{{stream}}",
                        ),
                    ),
                    unit="ops",
                ),
            ),
        ),
        Row(
            "Consumers",
            (
                Panel(
                    "Lag",
                    "Messages that nobody has taken yet.",
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
                    "In hand",
                    "Messages that were taken and are not settled. At 20,000 of one consumer the server gives no more.",
                    (
                        Query(
                            total("holdfast_consumer_ack_pending", "consumer", "partition", keep=["consumer"]),
                            "{{consumer}}",
                        ),
                    ),
                    stacked=True,
                    quiet=True,
                ),
                Panel(
                    "Oldest message in the lag",
                    "By consumer.",
                    (Query(shared("holdfast_consumer_oldest_pending_age_seconds", "consumer"), "{{consumer}}"),),
                    unit="s",
                    alarm_above=60,
                    quiet=True,
                ),
                Panel(
                    "Messages taken",
                    "A second, by consumer.",
                    (Query(rate("holdfast_messages_delivered_total", "consumer"), "{{consumer}}"),),
                    unit="ops",
                    stacked=True,
                ),
                Panel(
                    "Taken again",
                    "The share of messages that somebody had taken before, by consumer.",
                    (
                        Query(
                            share(
                                rate('holdfast_messages_delivered_total{redelivered="true"}', "consumer"),
                                rate("holdfast_messages_delivered_total", "consumer"),
                            ),
                            "{{consumer}}",
                        ),
                    ),
                    unit="percentunit",
                    alarm_above=0.1,
                    quiet=True,
                ),
                Panel(
                    "Being taken again",
                    "Messages that were taken more than once and are not settled.",
                    (
                        Query(
                            total("holdfast_consumer_redelivering", "consumer", "partition", keep=["consumer"]),
                            "{{consumer}}",
                        ),
                    ),
                    quiet=True,
                ),
            ),
        ),
        Row(
            "Trouble",
            (
                Panel(
                    "Dead letters kept",
                    "Until somebody sends them again or removes them, or for 30 days.",
                    (Query(shared("holdfast_dead_letters_kept")),),
                    kind="stat",
                    width=4,
                    alarm_above=0,
                ),
                calm(
                    "Copies that are missing",
                    "Of streams that a cluster keeps several copies of.",
                    Query(total("holdfast_stream_replicas_missing", "stream", "partition")),
                ),
                Panel(
                    "New dead letters",
                    "By consumer and reason.",
                    (
                        Query(
                            busy(grown("holdfast_dead_letters_total", "consumer", "reason")),
                            "{{consumer}} {{reason}}",
                        ),
                    ),
                    kind="stat",
                ),
                Panel(
                    "Time of a survey",
                    "How long a planner takes to look at all streams and consumers. It is the server's own speed.",
                    quantiles("holdfast_survey_seconds"),
                    unit="s",
                ),
            ),
        ),
    ),
)
