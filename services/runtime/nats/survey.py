"""How full the streams are and how far the consumers, as the server tells it: for metrics, and for nothing else."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from services.runtime.errors import Unavailable
from services.runtime.nats import api
from services.runtime.nats.client import Interrupted
from services.runtime.nats.connection import Connection, NoResponders
from services.runtime.nats.topology import ConsumerPlan, StreamPlan, consumer_plans, stream_plans
from services.runtime.nats.wire import JS_TIME, decode_headers, parse_time
from services.runtime.ports import ConsumerState, StreamState, Survey

if TYPE_CHECKING:
    from services.runtime.settings import Settings

BUDGET_S = 3.0
"""How long one question is asked again. What cannot be known now is looked at the next time."""
ANSWER_S = 2.0


class _Peer(msgspec.Struct, frozen=True):
    current: bool = False
    offline: bool = False


class _Cluster(msgspec.Struct, frozen=True):
    replicas: tuple[_Peer, ...] = ()


class _Filled(msgspec.Struct, frozen=True):
    messages: int
    bytes_: int = msgspec.field(name="bytes")
    last_seq: int


class _StreamInfo(msgspec.Struct, frozen=True):
    state: _Filled
    cluster: _Cluster = _Cluster()


class _Reached(msgspec.Struct, frozen=True):
    stream_seq: int = 0


class _ConsumerInfo(msgspec.Struct, frozen=True):
    delivered: _Reached
    num_pending: int
    num_ack_pending: int
    num_redelivered: int


class _Next(msgspec.Struct, frozen=True):
    seq: int
    next_by_subj: str


async def survey(connection: Connection, settings: Settings) -> Survey:
    """All streams and durable consumers; raises `Unavailable`."""
    try:
        return Survey(
            [await _stream(connection, plan, settings.stream_replicas) for plan in stream_plans(settings)],
            [await _consumer(connection, plan) for plan in consumer_plans(settings)],
        )
    except api.ApiRefused as refusal:
        raise Unavailable(f"the server does not tell how it is: {refusal}") from refusal


async def _stream(connection: Connection, plan: StreamPlan, replicas: int) -> StreamState:
    answer = await api.ask(connection, f"STREAM.INFO.{plan.name}", budget_s=BUDGET_S)
    info = msgspec.convert(answer, _StreamInfo)
    followers = sum(peer.current and not peer.offline for peer in info.cluster.replicas)
    return StreamState(
        name=plan.name,
        messages=info.state.messages,
        bytes_=info.state.bytes_,
        last_seq=info.state.last_seq,
        replicas_missing=max(replicas - 1 - followers, 0),
    )


async def _consumer(connection: Connection, plan: ConsumerPlan) -> ConsumerState:
    answer = await api.ask(connection, f"CONSUMER.INFO.{plan.stream}.{plan.name}", budget_s=BUDGET_S)
    info = msgspec.convert(answer, _ConsumerInfo)
    oldest = await _first_after(connection, plan, info.delivered.stream_seq) if info.num_pending else None
    return ConsumerState(
        name=plan.name,
        stream=plan.stream,
        pending=info.num_pending,
        oldest_pending=oldest,
        in_hand=info.num_ack_pending,
        redelivering=info.num_redelivered,
    )


async def _first_after(connection: Connection, plan: ConsumerPlan, seq: int) -> datetime | None:
    """When the first message for a consumer behind a sequence was stored; None if it is gone or not known."""
    question = msgspec.json.encode(_Next(seq + 1, plan.config["filter_subject"]))
    try:
        raw = await connection.request(
            f"{connection.api_prefix}.DIRECT.GET.{plan.stream}", question, timeout_s=ANSWER_S
        )
    except (Interrupted, NoResponders):
        return None
    stored = decode_headers(raw.headers).get(JS_TIME)
    return parse_time(stored) if stored is not None else None
