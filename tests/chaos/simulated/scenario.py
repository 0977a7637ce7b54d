"""What is asked of the system in one seed: agents with scripted models, tasks, cancellations, changes of resources."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Literal

import msgspec
from msgspec.structs import replace

from schemas.ids import partition_of
from schemas.messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage
from schemas.requests import FailureCause, Limits
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    ApprovalRule,
    ContactChannel,
    ContactChannelSpec,
    Fallback,
    LLMLimits,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Pricing,
    Ref,
    Resource,
    ScriptedCall,
    ScriptedFailure,
    ScriptedOptions,
    ScriptedReply,
    ServerRef,
    ToolPolicy,
)
from schemas.subjects import TaskSubjects
from tests.chaos.simulated.people import PEOPLE, Reach, draw_reach
from tests.chaos.simulated.receivers import Receiver, draw_receivers, draw_subscriptions
from tests.chaos.simulated.speakers import Say, draw_says

NAMESPACE = "default"
SERVICES = ("planner", "llm-gateway", "tool-executor", "human-contact", "notifier")
SERVERS = ("box", "shed")
QUESTION = "people__human_contact_console"
"""The tool that asks people, for agents that have it."""
NO_LIMITS = LLMLimits()
LIMITS = (
    NO_LIMITS,
    NO_LIMITS,
    NO_LIMITS,
    LLMLimits(concurrency=1),
    LLMLimits(requests_per_minute=20),
    LLMLimits(tokens_per_minute=20_000, concurrency=2),
)
"""What may be asked of a model; tasks have to wait for each other, or for a minute."""
GATED = (("*__pay",), ("*__p*", "delegate_to_agent__*"))
"""What has to be approved, where anything has."""
TOOL_NAMES = ("look", "put", "pay", "post")
CALL_COST_MAX = Decimal("0.02")
"""The dearest model call of these scripts."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One task of the scenario."""

    name: str
    agent: str
    at_s: float
    limits: Limits = Limits()
    by_request: bool = False
    """Asked by request-reply; otherwise published to the stream."""
    cancel_at_s: float | None = None
    context_window: tuple[Message, ...] | None = None
    """A conversation so far; otherwise, the task's name is all that is said."""
    removed: bool = False
    """When everything is over, it is deleted."""
    response_url: str = ""
    """Who is told what became of it."""


class Upset(msgspec.Struct, frozen=True, kw_only=True):
    """A resource is deleted, and applied again."""

    resource: Resource
    at_s: float
    for_s: float


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One seed's world."""

    partitions: int
    commit: Literal["batch", "two-step"]
    replicas: dict[str, int]
    slots: int
    reconcile_s: float
    skew_s: float
    """How far a process's clock may be off."""
    calm_at_s: float
    resources: tuple[Resource, ...]
    agents: dict[str, Agent]
    answers_s: float
    """How long people think, at most; some never answer where their channel does without."""
    tasks: tuple[Asked, ...]
    upsets: tuple[Upset, ...]
    says: tuple[Say, ...]
    receivers: tuple[Receiver, ...]
    reach: dict[str, Reach]
    """How the contact channels take questions."""
    empty_replies: dict[tuple[str, int], int]
    """How many empty replies come before the right one, by user message and turn."""

    def subjects(self, task: str) -> TaskSubjects:
        """The subjects of a task by its name."""
        return TaskSubjects(partition_of(NAMESPACE, task, self.partitions), NAMESPACE, task)


def draw_scenario(rng: random.Random) -> Scenario:
    """The scenario of a seed."""
    agents = [f"agent-{n}" for n in range(1, rng.randint(1, 3) + 1)]
    subs = {agent: f"sub-of-{agent}" for agent in agents if rng.random() < 0.3}
    models = {agent: _models(rng, agent, subs.get(agent, "")) for agent in agents}
    models |= {
        sub: [_llm(f"model-of-{sub}", (_reply(rng, text="done in {turn}: {results}"),))] for sub in subs.values()
    }
    declared = {
        agent: _agent(rng, agent, [model.metadata.name for model in models[agent]], subs.get(agent, ""))
        for agent in models
    }
    tasks = tuple(_task(rng, f"task-{n}", rng.choice(agents)) for n in range(1, rng.randint(2, 5) + 1))
    receivers = draw_receivers(rng)
    resources: list[Resource] = [
        *(_server(name) for name in SERVERS),
        *_channels(rng),
        *draw_subscriptions(rng, receivers),
    ]
    for agent, agents_models in models.items():
        resources += [*agents_models, declared[agent]]
    return Scenario(
        partitions=rng.choice((1, 1, 2)),
        commit=rng.choice(("batch", "two-step")),
        replicas={service: rng.choice((1, 1, 2)) for service in SERVICES},
        slots=rng.choice((2, 4, 16)),
        reconcile_s=rng.choice((10.0, 30.0, 1e6)),
        skew_s=rng.choice((0.0, 0.0, 1.0)),
        calm_at_s=rng.choice((5.0, 20.0, 40.0)),
        resources=tuple(resources),
        agents=declared,
        answers_s=rng.choice((0.5, 5.0, 20.0)),
        tasks=tasks,
        upsets=tuple(_upset(rng, resources) for _ in range(rng.choice((0, 0, 1, 2)))),
        says=draw_says(rng, [task.name for task in tasks]),
        receivers=receivers,
        reach=draw_reach(rng),
        empty_replies={(task.name, rng.randint(1, 3)): 1 for task in tasks if rng.random() < 0.1},
    )


def _models(rng: random.Random, agent: str, sub: str) -> list[LLM]:
    """An agent's model, and perhaps another one that says the same and fails otherwise."""
    turns = rng.choice((0, 1, 1, 2, 3))
    script = (*(_tool_turn(rng, sub) for _ in range(turns)), _reply(rng, text="done in {turn}: {results}"))
    models = [_llm(f"model-of-{agent}", script, rng.choice(LIMITS))]
    if rng.random() < 0.3:
        models.append(_llm(f"spare-of-{agent}", tuple(replace(reply, fail=_failure(rng)) for reply in script)))
    return models


def _tool_turn(rng: random.Random, sub: str) -> ScriptedReply:
    calls = [
        ScriptedCall(
            tool=f"{rng.choice(SERVERS)}__{rng.choice(TOOL_NAMES)}", arguments={"key": f"{{user}}/{{turn}}/{n}"}
        )
        for n in range(1, rng.choice((1, 1, 2, 4)) + 1)
    ]
    if sub:
        message = {"message": "{user} asks"} if rng.random() < 0.9 else {}
        calls += [ScriptedCall(tool=f"delegate_to_agent__{sub}", arguments=message)] * rng.choice((0, 1, 1, 2))
    if rng.random() < 0.1:
        calls.append(ScriptedCall(tool=QUESTION, arguments={"message": "{user} wants to know", "choices": []}))
    if rng.random() < 0.05:
        calls.append(ScriptedCall(tool="box__none", arguments={"key": "x"}))
    if rng.random() < 0.05:
        calls.append(ScriptedCall(tool="box__look", arguments="not JSON"))
    return _reply(rng, text=rng.choice(("", "let me see")), calls=tuple(calls))


def _reply(rng: random.Random, *, text: str, calls: tuple[ScriptedCall, ...] = ()) -> ScriptedReply:
    return ScriptedReply(
        text=text,
        calls=calls,
        fail=_failure(rng),
        delay_s=rng.choice((0.0, 0.0, 0.2, 3.0)),
        input_tokens=rng.randint(1, 1000),
        output_tokens=rng.randint(1, 1000),
    )


def _failure(rng: random.Random) -> ScriptedFailure | None:
    if rng.random() >= 0.15:
        return None
    status, times = rng.choice(((429, 2), (500, 1), (503, 3), (400, 99)))
    return ScriptedFailure(status=status, times=times, retry_after_s=rng.choice((None, 0.5, 3.0)))


def _task(rng: random.Random, name: str, agent: str) -> Asked:
    limits = Limits()
    if rng.random() < 0.25:
        limits = rng.choice(
            (
                Limits(max_turns=rng.randint(1, 2)),
                Limits(max_tokens=rng.randint(1, 3000)),
                Limits(max_cost_usd=Decimal(rng.randint(1, 40)) / 1000),
                Limits(deadline_s=rng.choice((1.0, 5.0, 20.0))),
            )
        )
    at_s = rng.choice((0.0, 2.0, 10.0)) * rng.random()
    return Asked(
        name=name,
        agent=agent,
        at_s=at_s,
        limits=limits,
        by_request=rng.random() < 0.5,
        cancel_at_s=at_s + 10 * rng.random() if rng.random() < 0.2 else None,
        context_window=_conversation(name) if rng.random() < 0.2 else None,
        removed=rng.random() < 0.15,
        response_url=f"https://receiver-{rng.choice((1, 2))}.example/hook" if rng.random() < 0.4 else "",
    )


def _conversation(name: str) -> tuple[Message, ...]:
    call = ToolCall(id="before", name="box__look", arguments='{"key":"before"}')
    return (
        UserMessage(content="look first"),
        AssistantMessage(content="I look", tool_calls=(call,)),
        ToolMessage(tool_call_id="before", name="box__look", content="nothing there"),
        UserMessage(content=name),
    )


def _upset(rng: random.Random, resources: list[Resource]) -> Upset:
    return Upset(resource=rng.choice(resources), at_s=20 * rng.random(), for_s=0.1 + 10 * rng.random())


def _server(name: str) -> MCPServer:
    policies = (ToolPolicy(tool="post", on_uncertain="retry"),)
    spec = MCPServerSpec(transport="stdio", command="box", policies=policies, timeout_s=10)
    return MCPServer(metadata=Metadata(name=name), spec=spec)


def _llm(name: str, script: tuple[ScriptedReply, ...], limits: LLMLimits = NO_LIMITS) -> LLM:
    pricing = Pricing(input=Decimal(10), output=Decimal(10))
    spec = LLMSpec(provider="scripted", scripted=ScriptedOptions(transcript=script), pricing=pricing, limits=limits)
    return LLM(metadata=Metadata(name=name), spec=spec)


def _channels(rng: random.Random) -> list[ContactChannel]:
    """Whom people are reached by; there is always an end to it, or somebody who answers."""
    timeout_s = rng.choice((None, 3.0))
    allowed = rng.choice(((), PEOPLE))
    people = ContactChannelSpec(
        type="console",
        timeout_s=timeout_s,
        on_timeout=rng.choice(("deny", "approve", "fail", "escalate")) if timeout_s is not None else "deny",
        escalate_to=Ref(name="boss"),
        remind_s=rng.choice((None, 2.0)),
        quorum=rng.choice((1, 1, 2, 3)),
        allowed_responder_ids=allowed,
    )
    boss = ContactChannelSpec(type="console", timeout_s=rng.choice((None, 5.0)), allowed_responder_ids=allowed)
    return [
        ContactChannel(metadata=Metadata(name=name), spec=spec) for name, spec in (("people", people), ("boss", boss))
    ]


def _agent(rng: random.Random, name: str, models: list[str], sub: str) -> Agent:
    causes: tuple[tuple[FailureCause, ...], ...] = (("rateLimited", "overloaded"), ("invalidRequest", "notReady"))
    spec = AgentSpec(
        llm_ref=Ref(name=models[0]),
        system="be good",
        mcp_servers=tuple(ServerRef(name=one) for one in SERVERS),
        approvals=(ApprovalRule(tools=rng.choice(GATED), contact_channel=Ref(name="people")),)
        if rng.random() < 0.35
        else (),
        human_contact_channels=(Ref(name="people"),) if rng.random() < 0.3 else (),
        sub_agents=(Ref(name=sub),) if sub else (),
        fallbacks=tuple(Fallback(llm_ref=Ref(name=model), on=rng.choice(causes)) for model in models[1:]),
    )
    return Agent(metadata=Metadata(name=name), spec=spec)
