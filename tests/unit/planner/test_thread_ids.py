"""Threads by the names that callers give them: begun once, gone on in, and gone with their first task."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from schemas.events import TaskSubmitted, ThreadBegun
from schemas.ids import partition_of, thread_key
from schemas.requests import Accepted, Limits, Rejected, ResponseFormat, TaskSpec
from schemas.subjects import TaskSubjects, thread_anchor
from schemas.task import AwaitingModel, FinalAnswer
from schemas.wire import decode, encode
from services.planner.anchors import Anchors, submission
from services.planner.main import Planner, build
from services.runtime.errors import RetryLater
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.server import MemoryServer
from services.runtime.ports import Outgoing
from services.runtime.service import Runtime
from services.runtime.settings import Settings
from services.runtime.tasks import Tasks
from tests.support.notified import Mortal
from tests.support.stage import NAMESPACE, Stage, agent, on_stage, until

PLANNER = {"planner": build}
TICKET = "TICKET-17 (größer)"


async def begin(stage: Stage, **fields: object) -> TaskSubjects:
    await stage.with_agent()
    return await stage.submit(threadID=TICKET, **fields)


async def submit(stage: Stage, *, message_id: str = "", **fields: Any) -> Accepted | Rejected:
    request = {"agentName": "helper", "userMessage": "more", "threadID": TICKET, **fields}
    return await stage.ask("submit", request, message_id=message_id)


async def spec_of(stage: Stage, task: TaskSubjects) -> TaskSpec:
    return decode(await stage.stored(task, task.submitted), TaskSubmitted).spec


async def refusal(stage: Stage, verb: str, **request: object) -> tuple[str, str]:
    refused = await stage.ask(verb, request)
    assert isinstance(refused, Rejected), refused
    return refused.code, refused.error


def anchor_of(stage: Stage, thread_id: str = TICKET) -> tuple[int, str]:
    key = thread_key(thread_id)
    partition = partition_of(NAMESPACE, key, stage.bus.partitions)
    return partition, thread_anchor(partition, NAMESPACE, key)


async def test_tasks_with_one_thread_id_are_one_thread() -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await begin(stage)
        await stage.answer(task, 1, text="Hello.")
        first = await stage.until_state(task, FinalAnswer)
        assert first.thread_id == TICKET
        following = await stage.submit(threadID=TICKET, userMessage="And now?")
        await stage.answer(following, 1, text="Now this.")
        state = await stage.until_state(following, FinalAnswer)
        assert (state.continues, state.thread, state.thread_id) == (task.task, task.task, TICKET)
        assert state.window[: len(first.window)] == first.window


async def test_a_running_task_of_the_thread_hears_it() -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await begin(stage)
        await stage.stored(task, task.model_command(1, 1))
        accepted = await submit(stage)
        assert isinstance(accepted, Accepted)
        assert (accepted.task, accepted.created) == (task.task, False)

        async def queued() -> bool:
            state = await stage.state(task)
            return isinstance(state, AwaitingModel) and len(state.queued) == 1

        await until(queued, "the message in the queue")


async def test_the_same_request_again_is_the_same_at_the_beginning_and_later() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        names = [await submit(stage, message_id="m1") for _ in range(3)]
        assert [one.created for one in names if isinstance(one, Accepted)] == [True, False, False]
        task = stage.task({one.task for one in names if isinstance(one, Accepted)}.pop())
        await stage.answer(task, 1, text="Hello.")
        await stage.until_state(task, FinalAnswer)
        later = {
            one.task for one in [await submit(stage, message_id="m2") for _ in range(3)] if isinstance(one, Accepted)
        }
        assert len(later) == 1
        assert task.task not in later
        again = await submit(stage, message_id="m1")
        assert isinstance(again, Accepted)
        assert (again.task, again.created) == (task.task, False)


async def test_many_at_once_begin_one_thread() -> None:
    async with on_stage(PLANNER, server=MemoryServer(partitions=8), settings=Settings(partitions=8)) as (stage, _):
        await stage.with_agent()
        replies = await asyncio.gather(*(submit(stage, message_id=f"m{n}", userMessage=f"m{n}") for n in range(8)))
        names = {reply.task for reply in replies if isinstance(reply, Accepted)}
        assert len(names) == 1
        task = stage.task(names.pop())
        await stage.stored(task, task.model_command(1, 1))

        async def all_said() -> bool:
            state = await stage.state(task)
            return state is not None and len(state.queued) == 7

        await until(all_said, "the others in the queue")


async def test_a_thread_goes_on_with_its_own_agent_and_conversation_only() -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await begin(stage)
        begun = f"thread {TICKET!r} was begun by task {task.task!r}"
        cases: tuple[tuple[dict[str, Any], str], ...] = (
            ({"name": "another"}, "leave name out to go on in it"),
            ({"agentName": "writer"}, "agent 'writer' needs another threadID"),
            ({"userMessage": None, "contextWindow": [{"role": "user", "content": "x"}]}, "not with contextWindow"),
        )
        for fields, said in cases:
            refused = await submit(stage, **fields)
            assert isinstance(refused, Rejected)
            assert refused.code == "conflict"
            assert begun in refused.error
            assert said in refused.error


async def test_the_first_tasks_own_name_may_be_said_again() -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await begin(stage, name="first", userMessage="hello")
        again = await submit(stage, name="first", userMessage="hello")
        assert again == Accepted(namespace=NAMESPACE, task=task.task, created=False)
        other = await submit(stage, name="first", userMessage="something else")
        assert isinstance(other, Rejected)
        assert "asks for something else" in other.error


async def test_what_a_thread_keeps_is_said() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await begin(stage, labels={"a": "b"}, priority="high")
        kept = await submit(stage, labels={"c": "d"}, limits={"maxTurns": 3}, priority="high")
        assert isinstance(kept, Accepted)
        assert kept.note == "the thread keeps the limits and labels that it began with"
        same = await submit(stage, labels={"a": "b"})
        assert isinstance(same, Accepted)
        assert same.note == ""


async def test_a_task_that_goes_on_is_asked_as_the_first_was() -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await begin(
            stage,
            labels={"a": "b"},
            priority="low",
            limits={"maxTurns": 7, "deadlineSeconds": 60},
            responseURL="https://answers.example/",
            contactChannelRef="oncall",
            responseFormat={"name": "answer", "schema": {"type": "object"}},
        )
        await stage.answer(task, 1, text="{}")
        await stage.until_state(task, FinalAnswer)
        following = stage.task((await stage.ask("send", {"thread": TICKET, "message": "And now?"})).task)  # type: ignore[union-attr]
        spec = await spec_of(stage, following)
        assert spec.user_message == "And now?"
        assert (spec.labels, spec.priority, spec.thread_id) == ({"a": "b"}, "low", TICKET)
        assert (spec.response_url, spec.contact_channel) == ("https://answers.example/", "oncall")
        assert spec.limits == Limits(max_turns=7, deadline_s=60)
        assert spec.response_format == ResponseFormat(name="answer", schema={"type": "object"})
        state = await stage.until_state(following, AwaitingModel)
        assert (state.response_url, state.contact_channel) == ("https://answers.example/", "oncall")


async def test_a_thread_is_named_by_its_id_or_its_first_task() -> None:
    async with on_stage(PLANNER) as (stage, _):
        task = await begin(stage, name="first")
        await stage.submit(name="lonely")
        lonely = await stage.ask("send", {"thread": "lonely", "message": "x"})
        assert isinstance(lonely, Accepted)
        assert lonely.task == "lonely"
        by_id = await stage.ask("send", {"thread": TICKET, "message": "x"})
        assert isinstance(by_id, Accepted)
        assert by_id.task == task.task
        await stage.answer(task, 1, text="Hello.")
        await stage.answer(task, 2, text="Yes.")
        await stage.until_state(task, FinalAnswer)
        following = await stage.ask("send", {"thread": "first", "message": "x"})
        assert isinstance(following, Accepted)
        code, error = await refusal(stage, "send", thread=following.task, message="x")
        assert code == "not_found"
        assert f"there is no thread {following.task!r} in namespace 'default'" in error


async def test_an_id_counts_before_a_tasks_name() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        by_id = await stage.submit(threadID="seven")
        await stage.submit(name="seven", userMessage="other")
        accepted = await stage.ask("send", {"thread": "seven", "message": "x"})
        assert isinstance(accepted, Accepted)
        assert accepted.task == by_id.task


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        ({"message": "x"}, "invalid", "task is empty"),
        ({"task": "t", "thread": "t", "message": "x"}, "invalid", "only one of task or thread"),
        ({"thread": "nobody", "message": "x"}, "not_found", "there is no thread 'nobody'"),
        ({"thread": "no token!", "message": "x"}, "not_found", "there is no thread 'no token!'"),
        ({"thread": "a\nb", "message": "x"}, "invalid", "must be printable"),
    ],
)
async def test_what_names_no_thread_is_refused(request_: dict[str, Any], code: str, said: str) -> None:
    async with on_stage(PLANNER) as (stage, _):
        refused = await refusal(stage, "send", **request_)
        assert refused[0] == code
        assert said in refused[1]


@pytest.mark.parametrize("thread_id", ["a\x00b", "a\u2028b", " a", "a\n", "x" * 257, "  "])
async def test_a_thread_id_is_printable_text(thread_id: str) -> None:
    async with on_stage(PLANNER) as (stage, _):
        code, error = await refusal(stage, "submit", agentName="helper", userMessage="x", threadID=thread_id)
        assert code == "invalid"
        assert "threadID" in error


async def test_namespaces_have_threads_of_their_own() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await begin(stage)
        refused = await stage.ask("send", {"thread": TICKET, "message": "x"}, namespace="other")
        assert isinstance(refused, Rejected)
        assert refused.code == "not_found"


async def test_the_thread_goes_with_its_first_task() -> None:
    async with on_stage(PLANNER, server=MemoryServer(partitions=8), settings=Settings(partitions=8)) as (stage, _):
        task = await begin(stage)
        await stage.answer(task, 1, text="Hello.")
        await stage.until_state(task, FinalAnswer)
        following = await stage.submit(threadID=TICKET)
        await stage.answer(following, 1, text="More.")
        await stage.until_state(following, FinalAnswer)
        for one in (following, task):
            assert isinstance(await stage.ask("delete", {"task": one.task}), Accepted)
        for partition in range(8):
            assert await stage.bus.log(partition).subjects(f"hf.{partition}.{NAMESPACE}.>") == []
        anew = await stage.submit(threadID=TICKET)
        assert anew.task not in (task.task, following.task)


def begun(name: str, *, message: str = "hello") -> TaskSubmitted:
    at = MemoryServer().clock.now()
    spec = TaskSpec(agent="helper", user_message=message, thread_id=TICKET)
    return TaskSubmitted(namespace=NAMESPACE, task=name, spec=spec, at=at, traceparent="")


@pytest.mark.parametrize("verb", ["send", "submit"])
async def test_whoever_finds_a_thread_that_was_only_begun_begins_its_task(verb: str) -> None:
    async with on_stage(PLANNER, server=MemoryServer(partitions=8), settings=Settings(partitions=8)) as (stage, _):
        await stage.apply(agent())
        await stage.with_agent()
        await Anchors(stage.bus).begin(begun("first"), {})  # and then its replica died
        assert await stage.state(stage.task("first")) is None
        said = {"thread": TICKET, "message": "x"} if verb == "send" else {"agentName": "helper", "userMessage": "x"}
        accepted = await stage.ask(verb, said if verb == "send" else {**said, "threadID": TICKET})
        assert isinstance(accepted, Accepted)
        assert accepted.task == "first"
        await stage.until_state(stage.task("first"), AwaitingModel)


async def test_an_anchor_whose_tasks_name_was_taken_does_not_count() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        await stage.submit(name="taken")
        await Anchors(stage.bus).begin(begun("taken"), {})
        code, _error = await refusal(stage, "send", thread=TICKET, message="x")
        assert code == "not_found"
        partition, subject = anchor_of(stage)
        assert await stage.bus.log(partition).get(subject) is None
        await Anchors(stage.bus).begin(begun("taken"), {})
        anew = await stage.submit(threadID=TICKET)
        assert anew.task != "taken"
        accepted = await stage.ask("send", {"thread": TICKET, "message": "x"})
        assert isinstance(accepted, Accepted)
        assert accepted.task == anew.task


async def test_a_record_of_a_thread_that_is_gone_brings_no_task_back() -> None:
    """A replica of the stream that is behind shows what was removed with its task."""
    server = MemoryServer()
    bus = MemoryBus(server)
    anchors = Anchors(bus)
    event = begun("gone")
    await anchors.begin(event, {})
    partition = partition_of(NAMESPACE, thread_key(TICKET), bus.partitions)
    log = bus.log(partition)
    old = await log.get(thread_anchor(partition, NAMESPACE, thread_key(TICKET)))
    assert old is not None
    await anchors.forget(TaskSubjects(0, NAMESPACE, "gone"), TICKET)
    await log.record(Outgoing(old.subject, encode(ThreadBegun(submitted=begun("anew")))))
    with pytest.raises(RetryLater):
        await submission(bus, log, old, event)
    assert await bus.log(0).get(TaskSubjects(0, NAMESPACE, "gone").submitted) is None


async def removed_until(server: MemoryServer, task: TaskSubjects, calls: int) -> Mortal:
    """Begin to remove a task in a replica that dies after so many calls of the bus."""
    mortal = Mortal(calls)
    runtimes: list[Runtime] = []

    def kept(runtime: Runtime) -> Planner:
        runtimes.append(runtime)
        return build(runtime)

    async with on_stage({"planner": kept}, server=server):
        whole = runtimes[0]
    runtime = msgspec.structs.replace(whole, bus=MemoryBus(server, pause=mortal))
    background = Tasks()
    problems: list[str] = []

    async def remove() -> None:
        problems.append(await build(runtime).reconciler._steps.remove(task))

    background.spawn(remove(), name="removal")

    async def over() -> bool:
        return bool(problems) or mortal.is_dead

    await until(over, "the removal is done, or its replica dead")
    await background.close()
    assert problems in ([], [""])
    return mortal


@pytest.mark.parametrize("which", ["first", "last"])
async def test_wherever_a_removal_is_broken_off_no_task_comes_back_and_the_next_one_ends_it(which: str) -> None:
    died = 0
    for calls in range(60):
        server = MemoryServer()
        async with on_stage(PLANNER, server=server) as (stage, _):
            task = first = await begin(stage)
            await stage.answer(task, 1, text="Hello.")
            await stage.until_state(task, FinalAnswer)
            if which == "last":
                task = await stage.submit(threadID=TICKET)
                await stage.answer(task, 1, text="More.")
                await stage.until_state(task, FinalAnswer)
            mortal = await removed_until(server, task, calls)
            died += mortal.is_dead
            said, removed = await asyncio.gather(
                stage.ask("send", {"thread": TICKET, "message": "still there?"}),
                stage.ask("delete", {"task": task.task}),
            )
            state = await stage.state(task)
            if isinstance(said, Accepted):
                assert said.task not in (task.task, first.task)
                going_on = await spec_of(stage, stage.task(said.task))
                assert going_on.user_message == "still there?"
                assert state is None or isinstance(state, FinalAnswer), f"{calls} calls: the task came back"
                assert (state is None) != (isinstance(removed, Rejected) and "goes on from" in removed.error)
            else:
                assert (which, said.code) == ("first", "not_found")
                assert isinstance(removed, Accepted) or removed.code == "not_found"
                assert await stage.bus.log(0).subjects(f"hf.0.{NAMESPACE}.>") == []
                assert state is None
        if not mortal.is_dead:
            break
    assert died > 5
