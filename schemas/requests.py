"""Requests: what anybody may publish, and what is answered.

An ordinary JSON object; an unknown field is an error, because a misspelt limit must not be ignored. The same
fields, wrapped as `kind: Task`, make a manifest.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import msgspec

from schemas.messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage
from schemas.wire import Instant, Strict, Wire, check_money

TURNS_MAX_DEFAULT = 20
PREVIEW_LENGTH = 50
DEADLINE_S_MAX = 10 * 366 * 24 * 3600
COUNT_MAX = (1 << 53) - 1
"""The largest whole number that every JSON reader keeps (RFC 8259, 6)."""

Priority = Literal["low", "normal", "high"]
"""Which of a namespace's waiting model calls goes first. Namespaces share by weight, whatever their priorities."""
FailureCause = Literal[
    "rateLimited",
    "overloaded",
    "timeout",
    "network",
    "quotaExhausted",
    "contextTooLong",
    "authentication",
    "invalidRequest",
    "contentFiltered",
    "notReady",
    "maxTokens",
    "maxCost",
    "namespaceQuota",
    "other",
]
"""What a model call failed of. `rateLimited`: 429, or a limit of ours; `overloaded`: 5xx; `network`: no whole answer
came; `quotaExhausted`: the account must be paid for; `authentication`: 401 and 403; `invalidRequest`: another 4xx;
`maxTokens`, `maxCost`: the task's own budget has no room for the call; `namespaceQuota`: its namespace's has none."""
RefusalCode = Literal["malformed", "invalid", "forbidden", "conflict", "not_found", "unavailable"]


class Limits(Strict, frozen=True, kw_only=True):
    """What a task may use. Absent: the agent's own limit, or none (`maxTurns`: 20)."""

    max_turns: int | None = None
    """Model answers."""
    max_tokens: int | None = None
    """Input and output tokens of all model calls together."""
    max_cost_usd: Decimal | None = msgspec.field(default=None, name="maxCost")
    """US dollars."""
    deadline_s: float | None = msgspec.field(default=None, name="deadlineSeconds")
    """Wall time from the task's submission, in seconds."""

    def __post_init__(self) -> None:
        """Refuse what nothing can be compared with or added to."""
        check_money("maxCost", self.max_cost_usd)
        for name, value in (("maxTurns", self.max_turns), ("maxTokens", self.max_tokens)):
            if value is not None and value > COUNT_MAX:
                raise ValueError(f"{name} is {value}; it must be {COUNT_MAX} at most")
        if self.deadline_s is not None and not self.deadline_s <= DEADLINE_S_MAX:
            raise ValueError(f"deadlineSeconds is {self.deadline_s}; it must be {DEADLINE_S_MAX} (ten years) at most")


class ResponseFormat(Strict, frozen=True, kw_only=True):
    """What the final answer has to look like: JSON that fits a schema."""

    type: Literal["json_schema"] = "json_schema"
    name: str = "response"
    schema: dict[str, Any]
    """A JSON Schema."""
    strict: bool = True
    """Have the provider hold the model to the schema where it can. The answer is checked in any case."""


class TaskSpec(Wire, frozen=True, kw_only=True):
    """What a task is: an agent, and either a message or a conversation so far."""

    agent: str
    user_message: str | None = None
    context_window: tuple[Message, ...] | None = None
    limits: Limits = Limits()
    labels: dict[str, str] = {}
    contact_channel: str = ""
    priority: Priority = "normal"
    response_format: ResponseFormat | None = None
    """Instead of the agent's own."""
    response_url: str = msgspec.field(default="", name="responseURL")
    """Where to post what became of the task."""
    thread_id: str = msgspec.field(default="", name="threadID")
    """The caller's own name for the thread of the task."""


class ParentCall(Wire, frozen=True, kw_only=True):
    """The tool call of another task that a task is the answer to. Both are in one namespace and partition."""

    task: str
    request: str
    n: int
    tool_call_id: str
    tool: str
    answer_seq: int
    """Where the model's answer with the call is recorded; its arguments are what the task is asked."""
    agents: tuple[str, ...]
    """The agents from the root of the tree down to the caller."""
    deadline: Instant | None = None
    """The caller's."""
    approved_seq: int = 0
    """Where the call's approval is recorded, with the arguments that were approved; 0: it needed none."""


class SubmitTask(Strict, frozen=True, kw_only=True):
    """A request to start a task: `{"agentName": "helper", "userMessage": "..."}`.

    `name` makes the task's name; otherwise it derives from the message id (`Nats-Msg-Id`), or else from the
    place of the request in its stream. The same name and the same content again is the same task.
    """

    agent_name: str = ""
    name: str = ""
    user_message: str | None = None
    context_window: tuple[Message, ...] | None = None
    limits: Limits = Limits()
    labels: dict[str, str] = {}
    contact_channel_ref: str = ""
    """A ContactChannel that is told what became of the task."""
    priority: Priority = "normal"
    response_format: ResponseFormat | None = None
    response_url: str = msgspec.field(default="", name="responseURL")
    """An http or https address that what became of the task is posted to."""
    thread_id: str = msgspec.field(default="", name="threadID")
    """The caller's own name for a thread: a ticket's number, a mail's Message-ID, the `ts` of a Slack message.

    The first task with it begins the thread. Without `name`, later ones go on in it: `userMessage` is said there.
    """


class CancelTask(Strict, frozen=True, kw_only=True):
    """A request to cancel a task."""

    task: str = ""
    reason: str = ""
    by: str = ""


class SendMessage(Strict, frozen=True, kw_only=True):
    """A request to say something more in a thread, which either `task` or `thread` says.

    A running task hears it before its next turn. After one that has ended, a new task goes on in the same thread.
    """

    task: str = ""
    """Any task of the thread."""
    thread: str = ""
    """The `threadID` that its first task was submitted with; if there is no such thread, the name of its first task."""
    message: str = ""
    by: str = ""


class DeleteTask(Strict, frozen=True, kw_only=True):
    """A request to remove an ended task and everything stored about it."""

    task: str = ""


class Accepted(Wire, frozen=True, kw_only=True, tag="accepted.v1"):
    """The request was accepted."""

    namespace: str
    task: str
    created: bool = True
    """False: the task existed already, and is the same."""
    note: str = ""
    """What its sender may want to know."""


class Rejected(Wire, frozen=True, kw_only=True, tag="rejected.v1"):
    """The request was refused; `error` says exactly what is wrong."""

    code: RefusalCode
    error: str


Reply = Accepted | Rejected


class InvalidRequest(ValueError):
    """A request that says something impossible. The text is for its sender."""


def check_task_input(user_message: str | None, context_window: tuple[Message, ...] | None) -> None:
    """Exactly one of the two inputs, and a conversation that a model can go on with; raises `InvalidRequest`.

    The texts of the first three are the predecessor's, which its users' tests look for.
    """
    if user_message is not None and context_window is not None:
        raise InvalidRequest("only one of userMessage or contextWindow can be provided")
    if not user_message and context_window is None:
        raise InvalidRequest("one of userMessage or contextWindow must be provided")
    if context_window is not None:
        _check_context_window(context_window)


def _check_context_window(messages: tuple[Message, ...]) -> None:
    if not any(isinstance(message, UserMessage) for message in messages):
        raise InvalidRequest("contextWindow must contain at least one user message")
    unanswered: dict[str, str] = {}
    for message in messages:
        match message:
            case ToolMessage(tool_call_id=call):
                if unanswered.pop(call, None) is None:
                    raise InvalidRequest(
                        f"contextWindow has a result for tool call {call!r}, which is not open at that place"
                    )
            case SystemMessage() | UserMessage() | AssistantMessage():
                if unanswered:
                    raise InvalidRequest(
                        f"contextWindow goes on while tool call {next(iter(unanswered))!r} has no result"
                    )
                if isinstance(message, AssistantMessage):
                    unanswered = {call.id: call.name for call in message.tool_calls}
    if unanswered:
        raise InvalidRequest(f"contextWindow ends while tool call {next(iter(unanswered))!r} has no result")
