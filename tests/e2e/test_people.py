"""People answer real processes: in Slack, and by links in real mail."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from schemas.events import ToolFinished
from schemas.interactions import InteractionAnswered, InteractionStep
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    ApprovalRule,
    ContactChannel,
    ContactChannelSpec,
    EmailOptions,
    IMAPOptions,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    ScriptedCall,
    ScriptedOptions,
    ScriptedReply,
    ServerRef,
    SlackOptions,
    SMTPOptions,
)
from schemas.subjects import TaskSubjects
from schemas.task import FinalAnswer
from schemas.wire import decode
from services.runtime.nats.server import free_port
from tests.support.answering import secret, write_secrets
from tests.support.by_mail import reply_to
from tests.support.imap_server import Stored, imap_server
from tests.support.mail_server import MailServer, mail_server
from tests.support.slack_server import CHANNEL, slack_server
from tests.support.stack import SERVICES, Stack, stack
from tests.support.stage import until

ANN = "ann@example.com"
AGENT = "agent@holdfast.example"


class Crew:
    """A stack with people, and their port."""

    def __init__(self, running: Stack, url: str) -> None:
        self.running = running
        self.stage = running.stage
        self.url = url

    async def agent(self, channel: ContactChannelSpec) -> None:
        """An agent that asks before it looks at the clock."""
        calls = (ScriptedCall(tool="clock__get_current_time", arguments={"timezone": "UTC"}),)
        script = ScriptedOptions(transcript=(ScriptedReply(calls=calls), ScriptedReply(text="It is late.")))
        stage = self.stage
        await stage.apply(LLM(metadata=Metadata(name="model"), spec=LLMSpec(provider="scripted", scripted=script)))
        clock = MCPServerSpec(transport="stdio", command=sys.executable, args=("-m", "mcp_server_time"))
        await stage.apply(MCPServer(metadata=Metadata(name="clock"), spec=clock))
        await stage.apply(ContactChannel(metadata=Metadata(name="oncall"), spec=channel))
        spec = AgentSpec(
            llm_ref=Ref(name="model"),
            system="You tell the time.",
            mcp_servers=(ServerRef(name="clock"),),
            approvals=(ApprovalRule(contact_channel=Ref(name="oncall")),),
        )
        await stage.apply(Agent(metadata=Metadata(name="helper"), spec=spec))

    async def result(self, task: TaskSubjects) -> ToolFinished:
        """The result of the call, once the task has ended."""
        await self.stage.until_state(task, FinalAnswer, wait_s=30)
        return decode(await self.stage.stored(task, task.tool_event("r1", 1)), ToolFinished)

    async def answered(self, task: TaskSubjects) -> InteractionAnswered | None:
        entry = await self.stage.bus.log(task.partition).get(task.interaction_answered("r1", 1, 0))
        return decode(entry.data, InteractionAnswered) if entry is not None else None

    async def recorded(self, task: TaskSubjects) -> None:
        """Wait until it is recorded that the channel has the question: from then on nobody is asked again."""

        async def there() -> bool:
            entry = await self.stage.bus.log(task.partition).get(task.interaction_step("r1", 1, 0, 0))
            return entry is not None and decode(entry.data, InteractionStep).delivered

        await until(there, "the question is recorded as delivered", wait_s=10)

    async def port_is_open(self, times: int = 1) -> None:
        """Wait until human-contact has opened its port that often."""

        async def there() -> bool:
            return self.running.log("human-contact").count("inbound.listening") >= times

        await until(there, "the port of human-contact", wait_s=20)


@asynccontextmanager
async def crew(directory: Path, **environ: str) -> AsyncGenerator[Crew]:
    port = free_port()
    files = write_secrets(directory)
    env = {
        "HOLDFAST_PEOPLE_HTTP_PORT": str(port),
        "HOLDFAST_PEOPLE_LINK_KEY_FILE": files["people_link_key_file"],
        "HOLDFAST_EGRESS_ALLOW": "127.0.0.1",
        **environ,
    }
    async with stack(directory, services=(*SERVICES, "human-contact"), environ=env) as running:
        yield Crew(running, f"http://127.0.0.1:{port}")


def by_mail(server: MailServer, imap: IMAPOptions | None = None, **fields: Any) -> ContactChannelSpec:
    smtp = SMTPOptions(host="127.0.0.1", port=server.port, security="none", sender=AGENT)
    return ContactChannelSpec(type="email", email=EmailOptions(address=ANN, smtp=smtp, imap=imap), **fields)


async def links(server: MailServer, task: TaskSubjects) -> dict[str, str]:
    """The links of the message about a task."""
    found: list[str] = []

    async def there() -> bool:
        bodies = [one.get_body(("plain",)) for one in server.messages]
        found[:] = [text for body in bodies if body is not None and task.task in (text := str(body.get_content()))]
        return bool(found)

    await until(there, "the message", wait_s=30)
    return dict(re.findall(r"^([A-Z][a-z, ]+): (http\S+)", found[0], re.MULTILINE))


async def test_a_kill_while_people_think_asks_nobody_again_and_a_double_click_counts_once(tmp_path: Path) -> None:
    async with slack_server() as (slack, api), crew(tmp_path, HOLDFAST_SLACK_URL=api) as running:
        slack.url = running.url
        options = SlackOptions(
            channel_or_user_id=CHANNEL,
            bot_token_from=secret("slack-token"),
            signing_secret_from=secret("slack-signing"),
        )
        await running.agent(ContactChannelSpec(type="slack", slack=options))
        task = await running.stage.submit()
        await until(lambda: _has(slack.messages), "a message in Slack", wait_s=30)
        (message,) = slack.messages
        await running.recorded(task)
        running.running.kill("human-contact")
        running.running.start("human-contact")
        await running.port_is_open(2)
        both = await asyncio.gather(slack.press(message, "accept"), slack.press(message, "accept"))
        assert [one.status_code for one in both] == [200, 200]
        finished = await running.result(task)
        assert (finished.outcome, "UTC" in finished.content) == ("succeeded", True)
        assert "Accepted by UANN" in await slack.closed(message)
        assert len(slack.messages) == 1
        assert slack.whispers == []


async def _has(messages: list[Any]) -> bool:
    return bool(messages)


async def test_a_scanner_decides_nothing_and_edited_arguments_are_what_is_called(tmp_path: Path) -> None:
    with mail_server() as server:
        async with crew(tmp_path) as running, httpx2.AsyncClient(trust_env=False) as client:
            await running.agent(by_mail(server))
            task = await running.stage.submit()
            found = await links(server, task)
            assert len(found) == 3
            for url in found.values():
                assert url.startswith(running.url)
                assert [(await client.request(how, url)).status_code for how in ("GET", "HEAD")] == [200, 200]
            assert await running.answered(task) is None
            form = {"action": "edit", "arguments": '{"timezone": "Europe/Paris"}'}
            page = await client.post(found["Approve"], data=form)
            assert (page.status_code, f"Accepted by {ANN}" in page.text) == (200, True)
            finished = await running.result(task)
            assert finished.outcome == "succeeded"
            assert "Europe/Paris" in finished.content
            assert f"Accepted by {ANN}" in (await client.get(found["Reject"])).text


async def test_an_answer_that_races_the_timeout_has_one_outcome(tmp_path: Path) -> None:
    with mail_server() as server:
        async with crew(tmp_path) as running, httpx2.AsyncClient(trust_env=False, timeout=20) as client:
            await running.agent(by_mail(server, timeout_s=1.0))
            outcomes: set[str] = set()

            async def race(n: int) -> None:
                task = await running.stage.submit(name=f"race-{n}")
                url = (await links(server, task))["Approve"]
                await asyncio.sleep(0.4 + 0.15 * n)
                status = (await client.post(url, data={"action": "accept"})).status_code
                finished, answered = await running.result(task), await running.answered(task)
                assert answered is not None
                by_ann = status == 200
                assert answered.via == ("email" if by_ann else "expired")
                assert finished.outcome == ("succeeded" if by_ann else "rejected")
                outcomes.add(answered.via)

            await asyncio.gather(*(race(n) for n in range(8)))
            assert outcomes == {"email", "expired"}


async def test_a_reply_that_comes_while_nobody_looks_is_found_later_and_rejects(tmp_path: Path) -> None:
    async with imap_server(AGENT) as imap:
        with mail_server() as server:
            async with crew(tmp_path) as running:
                mailbox = IMAPOptions(
                    host="127.0.0.1", port=imap.port, security="none", username=AGENT, password_from=secret("mail")
                )
                await running.agent(by_mail(server, mailbox))
                task = await running.stage.submit()
                await links(server, task)
                await running.recorded(task)
                running.running.kill("human-contact")
                arrived = imap.arrive(reply_to(server.messages[0], "reject not at night"))
                running.running.start("human-contact")
                await running.port_is_open(2)
                await until(lambda: _seen(arrived), "the reply is read", wait_s=80)
                assert (await running.result(task)).content == "Rejected: not at night"
                assert len(server.messages) == 1


async def _seen(message: Stored) -> bool:
    return message.seen
