"""The second workload: calls that people decide about, and agents that delegate, three deep.

People answer on the bus, as the command line does, until they are told that they have.
"""

from __future__ import annotations

import json

from tests.chaos.live.checker_people import NOBODY
from tests.chaos.live.workload import NAMESPACE, SCENARIOS, Job, Json, Scenario, Workload, answer, calls, insist
from tests.support.live_fleet import SERVICES

CREW_SERVICES = (*SERVICES, "human-contact")
AGENTS = {"asked": "asker", "ignored": "hopeful", "council": "careful"}
"""Which agent works on a task that is not of a tree."""
IGNORED_S = 1.0
PASSED_ON_S = 0.8
REMINDED_S = 0.3
ANSWERS: dict[int, Json] = {
    1: {"action": "accept", "comment": "go on"},
    2: {"action": "decline", "comment": "too much"},
    3: {"action": "accept", "content": {"answer": "blue"}},
}
"""What somebody answers about the calls of an `asked` task."""
EDITED = 1
"""The call of these whose arguments are written anew: the same key in other bytes, so that its effect is known."""


def _delegates(message: str, agent: str, *tools: str) -> Json:
    """In its first turn, the agent that was told `message` asks another one, and calls tools beside it."""
    rule = calls(message, 1, *tools)
    delegated = {"tool": f"delegate_to_agent__{agent}", "arguments": {"message": f"at {agent}: {{user}}"}}
    rule["reply"]["calls"].insert(0, delegated)
    return rule


def _asks() -> Json:
    rule = calls("asked", 1, "charge", "charge", "lookup")
    question = {"message": "Which colour?", "choices": ["blue", "red"]}
    rule["reply"]["calls"].insert(2, {"tool": "oncall__human_contact_console", "arguments": question})
    return rule


# A rule that names who is asked comes before those of whoever asks: their words are in what is asked.
CREW: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("asked", (_asks(), answer("asked"))),
        Scenario("ignored", (calls("ignored", 1, "charge"), answer("ignored"))),
        Scenario("council", (calls("council", 1, "charge"), answer("council"))),
        Scenario(
            "tree",
            (
                calls("at leaf: at middle: tree", 1, "charge", "lookup"),
                _delegates("at middle: tree", "leaf"),
                _delegates("tree", "middle", "charge"),
                answer("tree"),
            ),
        ),
        Scenario(
            "left",
            (
                calls("at leaf: at middle: left", 1, "save"),
                _delegates("at middle: left", "leaf"),
                _delegates("left", "middle"),
            ),
            ends_as="Cancelled",
        ),
    )
}
"""`ignored`: nobody answers in time. `council`: people are reminded, the question is passed on, and two must accept.
`left`: the root of a tree is cancelled while its leaf waits for a person."""


class CrewWorkload(Workload):
    """Submits tasks of `CREW`, answers what is asked about them, and cancels those that are to be left."""

    scenarios = CREW

    async def prepare(self) -> None:
        """Apply the agents beside what every workload needs, and wait until they are ready."""
        await super().prepare()
        await self._apply("ContactChannel", "oncall", {"type": "console"})
        await self._apply("ContactChannel", NOBODY, {"type": "console", "timeoutSeconds": IGNORED_S})
        duty = {"type": "console", "quorum": 2, "timeoutSeconds": PASSED_ON_S, "remindSeconds": REMINDED_S}
        await self._apply("ContactChannel", "duty", {**duty, "onTimeout": "escalate", "escalateTo": {"name": "oncall"}})
        oncall = {"name": "oncall"}
        await self._apply_agent("leaf", "script", "effects", approvals=[_rule("effects__save")])
        await self._apply_agent("middle", "script", subAgents=[{"name": "leaf"}])
        await self._apply_agent("root", "script", "effects", subAgents=[{"name": "middle"}])
        await self._apply_agent(
            "asker", "script", "effects", approvals=[_rule("effects__charge")], humanContactChannels=[oncall]
        )
        await self._apply_agent("hopeful", "script", "effects", approvals=[_rule("effects__charge", NOBODY)])
        await self._apply_agent("careful", "script", "effects", approvals=[_rule("effects__charge", "duty")])
        for agent in ("leaf", "middle", "root", "asker", "hopeful", "careful"):
            await self._until_ready(agent)

    async def run(self, scenario: Scenario, name: str) -> Job:
        """Submit a task and do what people do to it."""
        agent = AGENTS.get(scenario.name, "root")
        await self._ask("submit", {"name": name, "agentName": agent, "userMessage": f"{scenario.name}: {name}"})
        self.accepted[name] = scenario.ends_as
        if scenario.name == "asked":
            for n, said in ANSWERS.items():
                await self._until_asked(f"{name}.r1.{n}.0.asked")
                edited = {"arguments": json.dumps({"key": f"asked: {name} 1.1"}, indent=1)} if n == EDITED else {}
                await self._ask("answer", {"task": name, "interaction": f"r1.{n}.0", "by": "ann", **said, **edited})
        if scenario.name == "council":
            await self._until_asked(f"{name}.r1.1.0.step.1")
            for who in ("ann", "bob"):
                await self._ask("answer", {"task": name, "interaction": "r1.1.0", "by": who})
        if scenario.name == "left":
            await self._until_asked(name)
            await self._ask("cancel", {"task": name, "reason": "enough"})
        return Job(name, scenario)

    async def _until_asked(self, what: str) -> None:
        """Wait for a question whose place begins so: a child's name begins with that of its root."""
        place = f"hf.0.{NAMESPACE}.int.{what}"

        async def there() -> bool:
            return any(seen.subject.startswith(place) for seen in self._witness.messages)

        await insist(there, f"a question at {place}")


class EveryWorkload(CrewWorkload):
    """Tasks of every kind."""

    scenarios = {**SCENARIOS, **CREW}

    async def run(self, scenario: Scenario, name: str) -> Job:
        """Submit a task and do to it what its kind needs."""
        if scenario.name in CREW:
            return await super().run(scenario, name)
        return await Workload.run(self, scenario, name)


def _rule(tool: str, channel: str = "oncall") -> Json:
    return {"tools": [tool], "when": "always", "contactChannel": {"name": channel}}
