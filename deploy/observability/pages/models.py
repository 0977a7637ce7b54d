"""The page `models`: model calls, and what they cost."""

from __future__ import annotations

from deploy.observability.panels import (
    PER_MINUTE,
    Dashboard,
    Panel,
    Query,
    Row,
    busy,
    grown,
    quantiles,
    rate,
    share,
    total,
)

CALLS = "holdfast_model_call_seconds_count"

MODELS = Dashboard(
    "models",
    "Models and spend",
    "Model calls: how many, how long, what they cost, and what they wait for.",
    (
        Row(
            "Spend",
            (
                Panel(
                    "Spent",
                    "In the time shown, in US dollars, as far as prices are known (`pricing` of an LLM).",
                    (Query(grown("holdfast_model_cost_usd_total")),),
                    unit="currencyUSD",
                    kind="stat",
                    width=4,
                ),
                Panel(
                    "Spend an hour",
                    "At the present rate, by provider.",
                    (Query(busy(rate("holdfast_model_cost_usd_total", "provider", per=" * 3600")), "{{provider}}"),),
                    unit="currencyUSD",
                    width=10,
                    stacked=True,
                ),
                Panel(
                    "Tokens a minute",
                    "By provider and direction.",
                    (
                        Query(
                            busy(rate("holdfast_model_tokens_total", "provider", "direction", per=PER_MINUTE)),
                            "{{provider}} {{direction}}",
                        ),
                    ),
                    width=10,
                    stacked=True,
                ),
            ),
        ),
        Row(
            "Calls",
            (
                Panel(
                    "Calls a minute",
                    "By provider and outcome. `transient`: tried again; `refused`: would fail again.",
                    (Query(busy(rate(CALLS, "provider", "outcome", per=PER_MINUTE)), "{{provider}} {{outcome}}"),),
                    unit="opm",
                    stacked=True,
                ),
                Panel(
                    "Time of a call",
                    "Until the whole answer is there; waits for limits of ours are not in it.",
                    quantiles("holdfast_model_call_seconds", "provider"),
                    unit="s",
                ),
                Panel(
                    "Time to the first token",
                    "Until the first piece of text comes. Answers that only call tools have none.",
                    quantiles("holdfast_model_first_token_seconds", "provider"),
                    unit="s",
                ),
            ),
        ),
        Row(
            "Failures and waits",
            (
                Panel(
                    "Calls that fail",
                    "The share of them, by provider.",
                    (
                        Query(
                            share(rate(f'{CALLS}{{outcome!="answered"}}', "provider"), rate(CALLS, "provider")),
                            "{{provider}}",
                        ),
                    ),
                    unit="percentunit",
                    alarm_above=0.25,
                ),
                Panel(
                    "Calls that are made again",
                    "By what they failed of.",
                    (Query(busy(rate("holdfast_model_retries_total", "cause", per=PER_MINUTE)), "{{cause}}"),),
                    unit="opm",
                    stacked=True,
                ),
                Panel(
                    "Calls that wait for limits",
                    "By what was full. `provider`: it asked to wait; `line`: others of the namespace came before.",
                    (Query(busy(rate("holdfast_model_waits_total", "reason", per=PER_MINUTE)), "{{reason}}"),),
                    unit="opm",
                    stacked=True,
                ),
                Panel(
                    "Time waited for limits",
                    "Of the calls that had to wait, once they were let through.",
                    quantiles("holdfast_model_parked_seconds"),
                    unit="s",
                ),
                Panel(
                    "Calls that limits refuse",
                    "Budgets of tasks (`maxTokens`, `maxCost`) and quotas of namespaces (`day`) without room.",
                    (Query(rate("holdfast_model_limit_refusals_total", "reason", per=PER_MINUTE), "{{reason}}"),),
                    unit="opm",
                    stacked=True,
                    quiet=True,
                ),
                Panel(
                    "Backlog of the gateways",
                    "Calls that no gateway has taken yet.",
                    (Query(total('holdfast_consumer_pending{consumer="llm-gateway"}', "partition"), "calls"),),
                    quiet=True,
                ),
            ),
        ),
    ),
)
