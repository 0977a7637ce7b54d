"""The full examples of the first release. They stay as they are; what a later release adds is in `wire_second`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec

from schemas.commands import CallModel, RunTool
from schemas.dead_letters import DeadLetter, FailedAttempt
from schemas.events import (
    CancelRequested,
    ConversationStarted,
    ModelAnswered,
    ModelFailed,
    TaskSubmitted,
    TimerFired,
    ToolFinished,
    ToolStarted,
)
from schemas.live import TaskChanged, TextDelta, ToolProgress
from schemas.messages import AssistantMessage, SystemMessage, ToolCall, ToolMessage, Usage, UserMessage
from schemas.requests import Accepted, CancelTask, DeleteTask, Limits, Rejected, SubmitTask, TaskSpec
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    AnthropicOptions,
    ContactChannel,
    ContactChannelSpec,
    EmailOptions,
    EnvVar,
    GoogleOptions,
    LLMParameters,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    MistralOptions,
    OpenAIOptions,
    Pricing,
    Ref,
    ResourceStatus,
    ScriptedCall,
    ScriptedFailure,
    ScriptedOptions,
    ScriptedReply,
    ScriptedRule,
    SecretKeyRef,
    SecretSource,
    ServerRef,
    SlackOptions,
    ToolAnnotations,
    ToolInfo,
    ToolPolicy,
    VertexOptions,
)
from schemas.task import (
    AwaitingModel,
    AwaitingTools,
    Budget,
    CallRef,
    Cancelled,
    Failed,
    FinalAnswer,
    Initializing,
    OpenCalls,
    RetryingModel,
    Spend,
    Waiting,
)

AT = datetime(2026, 3, 1, 9, 30, 15, 250000, tzinfo=UTC)
LATER = datetime(2026, 3, 1, 11, 30, tzinfo=timezone(timedelta(hours=2)))
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LIMITS = Limits(max_turns=5, max_tokens=20000, max_cost_usd=Decimal("0.50"), deadline_s=90.5)
USAGE = Usage(input_tokens=1200, output_tokens=80, cached_tokens=1000, reasoning_tokens=30, cost_usd=Decimal("0.0042"))
CALLS = (
    ToolCall(id="call_1", name="clock__now", arguments='{"zone":"Europe/Berlin"}'),
    ToolCall(id="call_2", name="git__log", arguments="{}"),
)
CONVERSATION = (
    SystemMessage(content="Be brief."),
    UserMessage(content="What time is it? \u2013 «now»", name="ada"),
    AssistantMessage(content="Let me look.", tool_calls=CALLS, opaque='[{"type":"thinking"}]', opaque_for="anthropic"),
    ToolMessage(tool_call_id="call_1", name="clock__now", content="09:30"),
    ToolMessage(tool_call_id="call_2", name="git__log", content="no repository", is_error=True),
    UserMessage(content="Thanks.\nAnd tomorrow?"),
)
KEY = SecretSource(secret_key_ref=SecretKeyRef(name="keys", key="OPENAI_API_KEY"))
TASK: dict[str, Any] = {"namespace": "default", "task": "helper-task-abc", "agent": "helper"}
HEADER: dict[str, Any] = {
    **TASK,
    "submitted_seq": 7,
    "created_at": AT,
    "updated_at": LATER,
    "traceparent": TRACE,
    "parent_span": TRACE.replace("b7", "c8"),
    "deadline": LATER,
    "preview": "What time is it?",
    "spend": Spend(model_calls=2, input_tokens=2400, output_tokens=160, cost_usd=Decimal("0.0084")),
    "window": (8, 11, 13, 14),
    "labels": {"team": "ops"},
}
SPARE: dict[str, Any] = {**TASK, "submitted_seq": 7, "created_at": AT, "updated_at": AT}
BUDGET = Budget(max_turns=20, max_tokens=100000, max_cost_usd=Decimal(2))
REFS = (CallRef(n=1, id="call_1", tool="clock__now"), CallRef(n=2, id="call_2", tool="git__log"))
OPEN = OpenCalls(request="r2", answer_seq=13, calls=REFS)
META = Metadata(name="helper", namespace="team-a", labels={"a": "b"}, annotations={"c": "d"})
ATTEMPT = FailedAttempt(delivery=3, at=AT, replica="host-1", error="ValueError: no", traceback="Traceback ...")

FIRST: tuple[msgspec.Struct, ...] = (
    Initializing(**HEADER),
    Waiting(**HEADER, reason="agent not ready", since=AT, turn=2, attempt=3, empty_replies=1, budget=BUDGET),
    AwaitingModel(**HEADER, budget=BUDGET, turn=2, attempt=3, empty_replies=1),
    RetryingModel(**HEADER, budget=BUDGET, turn=2, attempt=3, not_before=LATER, error="429", empty_replies=1),
    AwaitingTools(**HEADER, budget=BUDGET, turn=2, request="r2", answer_seq=13, calls=REFS),
    FinalAnswer(**HEADER, ended_at=LATER, turn=3, ended_by="hf.0.default.evt.helper-task-abc.llm.3.1"),
    Failed(
        **HEADER,
        ended_at=LATER,
        turn=2,
        ended_by="hf.timer.fire.0.default.helper-task-abc.deadline",
        reason="DeadlineExceeded",
        error="not done within 90 s (deadline)",
        open_calls=OPEN,
    ),
    Cancelled(
        **HEADER,
        ended_at=LATER,
        turn=2,
        ended_by="hf.0.default.evt.helper-task-abc.cancel",
        reason="not needed any more",
        by="ada",
        open_calls=OPEN,
    ),
    CallModel(**TASK, turn=2, attempt=3),
    RunTool(**TASK, request="r2", n=1, answer_seq=13, tool="clock__now"),
    TaskSubmitted(
        namespace="default",
        task="helper-task-abc",
        spec=TaskSpec(
            agent="helper",
            user_message="What time is it?",
            context_window=CONVERSATION,
            limits=LIMITS,
            labels={"team": "ops"},
            contact_channel="oncall",
        ),
        at=AT,
        traceparent=TRACE,
        parent_span=TRACE.replace("b7", "c8"),
    ),
    ModelAnswered(
        turn=2,
        attempt=3,
        message=CONVERSATION[2],
        usage=USAGE,
        at=AT,
        llm="main",
        model="some-model-1",
        latency_s=1.25,
        finish_reason="tool_calls",
    ),
    ModelFailed(
        turn=2,
        attempt=3,
        failure="transient",
        error="rate limited",
        at=AT,
        status=429,
        retry_after_s=2.5,
        usage=USAGE,
        llm="main",
    ),
    ToolFinished(
        request="r2",
        n=1,
        tool_call_id="call_1",
        tool="clock__now",
        outcome="timed_out",
        content="no answer within 60 s",
        at=AT,
        latency_s=60.0,
        attempt=2,
    ),
    CancelRequested(at=AT, by="ada", reason="not needed any more"),
    TimerFired(timer="retry", due=LATER, turn=2, attempt=3),
    ConversationStarted(messages=CONVERSATION),
    ToolStarted(attempt=2, replica="host-1", at=AT, lease_s=61.5),
    TextDelta(turn=2, attempt=3, offset=12, text="It is \u2026"),
    ToolProgress(request="r2", n=1, tool="clock__now", progress=1.0, total=3.0, message="one of three"),
    TaskChanged(
        phase="FinalAnswer",
        status="Ready",
        status_detail="LLM final response received",
        reason="LLMFinalAnswer",
        revision=42,
        at=AT,
    ),
    SubmitTask(
        agent_name="helper",
        name="my-task",
        user_message="What time is it?",
        context_window=CONVERSATION,
        limits=LIMITS,
        labels={"team": "ops"},
        contact_channel_ref="oncall",
    ),
    CancelTask(task="my-task", reason="not needed any more", by="ada"),
    DeleteTask(task="my-task"),
    Accepted(namespace="default", task="my-task", created=False),
    Rejected(code="invalid", error="agentName is required"),
    DeadLetter(
        stream="KV_holdfast_0",
        seq=12,
        consumer="planner",
        subject="hf.0.default.evt.t.cancel",
        reason="broken",
        error="Broken: no",
        at=AT,
        deliveries=12,
        headers={"traceparent": TRACE},
        payload="/w==",
        payload_is_base64=True,
        attempts=(ATTEMPT,),
    ),
    ATTEMPT,
    LLM(
        metadata=META,
        spec=LLMSpec(
            provider="scripted",
            api_key_from=KEY,
            parameters=LLMParameters(
                model="some-model-1",
                base_url="https://models.example/v1",
                temperature="0.7",
                max_tokens=512,
                top_p=0.9,
                top_k=40,
                frequency_penalty=0.5,
                presence_penalty="0.25",
                timeout_s=30.0,
                concurrency=4,
            ),
            openai=OpenAIOptions(organization="org", api_type="AZURE", api_version="2026-01-01"),
            anthropic=AnthropicOptions(anthropic_beta_header="beta-1"),
            vertex=VertexOptions(cloud_project="p", cloud_location="l"),
            mistral=MistralOptions(max_retries=1, timeout=20, random_seed=3),
            google=GoogleOptions(cloud_project="p", cloud_location="l"),
            scripted=ScriptedOptions(
                transcript=(
                    ScriptedReply(
                        text="{result}",
                        calls=(ScriptedCall(tool="clock__now", arguments={"zone": "UTC", "n": [1, None, True]}),),
                        delay_s=0.5,
                        fail=ScriptedFailure(status=429, message="slow down", times=2, retry_after_s=1.5),
                        input_tokens=10,
                        output_tokens=5,
                    ),
                ),
                rules=(
                    ScriptedRule(
                        reply=ScriptedReply(calls=(ScriptedCall(tool="git__log", arguments="not json"),)),
                        turn=1,
                        user_contains="time",
                        result_contains="09",
                    ),
                ),
            ),
            pricing=Pricing(input=Decimal("3.00"), output=Decimal(15), cached_input=Decimal("0.30")),
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    Agent(
        metadata=META,
        spec=AgentSpec(
            llm_ref=Ref(name="main"),
            system="Be brief.",
            mcp_servers=(ServerRef(name="clock"), ServerRef(name="git")),
            human_contact_channels=(Ref(name="oncall"),),
            sub_agents=(Ref(name="writer"),),
            description="Helps.",
            limits=LIMITS,
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    MCPServer(
        metadata=META,
        spec=MCPServerSpec(
            transport="http",
            command="server",
            args=("--stdio", "-v"),
            env=(EnvVar(name="A", value="1"), EnvVar(name="B", value_from=KEY)),
            url="https://tools.example/mcp",
            resources={"limits": {"cpu": "1"}},
            approval_contact_channel=Ref(name="oncall"),
            headers=(EnvVar(name="Authorization", value_from=KEY),),
            timeout_s=30.0,
            concurrency=4,
            policies=(
                ToolPolicy(tool="send_*", read_only=False, idempotent=False, on_uncertain="retry", timeout_s=5.0),
            ),
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    ContactChannel(
        metadata=META,
        spec=ContactChannelSpec(
            type="slack",
            api_key_from=KEY,
            channel_api_key_from=KEY,
            channel_id="C1",
            slack=SlackOptions(
                channel_or_user_id="C1", context_about_channel_or_user="on call", allowed_responder_ids=("U1", "U2")
            ),
            email=EmailOptions(address="ada@example.org", context_about_user="owner", subject="Please look"),
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    ResourceStatus(
        ready=True,
        status="Ready",
        status_detail="Connected",
        observed_revision=3,
        at=AT,
        by="tool-executor",
        tools=(
            ToolInfo(
                name="now",
                description="The time.",
                input_schema={"type": "object", "properties": {"zone": {"type": "string"}}},
                annotations=ToolAnnotations(read_only=True, idempotent=True, destructive=False, open_world=False),
            ),
        ),
    ),
)
"""What the messages of the first release looked like: never changed, whatever is added to them later."""
