"""The catalogue: who says what to whom, where it is stored, how it is delivered, and within which limits.

One `Channel` for each kind of subject. The addresses are made by the functions of `subjects.py` from placeholders, so
they cannot differ from what is published. `export.py` turns this table into an AsyncAPI document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

import msgspec

from schemas import subjects
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
from schemas.notifications import (
    NotificationDelivered,
    NotificationDue,
    NotificationFailed,
    NotificationPending,
    Notify,
)
from schemas.reading import ReadEntries, ReadSettings, ReadStored, ReadSubjects
from schemas.requests import Accepted, CancelTask, DeleteTask, Rejected, SendMessage, SubmitTask
from schemas.resources import LLM, Agent, ContactChannel, Grant, MCPServer, Quota, ResourceStatus, Subscription, Toolset
from schemas.subjects import TaskSubjects
from schemas.task import (
    AwaitingModel,
    AwaitingTools,
    Cancelled,
    Failed,
    FinalAnswer,
    Initializing,
    RetryingModel,
    Waiting,
)

Party = Literal[
    "client",
    "cli",
    "planner",
    "llm-gateway",
    "tool-executor",
    "notifier",
    "human-contact",
    "every-service",
    "nats-server",
]
"""`client`: whoever asks for tasks, with any NATS client. `every-service`: the runtime that all of them share."""

Delivery = Literal["recorded-once", "at-revision", "queued", "scheduled", "last-value", "at-most-once"]
"""How a message is written, and so how often it can be there.

- `recorded-once`: on a subject of its own, which must not exist yet. Saying it again changes nothing, for as long as
  the message is kept. Consumers may see it more than once.
- `at-revision`: replaces the newest message of its subject, if that is the one its writer has seen.
- `queued`: stored each time it is published, and delivered until it is handled. A request that is said twice is done
  once, because its message id or the name it gives makes it the same task.
- `scheduled`: the server publishes it at its time or later, at least once.
- `last-value`: replaces the newest message of its subject.
- `at-most-once`: not stored; whoever listens hears it.
"""

Kept = Literal["with its task", "until it fires", "until it is handled", "30 days", "until it is deleted", "not at all"]

MIB = 1 << 20
MESSAGE_BYTES_MAX = 8 * MIB
"""Of one message, headers included: what the embedded server takes. Another server's own limit counts there."""
PAYLOAD_BYTES_MAX = 256 * MIB
"""Of a payload that is stored: above the server's limit it goes to the object store, and the message names it."""


class Channel(NamedTuple):
    """One kind of subject and what is said on it."""

    name: str
    address: str
    """The subject, with `{placeholders}`; empty where the asker chooses it."""
    title: str
    messages: tuple[type[msgspec.Struct], ...]
    """Empty: a signal without a body."""
    published_by: tuple[Party, ...]
    consumed_by: tuple[Party, ...]
    delivery: Delivery
    kept: Kept
    stream: str = ""
    """With a `{placeholder}` for the partition; empty where nothing is stored."""
    consumer: str = ""
    """The durable consumer that delivers it; empty where it is read by subject or sequence, watched or subscribed."""
    other_consumers: tuple[str, ...] = ()
    """Those that deliver it to others as well."""
    reply: str = ""
    """The channel of the answers."""

    @property
    def bytes_max(self) -> int:
        """How large a message may be; 0 where there is no body."""
        if not self.messages:
            return 0
        is_payload = self.stream and self.stream not in (_RESOURCES_STREAM, _FLOW_STREAM)
        return PAYLOAD_BYTES_MAX if is_payload else MESSAGE_BYTES_MAX


_PARTITION = cast("int", "{partition}")  # a placeholder where the functions expect a number; they only print it
_SEQ = cast("int", "{seq}")
_DELIVERY = cast("int", "{delivery}")
_TURN = cast("int", "{turn}")
_ATTEMPT = cast("int", "{attempt}")
_CALL = cast("int", "{n}")
_QUESTION = cast("int", "{k}")
_STEP = cast("int", "{step}")
_NAMESPACE = "{namespace}"
_TASK = TaskSubjects(_PARTITION, _NAMESPACE, "{task}")
_TASK_STREAM = subjects.task_stream(_PARTITION)
_RESOURCES = f"$KV.{subjects.RESOURCES_BUCKET}."
_RESOURCES_STREAM = f"KV_{subjects.RESOURCES_BUCKET}"
_FLOW = f"$KV.{subjects.FLOW_BUCKET}."
_FLOW_STREAM = f"KV_{subjects.FLOW_BUCKET}"

STATES = (Initializing, Waiting, AwaitingModel, RetryingModel, AwaitingTools, FinalAnswer, Failed, Cancelled)

PLACEHOLDERS = {
    "partition": "The number of the task's partition: CRC-32 of `namespace/task`, modulo the number of partitions.",
    "namespace": "The tenant; letters, digits, `-` and `_`, 63 characters at most.",
    "task": "The task's name; letters, digits, `-` and `_`, 63 characters at most.",
    "turn": "The turn of the conversation, from 1.",
    "attempt": "The attempt at the model call, from 1.",
    "request": "The batch of tool calls of one model answer: `r<turn>`.",
    "n": "The tool call's place in its answer, from 1.",
    "k": "The question of the tool call to a person, from 1; 0: about the call itself.",
    "step": "Which channel was asked, from 0.",
    "who": "A token that stands for the person who answered.",
    "timer": "What the wake-up is for: `deadline`, `recheck` or `retry-<turn>-<attempt>`.",
    "holder": "A process of the tool-executor: a digest of its name and of when it was started.",
    "account": "A digest of the provider's address, the key and the model; the key cannot be found from it.",
    "key": "A digest of the name that a caller gave to a thread.",
    "id": "A token that stands for the request.",
    "kind": "The resource's kind.",
    "name": "The resource's name.",
    "notification": "A digest of the task and the receiver: what receivers know a repetition by.",
    "stream": "The stream that holds the dead message.",
    "seq": "Its sequence there.",
    "delivery": "Which delivery of the message failed, from 1.",
}

_TASK_CHANNELS = (
    Channel(
        name="task-state",
        address=_TASK.state,
        title="The state of a task: the one truth about it",
        messages=STATES,
        published_by=("planner",),
        consumed_by=("planner", "llm-gateway", "human-contact", "notifier", "cli"),
        delivery="at-revision",
        kept="with its task",
        stream=_TASK_STREAM,
    ),
    Channel(
        name="model-commands",
        address=_TASK.model_command(_TURN, _ATTEMPT),
        title="Call the model for a turn",
        messages=(CallModel,),
        published_by=("planner",),
        consumed_by=("llm-gateway",),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.LLM_GATEWAY,
    ),
    Channel(
        name="tool-commands",
        address=_TASK.tool_command("{request}", _CALL),
        title="Run a tool call of a model answer",
        messages=(RunTool,),
        published_by=("planner",),
        consumed_by=("tool-executor",),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.TOOL_EXECUTOR,
    ),
    Channel(
        name="notify-commands",
        address=_TASK.notify_command,
        title="Tell those who want to know that the task has ended",
        messages=(Notify,),
        published_by=("planner",),
        consumed_by=("notifier",),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.NOTIFIER,
    ),
    Channel(
        name="person-commands",
        address=_TASK.ask_command("{request}", _CALL),
        title="Ask people about a tool call before it is made, or what the call itself asks them",
        messages=(AskPerson,),
        published_by=("planner",),
        consumed_by=("human-contact", "cli"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.HUMAN_CONTACT,
    ),
    Channel(
        name="person-withdrawals",
        address=_TASK.withdraw_command("{request}", _CALL),
        title="Nobody waits for people's answer about a call any more",
        messages=(WithdrawQuestion,),
        published_by=("planner",),
        consumed_by=("human-contact", "cli"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.HUMAN_CONTACT,
    ),
    Channel(
        name="person-looks",
        address=_TASK.look_command("{request}", _CALL, _QUESTION),
        title="A call's tool has recorded a question: see to it that people are asked",
        messages=(PeopleDue,),
        published_by=("tool-executor",),
        consumed_by=("human-contact",),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.HUMAN_CONTACT,
    ),
    Channel(
        name="approvals",
        address=_TASK.approval_event("{request}", _CALL),
        title="People approved a tool call",
        messages=(ApprovalGranted,),
        published_by=("human-contact",),
        consumed_by=("planner", "tool-executor", "cli"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.PLANNER,
    ),
    Channel(
        name="task-submissions",
        address=_TASK.submitted,
        title="A task was asked for, and the request was valid",
        messages=(TaskSubmitted,),
        published_by=("planner",),
        consumed_by=("planner", "cli"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.PLANNER,
    ),
    Channel(
        name="model-events",
        address=_TASK.model_event(_TURN, _ATTEMPT),
        title="The outcome of a model call",
        messages=(ModelAnswered, ModelFailed, WindowCompacted),
        published_by=("llm-gateway",),
        consumed_by=("planner", "llm-gateway", "tool-executor", "notifier", "cli"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.PLANNER,
    ),
    Channel(
        name="tool-events",
        address=_TASK.tool_event("{request}", _CALL),
        title="The one result of a tool call",
        messages=(ToolFinished,),
        published_by=("tool-executor", "human-contact", "planner"),
        consumed_by=("planner", "llm-gateway", "cli"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.PLANNER,
    ),
    Channel(
        name="task-cancellations",
        address=_TASK.cancel,
        title="Somebody asked to cancel the task",
        messages=(CancelRequested,),
        published_by=("planner",),
        consumed_by=("planner", "cli"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.PLANNER,
    ),
    Channel(
        name="task-messages",
        address=_TASK.message_event("{id}"),
        title="Somebody said something more to a task that runs",
        messages=(MessageSent,),
        published_by=("planner",),
        consumed_by=("planner", "llm-gateway", "cli"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.PLANNER,
    ),
    Channel(
        name="task-follows",
        address=_TASK.followed,
        title="The task that the thread goes on with after this one has ended",
        messages=(TaskFollowed, TaskRemoving),
        published_by=("planner",),
        consumed_by=("planner", "human-contact"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
    ),
    Channel(
        name="thread-anchors",
        address=subjects.thread_anchor(_PARTITION, _NAMESPACE, "{key}"),
        title="The task that began a thread which has a name of its caller's",
        messages=(ThreadBegun,),
        published_by=("planner",),
        consumed_by=("planner", "human-contact"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
    ),
    Channel(
        name="task-context",
        address=_TASK.context,
        title="The messages that the conversation starts with, pinned",
        messages=(ConversationStarted,),
        published_by=("planner",),
        consumed_by=("planner", "llm-gateway", "cli"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
    ),
    Channel(
        name="tool-outputs",
        address=_TASK.tool_output("{request}", _CALL),
        title="The whole output of a tool call whose result was shortened",
        messages=(ToolOutput,),
        published_by=("tool-executor",),
        consumed_by=("tool-executor", "cli"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
    ),
    Channel(
        name="interactions-asked",
        address=_TASK.interaction_asked("{request}", _CALL, _QUESTION),
        title="A person is asked for something that a tool call needs",
        messages=(InteractionRequested,),
        published_by=("tool-executor", "human-contact"),
        consumed_by=("planner", "tool-executor", "human-contact", "cli"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
    ),
    Channel(
        name="interactions-answered",
        address=_TASK.interaction_answered("{request}", _CALL, _QUESTION),
        title="The answer, or that there will be none",
        messages=(InteractionAnswered,),
        published_by=("planner", "tool-executor", "human-contact"),
        consumed_by=("planner", "tool-executor", "human-contact", "cli"),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
        consumer=subjects.HUMAN_CONTACT_ANSWERS,
        other_consumers=(subjects.TOOL_EXECUTOR_ANSWERS,),
    ),
    Channel(
        name="interaction-steps",
        address=_TASK.interaction_step("{request}", _CALL, _QUESTION, _STEP),
        title="A channel was asked, and how often it was reminded",
        messages=(InteractionStep,),
        published_by=("human-contact",),
        consumed_by=("human-contact", "notifier"),
        delivery="at-revision",
        kept="with its task",
        stream=_TASK_STREAM,
    ),
    Channel(
        name="interaction-votes",
        address=_TASK.interaction_vote("{request}", _CALL, _QUESTION, "{who}"),
        title="The answer of one of several people who have to accept",
        messages=(InteractionAnswered,),
        published_by=("planner",),
        consumed_by=("planner",),
        delivery="recorded-once",
        kept="with its task",
        stream=_TASK_STREAM,
    ),
    Channel(
        name="tool-ledger",
        address=_TASK.ledger("{request}", _CALL),
        title="The effects ledger: a call that must not be performed twice was started",
        messages=(ToolStarted,),
        published_by=("tool-executor",),
        consumed_by=("tool-executor",),
        delivery="at-revision",
        kept="with its task",
        stream=_TASK_STREAM,
    ),
    Channel(
        name="timers-set",
        address=_TASK.timer("{timer}"),
        title="A wake-up is set; setting it again replaces it",
        messages=(TimerFired,),
        published_by=("planner",),
        consumed_by=("nats-server",),
        delivery="last-value",
        kept="until it fires",
        stream=subjects.TIMERS_STREAM,
    ),
    Channel(
        name="timers-fired",
        address=_TASK.timer_fired("{timer}"),
        title="A wake-up; the state says whether it still counts",
        messages=(TimerFired,),
        published_by=("nats-server",),
        consumed_by=("planner",),
        delivery="scheduled",
        kept="until it is handled",
        stream=subjects.TIMERS_STREAM,
        consumer=subjects.PLANNER_TIMERS,
    ),
    Channel(
        name="notifications",
        address=_TASK.notification("{notification}"),
        title="A notification of the task's end to one receiver, and what became of it",
        messages=(NotificationPending, NotificationDelivered, NotificationFailed),
        published_by=("notifier",),
        consumed_by=("notifier", "cli", "human-contact"),
        delivery="at-revision",
        kept="with its task",
        stream=_TASK_STREAM,
    ),
    Channel(
        name="notification-timers-set",
        address=_TASK.notify_timer("{notification}"),
        title="A wake-up of a notification is set; setting it again replaces it",
        messages=(NotificationDue,),
        published_by=("notifier",),
        consumed_by=("nats-server",),
        delivery="last-value",
        kept="until it fires",
        stream=subjects.NOTIFY_TIMERS_STREAM,
    ),
    Channel(
        name="notification-timers-fired",
        address=_TASK.notify_timer_fired("{notification}"),
        title="A wake-up of a notification, which says itself whether it is due",
        messages=(NotificationDue,),
        published_by=("nats-server", "notifier"),
        consumed_by=("notifier",),
        delivery="scheduled",
        kept="until it is handled",
        stream=subjects.NOTIFY_TIMERS_STREAM,
        consumer=subjects.NOTIFIER_TIMERS,
    ),
    Channel(
        name="people-timers-set",
        address=_TASK.people_timer("{timer}"),
        title="When people are to be reminded, or their time to answer is over",
        messages=(PeopleDue,),
        published_by=("human-contact",),
        consumed_by=("nats-server",),
        delivery="last-value",
        kept="until it fires",
        stream=subjects.PEOPLE_TIMERS_STREAM,
    ),
    Channel(
        name="people-timers-fired",
        address=_TASK.people_timer_fired("{timer}"),
        title="It is time to look at a question, for the first time or again",
        messages=(PeopleDue,),
        published_by=("nats-server",),
        consumed_by=("human-contact",),
        delivery="scheduled",
        kept="until it is handled",
        stream=subjects.PEOPLE_TIMERS_STREAM,
        consumer=subjects.HUMAN_CONTACT_TIMERS,
    ),
    Channel(
        name="task-live",
        address=_TASK.live,
        title="What happens in a task, for those who watch: streamed text, progress, transitions, interactions",
        messages=(TextDelta, ToolProgress, TaskChanged, InteractionRequested, InteractionAnswered),
        published_by=("planner", "llm-gateway", "tool-executor", "human-contact"),
        consumed_by=("client", "cli"),
        delivery="at-most-once",
        kept="not at all",
    ),
    Channel(
        name="task-text-asks",
        address=_TASK.text,
        title="What has been said so far in a model call under way, for those who join late",
        messages=(TextAsked,),
        published_by=("client", "cli"),
        consumed_by=("llm-gateway",),
        delivery="at-most-once",
        kept="not at all",
        reply="task-texts",
    ),
    Channel(
        name="task-texts",
        address="",
        title="The text of a model call under way, on the inbox of whoever asked",
        messages=(TextSoFar,),
        published_by=("llm-gateway",),
        consumed_by=("client", "cli"),
        delivery="at-most-once",
        kept="not at all",
    ),
    Channel(
        name="task-stop",
        address=_TASK.stop,
        title="The task has ended: stop working for it",
        messages=(),
        published_by=("planner",),
        consumed_by=("llm-gateway", "tool-executor"),
        delivery="at-most-once",
        kept="not at all",
    ),
)


SAID_BY_PEOPLE = ("answer", "send")
"""The requests that human-contact hands in."""


def _request_channels(verb: str, message: type[msgspec.Struct], what: str) -> tuple[Channel, Channel]:
    stored = {
        "submit": subjects.submit,
        "cancel": subjects.cancel,
        "delete": subjects.delete,
        "answer": subjects.answer,
        "send": subjects.send,
    }[verb]
    return (
        Channel(
            name=f"{verb}-requests",
            address=stored(_NAMESPACE),
            title=f"{what}: published, stored, and answered on `{subjects.REPLY_TO}` if that is given",
            messages=(message,),
            published_by=("client", "cli", "planner"),
            consumed_by=("planner",),
            delivery="queued",
            kept="until it is handled",
            stream=subjects.REQUESTS_STREAM,
            consumer=subjects.PLANNER_REQUESTS,
            reply="replies",
        ),
        Channel(
            name=f"{verb}-asks",
            address=subjects.ask(_NAMESPACE, verb),
            title=f"{what}: by NATS request and reply",
            messages=(message,),
            published_by=("client", "cli", "human-contact") if verb in SAID_BY_PEOPLE else ("client", "cli"),
            consumed_by=("planner",),
            delivery="at-most-once",
            kept="not at all",
            reply="replies",
        ),
    )


_REQUEST_CHANNELS = (
    *_request_channels("submit", SubmitTask, "Start a task"),
    *_request_channels("cancel", CancelTask, "Cancel a task"),
    *_request_channels("delete", DeleteTask, "Remove an ended task"),
    *_request_channels("answer", AnswerInteraction, "Answer an interaction"),
    *_request_channels("send", SendMessage, "Say something more in a task's thread"),
    *(
        Channel(
            name=f"read-{what}",
            address=subjects.read(_NAMESPACE, what),
            title=title,
            messages=(ReadStored,),
            published_by=("cli",),
            consumed_by=("planner",),
            delivery="at-most-once",
            kept="not at all",
            reply="reads",
        )
        for what, title in (
            ("settings", "What a reader of one namespace has to know of the installation"),
            ("entries", "Stored messages about the tasks of a namespace"),
            ("subjects", "The subjects of the stored messages about the tasks of a namespace"),
            ("resources", "The resources of a namespace and their statuses"),
            ("flow", "What a namespace has used of its quota"),
        )
    ),
    Channel(
        name="reads",
        address="",
        title="The answer to a reader of one namespace, on the reader's inbox",
        messages=(ReadSettings, ReadEntries, ReadSubjects, Rejected),
        published_by=("planner",),
        consumed_by=("cli",),
        delivery="at-most-once",
        kept="not at all",
    ),
    Channel(
        name="replies",
        address="",
        title="The answer to a request, on the inbox that the request names",
        messages=(Accepted, Rejected),
        published_by=("planner",),
        consumed_by=("client", "cli"),
        delivery="at-most-once",
        kept="not at all",
    ),
)

_OTHER_CHANNELS = (
    Channel(
        name="holder-asks",
        address=subjects.holder("{holder}"),
        title="Whether the process that began a tool call is still at it, before somebody takes the call over",
        messages=(HolderAsked,),
        published_by=("tool-executor",),
        consumed_by=("tool-executor",),
        delivery="at-most-once",
        kept="not at all",
        reply="holders",
    ),
    Channel(
        name="holders",
        address="",
        title="What a process says of a tool call that it has begun, on the inbox of whoever asked",
        messages=(HolderSaid,),
        published_by=("tool-executor",),
        consumed_by=("tool-executor",),
        delivery="at-most-once",
        kept="not at all",
    ),
    Channel(
        name="dead-letters",
        address=subjects.dead_letter("{stream}", _SEQ),
        title="A message that was given up, with the reason and every failed attempt that is known",
        messages=(DeadLetter,),
        published_by=("every-service",),
        consumed_by=("cli",),
        delivery="recorded-once",
        kept="30 days",
        stream=subjects.DEAD_LETTERS_STREAM,
    ),
    Channel(
        name="failed-attempts",
        address=subjects.failed_attempt("{stream}", _SEQ, _DELIVERY),
        title="What went wrong at one delivery of a message",
        messages=(FailedAttempt,),
        published_by=("every-service",),
        consumed_by=("every-service", "cli"),
        delivery="recorded-once",
        kept="30 days",
        stream=subjects.DEAD_LETTERS_STREAM,
    ),
    Channel(
        name="resource-specs",
        address=_RESOURCES + subjects.spec_key("{kind}", _NAMESPACE, "{name}"),
        title="A resource as it was applied",
        messages=(LLM, Agent, MCPServer, Toolset, ContactChannel, Quota, Subscription, Grant),
        published_by=("cli", "human-contact"),
        consumed_by=("every-service", "cli"),
        delivery="last-value",
        kept="until it is deleted",
        stream=_RESOURCES_STREAM,
    ),
    Channel(
        name="resource-statuses",
        address=_RESOURCES + subjects.status_key("{kind}", _NAMESPACE, "{name}"),
        title="What the service that uses a resource says of it",
        messages=(ResourceStatus,),
        published_by=("planner", "llm-gateway", "tool-executor", "human-contact", "notifier"),
        consumed_by=("every-service", "cli"),
        delivery="at-revision",
        kept="until it is deleted",
        stream=_RESOURCES_STREAM,
    ),
    Channel(
        name="flow-pools",
        address=_FLOW + subjects.flow_pool("{account}"),
        title="What is used of the limits of a provider's account and model, and by whom",
        messages=(PoolFlow,),
        published_by=("llm-gateway",),
        consumed_by=("llm-gateway", "cli"),
        delivery="at-revision",
        kept="until it is deleted",
        stream=_FLOW_STREAM,
    ),
    Channel(
        name="flow-namespaces",
        address=_FLOW + subjects.flow_namespace(_NAMESPACE),
        title="What a namespace has used of its quota",
        messages=(NamespaceFlow,),
        published_by=("llm-gateway",),
        consumed_by=("llm-gateway", "cli"),
        delivery="at-revision",
        kept="until it is deleted",
        stream=_FLOW_STREAM,
    ),
    Channel(
        name="mailbox-leases",
        address=_FLOW + subjects.flow_mailbox(_NAMESPACE, "{name}"),
        title="Which replica looks into a contact channel's mailbox",
        messages=(MailboxLease,),
        published_by=("human-contact",),
        consumed_by=("human-contact",),
        delivery="at-revision",
        kept="until it is deleted",
        stream=_FLOW_STREAM,
    ),
)

STATUSES_OF: Mapping[str, tuple[str, ...]] = {
    "planner": ("Agent",),
    "llm-gateway": ("LLM",),
    "tool-executor": ("MCPServer", "Toolset"),
    "human-contact": ("ContactChannel",),
    "notifier": ("Subscription",),
}
"""The kinds of resources that each service says something of."""
SPECS_OF: Mapping[str, tuple[str, ...]] = {"human-contact": ("Grant",)}
"""The kinds of resources that services declare themselves."""

CHANNELS: tuple[Channel, ...] = (*_TASK_CHANNELS, *_REQUEST_CHANNELS, *_OTHER_CHANNELS)


def messages() -> tuple[type[msgspec.Struct], ...]:
    """Every message of the catalogue, once, in its order."""
    return tuple(dict.fromkeys(message for channel in CHANNELS for message in channel.messages))
