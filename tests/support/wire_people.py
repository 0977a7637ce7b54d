"""Full examples of what people are asked and answer, and of what has fields for that."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.commands import AskPerson, RunTool, WithdrawQuestion
from schemas.events import ApprovalGranted, MessageSent, TaskFollowed, TaskSubmitted
from schemas.interactions import (
    AnswerInteraction,
    InteractionAnswered,
    InteractionRequested,
    InteractionStep,
    PeopleDue,
)
from schemas.requests import Accepted, SendMessage
from schemas.resources import (
    Agent,
    AgentSpec,
    ApprovalRule,
    ContactChannel,
    ContactChannelSpec,
    EmailOptions,
    EnvVar,
    Grant,
    GrantSpec,
    IMAPOptions,
    MCPServer,
    MCPServerSpec,
    Ref,
    ShellOptions,
    SlackOptions,
    SMTPOptions,
    ToolPolicy,
    Toolset,
    ToolsetSpec,
    WebhookOptions,
)
from schemas.task import AwaitingTools, CallRef, TaskHeader
from tests.support.wire_first import AT, FIRST, KEY, LATER, META, TASK
from tests.support.wire_notifications import NOTIFICATIONS
from tests.support.wire_second import SECOND

_ARGUMENTS = '{"to":"ada@example.org"}'
_DIGEST = "sha256-of-the-call"
_CALL: dict[str, Any] = {"request": "r2", "n": 1, "tool_call_id": "call_1", "tool": "mail__send"}
_PLACE: dict[str, Any] = {"namespace": "default", "task": "helper-task-abc", "interaction": "r2.1.0"}
_GATED = CallRef(n=4, id="call_4", tool="mail__send", gate="approval", channel="oncall", approved_seq=31)
_NEWEST: dict[type[msgspec.Struct], Any] = {
    type(value): value for release in (FIRST, SECOND, NOTIFICATIONS) for value in release
}


def _asked(state: TaskHeader) -> msgspec.Struct:
    """The last release's example with the fields of this one."""
    parent = msgspec.structs.replace(state.parent, approved_seq=29) if state.parent is not None else None
    more: dict[str, Any] = {"queued": (33,), "continues": "helper-task-xyz", "thread": "helper-task-first"}
    changed: msgspec.Struct = msgspec.structs.replace(state, approved=("mail__send",), parent=parent, **more)
    return msgspec.structs.replace(changed, calls=(_GATED,)) if isinstance(changed, AwaitingTools) else changed


_RESOURCES: tuple[msgspec.Struct, ...] = (
    Agent(
        metadata=META,
        spec=AgentSpec(
            llm_ref=Ref(name="main"),
            system="Be brief.",
            approvals=(
                ApprovalRule(tools=("mail__*",), when="writes", contact_channel=Ref(name="oncall")),
                ApprovalRule(tools=("git__*",), when="never"),
            ),
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    MCPServer(
        metadata=META,
        spec=MCPServerSpec(transport="stdio", command="server", elicitation=False, elicitation_timeout_s=60.0),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    MCPServer(
        metadata=META,
        spec=MCPServerSpec(
            transport="stdio",
            command="server",
            contact_channel=Ref(name="oncall"),
            policies=(ToolPolicy(tool="send_*", on_uncertain="ask"),),
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    Toolset(
        metadata=META,
        spec=ToolsetSpec(shell=ShellOptions(), contact_channel=Ref(name="oncall")),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    ContactChannel(
        metadata=META,
        spec=ContactChannelSpec(
            type="webhook",
            slack=SlackOptions(channel_or_user_id="C1", bot_token_from=KEY, signing_secret_from=KEY),
            email=EmailOptions(
                address="ada@example.org",
                inbound_secret_from=KEY,
                smtp=SMTPOptions(
                    host="smtp.example",
                    port=465,
                    security="tls",
                    username="bot",
                    password_from=KEY,
                    sender="bot@example.org",
                ),
                imap=IMAPOptions(
                    host="imap.example",
                    port=143,
                    security="starttls",
                    username="bot",
                    password_from=KEY,
                    mailbox="Replies",
                ),
            ),
            webhook=WebhookOptions(
                url="https://people.example/ask",
                signing_secret_from=KEY,
                headers=(EnvVar(name="X-Team", value="ops"),),
                timeout_s=5.0,
            ),
            description="Whoever is on call.",
            timeout_s=600.0,
            on_timeout="escalate",
            escalate_to=Ref(name="lead"),
            remind_s=120.0,
            quorum=2,
            allowed_responder_ids=("U1", "U2"),
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    Grant(
        metadata=META,
        spec=GrantSpec(
            agent="helper",
            tool="mail__send",
            digest=_DIGEST,
            arguments=_ARGUMENTS,
            by="ada",
            via="slack",
            task="helper-task-abc",
            at=AT,
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
)

_FOLLOWING: TaskSubmitted = msgspec.structs.replace(
    _NEWEST[TaskSubmitted], continues="helper-task-xyz", thread="helper-task-first"
)

PEOPLE: tuple[msgspec.Struct, ...] = (
    _FOLLOWING,
    TaskFollowed(submitted=_FOLLOWING),
    MessageSent(content="And in UTC?", at=AT, by="ada"),
    SendMessage(task="helper-task-abc", message="And in UTC?", by="ada"),
    *(_asked(value) for value in _NEWEST.values() if isinstance(value, TaskHeader)),
    RunTool(**TASK, request="r2", n=1, answer_seq=13, tool="mail__send", approved_seq=31),
    AskPerson(**TASK, **_CALL, answer_seq=13, kind="approval", channel="oncall"),
    WithdrawQuestion(namespace="default", task="helper-task-abc", request="r2", n=1, reason="the task was cancelled"),
    ApprovalGranted(**_CALL, arguments=_ARGUMENTS, digest=_DIGEST, scope="arguments", by="ada", via="slack", at=AT),
    InteractionRequested(
        **_PLACE,
        kind="approval",
        message="May mail__send be called?",
        schema={"type": "object"},
        url="https://example.com/sign-in",
        agent="helper",
        tool="mail__send",
        server="mail",
        at=AT,
        expires=LATER,
        tool_call_id="call_1",
        arguments=_ARGUMENTS,
        digest=_DIGEST,
        choices=("yes", "no"),
        channel="oncall",
        quorum=2,
        allowed=("U1", "U2"),
        title="Write to Ada",
    ),
    InteractionRequested(
        **{**_PLACE, "interaction": "r2.1.1"},
        kind="uncertain",
        message="This call was begun, and nobody knows how it ended.",
        schema={"type": "object"},
        url="https://example.com/sign-in",
        choices=("yes", "no"),
        agent="helper",
        tool="mail__send",
        server="mail",
        at=AT,
        expires=LATER,
        tool_call_id="call_1",
        arguments=_ARGUMENTS,
        digest=_DIGEST,
        channel="oncall",
        quorum=2,
        allowed=("U1", "U2"),
        title="Write to Ada",
        began=AT,
        attempt=2,
    ),
    InteractionAnswered(
        **_PLACE,
        action="accept",
        content={"answer": "yes"},
        at=AT,
        by="ada",
        via="slack",
        scope="tool",
        arguments=_ARGUMENTS,
        comment="but only this once",
    ),
    InteractionStep(
        interaction="r2.1.0",
        step=1,
        channel="lead",
        at=AT,
        until=LATER,
        place="1700000000.000100",
        reminded=2,
        delivered=True,
    ),
    InteractionStep(
        interaction="r2.1.0",
        step=2,
        channel="boss",
        at=AT,
        until=LATER,
        place="1700000000.000200",
        reminded=1,
        delivered=True,
        refused="Slack says 'thread_locked' to chat.postMessage",
    ),
    InteractionStep(
        interaction="r2.1.0",
        step=2,
        channel="boss",
        at=AT,
        until=LATER,
        place="1700000000.000200",
        reminded=1,
        delivered=True,
        refused="Slack says 'thread_locked' to chat.postMessage",
        allowed=("U0123",),
    ),
    PeopleDue(interaction="r2.1.0", due=LATER),
    PeopleDue(interaction="r2.1.0", due=LATER, look_at=LATER),
    AnswerInteraction(
        task="helper-task-abc",
        interaction="r2.1.0",
        action="decline",
        content={"answer": "no"},
        by="ada",
        via="email",
        scope="task",
        arguments=_ARGUMENTS,
        comment="ask again tomorrow",
        digest=_DIGEST,
    ),
    AnswerInteraction(
        task="helper-task-abc",
        interaction="r2.1.0",
        action="decline",
        content={"answer": "no"},
        by="ada",
        via="email",
        scope="task",
        arguments=_ARGUMENTS,
        comment="ask again tomorrow",
        digest=_DIGEST,
        channel="boss",
    ),
    Accepted(namespace="default", task="my-task", created=False, note="somebody else had answered"),
    *_RESOURCES,
)
"""What the messages look like with all that people are asked."""
