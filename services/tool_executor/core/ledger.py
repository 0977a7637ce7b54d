"""The effects ledger's decisions: whether a delivery may perform its call, and as which attempt.

The ledger is written only for calls that must not be performed twice. A command is delivered again only when its
holder was silent for the whole acknowledgement wait, so the lease of an entry is that long: an entry that is older,
or that was seen unchanged for as long, belongs to a replica that is gone. The second way makes the decision
independent of two clocks agreeing.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from schemas.events import ToolStarted
from services.tool_executor.core.policy import OnUncertain


class Begin(msgspec.Struct, frozen=True):
    """Perform the call: write the entry of `attempt` at revision `expected` first."""

    attempt: int
    expected: int


class Wait(msgspec.Struct, frozen=True):
    """Another replica may be at it: look again after `for_s`."""

    for_s: float


class Unknown(msgspec.Struct, frozen=True):
    """The call was started, nobody knows how it ended, and it must not be performed again."""

    entry: ToolStarted


Decision = Begin | Wait | Unknown


def decide(
    entry: ToolStarted | None,
    revision: int,
    *,
    now: datetime,
    unchanged_for_s: float,
    on_uncertain: OnUncertain,
) -> Decision:
    """What to do with a call that has no result, given its ledger entry.

    `unchanged_for_s` is how long the caller has seen the entry at this revision.
    """
    if entry is None:
        return Begin(1, 0)
    age_s = max((now - entry.at).total_seconds(), unchanged_for_s)
    if age_s < entry.lease_s:
        return Wait(entry.lease_s - age_s)
    if on_uncertain == "retry":
        return Begin(entry.attempt + 1, revision)
    return Unknown(entry)
