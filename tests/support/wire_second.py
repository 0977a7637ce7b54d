"""Full examples of what the second release added, or added fields to."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from schemas.commands import CallModel
from schemas.events import (
    ConversationStarted,
    ModelAnswered,
    ModelFailed,
    TaskSubmitted,
    ToolFinished,
    ToolOutput,
    ToolStarted,
    WindowCompacted,
)
from schemas.flow import Claim, Learned, Line, NamespaceFlow, PoolFlow, Reservation, Share
from schemas.live import HolderAsked, HolderSaid, TextAsked, TextDelta, TextSoFar
from schemas.messages import ImagePart, SystemMessage, TextPart, ToolMessage, Usage, UserMessage
from schemas.requests import ParentCall, ResponseFormat, SubmitTask, TaskSpec
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    AnthropicOptions,
    CommandTool,
    ContextPolicy,
    EnvVar,
    Fallback,
    FilesOptions,
    HTTPOptions,
    LLMLimits,
    LLMParameters,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    OAuthClient,
    Pricing,
    Quota,
    QuotaSpec,
    Ref,
    ResourceStatus,
    ServerRef,
    ShellOptions,
    ToolInfo,
    ToolPolicy,
    Toolset,
    ToolsetSpec,
)
from schemas.task import (
    AwaitingModel,
    AwaitingTools,
    CallRef,
    Cancelled,
    Failed,
    FinalAnswer,
    Initializing,
    LLMSpend,
    OpenCalls,
    RetryingModel,
    Spend,
    Tries,
    Waiting,
)
from tests.support.wire_first import AT, BUDGET, CALLS, KEY, LATER, LIMITS, META, TASK, TRACE
from tests.support.wire_first import CONVERSATION as WITHOUT_IMAGES
from tests.support.wire_first import HEADER as FIRST_HEADER
from tests.support.wire_first import OPEN as FIRST_OPEN
from tests.support.wire_first import REFS as FIRST_REFS
from tests.support.wire_first import USAGE as FIRST_USAGE

PARENT = ParentCall(
    task="boss-task-xyz",
    request="r1",
    n=2,
    tool_call_id="call_7",
    tool="delegate_to_agent__helper",
    answer_seq=5,
    agents=("boss", "lead"),
    deadline=LATER,
)
DELEGATED = CallRef(
    n=3, id="call_3", tool="delegate_to_agent__writer", agent="writer", child="helper-task-abc-r2-3-0a1b2c3d"
)
REFS = (*FIRST_REFS, DELEGATED)
OPEN: OpenCalls = msgspec.structs.replace(FIRST_OPEN, calls=REFS)
PIXEL = ImagePart(media_type="image/png", data="iVBORw0KGgo=")
PHOTO = ImagePart(url="https://images.example/cat.jpg")
CONVERSATION = (
    *WITHOUT_IMAGES[:-1],
    ToolMessage(tool_call_id="call_3", name="browser__screenshot", content="the page", images=(PIXEL,)),
    UserMessage(content=(TextPart(text="What is on these?"), PIXEL, PHOTO), name="ada"),
)
FORMAT = ResponseFormat(
    name="weather",
    schema={"type": "object", "properties": {"celsius": {"type": "number"}}, "required": ["celsius"]},
    strict=False,
)
USAGE: Usage = msgspec.structs.replace(FIRST_USAGE, cache_write_tokens=200)
SPENT = LLMSpend(
    model_calls=1,
    input_tokens=1200,
    output_tokens=80,
    cached_tokens=1000,
    reasoning_tokens=30,
    cost_usd=Decimal("0.0042"),
)
HEADER: dict[str, Any] = {
    **FIRST_HEADER,
    "spend": Spend(
        model_calls=2,
        input_tokens=2400,
        output_tokens=160,
        cost_usd=Decimal("0.0084"),
        by_llm={"main": SPENT, "spare": SPENT},
    ),
    "priority": "high",
    "parent": PARENT,
}
TRIES = Tries(failures=2, llm="spare", compactions=1, repairs=1, parks=3, parked_since=AT)
LINE = Line(tail=LATER, again=LATER, claim=Claim(name="team-a/helper-task-abc.2", since=AT, tokens=1500, until=LATER))
RESERVED = Reservation(namespace="team-a", tokens=1500, at=AT, expires=LATER, cost_usd=Decimal("0.01"))
FLOW: dict[str, Any] = {
    "tokens_until": LATER,
    "requests_until": LATER,
    "seconds": {"1772357415": (3, 4500)},
    "under_way": {"team-a/helper-task-abc.2": RESERVED},
    "shares": {"team-a": Share(served=1500.5, weight=2, used=AT, lines={"high": LINE})},
    "served": 1400.25,
    "held_until": LATER,
    "learned": Learned(calls=40, output_tokens=310.5, output_spread=88.25, used_share=0.75, call_s=2.5),
}

_TASK_MESSAGES: tuple[msgspec.Struct, ...] = (
    Initializing(**HEADER),
    Waiting(
        **HEADER, reason="agent not ready", since=AT, turn=2, attempt=3, empty_replies=1, budget=BUDGET, tries=TRIES
    ),
    AwaitingModel(**HEADER, budget=BUDGET, turn=2, attempt=3, empty_replies=1, tries=TRIES),
    RetryingModel(
        **HEADER,
        budget=BUDGET,
        turn=2,
        attempt=3,
        not_before=LATER,
        error="60000 tokens a minute of LLM 'main' are used up",
        empty_replies=1,
        tries=TRIES,
        throttled=True,
    ),
    AwaitingTools(**HEADER, budget=BUDGET, turn=2, request="r2", answer_seq=13, calls=REFS),
    FinalAnswer(**HEADER, ended_at=LATER, turn=3, ended_by="hf.0.default.evt.helper-task-abc.llm.3.1"),
    Failed(
        **HEADER,
        ended_at=LATER,
        turn=2,
        ended_by="hf.0.default.evt.helper-task-abc.llm.2.3",
        reason="QuotaReached",
        error="the namespace has used its 100000 tokens of today",
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
    CallModel(**TASK, turn=2, attempt=3, llm="spare"),
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
            priority="low",
            response_format=FORMAT,
        ),
        at=AT,
        traceparent=TRACE,
        parent_span=TRACE.replace("b7", "c8"),
        parent=PARENT,
    ),
    ModelAnswered(
        turn=2,
        attempt=3,
        message=msgspec.structs.replace(WITHOUT_IMAGES[2], tool_calls=CALLS[:1]),
        usage=USAGE,
        at=AT,
        llm="spare",
        model="some-model-1",
        latency_s=1.25,
        finish_reason="stop",
        invalid="$: 'celsius' is a required property",
    ),
    ModelFailed(
        turn=2,
        attempt=3,
        failure="throttled",
        error="60000 tokens a minute of LLM 'main' are used up",
        at=AT,
        status=429,
        retry_after_s=2.5,
        usage=USAGE,
        llm="main",
        cause="rateLimited",
    ),
    WindowCompacted(
        turn=9,
        attempt=2,
        policy="summarize",
        replaced=5,
        messages=(SystemMessage(content="Be brief."), UserMessage(content="So far: it is half past nine.")),
        tokens_before=121000,
        tokens_after=4000,
        at=AT,
        reason="the conversation fills 95 % of the context of LLM 'main'",
        usage=USAGE,
        llm="main",
        response_format=FORMAT,
    ),
    ToolFinished(
        request="r2",
        n=1,
        tool_call_id="call_1",
        tool="browser__screenshot",
        outcome="timed_out",
        content="the page\n[90000 characters left out]\nthe end",
        at=AT,
        latency_s=60.0,
        attempt=2,
        images=(PIXEL,),
        whole="hf.0.default.msg.helper-task-abc.output.r2.1",
        child="helper-task-abc-r2-3-0a1b2c3d",
        spend=HEADER["spend"],
    ),
    ToolStarted(attempt=2, replica="host-1", at=AT, lease_s=61.5, holder="hf.holder.0123456789abcdef"),
    ConversationStarted(messages=CONVERSATION, response_format=FORMAT),
    ToolOutput(content="the whole page"),
    TextDelta(turn=2, attempt=3, offset=12, text="It is \u2026", begun=AT),
    TextAsked(turn=2, attempt=3, offset=12, begun=AT),
    TextSoFar(turn=2, attempt=3, offset=12, text="It is \u2026", begun=AT, length=30),
    HolderAsked(ledger="hf.0.default.led.t.r2.1", result="hf.0.default.evt.t.tool.r2.1", attempt=2),
    HolderSaid(holds="unused"),
    SubmitTask(
        agent_name="helper",
        name="my-task",
        user_message="What time is it?",
        context_window=CONVERSATION,
        limits=LIMITS,
        labels={"team": "ops"},
        contact_channel_ref="oncall",
        priority="high",
        response_format=FORMAT,
    ),
    PoolFlow(**FLOW),
    NamespaceFlow(**FLOW, day="2026-03-01", tokens=91000, cost_usd=Decimal("1.25")),
)

_RESOURCES: tuple[msgspec.Struct, ...] = (
    LLM(
        metadata=META,
        spec=LLMSpec(
            provider="anthropic",
            api_key_from=KEY,
            parameters=LLMParameters(
                model="some-model-2",
                context_tokens=200000,
                stop=("END",),
                seed=7,
                reasoning_effort="low",
            ),
            anthropic=AnthropicOptions(thinking_budget_tokens=2048, prompt_caching=False),
            pricing=Pricing(
                input=Decimal("3.00"), output=Decimal(15), cached_input=Decimal("0.30"), cache_write=Decimal("3.75")
            ),
            limits=LLMLimits(requests_per_minute=60, tokens_per_minute=60000, concurrency=8),
            tool_calling="text",
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    Agent(
        metadata=META,
        spec=AgentSpec(
            llm_ref=Ref(name="main"),
            system="Be brief.",
            mcp_servers=(
                ServerRef(name="clock", tools=("now", "zone_*"), resources=True, prompts=True),
                ServerRef(name="git"),
            ),
            human_contact_channels=(Ref(name="oncall"),),
            sub_agents=(Ref(name="writer"),),
            description="Helps.",
            limits=LIMITS,
            toolsets=(ServerRef(name="shell"), ServerRef(name="reports", tools=("render",))),
            fallbacks=(Fallback(llm_ref=Ref(name="spare"), on=("rateLimited", "notReady")),),
            response_format=FORMAT,
            context=ContextPolicy(when_full="summarize", threshold=0.7),
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    MCPServer(
        metadata=META,
        spec=MCPServerSpec(
            transport="sse",
            url="https://tools.example/sse",
            bearer_from=KEY,
            oauth=OAuthClient(
                client_id="holdfast",
                client_secret_from=KEY,
                scopes=("tools.read", "tools.call"),
                token_url="https://auth.example/token",
                token_endpoint_auth="client_secret_post",
            ),
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    Toolset(
        metadata=META,
        spec=ToolsetSpec(
            shell=ShellOptions(
                timeout_s=10.0,
                cpu_s=5,
                memory_mib=256,
                file_mib=16,
                processes=8,
                output_bytes=65536,
                env=(EnvVar(name="A", value="1"), EnvVar(name="B", value_from=KEY)),
                network=True,
                sandbox="required",
            ),
            http=HTTPOptions(
                timeout_s=5.0,
                allow=("10.0.0.0/8",),
                only=("api.example.com",),
                methods=("GET", "POST"),
                headers=(EnvVar(name="Authorization", value_from=KEY),),
                response_bytes=65536,
            ),
            files=FilesOptions(read_only=True, file_bytes=65536),
            commands=(
                CommandTool(
                    name="render",
                    description="Render a report.",
                    command=("render", "--title", "{title}"),
                    command_desc="What to render.",
                    is_interactive=True,
                    input_schema={"type": "object", "properties": {"title": {"type": "string"}}},
                    read_only=True,
                    idempotent=True,
                    timeout_s=20.0,
                ),
                CommandTool(
                    name="count",
                    description="Count.",
                    command="sort | uniq -c",
                    command_desc="What follows.",
                    shell=True,
                ),
            ),
            command_options=ShellOptions(timeout_s=7.0),
            concurrency=2,
            policies=(ToolPolicy(tool="run", timeout_s=5.0),),
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
    ResourceStatus(
        ready=True,
        status="Ready",
        status_detail="OpenAI provider configured",
        observed_revision=3,
        at=AT,
        by="llm-gateway",
        tools=(ToolInfo(name="now"),),
        pool="0123456789abcdefghijklmnopqrstuv",
    ),
    Quota(
        metadata=META,
        spec=QuotaSpec(
            requests_per_minute=30,
            tokens_per_minute=90000,
            max_tokens_per_day=100000,
            max_cost_per_day=Decimal("5.00"),
            when_spent="wait",
            weight=3,
        ),
        api_version="acp.humanlayer.dev/v1alpha1",
    ),
)

SECOND: tuple[msgspec.Struct, ...] = (*_TASK_MESSAGES, *_RESOURCES)
"""What the messages look like that the second release changed or brought."""
