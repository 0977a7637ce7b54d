"""A conversation in Slack that goes on over several tasks, with real processes that are killed meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from schemas.requests import Accepted
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    ContactChannel,
    ContactChannelSpec,
    LLMSpec,
    Metadata,
    Ref,
    ScriptedOptions,
    ScriptedReply,
    ScriptedRule,
    SlackOptions,
)
from services.runtime.nats.server import free_port
from tests.support.answering import secret, write_secrets
from tests.support.slack_server import CHANNEL, Slack, slack_server
from tests.support.stack import Stack, stack
from tests.support.waiting import until

SERVICES = ("planner", "llm-gateway", "human-contact", "notifier")
THREAD = "1700000000.000500"


@asynccontextmanager
async def conversation(directory: Path) -> AsyncGenerator[tuple[Stack, Slack]]:
    """An agent that says what it was told, and a channel whose people go on in threads."""
    port = free_port()
    async with slack_server() as (slack, api):
        env = {
            "HOLDFAST_PEOPLE_HTTP_PORT": str(port),
            "HOLDFAST_PEOPLE_LINK_KEY_FILE": write_secrets(directory)["people_link_key_file"],
            "HOLDFAST_SLACK_URL": api,
        }
        slack.url = f"http://127.0.0.1:{port}"
        async with stack(directory, services=SERVICES, environ=env) as running:
            stage = running.stage
            echo = ScriptedRule(user_contains="", reply=ScriptedReply(text="You said: {user}"))
            script = ScriptedOptions(rules=(echo,))
            await stage.apply(LLM(metadata=Metadata(name="model"), spec=LLMSpec(provider="scripted", scripted=script)))
            options = SlackOptions(
                channel_or_user_id=CHANNEL,
                bot_token_from=secret("slack-token"),
                signing_secret_from=secret("slack-signing"),
            )
            spec = ContactChannelSpec(type="slack", slack=options, continue_threads=True)
            await stage.apply(ContactChannel(metadata=Metadata(name="oncall"), spec=spec))
            agent = AgentSpec(llm_ref=Ref(name="model"), system="Repeat.")
            await stage.apply(Agent(metadata=Metadata(name="helper"), spec=agent))
            yield running, slack


async def says(slack: Slack, count: int, text: str) -> str:
    """Wait for the bot's message of this number, with a text; the thread that it is in."""
    await until(lambda: len(slack.messages) >= count, f"{count} messages; there are {slack.messages}", within_s=30)
    message = slack.messages[count - 1]
    assert f"You said: {text}" in message["text"]
    return str(message.get("thread_ts", message["ts"]))


async def replies(slack: Slack, text: str, **more: str) -> None:
    """Somebody replies, and Slack sends it until it is taken."""

    async def taken() -> bool:
        return (await slack.say(text, **more)).status_code == 200

    await until(taken, f"{text!r} is taken", within_s=30)


async def test_a_persons_own_thread_is_where_the_agent_answers_task_after_task(tmp_path: Path) -> None:
    async with conversation(tmp_path) as (running, slack):
        slack.messages.append({"ts": THREAD, "text": "first words", "user": "UANN"})
        request = {
            "agentName": "helper",
            "threadID": THREAD,
            "contactChannelRef": "oncall",
            "userMessage": "first words",
        }
        accepted = await running.stage.ask("submit", request, message_id="slack-event-1")
        assert isinstance(accepted, Accepted)
        assert await says(slack, 2, "first words") == THREAD
        for service in ("planner", "notifier", "human-contact"):
            running.kill(service)
            running.start(service)
        await until(lambda: running.log("human-contact").count("inbound.listening") == 2, "the port", within_s=20)
        for _ in range(2):
            await replies(slack, "second words", thread=THREAD, parent_user_id="UANN", ts="1700000001.1")
        assert await says(slack, 3, "second words") == THREAD
        more = {**request, "userMessage": "third words"}
        third = await running.stage.ask("submit", more, message_id="slack-event-3")
        assert isinstance(third, Accepted)
        assert await says(slack, 4, "third words") == THREAD
        again = await running.stage.ask("submit", request, message_id="slack-event-1")
        assert isinstance(again, Accepted)
        assert (again.task, again.created) == (accepted.task, False)
        assert len(slack.messages) == 4
        assert slack.whispers == []


async def test_under_an_answer_people_go_on_with_the_task_that_gave_it(tmp_path: Path) -> None:
    async with conversation(tmp_path) as (running, slack):
        request = {"agentName": "helper", "contactChannelRef": "oncall", "userMessage": "one"}
        for n, message in enumerate(("one", "another"), 1):
            accepted = await running.stage.ask("submit", {**request, "userMessage": message})
            assert isinstance(accepted, Accepted)
            await says(slack, n, message)
        first, second = slack.messages
        await replies(slack, "on with another", thread=second["ts"], ts="1700000001.1")
        assert await says(slack, 3, "on with another") == second["ts"]
        await replies(slack, "on with one", thread=first["ts"], ts="1700000001.2")
        assert await says(slack, 4, "on with one") == first["ts"]
        await replies(slack, "and on", thread=first["ts"], ts="1700000001.3")
        assert await says(slack, 5, "and on") == first["ts"]
