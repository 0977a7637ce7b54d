"""What must hold of threads: whatever was said is heard once, in order, and nothing that has ended changes by it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from schemas.events import ConversationStarted, MessageSent, TaskSubmitted
from schemas.messages import UserMessage, text_of
from schemas.subjects import TaskSubjects
from schemas.task import Cancelled, Failed, FinalAnswer, State, decode_state
from schemas.wire import decode

if TYPE_CHECKING:
    from services.runtime.ports import Entry
    from tests.chaos.simulated.world import World

States = list[tuple["Entry", State]]


def check_threads(world: World) -> Iterator[str]:
    """What is wrong with the threads of a world."""
    heard = hearers(world)
    for say in world.scenario.says:
        tasks = heard.get(say.text, [])
        if len(tasks) != 1:
            yield f"{say.text!r} was said {say.times} times to {say.thread} and heard by {tasks or 'nobody'}"
        if surplus := set(tasks) - set(world.speakers.threads[say.thread]):
            yield f"{say.text!r} was said to {say.thread} and heard in another thread by {surplus}"
    for names in world.speakers.threads.values():
        yield from _follow_ups(world, names)


def hearers(world: World) -> dict[str, list[str]]:
    """Which tasks heard what was said, each time anew: what is theirs and not their predecessor's."""
    found: dict[str, list[str]] = defaultdict(list)
    for task in world.history.by_task:
        submitted = submission_of(world, task)
        states = _states(world, task)
        if submitted is not None and submitted.continues:
            found[submitted.spec.user_message or ""].append(task.task)
        if not states:
            continue
        own = {entry.seq: entry for entry in world.history.of(task, task.message_event("*"))}
        for seq in (*states[-1][1].window, *states[-1][1].queued):
            if seq in own:
                found[decode(own[seq].data, MessageSent).content].append(task.task)
    return found


def submission_of(world: World, task: TaskSubjects) -> TaskSubmitted | None:
    """How a task was asked for."""
    entry = next(iter(world.history.of(task, task.submitted)), None)
    return decode(entry.data, TaskSubmitted) if entry is not None else None


def conversation_before(world: World, name: str) -> tuple[int, ...]:
    """The conversation that a task which goes on from this one begins with."""
    task = world.scenario.subjects(name)
    state = _states(world, task)[-1][1]
    if not isinstance(state, Failed | Cancelled) or state.open_calls is None:
        return (*state.window, *state.queued)
    request, calls = state.open_calls.request, state.open_calls.calls
    places = {entry.subject: entry.seq for entry in world.history.of(task, task.tool_events(request))}
    results = tuple(places.get(task.tool_event(request, call.n), 0) for call in calls)
    return (*state.window, *results, *state.queued)


def last_said(world: World, window: tuple[int, ...], task: TaskSubjects) -> str:
    """The last words of a person in a conversation."""
    entries = {entry.seq: entry for entry in world.history.by_partition(task.partition)}
    for seq in reversed(window):
        entry = entries[seq]
        if ".said." in entry.subject:
            return decode(entry.data, MessageSent).content
        if entry.subject.endswith(".context"):
            messages = decode(entry.data, ConversationStarted).messages
            return next(text_of(one.content) for one in reversed(messages) if isinstance(one, UserMessage))
    return ""


def _follow_ups(world: World, names: list[str]) -> Iterator[str]:
    """An ended task is gone on from by one other, which begins with its conversation, by reference and in order."""
    after: dict[str, list[str]] = defaultdict(list)
    for name in names:
        task = world.scenario.subjects(name)
        submitted, states = submission_of(world, task), _states(world, task)
        yield from _grows(name, states)
        if submitted is None or not submitted.continues:
            continue
        after[submitted.continues].append(name)
        if submitted.thread != names[0]:
            yield f"{name} is in thread {submitted.thread!r}, and goes on from one in {names[0]!r}"
        yield from _begins_after_an_end(world, name, submitted)
        before = conversation_before(world, submitted.continues)
        begun = next((state.window for _, state in states if state.window), None)
        if begun is not None and begun[: len(before)] != before:
            yield f"{name} begins with {begun}, and {submitted.continues} ended with {before}"
    for name, following in after.items():
        if len(following) > 1:
            yield f"{name} is gone on from by {following}"


def _begins_after_an_end(world: World, name: str, submitted: TaskSubmitted) -> Iterator[str]:
    task, before = world.scenario.subjects(name), world.scenario.subjects(submitted.continues)
    asked = next(iter(world.history.of(task, task.submitted)))
    ends = [entry.seq for entry, state in _states(world, before) if isinstance(state, FinalAnswer | Failed | Cancelled)]
    if not ends or ends[0] > asked.seq:
        yield f"{name} was begun at {asked.seq}, before {before.task} ended: {ends}"


def _grows(name: str, states: States) -> Iterator[str]:
    """What is in a conversation stays where it is, and is there once."""
    window: tuple[int, ...] = ()
    for entry, state in states:
        if len(set(state.window)) != len(state.window):
            yield f"the conversation of {name} at {entry.seq} says something twice: {state.window}"
        if state.window[: len(window)] != window:
            yield f"the conversation of {name} at {entry.seq} is {state.window}, after {window}"
        window = state.window


def _states(world: World, task: TaskSubjects) -> States:
    return [(entry, decode_state(entry.data)) for entry in world.history.of(task, task.state)]
