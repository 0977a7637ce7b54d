"""Connecting to what is there: nothing is made or changed, and the settings that must agree are read from the server.

For tools that look on: a service makes and checks streams and consumers when it starts (`bus.connect`), with the
settings it runs with; a tool must not do that with its own.
"""

from __future__ import annotations

import msgspec

from schemas import subjects
from services.runtime.nats import api, topology
from services.runtime.nats.bus import NatsBus
from services.runtime.nats.connection import Connection
from services.runtime.settings import Settings


class NothingThere(Exception):
    """The server answers, and no service has ever run on it."""


async def attach(settings: Settings, *, service: str, budget_s: float = 5.0) -> NatsBus:
    """Connect to the streams of a running system, however many partitions and replicas they have.

    Raises `NothingThere`, `topology.Incompatible` or `Unavailable`, all with a text for people.
    """
    connection = Connection(settings, service=service)
    await connection.open()
    try:
        topology.check_server(connection)
        return NatsBus(connection, await as_there(connection, settings, budget_s), "unknown")
    except BaseException:
        await connection.close()
        raise


async def as_there(connection: Connection, settings: Settings, budget_s: float) -> Settings:
    """The settings, with the partitions and replicas that the streams have; raises what `attach` raises."""
    stream = subjects.task_stream(0)
    try:
        config = (await api.ask(connection, f"STREAM.INFO.{stream}", budget_s=budget_s))["config"]
    except api.ApiRefused as refusal:
        if refusal.err_code == api.STREAM_NOT_FOUND:
            raise NothingThere(f"the server at {settings.nats_url} has no stream {stream}") from refusal
        raise topology.Incompatible(f"cannot look at stream {stream}: {refusal}") from refusal
    partitions = int(config.get("metadata", {}).get(topology.PARTITIONS_KEY, 1))
    return msgspec.structs.replace(settings, partitions=partitions, stream_replicas=int(config["num_replicas"]))
