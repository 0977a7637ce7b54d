"""A process that takes one message, keeps it alive, and never finishes: to be killed.

    python -m tests.support.nats_holder URL ACK_WAIT_S

It prints `held <stream sequence>` when it has it.
"""

from __future__ import annotations

import asyncio
import sys

from schemas.dead_letters import DeadReason
from schemas.subjects import TOOL_EXECUTOR
from services.runtime.consumer import Consumer, Inbound
from services.runtime.dead_letters import DeadLetters
from services.runtime.nats.bus import connect
from services.runtime.settings import Settings
from services.runtime.telemetry.metrics import Metrics


async def hold(inbound: Inbound) -> None:
    print(f"held {inbound.seq}", flush=True)  # noqa: T201 - this is how the test knows
    await asyncio.Event().wait()


async def no_dead(inbound: Inbound, reason: DeadReason, error: str) -> None:
    raise AssertionError(f"{inbound.subject} died: {reason}: {error}")


async def main(url: str, ack_wait_s: float) -> None:
    settings = Settings(nats_url=url, ack_wait_s=ack_wait_s)
    async with await connect(settings, service="holder", on_closed=sys.exit) as bus:
        consumer = Consumer(
            await bus.queue(TOOL_EXECUTOR, 0),
            hold,
            on_dead=no_dead,
            dead_letters=DeadLetters(bus.dead_letters, bus.clock),
            clock=bus.clock,
            slots=1,
            deliveries_max=100,
            replica="holder",
            metrics=Metrics().consumer(TOOL_EXECUTOR),
        )
        await consumer.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
