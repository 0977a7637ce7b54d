"""One full and one minimal example of every message, and the files that hold their bytes.

    python -m tests.support.wire_examples    write the golden files that are not there yet

A golden file is written once and never changed: it is what a message looked like when it was released. A file that
does not fit any more means that the contract broke, and not that the file is old. A release that adds messages or
fields has a module with full examples of those that it changed; the newest example of a message sets all its fields.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from schemas.commands import AskPerson, CallModel, RunTool, WithdrawQuestion
from schemas.dead_letters import DeadLetter, FailedAttempt
from schemas.events import (
    ApprovalGranted,
    CancelRequested,
    ConversationStarted,
    MessageSent,
    ModelAnswered,
    ModelFailed,
    TaskFollowed,
    TaskRemoving,
    TaskSubmitted,
    ThreadBegun,
    TimerFired,
    ToolFinished,
    ToolOutput,
    ToolStarted,
    WindowCompacted,
)
from schemas.flow import MailboxLease, NamespaceFlow, PoolFlow
from schemas.interactions import (
    AnswerInteraction,
    InteractionAnswered,
    InteractionRequested,
    InteractionStep,
    PeopleDue,
)
from schemas.live import HolderAsked, HolderSaid, TaskChanged, TextAsked, TextDelta, TextSoFar, ToolProgress
from schemas.messages import AssistantMessage, Usage
from schemas.notifications import (
    NotificationDelivered,
    NotificationDue,
    NotificationFailed,
    NotificationPending,
    Notify,
)
from schemas.reading import ReadEntries, ReadSettings, ReadStored, ReadSubjects
from schemas.requests import Accepted, CancelTask, DeleteTask, Rejected, SendMessage, SubmitTask, TaskSpec
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    ContactChannel,
    ContactChannelSpec,
    Grant,
    GrantSpec,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Quota,
    QuotaSpec,
    Ref,
    ResourceStatus,
    SecretKeyRef,
    SecretSource,
    SlackSink,
    Subscription,
    SubscriptionSpec,
    Toolset,
    ToolsetSpec,
)
from schemas.task import (
    AwaitingModel,
    AwaitingTools,
    Budget,
    Cancelled,
    Failed,
    FinalAnswer,
    Initializing,
    RetryingModel,
    Waiting,
)
from schemas.wire import encode
from tests.support.wire_first import AT, FIRST, SPARE, TASK
from tests.support.wire_notifications import NOTIFICATIONS
from tests.support.wire_people import PEOPLE
from tests.support.wire_reading import READING
from tests.support.wire_second import SECOND
from tests.support.wire_threads import THREADS

GOLDEN = Path(__file__).parents[1] / "conformance" / "wire" / "golden"
RELEASES = (FIRST, SECOND, NOTIFICATIONS, PEOPLE, THREADS, READING)


NOTIFICATION: dict[str, Any] = {
    "id": "n",
    "namespace": "default",
    "task": "t",
    "event": "task.finished",
    "receiver": "responseURL",
    "place": 1,
    "lane": "l",
    "created_at": AT,
}


class Example(NamedTuple):
    """A message, and the name of the file with its bytes."""

    name: str
    value: msgspec.Struct

    @property
    def path(self) -> Path:
        return GOLDEN / f"{self.name}.json"


FULL: tuple[msgspec.Struct, ...] = tuple({type(value): value for release in RELEASES for value in release}.values())
"""The newest full example of each message."""

MINIMAL: tuple[msgspec.Struct, ...] = (
    Initializing(**SPARE),
    Waiting(**SPARE, reason="agent not found", since=AT),
    AwaitingModel(**SPARE, budget=Budget(max_turns=20), turn=1),
    RetryingModel(**SPARE, budget=Budget(max_turns=20), turn=1, attempt=2, not_before=AT, error=""),
    AwaitingTools(**SPARE, budget=Budget(max_turns=20), turn=1, request="r1", answer_seq=9, calls=()),
    FinalAnswer(**SPARE, ended_at=AT, turn=1, ended_by=""),
    Failed(**SPARE, ended_at=AT, turn=0, ended_by="", reason="ValidationFailed", error=""),
    Cancelled(**SPARE, ended_at=AT, turn=0, ended_by="", reason="", by=""),
    CallModel(**TASK, turn=1, attempt=1),
    RunTool(**TASK, request="r1", n=1, answer_seq=9, tool="clock__now"),
    TaskSubmitted(namespace="default", task="t", spec=TaskSpec(agent="helper"), at=AT),
    ModelAnswered(turn=1, attempt=1, message=AssistantMessage(), usage=Usage(), at=AT),
    ModelFailed(turn=1, attempt=1, failure="refused", error="", at=AT),
    ToolFinished(request="r1", n=1, tool_call_id="", tool="", outcome="succeeded", content="", at=AT),
    CancelRequested(at=AT),
    TimerFired(timer="deadline", due=AT),
    ConversationStarted(messages=()),
    ToolStarted(attempt=1, replica="", at=AT, lease_s=1.5),
    TextDelta(turn=1, attempt=1, offset=0, text=""),
    ToolProgress(request="r1", n=1, tool=""),
    TaskChanged(phase="Initializing", status="Pending", status_detail="", reason="", revision=1, at=AT),
    SubmitTask(),
    CancelTask(),
    DeleteTask(),
    Accepted(namespace="default", task="t"),
    Rejected(code="malformed", error=""),
    DeadLetter(
        stream="S",
        seq=1,
        consumer="c",
        subject="s",
        reason="malformed",
        error="",
        at=AT,
        deliveries=1,
        headers={},
        payload="",
    ),
    FailedAttempt(delivery=1, at=AT, replica="", error=""),
    LLM(metadata=Metadata(name="main"), spec=LLMSpec(provider="openai")),
    Agent(metadata=Metadata(name="helper"), spec=AgentSpec(llm_ref=Ref(name="main"), system="")),
    MCPServer(metadata=Metadata(name="clock"), spec=MCPServerSpec(transport="stdio")),
    ContactChannel(metadata=Metadata(name="oncall"), spec=ContactChannelSpec(type="email")),
    ResourceStatus(ready=False, status="Pending", status_detail="", observed_revision=1, at=AT),
    WindowCompacted(
        turn=1,
        attempt=1,
        policy="summarize",
        replaced=1,
        messages=(),
        tokens_before=0,
        tokens_after=0,
        at=AT,
    ),
    ToolOutput(content=""),
    TextAsked(),
    MessageSent(content="", at=AT),
    TaskFollowed(submitted=TaskSubmitted(namespace="default", task="t", spec=TaskSpec(agent="helper"), at=AT)),
    TaskRemoving(),
    ThreadBegun(submitted=TaskSubmitted(namespace="default", task="t", spec=TaskSpec(agent="helper"), at=AT)),
    SendMessage(),
    AskPerson(**TASK, request="r1", n=1, tool_call_id="", tool="", answer_seq=9, kind="question", channel="oncall"),
    WithdrawQuestion(namespace="default", task="t", request="r1", n=1, reason=""),
    ApprovalGranted(request="r1", n=1, tool_call_id="", tool="", arguments="{}", digest="", at=AT),
    InteractionRequested(
        namespace="default", task="t", interaction="r1.1.1", message="", agent="a", tool="", at=AT, expires=AT
    ),
    InteractionAnswered(namespace="default", task="t", interaction="r1.1.1", action="cancel", at=AT),
    InteractionStep(interaction="r1.1.0", step=0, channel="oncall", at=AT),
    PeopleDue(interaction="r1.1.0", due=AT),
    AnswerInteraction(),
    Grant(metadata=Metadata(name="g"), spec=GrantSpec(agent="helper", tool="mail__send")),
    HolderAsked(ledger="", result=""),
    HolderSaid(holds="ended"),
    TextSoFar(turn=1, attempt=1, offset=0, text=""),
    Toolset(metadata=Metadata(name="clock"), spec=ToolsetSpec()),
    Quota(metadata=Metadata(name="default"), spec=QuotaSpec()),
    PoolFlow(),
    NamespaceFlow(),
    MailboxLease(by="", until=AT),
    ReadStored(),
    ReadSettings(partitions=1),
    ReadEntries(entries=()),
    ReadSubjects(subjects=()),
    Notify(**TASK, event="task.finished", at=AT),
    NotificationPending(**NOTIFICATION, due=AT, give_up_at=AT),
    NotificationDelivered(**NOTIFICATION, at=AT),
    NotificationFailed(**NOTIFICATION, at=AT, error=""),
    NotificationDue(due=AT, revision=1),
    Subscription(
        metadata=Metadata(name="ops"),
        spec=SubscriptionSpec(
            slack=SlackSink(webhook_from=SecretSource(secret_key_ref=SecretKeyRef(name="ops", key="hook")))
        ),
    ),
)
"""Only what has no default."""


def examples() -> Iterator[Example]:
    """All of them, named by tag or, where there is none, by type; a message's later full examples have a number."""
    editions: dict[type[msgspec.Struct], int] = {}
    for release in RELEASES:
        for value in release:
            edition = editions[type(value)] = editions.get(type(value), 0) + 1
            yield Example(f"{_name(value)}.full" + (f"-{edition}" if edition > 1 else ""), value)
    for value in MINIMAL:
        yield Example(f"{_name(value)}.minimal", value)


def _name(value: msgspec.Struct) -> str:
    tag = value.__struct_config__.tag
    is_versioned = isinstance(tag, str) and tag.rpartition(".")[2].startswith("v")
    return str(tag) if is_versioned else type(value).__name__


def main() -> int:
    """Write the files that are missing, and leave the others alone."""
    GOLDEN.mkdir(exist_ok=True)
    for example in examples():
        if not example.path.exists():
            example.path.write_bytes(encode(example.value))
            sys.stdout.write(f"new: {example.path.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
