"""Real processes ask people in the middle of calls: what a server wants to know, and what becomes of a lost call."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.events import ToolFinished
from schemas.interactions import InteractionStep
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    ContactChannel,
    ContactChannelSpec,
    LLMSpec,
    MCPServer,
    Metadata,
    Ref,
    ScriptedCall,
    ScriptedOptions,
    ScriptedReply,
    ServerRef,
    SlackOptions,
    ToolPolicy,
)
from schemas.subjects import TaskSubjects
from schemas.task import Cancelled, FinalAnswer
from schemas.wire import decode
from tests.e2e.test_people import Crew, crew
from tests.support.answering import secret
from tests.support.mcp_servers.bench import kitchen, module, record_of, stdio_server
from tests.support.slack_server import CHANNEL, Message, Slack, slack_server
from tests.support.stage import until
from tests.support.wondering import said

WAIT_S = 30.0


class Deck:
    """A crew whose tools ask in Slack."""

    def __init__(self, running: Crew, slack: Slack, record: Path) -> None:
        self.running = running
        self.stage = running.stage
        self.stack = running.running
        self.slack = slack
        self.record = record

    async def begin(self, server: MCPServer, tool: str, **arguments: Any) -> TaskSubjects:
        """A task whose model calls a tool once, of a server that asks in Slack unless it has policies of its own."""
        calls = (ScriptedCall(tool=f"box__{tool}", arguments=arguments),)
        script = ScriptedOptions(transcript=(ScriptedReply(calls=calls), ScriptedReply(text="Done.")))
        await self.stage.apply(LLM(metadata=Metadata(name="model"), spec=LLMSpec(provider="scripted", scripted=script)))
        options = SlackOptions(
            channel_or_user_id=CHANNEL,
            bot_token_from=secret("slack-token"),
            signing_secret_from=secret("slack-signing"),
        )
        channel = ContactChannelSpec(type="slack", slack=options)
        await self.stage.apply(ContactChannel(metadata=Metadata(name="oncall"), spec=channel))
        if not server.spec.policies:
            asking = msgspec.structs.replace(server.spec, contact_channel=Ref(name="oncall"))
            server = msgspec.structs.replace(server, spec=asking)
        await self.stage.apply(server)
        spec = AgentSpec(llm_ref=Ref(name="model"), system="s", mcp_servers=(ServerRef(name="box"),))
        await self.stage.apply(Agent(metadata=Metadata(name="helper"), spec=spec))
        return await self.stage.submit()

    async def lost(self, *policies: ToolPolicy) -> TaskSubjects:
        """A task whose call was lost with its executor, in the middle; a new executor runs."""
        task = await self.begin(kitchen("box", self.record, policies=policies), "effect", text="pour", seconds=1)

        async def poured() -> bool:
            return self.effects() == 1

        await until(poured, "the call is under way", wait_s=WAIT_S)
        self.stack.kill("tool-executor")
        self.stack.start("tool-executor")
        return task

    def effects(self) -> int:
        """How often the tool has taken effect."""
        return record_of(self.record).count("pour")

    async def asked(self, count: int = 1) -> Message:
        """Wait for so many messages in Slack; the last."""

        async def there() -> bool:
            return len(self.slack.messages) >= count

        await until(there, "a message in Slack", wait_s=WAIT_S)
        return self.slack.messages[count - 1]

    async def delivered(self, task: TaskSubjects, k: int = 1) -> None:
        """Wait until it is recorded that Slack has the question: from then on nobody is asked again."""

        async def there() -> bool:
            entry = await self.stage.bus.log(task.partition).get(task.interaction_step("r1", 1, k, 0))
            return entry is not None and decode(entry.data, InteractionStep).delivered

        await until(there, "the question is recorded as delivered", wait_s=WAIT_S)

    async def result(self, task: TaskSubjects) -> ToolFinished:
        """The result of the call, once the task has ended."""
        await self.stage.until_state(task, FinalAnswer, wait_s=WAIT_S)
        return decode(await self.stage.stored(task, task.tool_event("r1", 1)), ToolFinished)


@asynccontextmanager
async def deck(directory: Path) -> AsyncGenerator[Deck]:
    async with slack_server() as (slack, api), crew(directory, HOLDFAST_SLACK_URL=api) as running:
        slack.url = running.url
        await running.port_is_open()
        yield Deck(running, slack, directory / "record")


@pytest.mark.parametrize("killed", [(), ("human-contact",), ("tool-executor",), ("human-contact", "tool-executor")])
async def test_a_lost_call_is_made_again_when_a_person_says_so(tmp_path: Path, killed: tuple[str, ...]) -> None:
    async with deck(tmp_path) as here:
        task = await here.lost()
        message = await here.asked()
        await here.delivered(task)
        for service in killed:
            here.stack.kill(service)
        for service in killed:
            here.stack.start(service)
        await here.running.port_is_open(1 + ("human-contact" in killed))
        assert here.effects() == 1
        assert (await here.slack.press(message, "accept")).status_code == 200
        result = await here.result(task)
        assert (result.outcome, result.attempt, here.effects()) == ("succeeded", 2, 2)
        assert "Run again by UANN" in await here.slack.closed(message)
        assert len(here.slack.messages) == 1


async def test_a_lost_call_is_left_when_a_person_says_so(tmp_path: Path) -> None:
    async with deck(tmp_path) as here:
        task = await here.lost()
        message = await here.asked()
        await here.slack.press(message, "decline")
        (view,) = here.slack.views
        await here.slack.submit(view, "it was poured")
        result = await here.result(task)
        assert (result.outcome, here.effects()) == ("unknown", 1)
        assert "UANN was asked, and left it as it is, and said: it was poured" in result.content


async def test_a_call_that_is_lost_again_is_asked_about_again(tmp_path: Path) -> None:
    async with deck(tmp_path) as here:
        task = await here.lost()
        await here.slack.press(await here.asked(), "accept")

        async def poured() -> bool:
            return here.effects() == 2

        await until(poured, "the call is made again", wait_s=WAIT_S)
        here.stack.kill("tool-executor")
        here.stack.start("tool-executor")
        second = await here.asked(2)
        assert "for the 2. time" in str(second["blocks"])
        await here.slack.press(second, "accept")
        result = await here.result(task)
        assert (result.outcome, result.attempt, here.effects()) == ("succeeded", 3, 3)


async def test_a_task_that_is_cancelled_meanwhile_takes_the_question_back(tmp_path: Path) -> None:
    async with deck(tmp_path) as here:
        task = await here.lost()
        message = await here.asked()
        await here.delivered(task)
        await here.stage.ask("cancel", {"task": task.task, "reason": "enough"})
        await here.stage.until_state(task, Cancelled, wait_s=WAIT_S)
        assert "Withdrawn" in await here.slack.closed(message)
        assert (await said(here.stage, task)).via == "withdrawn"
        await here.slack.press(message, "accept")
        assert "withdrawn" in here.slack.whispers[0]["text"]
        assert here.effects() == 1


async def test_without_a_channel_the_command_line_decides(tmp_path: Path) -> None:
    async with deck(tmp_path) as here:
        task = await here.lost(ToolPolicy(tool="effect", on_uncertain="ask"))
        await here.stage.stored(task, task.interaction_asked("r1", 1, 1))

        def holdfast(*words: str) -> str:
            command = (sys.executable, "-m", "services.cli.main", *words)
            environ = {**os.environ, **here.stack.client}
            done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=WAIT_S, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        shown = await asyncio.to_thread(holdfast, "inbox", task.task)
        assert "pour" in shown
        assert "nobody knows how it ended" in shown
        assert f"holdfast approve {task.task} r1.1.1" in shown
        await asyncio.to_thread(holdfast, "approve", task.task, "r1.1.1")
        result = await here.result(task)
        assert (result.outcome, result.attempt, here.effects()) == ("succeeded", 2, 2)
        assert here.slack.messages == []


async def test_a_servers_form_is_filled_in_though_the_one_who_brought_it_was_killed(tmp_path: Path) -> None:
    async with deck(tmp_path) as here:
        server = stdio_server("box", module("asker"), env={"RECORD": str(here.record)})
        task = await here.begin(server, "book", where="Rome")
        message = await here.asked()
        await here.delivered(task)
        here.stack.kill("human-contact")
        here.stack.start("human-contact")
        await here.running.port_is_open(2)
        await here.slack.press(message, "answer")
        (view,) = here.slack.views
        filled = {
            "f0": {"type": "plain_text_input", "value": "Oslo"},
            "f1": {"type": "number_input", "value": "99"},
        }
        refused = await here.slack.fill_in(view, filled)
        assert "99 is greater than the maximum of 30" in refused.json()["errors"]["f0"]
        await here.slack.fill_in(view, {**filled, "f1": {"type": "number_input", "value": "2"}})
        assert '"city":"Oslo","nights":2' in (await here.result(task)).content
        assert "Accepted by UANN" in await here.slack.closed(message)
        assert len(here.slack.messages) == 1
