"""The predecessor's manifests, applied as they are, through real processes to people and back."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from schemas.task import FinalAnswer
from tests.support.humanlayer_server import PROJECT_KEY, HumanLayerServer, humanlayer_server
from tests.support.provider_server import Behaviour, ProviderServer, Recorded, Stream, provider_server
from tests.support.provider_wire import Call, chat_stream
from tests.support.stack import REPOSITORY, Stack, stack

SERVICES = ("planner", "llm-gateway", "tool-executor", "human-contact", "notifier")
SCRIPTED = """\
apiVersion: holdfast.dev/v1
kind: LLM
metadata: {name: gpt-4o}
spec:
  provider: scripted
  scripted:
    transcript:
      - calls: [{tool: guarded-clock__get_current_time, arguments: {timezone: Asia/Tokyo}}]
      - text: "It said: {results}"
"""
MANIFESTS = REPOSITORY / "examples" / "acp-people.yaml"
MODEL = """\
apiVersion: acp.humanlayer.dev/v1alpha1
kind: LLM
metadata:
  name: gpt-4o
spec:
  provider: openai
  parameters:
    model: gpt-4o
    temperature: "0.7"
    baseUrl: %s
  apiKeyFrom:
    secretKeyRef:
      name: openai
      key: OPENAI_API_KEY
"""
WAIT_S = 60.0


def think(request: Recorded) -> Behaviour:
    """What the model says: the manager asks Ada and the researcher, who looks at the clock."""
    messages: list[dict[str, Any]] = request.body["messages"]
    results = [message["content"] for message in messages if message["role"] == "tool"]
    if "researcher what time" in messages[0]["content"]:
        if results:
            return Stream(chat_stream(f"In {results[0]}. {results[1]}"))
        where = Call("call_1", "expert__human_contact_email", json.dumps({"message": "Where is the meeting?"}))
        when = Call("call_2", "delegate_to_agent__researcher", json.dumps({"message": "What time is it in Tokyo?"}))
        return Stream(chat_stream("I ask around.", [where, when]))
    if results:
        return Stream(chat_stream("It is late there." if "Asia/Tokyo" in results[0] else f"No: {results[0]}"))
    clock = Call("call_3", "guarded-clock__get_current_time", json.dumps({"timezone": "Asia/Tokyo"}))
    return Stream(chat_stream("", [clock]))


async def holdfast(running: Stack, *arguments: str, given: str = "") -> str:
    """Run the command; it must be content."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli.main", *arguments),
        cwd=REPOSITORY,
        env={**env, "NATS_URL": running.server.url, "COLUMNS": "200"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate(given.encode())
    assert process.returncode == 0, out.decode()
    return out.decode()


def write_secrets(directory: Path) -> None:
    for name, key, value in (
        ("openai", "OPENAI_API_KEY", "sk-test"),
        ("humanlayer", "HUMANLAYER_API_KEY", PROJECT_KEY),
    ):
        (directory / "secrets" / name).mkdir(parents=True)
        (directory / "secrets" / name / key).write_text(value)


def environ_of(people: HumanLayerServer) -> dict[str, str]:
    return {
        "HOLDFAST_HUMANLAYER_URL": people.url,
        "HOLDFAST_PEOPLE_HTTP_PORT": "-1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


async def play(running: Stack, provider: ProviderServer, people: HumanLayerServer) -> None:
    provider.choose = think
    provider.keys = {"sk-test"}
    await holdfast(running, "apply", "-f", "-", "--wait", given=MODEL % provider.openai_url)
    applied = await holdfast(running, "apply", "-f", str(MANIFESTS), "--wait")
    assert "agent/manager created" in applied

    (approval,) = await people.asked("function_calls")
    (question,) = await people.asked("contact_requests")
    assert (approval.spec["fn"], approval.spec["kwargs"]) == (
        "guarded-clock__get_current_time",
        {"timezone": "Asia/Tokyo"},
    )
    assert approval.spec["channel"]["slack"]["channel_or_user_id"] == "C01234567"
    assert (question.spec["msg"], question.spec["subject"]) == ("Where is the meeting?", "A question of an agent")

    running.kill("human-contact")
    people.decide(approval, approved=True, comment="go on", user_info={"id": "U0ANN"})
    people.decide(question, response='In Tokyo.\nRoom "4"')
    running.start("human-contact")

    task = running.stage.task("ask-around")
    await running.stage.until_state(task, FinalAnswer, wait_s=WAIT_S)
    assert (approval.posted, question.posted) == (1, 1)
    shown = json.loads(await holdfast(running, "get", "task", "ask-around", "-o", "json"))["status"]
    assert shown["output"] == 'In In Tokyo.\nRoom "4". It is late there.'

    _, told = await people.asked("contact_requests", 2)
    assert told.spec["msg"] == shown["output"]
    roles = [message["role"] for message in shown["contextWindow"]]
    assert roles == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert [call["outcome"] for call in shown["toolCalls"]] == ["succeeded", "succeeded"]
    described = await holdfast(running, "describe", "task", "ask-around")
    assert "researcher" in described


async def test_a_kill_while_the_api_takes_a_question_asks_nobody_twice(tmp_path: Path) -> None:
    write_secrets(tmp_path)
    async with (
        humanlayer_server() as people,
        stack(tmp_path, services=SERVICES[:4], environ=environ_of(people)) as running,
    ):
        people.answers.clear()
        manifests = MANIFESTS.read_text(encoding="utf-8").rpartition("---")[0]
        await holdfast(running, "apply", "-f", "-", "--wait", given=f"{SCRIPTED}---\n{manifests}")
        await holdfast(running, "submit", "-a", "researcher", "What time is it?", "--name", "asked")
        (approval,) = await people.asked("function_calls")
        running.kill("human-contact")
        people.answers.set()
        running.start("human-contact")
        people.decide(approval, approved=True)
        await running.stage.until_state(running.stage.task("asked"), FinalAnswer, wait_s=WAIT_S)
        assert (approval.posted, len(people.kept)) == (1, 1)


async def test_the_predecessors_manifests_reach_people_and_other_agents(tmp_path: Path) -> None:
    write_secrets(tmp_path)
    async with (
        provider_server() as provider,
        humanlayer_server() as people,
        stack(tmp_path, services=SERVICES, environ=environ_of(people)) as running,
    ):
        await play(running, provider, people)
        assert people.refusals == []
