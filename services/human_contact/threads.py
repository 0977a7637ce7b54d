"""Threads that people go on in: what they reply to a task's answer is said in its thread.

Only through channels that want it (`continueThreads`), about tasks whose answers go to that channel, by those who may
answer there, and so often and no more. The same reply again is said once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from schemas.contact_channels import allowed_of
from schemas.requests import Accepted, SendMessage
from services.human_contact.core.rates import Rate, Rates
from services.human_contact.door import sentence

if TYPE_CHECKING:
    from services.human_contact.channels.registry import ChannelKey, Channels
    from services.human_contact.door import FrontDoor
    from services.runtime.ports import Clock

TEXT_LENGTH_MAX = 20_000
EACH = Rate(per_s=0.2, burst=10)
"""One person in one channel."""
EVERYBODY = Rate(per_s=10, burst=100)
SAY_S = 1.8
"""How long the planner has; Slack waits for three seconds."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody has replied to a task's answer."""

    channel: ChannelKey
    task: str
    """Any task of the thread."""
    by: str
    """As the channel knows them."""
    text: str
    id: str
    """What tells it from other replies."""


class Threads:
    """Says in threads what people reply."""

    def __init__(self, door: FrontDoor, channels: Channels, clock: Clock) -> None:
        self._door = door
        self._channels = channels
        self._clock = clock
        self._started = clock.now()
        self._rates = Rates(EACH, EVERYBODY, 0.0)

    def wants(self, channel: ChannelKey) -> bool:
        """Whether people may go on in threads through a channel."""
        spec = self._channels.spec(channel)
        return spec is not None and spec.continue_threads

    async def say(self, reply: Reply) -> str | None:
        """Say it: what its sender is to be told, if anything; None if it is nothing for a thread.

        Raises `Unavailable` while no planner answers: the same reply may come again.
        """
        spec = self._channels.spec(reply.channel)
        namespace = reply.channel.namespace
        if spec is None or not spec.continue_threads:
            return None
        if await self._door.told_by(namespace, reply.task) != reply.channel.name:
            return None
        allowed = {one.strip().lower() for one in allowed_of(spec)}
        if allowed and reply.by.strip().lower() not in allowed:
            return "You may not go on in this thread."
        if not reply.text.strip():
            return "There is no text in your reply, so the agent was not told of it."
        if len(reply.text) > TEXT_LENGTH_MAX:
            return f"Your reply has more than {TEXT_LENGTH_MAX} characters, so the agent was not told of it."
        if wait_s := self._rates.wait_s(f"{reply.channel} {reply.by}", self._now_s()):
            return f"You reply faster than is taken. Say it again in {max(wait_s, 1):.0f} s: the agent was not told."
        request = SendMessage(task=reply.task, message=reply.text, by=reply.by[:200])
        answer = await self._door.say(namespace, request, message_id=reply.id, timeout_s=SAY_S)
        return "" if isinstance(answer, Accepted) else sentence(answer)

    def _now_s(self) -> float:
        return (self._clock.now() - self._started).total_seconds()
