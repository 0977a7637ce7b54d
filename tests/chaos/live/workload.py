"""What the services work on while they are killed: a scripted model, tools that remember, and tasks of every kind.

Everything is said with the bare client, as any user of the bus would.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.errors import Error as NatsError

from tests.chaos.live.record import Witness

NAMESPACE = "default"
TOOLS = Path(__file__).with_name("tools.py")
ACCEPT_S = 30.0
LOOK_S = 0.02

Json = dict[str, Any]


class Scenario(NamedTuple):
    """A kind of task."""

    name: str
    rules: tuple[Json, ...]
    """What the model answers to a task of this kind."""
    ends_as: str = "FinalAnswer"
    limits: Json = {}
    own_agent: bool = False
    """Its agent, model and one more server of tools are applied after the task was submitted."""
    cancelled: bool = False
    """Somebody cancels it while its tool runs."""
    in_thread: bool = False
    """It begins a thread that its caller has a name for."""


def calls(scenario: str, turn: int, *tools: str) -> Json:
    """In a turn, the model calls tools."""
    wanted = [
        {"tool": f"effects__{tool}", "arguments": {"key": f"{{user}} {turn}.{n}"}} for n, tool in enumerate(tools, 1)
    ]
    return {"userContains": f"{scenario}:", "turn": turn, "reply": {"text": f"turn {turn}", "calls": wanted}}


def answer(scenario: str) -> Json:
    """Whatever the results are, the model has done."""
    return {"userContains": f"{scenario}:", "reply": {"text": "done: {results}"}}


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "parallel",
            (
                calls("parallel", 1, "charge", "lookup", "charge", "lookup"),
                calls("parallel", 2, "charge"),
                answer("parallel"),
            ),
        ),
        Scenario("slow", (calls("slow", 1, "slow_charge", "save"), answer("slow")), in_thread=True),
        Scenario(
            "flaky",
            (
                {
                    "userContains": "flaky:",
                    "turn": 1,
                    "reply": {
                        "text": "again",
                        "calls": [{"tool": "effects__charge", "arguments": {"key": "{user} 1.1"}}],
                        "fail": {"status": 503, "message": "try later", "times": 1},
                    },
                },
                answer("flaky"),
            ),
        ),
        Scenario(
            "wrong",
            (
                {
                    "userContains": "wrong:",
                    "turn": 1,
                    "reply": {
                        "calls": [
                            {"tool": "effects__broken", "arguments": {"key": "{user} 1.1"}},
                            {"tool": "effects__nothing", "arguments": {"key": "{user} 1.2"}},
                            {"tool": "effects__lookup2", "arguments": "no json"},
                        ]
                    },
                },
                answer("wrong"),
            ),
        ),
        Scenario("waiting", (calls("waiting", 1, "lookup"), answer("waiting")), own_agent=True),
        Scenario("cancelled", (calls("cancelled", 1, "endless", "lookup"),), ends_as="Cancelled", cancelled=True),
        Scenario("deadline", (calls("deadline", 1, "endless"),), ends_as="Failed", limits={"deadlineSeconds": 3}),
    )
}


class Job(NamedTuple):
    """A task that was accepted."""

    name: str
    scenario: Scenario


async def insist(action: Callable[[], Awaitable[bool]], what: str, wait_s: float = ACCEPT_S) -> None:
    """Try until it holds, whatever the server says meanwhile."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            if await action():
                return
        except NatsError:
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {wait_s:g} s: {what}")
        await asyncio.sleep(LOOK_S)


class Workload:
    """Applies resources, submits tasks, cancels them."""

    scenarios = SCENARIOS

    def __init__(self, client: Client, witness: Witness, effects: Path) -> None:
        self._client = client
        self._witness = witness
        self._effects = effects
        self.accepted: dict[str, str] = {}

    async def prepare(self) -> None:
        """Apply the model, the tools and the agent, and wait until the agent is ready."""
        await self._apply_model("script")
        await self._apply_tools("effects")
        await self._apply_agent("worker", "script", "effects")
        await self._until_ready("worker")

    async def _until_ready(self, agent: str) -> None:
        async def ready() -> bool:
            answer = await self._client.request(
                f"$JS.API.DIRECT.GET.KV_holdfast_resources.$KV.holdfast_resources.status.Agent.{NAMESPACE}.{agent}",
                b"",
                timeout=1,
            )
            return b'"ready":true' in answer.data

        await insist(ready, f"agent {agent} is ready")

    async def _apply_model(self, name: str) -> None:
        rules = [rule for scenario in self.scenarios.values() for rule in scenario.rules]
        await self._apply("LLM", name, {"provider": "scripted", "scripted": {"rules": rules}})

    async def _apply_tools(self, name: str) -> None:
        server = {
            "transport": "stdio",
            "command": sys.executable,
            "args": [str(TOOLS), str(self._effects)],
            "concurrency": 64,
        }
        await self._apply("MCPServer", name, server)

    async def _apply_agent(self, name: str, model: str, *servers: str, **more: Any) -> None:
        spec = {
            "llmRef": {"name": model},
            "system": "You are killed a lot.",
            "mcpServers": [{"name": server} for server in servers],
            **more,
        }
        await self._apply("Agent", name, spec)

    async def _apply(self, kind: str, name: str, spec: Json) -> None:
        resource = {"kind": kind, "metadata": {"name": name}, "spec": spec}
        subject = f"$KV.holdfast_resources.spec.{kind}.{NAMESPACE}.{name}"

        async def applied() -> bool:
            answer = await self._client.request(subject, json.dumps(resource).encode(), timeout=1)
            return b'"seq"' in answer.data

        await insist(applied, f"{kind} {name} is applied")

    async def clear_away(self, scenario: Scenario, name: str) -> None:
        """Delete the resources that were a task's own: their processes would pile up."""
        if scenario.own_agent:
            for kind, resource in (("Agent", f"agent-{name}"), ("LLM", f"model-{name}"), ("MCPServer", f"more-{name}")):
                await self._delete(kind, resource)

    async def _delete(self, kind: str, name: str) -> None:
        subject = f"$KV.holdfast_resources.spec.{kind}.{NAMESPACE}.{name}"

        async def deleted() -> bool:
            answer = await self._client.request(subject, b"", timeout=1, headers={"KV-Operation": "DEL"})
            return b'"seq"' in answer.data

        await insist(deleted, f"{kind} {name} is deleted")

    async def run(self, scenario: Scenario, name: str) -> Job:
        """Submit a task and do to it what its kind needs; returns when that is done, not when it has ended."""
        agent = f"agent-{name}" if scenario.own_agent else "worker"
        request = {
            "name": name,
            "agentName": agent,
            "userMessage": f"{scenario.name}: {name}",
            "limits": scenario.limits,
            **({"threadID": f"Ticket {name}"} if scenario.in_thread else {}),
        }
        await self._ask("submit", request)
        self.accepted[name] = scenario.ends_as
        if scenario.own_agent:
            await self._until(name, lambda kind: kind == "task.waiting.v1")
            await self._apply_agent(agent, f"model-{name}", "effects", f"more-{name}")
            await self._apply_model(f"model-{name}")
            await self._apply_tools(f"more-{name}")
        if scenario.cancelled:
            await self._until(name, lambda kind: kind == "task.awaiting-tools.v1")
            await self._ask("cancel", {"task": name, "reason": "enough"})
        return Job(name, scenario)

    async def _until(self, name: str, holds: Callable[[str], bool]) -> None:
        async def there() -> bool:
            return any(holds(kind) for kind in self._kinds(name))

        await insist(there, f"task {name} in the state that its kind needs")

    def _kinds(self, name: str) -> list[str]:
        subject = f"$KV.holdfast_0.{NAMESPACE}.{name}"
        return [str(seen.body["type"]) for seen in self._witness.messages if seen.subject == subject]

    async def _ask(self, verb: str, request: Json) -> None:
        """Ask until it is accepted. Asking again is harmless: the request names its task."""

        async def accepted() -> bool:
            answer = await self._client.request(f"hf.ask.{NAMESPACE}.{verb}", json.dumps(request).encode(), timeout=2)
            body = json.loads(answer.data)
            if body["type"] == "rejected.v1" and body["code"] != "unavailable":
                raise AssertionError(f"{verb} {request} was refused: {body}")
            return bool(body["type"] == "accepted.v1")

        await insist(accepted, f"{verb} {request} is accepted")
