"""Full examples of what tenants ask planners to read for them, and of what replicas of human-contact share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from schemas.flow import MailboxLease
from schemas.reading import ReadEntries, ReadEntry, ReadSettings, ReadStored, ReadSubjects

AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)

READING: tuple[msgspec.Struct, ...] = (
    ReadStored(partition=3, filters=("hf.3.team-a.evt.t.>",), seqs=(7, 9), at_least=12, offset=524288),
    ReadSettings(partitions=4),
    ReadEntries(
        entries=(
            ReadEntry(
                subject="hf.3.team-a.evt.t.submitted",
                seq=7,
                at=AT,
                headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
                data=b'{"type":"task.submitted.v1"}',
                size=28,
            ),
        ),
        rest=(9, 12),
    ),
    ReadSubjects(subjects=("hf.3.team-a.evt.t.submitted", "hf.3.team-a.evt.t.cancel")),
    MailboxLease(by="host-42", until=AT + timedelta(seconds=45)),
)
