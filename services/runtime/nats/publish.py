"""Storing a message: the one place that knows which of the server's answers mean what.

stored                    its sequence
Mismatch                  the subject is at another sequence than was expected: nothing was stored
transient, nothing done   tried again here, for a bounded time
unknown                   (no answer, connection lost) tried again here too, and told to the caller, who alone
                          can find out whether the first try had been stored
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from services.runtime.errors import Refused, Unavailable
from services.runtime.nats.client import Interrupted
from services.runtime.nats.connection import REQUEST_S, Connection, NoResponders
from services.runtime.nats.wire import ApiError, PubAck, Raw, decode_pub_ack

logger = logging.getLogger(__name__)

BUDGET_S = 10.0
"""How long storing is tried: the election of a new leader takes 4 to 9 seconds."""
SLOWEST_BYTES_S = 2 << 20
"""A large message is given time at this rate, and not sent again and again to a server that is busy with it."""
RETRY_MIN_S = 0.01
RETRY_MAX_S = 0.5

MISMATCH = 10071
IN_PROCESS = 10164
"""Another write to the subject is under way: not a conflict yet."""
ID_IN_PROCESS = 10158
BATCH_INCOMPLETE = 10176
BATCHES_TOO_MANY = 10210
MESSAGE_TOO_LARGE = 10054
TRANSIENT = frozenset(
    {IN_PROCESS, ID_IN_PROCESS, BATCH_INCOMPLETE, BATCHES_TOO_MANY, 10008, 10023, 10039, 10118, 10167}
)


class Mismatch(Exception):
    """The subject is at another sequence: `actual`, if the server said it.

    `unsure`: an earlier try may have been stored, and be the reason.
    """

    def __init__(self, subject: str, description: str, *, unsure: bool) -> None:
        super().__init__(f"{subject}: {description}")
        said = description.rpartition(": ")[2]
        self.actual = int(said) if said.isdecimal() else 0
        self.unsure = unsure


class Command(NamedTuple):
    """A message on its way to a stream."""

    subject: str
    data: bytes
    headers: Mapping[str, str]


class Patience:
    """The waits between tries: short first, with jitter, until the time is up. `size`: bytes of a message to store."""

    def __init__(self, size: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self.answer_s = REQUEST_S + size / SLOWEST_BYTES_S
        """How long the next answer may take."""
        self._deadline = self._loop.time() + BUDGET_S + 2 * size / SLOWEST_BYTES_S
        self._delay_s = RETRY_MIN_S

    async def wait(self, why: str, *, silent: bool = False) -> None:
        """Wait before the next try; raises `Unavailable` when the time is up.

        `silent`: there was no answer. Then the next one is given twice the time: a server that is slow because it has
        much to do must not be given more to do.
        """
        if silent:
            self.answer_s *= 2
        if self._loop.time() + self._delay_s > self._deadline:
            raise Unavailable(why)
        await asyncio.sleep(self._delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        self._delay_s = min(self._delay_s * 2, RETRY_MAX_S)


async def store(connection: Connection, message: Command, *, repeatable: bool = True) -> int:
    """Store a message; its sequence. Raises `Mismatch`, `Refused`, `Unavailable`.

    Not `repeatable`: nothing but luck keeps a second try from storing it twice, so an unknown outcome is `Unavailable`.
    """
    patience = Patience(len(message.data))
    unsure = False
    while True:
        silent = False
        try:
            raw = await connection.request(message.subject, message.data, message.headers, timeout_s=patience.answer_s)
            ack = pub_ack(raw)
            if ack.error is None:
                return ack.seq
            refuse(message.subject, ack.error, unsure=unsure)
            why = ack.error.description
        except NoResponders as failure:
            why = str(failure)
        except Interrupted as failure:
            if not repeatable:
                raise
            unsure = silent = True
            why = str(failure)
        await patience.wait(f"{message.subject} was not stored: {why}", silent=silent)


def refuse(subject: str, error: ApiError, *, unsure: bool) -> None:
    """Raise for an answer that trying again would not change; return for a transient one."""
    if error.err_code == MISMATCH:
        raise Mismatch(subject, error.description, unsure=unsure)
    if error.err_code == MESSAGE_TOO_LARGE:
        raise Refused(f"{subject}: {error.description}", code="too_large")
    if error.err_code in TRANSIENT or error.code == 503:
        return
    logger.error(
        "%s was not stored: %s (%d)",
        subject,
        error.description,
        error.err_code,
        extra={"action": "nats.refused", "subject": subject},
    )
    raise Unavailable(f"{subject} was not stored: {error.description} (JetStream error {error.err_code})")


def pub_ack(raw: Raw) -> PubAck:
    """The answer to a stored message."""
    try:
        return decode_pub_ack(raw.data)
    except msgspec.DecodeError as error:
        raise Unavailable(f"an answer that is not JetStream's: {error}") from error
