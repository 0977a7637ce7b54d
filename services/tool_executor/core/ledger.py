"""The effects ledger's decisions: whether a delivery may perform its call, and as which attempt.

The ledger is written only for calls that must not be performed twice. A command is delivered again when its holder was
silent for the whole acknowledgement wait, so the lease of an entry is that long: until it is over, or was seen
unchanged for as long (which makes the decision independent of two clocks agreeing), the entry is left alone.

A silent holder is not a dead one: it may be stalled, and finish. So whoever finds that the lease is over asks the
holder first, and gives the call up only when the holder is gone, says that it is not at it any more, or was silent for
so long that nobody should wait for it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from schemas.events import ToolStarted
from services.tool_executor.core.policy import OnUncertain

GONE_S = 0.2
"""How long the bus has to say that a holder is not connected: one that lost its connection is back by then."""
SILENT_S = 10.0
"""How long a connected holder may leave questions unanswered."""
LOOK_S = 0.25
"""Between two looks at a call that another replica runs."""


class Begin(msgspec.Struct, frozen=True):
    """Perform the call: write the entry of `attempt` at revision `expected` first."""

    attempt: int
    expected: int


class Wait(msgspec.Struct, frozen=True):
    """Another replica may be at it: look again after `for_s`."""

    for_s: float


class Ask(msgspec.Struct, frozen=True):
    """Ask the holder, look for a result, and decide again."""

    holder: str


class Unknown(msgspec.Struct, frozen=True):
    """The call was started, nobody knows how it ended, and it must not be performed again by itself."""

    entry: ToolStarted
    revision: int


Decision = Begin | Wait | Ask | Unknown

Says = Literal["running", "unused", "ended", "silent", "gone"]
"""What a holder says of its entry, or what its silence means."""


class Heard(msgspec.Struct, frozen=True):
    """What was heard of a holder, and for how long nothing else."""

    says: Says
    for_s: float


def decide(
    entry: ToolStarted | None,
    revision: int,
    *,
    now: datetime,
    unchanged_for_s: float,
    on_uncertain: OnUncertain,
    heard: Heard | None,
) -> Decision:
    """What to do with a call that has no result, given its ledger entry.

    `unchanged_for_s` is how long the caller has seen the entry at this revision. `heard`: since it was last asked.
    """
    if entry is None:
        return Begin(1, 0)
    age_s = max((now - entry.at).total_seconds(), unchanged_for_s)
    if age_s < entry.lease_s:
        return Wait(entry.lease_s - age_s)
    if entry.holder and heard is None:
        return Ask(entry.holder)
    if heard is not None and (wait := _patience(heard)) is not None:
        return wait
    if heard is not None and heard.says == "unused":
        return Begin(entry.attempt, revision)
    if on_uncertain == "retry":
        return Begin(entry.attempt + 1, revision)
    return Unknown(entry, revision)


def _patience(heard: Heard) -> Wait | None:
    """How long to wait for a holder; None when it is not waited for."""
    match heard.says:
        case "running":
            return Wait(LOOK_S)
        case "silent" if heard.for_s < SILENT_S:
            return Wait(LOOK_S)
        case "gone" if heard.for_s < GONE_S:
            return Wait(GONE_S - heard.for_s)
        case _:
            return None
