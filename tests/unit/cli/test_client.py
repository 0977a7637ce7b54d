from __future__ import annotations

from typing import get_args

import pytest

from schemas import subjects
from schemas.dead_letters import DeadLetter, FailedAttempt
from schemas.interactions import AnswerInteraction
from schemas.requests import Accepted, RefusalCode, Rejected, SubmitTask
from schemas.resources import LLM, Agent, AgentSpec, LLMSpec, Metadata, Ref, ResourceStatus
from schemas.wire import encode
from services.cli import client as client_module
from services.cli.client import Client
from services.cli.exits import ExitCode, Stop
from services.cli.kinds import kind_named
from services.cli.letters import letter, letter_id, letters, redrive
from services.cli.listing import find, list_kind
from services.runtime.memory.bus import MemoryBus
from services.runtime.ports import Outgoing, Signal
from tests.support.cli import AT, CLOCK, Script, finished_task

MODEL = LLM(metadata=Metadata(name="gpt"), spec=LLMSpec(provider="openai"))
AGENT = Agent(metadata=Metadata(name="helper"), spec=AgentSpec(llm_ref=Ref(name="gpt"), system="Help."))


async def test_applying_says_whether_something_changed() -> None:
    client = Client(MemoryBus())
    changed = LLM(metadata=Metadata(name="gpt"), spec=LLMSpec(provider="anthropic"))
    assert await client.apply(MODEL) == "created"
    assert await client.apply(MODEL) == "unchanged"
    assert await client.apply(changed) == "configured"
    assert await client.delete_resource("LLM", "default", "gpt")
    assert not await client.delete_resource("LLM", "default", "gpt")
    assert await client.apply(MODEL) == "created"


async def test_resources_are_listed_by_namespace_and_name() -> None:
    client = Client(MemoryBus())
    for namespace, name in (("b", "x"), ("a", "z"), ("a", "y")):
        await client.apply(LLM(metadata=Metadata(name=name, namespace=namespace), spec=LLMSpec(provider="openai")))
    await client.apply(AGENT)
    assert [one.resource.metadata.name for one in await client.resources("LLM", None)] == ["y", "z", "x"]
    assert [one.resource.metadata.name for one in await client.resources("LLM", "b")] == ["x"]


async def test_a_status_of_an_earlier_specification_says_nothing() -> None:
    bus = MemoryBus()
    client = Client(bus)
    await client.apply(MODEL)
    declared = await client.resource("LLM", "default", "gpt")
    assert declared is not None
    status = ResourceStatus(
        ready=True, status="Ready", status_detail="fine", observed_revision=declared.revision, at=AT
    )
    await bus.resources.put(subjects.status_key("LLM", "default", "gpt"), encode(status))
    (item,) = await list_kind(client, kind_named("llm"), "default", AT)
    assert item.cells == ("openai", "", "true", "Ready", "fine")
    await client.apply(LLM(metadata=Metadata(name="gpt"), spec=LLMSpec(provider="anthropic")))
    (item,) = await list_kind(client, kind_named("llm"), "default", AT)
    assert item.cells == ("anthropic", "", "false", "Pending", "waiting for llm-gateway to look at it")


async def test_what_another_version_wrote_does_not_spoil_a_list() -> None:
    bus = MemoryBus()
    client = Client(bus)
    await client.apply(MODEL)
    await bus.resources.put(subjects.spec_key("LLM", "default", "new"), b'{"kind":"LLM","unheardOf":1}')
    await finished_task(bus)
    await bus.log(0).record(Outgoing("$KV.holdfast_0.default.t9", b'{"type":"task.future.v1"}'))
    assert len(await client.resources("LLM", None)) == 1
    assert [stored.state.task for stored in await client.tasks(None)] == ["t1"]


@pytest.mark.parametrize("code", get_args(RefusalCode))
async def test_every_refusal_ends_the_command_with_a_code_of_its_own(code: RefusalCode) -> None:
    bus = MemoryBus()

    async def answer(signal: Signal) -> None:
        await bus.signals.publish(signal.reply, encode(Rejected(code=code, error="no")))

    await bus.signals.subscribe(subjects.ASK_ALL, answer)
    with pytest.raises(Stop, match="no") as caught:
        await Client(bus).answer("default", AnswerInteraction(task="t", interaction="r1.1.0"))
    assert caught.value.code in (ExitCode.REFUSED, ExitCode.NOT_FOUND, ExitCode.UNREACHABLE)


async def test_a_refused_request_ends_the_command_with_the_planners_words() -> None:
    bus = MemoryBus()
    reply: Accepted | Rejected = Rejected(code="conflict", error="task 't' exists and asks for something else")

    async def answer(signal: Signal) -> None:
        await bus.signals.publish(signal.reply, encode(reply))

    await bus.signals.subscribe(subjects.ASK_ALL, answer)
    with pytest.raises(Stop, match="asks for something else") as caught:
        await Client(bus).submit("default", SubmitTask(agent_name="a", user_message="hi"))
    assert caught.value.code == ExitCode.REFUSED
    reply = Accepted(namespace="default", task="t", created=True)
    assert (await Client(bus).submit("default", SubmitTask(agent_name="a", user_message="hi"))).task == "t"


async def test_a_request_without_an_answer_is_asked_again_with_the_same_id() -> None:
    bus = MemoryBus()
    heard: list[Signal] = []

    async def answer(signal: Signal) -> None:
        heard.append(signal)
        if len(heard) == 2:
            await bus.signals.publish(signal.reply, encode(Accepted(namespace="default", task="t")))

    await bus.signals.subscribe(subjects.ASK_ALL, answer)
    client = Client(bus, ask_once_s=0.05)
    assert (await client.submit("default", SubmitTask(agent_name="a", user_message="hi"))).task == "t"
    first, second = heard
    assert first.headers == second.headers
    assert first.headers["Nats-Msg-Id"]


async def test_without_a_planner_the_command_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ASK_S", 0.3)
    with pytest.raises(Stop, match="start the services with `holdfast dev`") as caught:
        await Client(MemoryBus()).submit("default", SubmitTask(agent_name="a", user_message="hi"))
    assert caught.value.code == ExitCode.UNREACHABLE


async def test_a_task_is_shown_with_its_answer_its_conversation_and_its_calls() -> None:
    bus = MemoryBus()
    await finished_task(bus)
    client = Client(bus)
    (item,) = await list_kind(client, kind_named("tasks"), "default", AT)
    assert item.cells[4:7] == ("FinalAnswer", "What time is it?", "It is noon.")
    whole = (await find(client, kind_named("task"), "default", "t1", AT)).document
    assert [message["role"] for message in whole["status"]["contextWindow"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    assert [(call["phase"], call["result"]) for call in whole["status"]["toolCalls"]] == [
        ("Succeeded", "12:00"),
        ("Failed", "no such zone"),
    ]
    assert whole["status"]["output"] == "It is noon."
    assert whole["spec"] == {"agentRef": {"name": "helper"}, "userMessage": "What time is it?"}


async def test_a_task_that_was_just_accepted_is_there_though_it_has_no_state_yet() -> None:
    bus = MemoryBus()
    await Script(bus, "fresh").submit()
    client = Client(bus)
    shown = await find(client, kind_named("task"), "default", "fresh", AT)
    assert shown.cells[4] == "Initializing"
    assert await client.task("default", "never") is None


async def test_tool_calls_are_found_by_name_and_late_answers_ask_for_nothing() -> None:
    bus = MemoryBus()
    await finished_task(bus)
    late = Script(bus, "t2")
    await late.submit()
    await late.call_model(1)
    await late.answer(1, "", CLOCK, counted=False)
    client = Client(bus)
    names = [item.name for item in await list_kind(client, kind_named("tc"), None, AT)]
    assert names == ["t1-r1-tc-01", "t1-r1-tc-02"]
    found = await find(client, kind_named("toolcall"), "default", "t1-r1-tc-02", AT)
    assert found.document["status"]["outcome"] == "failed"
    for name in ("t1-r1-tc-03", "t3-r1-tc-01", "nonsense"):
        with pytest.raises(Stop) as caught:
            await find(client, kind_named("toolcall"), "default", name, AT)
        assert caught.value.code == ExitCode.NOT_FOUND


@pytest.mark.parametrize(("kind", "name"), [("agent", "Not A Name"), ("task", "a.b")])
async def test_a_name_that_cannot_be_is_said_to_be_none(kind: str, name: str) -> None:
    with pytest.raises(Stop, match="may hold only") as caught:
        await find(Client(MemoryBus()), kind_named(kind), "default", name, AT)
    assert caught.value.code == ExitCode.USAGE


LETTER = DeadLetter(
    stream="HOLDFAST_REQUESTS",
    seq=7,
    consumer="planner-requests",
    subject="hf.tasks.default.submit",
    reason="invalid_request",
    error="agentName is required",
    at=AT,
    deliveries=1,
    headers={"Nats-Msg-Id": "order-17", "traceparent": "00-1"},
    payload='{"userMessage": "hi"}',
    attempts=(FailedAttempt(delivery=1, at=AT, replica="p1", error="ValueError: no"),),
)


async def buried(bus: MemoryBus, found: DeadLetter = LETTER) -> None:
    await bus.dead_letters.record(Outgoing(subjects.dead_letter(found.stream, found.seq), encode(found)))
    await bus.dead_letters.record(
        Outgoing(subjects.failed_attempt(found.stream, found.seq, 1), encode(found.attempts[0]))
    )


async def test_a_dead_letter_is_sent_again_as_it_was_and_leaves_the_list() -> None:
    bus = MemoryBus()
    await buried(bus)
    client = Client(bus)
    heard: list[Signal] = []

    async def hear(signal: Signal) -> None:
        heard.append(signal)

    await bus.signals.subscribe("hf.tasks.>", hear)
    (found,) = await letters(client)
    assert letter_id(found) == "HOLDFAST_REQUESTS/7"
    await redrive(client, await letter(client, "HOLDFAST_REQUESTS/7"))
    queue = await bus.queue(subjects.PLANNER_REQUESTS)
    (delivery,) = await queue.take(1)
    assert delivery.data == b'{"userMessage": "hi"}'
    assert delivery.headers == {"traceparent": "00-1", "Holdfast-Request-Id": "order-17", "Holdfast-Redrive": "1"}
    assert await letters(client) == []
    assert await bus.dead_letters.subjects("hf.dlq.>") == []


@pytest.mark.parametrize(
    ("name", "code"), [("HOLDFAST_REQUESTS/8", ExitCode.NOT_FOUND), ("HOLDFAST_REQUESTS", ExitCode.USAGE)]
)
async def test_a_letter_that_is_not_there_is_said_not_to_be(name: str, code: ExitCode) -> None:
    bus = MemoryBus()
    await buried(bus)
    with pytest.raises(Stop, match="holdfast dlq list") as caught:
        await letter(Client(bus), name)
    assert caught.value.code == code
