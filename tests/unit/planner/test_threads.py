"""Threads: more is said to a task that runs, or after it has ended. The planner's whole shell over the memory bus."""

from __future__ import annotations

import asyncio

from schemas.events import ConversationStarted, MessageSent, ModelAnswered, ToolFinished
from schemas.ids import partition_of
from schemas.requests import Accepted, Rejected
from schemas.subjects import REQUEST_SEQ, TaskSubjects
from schemas.task import AwaitingModel, Cancelled, Failed, FinalAnswer
from schemas.wire import decode
from services.planner.main import build
from services.runtime.memory.server import MemoryServer
from services.runtime.settings import Settings
from tests.support.stage import NAMESPACE, Stage, agent, on_stage, until

PLANNER = {"planner": build}


async def send(stage: Stage, task: TaskSubjects, message: str, *, message_id: str = "") -> Accepted:
    reply = await stage.ask("send", {"task": task.task, "message": message, "by": "ann"}, message_id=message_id)
    assert isinstance(reply, Accepted), reply
    return reply


async def heard(stage: Stage, task: TaskSubjects, window: tuple[int, ...]) -> list[str]:
    """The conversation in a few words."""
    words: list[str] = []
    for entry in await stage.bus.log(task.partition).read(window):
        match entry.subject.split(".")[3:]:
            case ["msg", *_]:
                words += [type(m).__name__[:4] for m in decode(entry.data, ConversationStarted).messages]
            case ["evt", _, "llm", *_]:
                words.append(decode(entry.data, ModelAnswered).message.content or "calls")
            case ["evt", _, "tool", *_]:
                words.append(decode(entry.data, ToolFinished).content)
            case _:
                words.append(decode(entry.data, MessageSent).content)
    return words


async def test_a_message_joins_the_conversation_before_the_next_turn() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, calls=("a__x",))
        assert (await send(stage, task, "and be quick")).task == task.task
        await stage.finish(task, "r1", 1)
        await stage.answer(task, 2, text="Done.")
        state = await stage.until_state(task, FinalAnswer)
        assert await heard(stage, task, state.window) == ["Syst", "User", "calls", "ok", "and be quick", "Done."]


async def test_a_message_while_the_model_answers_is_the_next_turn() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.stored(task, task.model_command(1, 1))
        await send(stage, task, "one more thing")

        async def queued() -> bool:
            state = await stage.state(task)
            return isinstance(state, AwaitingModel) and bool(state.queued)

        await until(queued, "the message in the queue")
        await stage.answer(task, 1, text="Here you are.")
        await stage.answer(task, 2, text="And that.")
        state = await stage.until_state(task, FinalAnswer)
        assert await heard(stage, task, state.window) == [
            "Syst",
            "User",
            "Here you are.",
            "one more thing",
            "And that.",
        ]


async def test_after_an_ended_task_the_thread_goes_on_with_its_conversation_by_reference() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, text="Hello.")
        first = await stage.until_state(task, FinalAnswer)
        accepted = await send(stage, task, "And now?")
        assert accepted.created
        following = TaskSubjects(task.partition, NAMESPACE, accepted.task)
        await stage.answer(following, 1, text="Now this.")
        state = await stage.until_state(following, FinalAnswer)
        assert state.window[: len(first.window)] == first.window
        assert await heard(stage, task, state.window) == ["Syst", "User", "Hello.", "User", "Now this."]
        assert (state.thread, state.continues) == (task.task, task.task)
        assert await stage.state(task) == first


async def test_a_message_to_any_task_of_a_thread_reaches_its_newest() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, text="Hello.")
        await stage.until_state(task, FinalAnswer)
        second = TaskSubjects(task.partition, NAMESPACE, (await send(stage, task, "two")).task)
        await stage.stored(second, second.model_command(1, 1))
        assert (await send(stage, task, "three")).task == second.task
        await stage.answer(second, 1, text="Two.")
        await stage.answer(second, 2, text="Three.")
        ended = await stage.until_state(second, FinalAnswer)
        third = await send(stage, task, "four")
        assert third.created
        assert third.task not in (task.task, second.task)
        assert ended.thread == task.task


async def test_the_same_message_again_is_said_once() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, text="Hello.")
        await stage.until_state(task, FinalAnswer)
        names = {(await send(stage, task, "again", message_id="m1")).task for _ in range(3)}
        assert len(names) == 1
        following = TaskSubjects(task.partition, NAMESPACE, names.pop())
        await stage.answer(following, 1, text="Once.")
        state = await stage.until_state(following, FinalAnswer)
        assert await heard(stage, task, state.window) == ["Syst", "User", "Hello.", "User", "Once."]


async def test_messages_at_the_same_time_after_an_end_are_all_heard() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, text="Hello.")
        await stage.until_state(task, FinalAnswer)
        replies = await asyncio.gather(*(send(stage, task, f"m{n}", message_id=f"id{n}") for n in range(5)))
        names = {reply.task for reply in replies}
        assert len(names) == 1
        following = TaskSubjects(task.partition, NAMESPACE, names.pop())
        await stage.answer(following, 1, text="First.")

        async def all_said() -> bool:
            state = await stage.state(following)
            said = await heard(stage, task, (*state.window, *state.queued)) if state is not None else []
            return sum(word.startswith("m") for word in said) == 4

        await until(all_said, "all messages in the thread")


async def test_after_a_failure_in_the_middle_of_calls_the_thread_goes_on_with_their_results() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit(limits={"maxTurns": 1})
        await stage.answer(task, 1, calls=("a__x", "a__y"))
        failed = await stage.until_state(task, Failed)
        assert failed.open_calls is not None
        following = TaskSubjects(task.partition, NAMESPACE, (await send(stage, task, "try again")).task)
        await stage.answer(following, 1, text="Well.")
        state = await stage.until_state(following, FinalAnswer)
        words = await heard(stage, task, state.window)
        assert words[2] == "calls"
        assert [word.startswith("Not done") for word in words[3:5]] == [True, True]
        assert words[5:] == ["User", "Well."]


async def test_what_a_task_had_no_turn_for_is_heard_when_its_thread_goes_on() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, calls=("a__x",))
        await stage.stored(task, task.tool_command("r1", 1))
        await send(stage, task, "and keep it short")

        async def queued() -> bool:
            state = await stage.state(task)
            return state is not None and bool(state.queued)

        await until(queued, "the message in the queue")
        await stage.ask("cancel", {"task": task.task})
        await stage.until_state(task, Cancelled)
        following = TaskSubjects(task.partition, NAMESPACE, (await send(stage, task, "go on")).task)
        await stage.answer(following, 1, text="Well.")
        state = await stage.until_state(following, FinalAnswer)
        words = await heard(stage, task, state.window)
        assert words[2] == "calls"
        assert words[4:] == ["and keep it short", "User", "Well."]


async def test_a_task_that_is_gone_on_from_is_removed_after_its_followers() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        task = await stage.submit()
        await stage.answer(task, 1, text="Hello.")
        await stage.until_state(task, FinalAnswer)
        following = TaskSubjects(task.partition, NAMESPACE, (await send(stage, task, "more")).task)
        await stage.answer(following, 1, text="More.")
        await stage.until_state(following, FinalAnswer)
        refused = await stage.ask("delete", {"task": task.task})
        assert isinstance(refused, Rejected)
        assert f"task {following.task!r} goes on from task {task.task!r}" in refused.error
        assert isinstance(await stage.ask("delete", {"task": following.task}), Accepted)
        assert isinstance(await stage.ask("delete", {"task": task.task}), Accepted)
        assert await stage.bus.log(task.partition).subjects(f"{task.root}.>") == []


async def test_a_follower_is_not_removed_while_the_request_that_began_it_may_come_again() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        first = await stage.submit()
        await stage.answer(first, 1, text="Done.")
        await stage.until_state(first, FinalAnswer)
        following = stage.task((await send(stage, first, "and then?")).task)
        await stage.answer(following, 1, text="Then nothing.")
        await stage.until_state(following, FinalAnswer)
        entry = await stage.bus.log(following.partition).get(following.submitted)
        assert entry is not None
        assert entry.headers[REQUEST_SEQ].isdecimal(), "it says which request, so its removal waits until that is done"
        reply = await stage.ask("delete", {"task": following.task})
        assert isinstance(reply, Accepted), reply


async def test_what_cannot_be_said_is_refused() -> None:
    async with on_stage(PLANNER) as (stage, _):
        await stage.with_agent()
        for request, said in (
            ({"task": "nobody", "message": "x"}, "there is no task 'nobody'"),
            ({"task": "", "message": "x"}, "task is empty"),
            ({"task": "t", "message": " "}, "message is required"),
        ):
            refused = await stage.ask("send", request)
            assert isinstance(refused, Rejected)
            assert said in refused.error


async def test_a_thread_stays_in_its_partition() -> None:
    async with on_stage(PLANNER, server=MemoryServer(partitions=8), settings=Settings(partitions=8)) as (stage, _):
        await stage.apply(agent())
        await stage.with_agent()
        task = await stage.submit(name="here")
        await stage.answer(task, 1, text="Hello.")
        await stage.until_state(task, FinalAnswer)
        following = (await send(stage, task, "more")).task
        assert partition_of(NAMESPACE, following, 8) == task.partition
