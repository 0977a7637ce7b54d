"""The streams and consumers: made when they are missing, checked when they exist.

What exists and is not as it must be is never changed here; it is refused, with the name of the stream, the field,
and what to do. The number of partitions is written into the metadata of every task stream when it is first made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from schemas import subjects
from services.runtime.errors import Broken, Unavailable
from services.runtime.nats import api
from services.runtime.nats.connection import Connection
from services.runtime.nats.server import (
    SERVER_NAME_SYNCED,
    SYNCED_MARK,
    VERSION_MIN,
    ServerError,
    parse_version,
    version_text,
)
from services.runtime.settings import Settings

logger = logging.getLogger(__name__)

NANOSECONDS = 1_000_000_000
REQUEST_DUPLICATES_S = 0.1
"""How long the server knows a repeated message id of a request: as short as it allows. A swallowed request would never
be answered, and ids are known per stream, so one namespace could swallow another's. The derived task name is what makes
a message id idempotent, for as long as the task exists."""
DEAD_LETTER_S = 30 * 86_400
"""How long dead letters are kept."""
ACK_PENDING_MAX = 20_000
"""Messages of one consumer that all replicas together may have in hand, or wait to hand back."""
PULLS_WAITING_MAX = 512
PARTITIONS_KEY = "holdfast.partitions"

MADE_S = 60.0
"""How long a service that may not make streams waits for them."""
MADE_LOOK_S = 0.2

Durability = Literal["synced", "replicated", "unknown", "volatile"]
"""Acknowledged means: on disk; written by a majority, synced or not; nobody can say; in memory only."""


class Incompatible(Broken):
    """What is on the server is not what this version needs. The text says where, what, and how to mend it."""


class StreamPlan(NamedTuple):
    """A stream as it must be."""

    name: str
    config: dict[str, Any]
    checked: tuple[str, ...]
    """The fields that must be equal when it exists already."""


class ConsumerPlan(NamedTuple):
    """A consumer as it must be."""

    stream: str
    name: str
    config: dict[str, Any]

    @property
    def create_subject(self) -> str:
        """Where the API makes it."""
        return f"CONSUMER.CREATE.{self.stream}.{self.name}.{self.config['filter_subject']}"


BASE_CHECKED = ("subjects", "retention", "storage", "discard", "num_replicas", "max_msgs_per_subject", "max_age")
TASKS_CHECKED = (*BASE_CHECKED, "allow_direct", "allow_atomic", "allow_rollup_hdrs", "allow_msg_ttl")


SETTING_OF = {"num_replicas": "HOLDFAST_STREAM_REPLICAS", "storage": "HOLDFAST_STORAGE"}


def stream_plans(settings: Settings) -> list[StreamPlan]:
    """All streams."""
    return [*_task_plans(settings), *_work_plans(settings), *_store_plans(settings)]


def _base(settings: Settings) -> dict[str, Any]:
    return {
        "storage": settings.storage,
        "num_replicas": settings.stream_replicas,
        "retention": "limits",
        "discard": "old",
        "max_msgs_per_subject": -1,
        "max_age": 0,
        "allow_direct": True,
        "deny_delete": False,
    }


def _bucket(settings: Settings) -> dict[str, Any]:
    return {
        **_base(settings),
        "discard": "new",
        "max_msgs_per_subject": 1,
        "deny_delete": True,
        "allow_rollup_hdrs": False,
    }


def _task_plans(settings: Settings) -> Iterator[StreamPlan]:
    for partition in range(settings.partitions):
        config = {
            **_bucket(settings),
            "subjects": list(subjects.task_stream_subjects(partition)),
            "allow_atomic": True,
            "allow_msg_ttl": False,
            "metadata": {PARTITIONS_KEY: str(settings.partitions)},
        }
        yield StreamPlan(subjects.task_stream(partition), config, TASKS_CHECKED)


def _work_plans(settings: Settings) -> Iterator[StreamPlan]:
    """Requests, timers, dead letters."""
    requests = {
        **_base(settings),
        "subjects": list(subjects.REQUESTS_SUBJECTS),
        "retention": "workqueue",
        "duplicate_window": int(REQUEST_DUPLICATES_S * NANOSECONDS),
    }
    yield StreamPlan(subjects.REQUESTS_STREAM, requests, BASE_CHECKED)
    timers = {
        **_base(settings),
        "retention": "workqueue",
        "max_msgs_per_subject": 1,
        "allow_msg_schedules": True,
        "allow_msg_ttl": True,
    }
    for name, captured in subjects.TIMER_STREAMS.items():
        yield StreamPlan(name, {**timers, "subjects": list(captured)}, (*BASE_CHECKED, "allow_msg_schedules"))
    dead = {
        **_base(settings),
        "subjects": list(subjects.DEAD_LETTERS_SUBJECTS),
        "max_msgs_per_subject": 1,
        "max_age": DEAD_LETTER_S * NANOSECONDS,
    }
    yield StreamPlan(subjects.DEAD_LETTERS_STREAM, dead, BASE_CHECKED)


def _store_plans(settings: Settings) -> Iterator[StreamPlan]:
    """Resources, shared limits, payloads."""
    resources = {
        **_bucket(settings),
        "subjects": [f"$KV.{subjects.RESOURCES_BUCKET}.>"],
        "republish": {"src": f"$KV.{subjects.RESOURCES_BUCKET}.>", "dest": f"{subjects.RESOURCE_NEWS}>"},
    }
    yield StreamPlan(resources_stream(), resources, (*BASE_CHECKED, "allow_direct", "republish"))
    flow = {
        **_bucket(settings),
        "subjects": [f"$KV.{subjects.FLOW_BUCKET}.>"],
        "republish": {"src": f"$KV.{subjects.FLOW_BUCKET}.>", "dest": f"{subjects.FLOW_NEWS}>"},
    }
    yield StreamPlan(flow_stream(), flow, (*BASE_CHECKED, "allow_direct", "republish"))
    payloads = {
        **_base(settings),
        "subjects": [f"$O.{subjects.PAYLOADS_BUCKET}.>"],
        "discard": "new",
        "max_msgs_per_subject": 1,
        "allow_msg_ttl": True,
    }
    yield StreamPlan(payloads_stream(), payloads, (*BASE_CHECKED, "allow_direct", "allow_msg_ttl"))


def resources_stream() -> str:
    """The stream of the resources bucket."""
    return f"KV_{subjects.RESOURCES_BUCKET}"


def flow_stream() -> str:
    """The stream of the bucket of shared limits."""
    return f"KV_{subjects.FLOW_BUCKET}"


def payloads_stream() -> str:
    """The stream of the payloads' store."""
    return f"OBJ_{subjects.PAYLOADS_BUCKET}"


def stream_of(consumer: str, partition: int | None) -> str:
    """The stream that a consumer belongs to."""
    match consumer:
        case subjects.PLANNER_REQUESTS:
            return subjects.REQUESTS_STREAM
        case subjects.PLANNER_TIMERS:
            return subjects.TIMERS_STREAM
        case subjects.HUMAN_CONTACT_TIMERS:
            return subjects.PEOPLE_TIMERS_STREAM
        case subjects.NOTIFIER_TIMERS:
            return subjects.NOTIFY_TIMERS_STREAM
        case _:
            if partition is None:
                raise ValueError(f"consumer {consumer} is one of a partition's stream: say which partition")
            return subjects.task_stream(partition)


def consumer_plans(settings: Settings) -> list[ConsumerPlan]:
    """All durable consumers."""
    return list(_consumer_plans(settings))


def _consumer_plans(settings: Settings) -> Iterator[ConsumerPlan]:
    for partition in range(settings.partitions):
        stream = subjects.task_stream(partition)
        yield _consumer(settings, stream, subjects.PLANNER, subjects.planner_filter(partition))
        yield _consumer(settings, stream, subjects.LLM_GATEWAY, subjects.llm_filter(partition))
        yield _consumer(settings, stream, subjects.TOOL_EXECUTOR, subjects.tool_filter(partition))
        yield _consumer(settings, stream, subjects.TOOL_EXECUTOR_ANSWERS, subjects.answered_filter(partition))
        yield _consumer(settings, stream, subjects.NOTIFIER, subjects.notify_filter(partition))
        yield _consumer(settings, stream, subjects.HUMAN_CONTACT, subjects.ask_filter(partition))
        yield _consumer(settings, stream, subjects.HUMAN_CONTACT_ANSWERS, subjects.answered_filter(partition))
    yield _consumer(settings, subjects.REQUESTS_STREAM, subjects.PLANNER_REQUESTS, "hf.tasks.>")
    yield _consumer(settings, subjects.TIMERS_STREAM, subjects.PLANNER_TIMERS, subjects.PLANNER_TIMERS_FIRED)
    yield _consumer(
        settings, subjects.PEOPLE_TIMERS_STREAM, subjects.HUMAN_CONTACT_TIMERS, subjects.PEOPLE_TIMERS_FIRED
    )
    yield _consumer(settings, subjects.NOTIFY_TIMERS_STREAM, subjects.NOTIFIER_TIMERS, subjects.NOTIFIER_TIMERS_FILTER)


def _consumer(settings: Settings, stream: str, name: str, filter_: str) -> ConsumerPlan:
    return ConsumerPlan(
        stream,
        name,
        {
            "durable_name": name,
            "name": name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(settings.ack_wait_s * NANOSECONDS),
            "max_deliver": -1,
            "filter_subject": filter_,
            "replay_policy": "instant",
            "max_waiting": PULLS_WAITING_MAX,
            "max_ack_pending": ACK_PENDING_MAX,
        },
    )


async def ensure(connection: Connection, settings: Settings) -> None:
    """Make what is missing, or wait for it; raises `Incompatible` for what exists and is not as it must be.

    Under `HOLDFAST_TOPOLOGY=check` somebody else makes it: raises `Unavailable` if nobody has in `MADE_S`.
    """
    check_server(connection)
    for plan in stream_plans(settings):
        if settings.topology == "check":
            await _wait_for_stream(connection, plan)
        else:
            await _ensure_stream(connection, plan)
    if settings.topology == "make":
        for consumer in consumer_plans(settings):
            await ensure_consumer(connection, consumer)


def check_server(connection: Connection) -> None:
    """Refuse a server that is too old."""
    try:
        version = parse_version(connection.server_version)
    except ServerError as error:
        raise Incompatible(f"the NATS server does not tell its version: {error}") from error
    if version < VERSION_MIN:
        raise Incompatible(
            f"the NATS server is {version_text(version)}; holdfast needs {version_text(VERSION_MIN)} or newer,"
            " because older ones have known faults in atomic batches: upgrade the server"
        )


async def _ensure_stream(connection: Connection, plan: StreamPlan) -> None:
    try:
        found = await api.ask(connection, f"STREAM.INFO.{plan.name}")
    except api.ApiRefused as refusal:
        if refusal.err_code != api.STREAM_NOT_FOUND:
            raise Incompatible(f"cannot look at stream {plan.name}: {refusal}") from refusal
        found = await _create_stream(connection, plan)
    _check_stream(plan, found["config"])


async def _wait_for_stream(connection: Connection, plan: StreamPlan) -> None:
    """Wait until a planner has made a stream, and check it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + MADE_S
    while True:
        try:
            found = await api.ask(connection, f"STREAM.INFO.{plan.name}")
        except api.ApiRefused as refusal:
            if refusal.err_code != api.STREAM_NOT_FOUND:
                raise Incompatible(f"cannot look at stream {plan.name}: {refusal}") from refusal
        else:
            _check_stream(plan, found["config"])
            return
        if loop.time() > deadline:
            raise Unavailable(f"there is no stream {plan.name}: a planner makes it, and none has for {MADE_S:g} s")
        await asyncio.sleep(MADE_LOOK_S)


async def _create_stream(connection: Connection, plan: StreamPlan) -> api.Json:
    try:
        made = await api.ask(connection, f"STREAM.CREATE.{plan.name}", {"name": plan.name, **plan.config})
    except api.ApiRefused as refusal:
        if refusal.err_code == api.STREAM_EXISTS:
            return await api.ask(connection, f"STREAM.INFO.{plan.name}")
        raise Incompatible(f"cannot make stream {plan.name}: {refusal}") from refusal
    logger.info("made stream %s", plan.name, extra={"action": "topology.stream"})
    return made


def _check_stream(plan: StreamPlan, found: Mapping[str, Any]) -> None:
    wanted = plan.config
    pinned = found.get("metadata", {}).get(PARTITIONS_KEY)
    if PARTITIONS_KEY in wanted.get("metadata", {}) and pinned != wanted["metadata"][PARTITIONS_KEY]:
        raise Incompatible(
            f"stream {plan.name} was made for {pinned} partitions, and HOLDFAST_PARTITIONS is"
            f" {wanted['metadata'][PARTITIONS_KEY]}: a task never moves, so the number is fixed;"
            f" set HOLDFAST_PARTITIONS={pinned}"
        )
    for field in plan.checked:
        is_, must = found.get(field), wanted.get(field, False)
        if field == "subjects":
            is_, must = sorted(is_ or []), sorted(must)
        if (is_ or False) != (must or False):
            setting = f", set {SETTING_OF[field]}" if field in SETTING_OF else ""
            raise Incompatible(
                f"stream {plan.name} has {field} = {is_!r}, and it must be {must!r}: change it with"
                f" `nats stream edit {plan.name}`{setting}, or, if nothing in it is needed, remove it and start again"
            )


async def ensure_consumer(connection: Connection, plan: ConsumerPlan, *, budget_s: float | None = None) -> None:
    """Make a consumer, or bring its waits up to date; raises `Incompatible` if it is another kind of consumer."""
    body = {"stream_name": plan.stream, "config": plan.config}
    try:
        found = await api.ask(connection, f"CONSUMER.INFO.{plan.stream}.{plan.name}", budget_s=budget_s)
    except api.ApiRefused as refusal:
        if refusal.err_code != api.CONSUMER_NOT_FOUND:
            raise Incompatible(f"cannot look at consumer {plan.name} of {plan.stream}: {refusal}") from refusal
    else:
        if not _check_consumer(plan, found["config"]):
            return
    try:
        await api.ask(connection, plan.create_subject, body, budget_s=budget_s)
    except api.ApiRefused as refusal:
        raise Incompatible(f"cannot make consumer {plan.name} of {plan.stream}: {refusal}") from refusal
    logger.info("made or changed consumer %s of %s", plan.name, plan.stream, extra={"action": "topology.consumer"})


def _check_consumer(plan: ConsumerPlan, found: Mapping[str, Any]) -> bool:
    """Raise if it is another kind; True if it only has to be brought up to date."""
    for field in ("filter_subject", "ack_policy", "deliver_policy", "max_deliver"):
        if found.get(field) != plan.config[field]:
            raise Incompatible(
                f"consumer {plan.name} of {plan.stream} has {field} = {found.get(field)!r}, and it must be"
                f" {plan.config[field]!r}: remove it with `nats consumer rm {plan.stream} {plan.name}`;"
                " it is made again, and what it delivers twice does no harm"
            )
    return any(found.get(field) != plan.config[field] for field in ("ack_wait", "max_ack_pending", "max_waiting"))


def durability(connection: Connection, settings: Settings) -> Durability:
    """What an acknowledgement means, as far as it can be known.

    A client cannot read a server's sync interval, so the server's name has to say it (ADR 0012). A majority of three or
    more replicas has a write before it is acknowledged, synced or not.
    """
    if settings.storage == "memory":
        return "volatile"
    if connection.server_name == SERVER_NAME_SYNCED or SYNCED_MARK in connection.server_name:
        return "synced"
    return "replicated" if settings.stream_replicas >= 3 else "unknown"


def check_durability(connection: Connection, settings: Settings) -> Durability:
    """Say what the server promises; under `strict_durability`, refuse less than a disk or a majority of disks."""
    promise = durability(connection, settings)
    match promise:
        case "volatile":
            text = "streams are kept in memory (HOLDFAST_STORAGE=memory): what is acknowledged is lost with the server"
        case "unknown":
            text = (
                f"NATS server {connection.server_name!r} cannot be asked whether it syncs before it acknowledges, and"
                " there is one copy of each stream: a power cut may lose acknowledged work; set"
                " `sync_interval: always` in its configuration, and say so in its name, for example"
                f" `server_name: nats-{SYNCED_MARK}`, or run three servers with HOLDFAST_STREAM_REPLICAS=3"
            )
        case "synced" | "replicated":
            logger.info("acknowledged work is %s", promise, extra={"action": "topology.durability"})
            return promise
    if settings.strict_durability:
        raise Incompatible(f"refused under HOLDFAST_STRICT_DURABILITY: {text}")
    logger.warning(text, extra={"action": "topology.durability"})
    return promise
