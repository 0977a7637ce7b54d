"""What must hold, whatever went wrong. Nothing here is shared with the services but the contract and the machine.

Each check returns what it found wrong, in sentences.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from schemas.commands import AskPerson, CallModel, RunTool, WithdrawQuestion
from schemas.dead_letters import DeadLetter
from schemas.events import (
    ModelAnswered,
    ModelFailed,
    TaskRemoving,
    TaskSubmitted,
    ToolFinished,
    WindowCompacted,
    decode_followed,
    decode_task_event,
)
from schemas.messages import AssistantMessage, Message, ToolMessage, Usage
from schemas.notifications import Notify
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingTools, Cancelled, Failed, FinalAnswer, OpenCalls, State, decode_state
from schemas.wire import decode, encode
from services.planner.core.outstanding import outstanding
from services.runtime.ports import Entry
from tests.chaos.simulated.checks_notifications import check_notifications, is_about_a_notification
from tests.chaos.simulated.checks_people import check_people
from tests.chaos.simulated.checks_threads import check_threads, hearers, last_said
from tests.chaos.simulated.outside import said
from tests.chaos.simulated.replay import explain
from tests.chaos.simulated.scenario import CALL_COST_MAX, QUESTION
from tests.chaos.simulated.world import ENDED, World

CHANGING = (".led.", ".step.", ".ntf.")
"""In the subjects of what is written anew at its revision: the ledger, steps of a question, notifications."""


def check(world: World) -> list[str]:
    """Everything that is wrong with a simulation that has run."""
    found = [*world.problems, *world.repairs]
    found += _dead_letters(world)
    found += _effects(world)
    found += _model_calls(world)
    found += check_threads(world)
    found += check_notifications(world)
    found += check_people(world)
    for name in sorted(world.accepted | children_of(world)):
        task = world.scenario.subjects(name)
        states = states_of(world, task)
        for problem in (
            *_end(states),
            *_answer(world, states),
            *_removal(world, task),
            *_recorded_once(world, task),
            *_tool_results(world, task, states),
            *_commands(world, task, states),
            *_spend(world, task, states),
            *explain(world, task, states),
        ):
            found.append(f"{name}: {problem}")
    return found


def children_of(world: World) -> set[str]:
    """The tasks that other tasks asked for."""
    return {
        entry.subject.split(".")[4]
        for task in world.history.by_task
        for entry in world.history.of(task, task.submitted)
        if decode(entry.data, TaskSubmitted).parent is not None
    }


def states_of(world: World, task: TaskSubjects) -> list[tuple[Entry, State]]:
    """Every state that a task was ever in."""
    return [(entry, decode_state(entry.data)) for entry in world.history.of(task, task.state)]


def _end(states: list[tuple[Entry, State]]) -> Iterator[str]:
    """Every accepted task ends, and an end is never taken back."""
    if not states or not isinstance(states[-1][1], ENDED):
        yield f"it has not ended; it is {states[-1][1] if states else 'nowhere'}"
    for entry, state in states[:-1]:
        if isinstance(state, ENDED):
            yield f"its end at {entry.seq} was not the end"


def _answer(world: World, states: list[tuple[Entry, State]]) -> Iterator[str]:
    """The answer is what the script makes of the results of the last request, in call order, if nothing came after."""
    if not states or not isinstance(ended := states[-1][1], FinalAnswer):
        return
    task, results = world.scenario.subjects(ended.task), ""
    entries = {entry.seq: entry for entry in world.history.by_task[task]}
    asked = next((state for _, state in reversed(states) if isinstance(state, AwaitingTools)), None)
    if asked is not None and ".tool." in entries[ended.window[-2]].subject:
        stored = {entry.subject: entry.data for entry in world.history.of(task, task.tool_events(asked.request))}
        calls = [stored.get(task.tool_event(asked.request, call.n), b"") for call in asked.calls]
        results = "\n".join(decode(data, ToolFinished).content for data in calls if data)
    said = decode(entries[ended.window[-1]].data, ModelAnswered).message.content
    if said != f"done in {ended.turn}: {results}":
        yield f"its answer is {said!r}, and the last results are {results!r}"


def _removal(world: World, task: TaskSubjects) -> Iterator[str]:
    """Of a task that was removed, nothing is left."""
    root = next((entry for entry in world.history.of(task, task.submitted)), None)
    parent = decode(root.data, TaskSubmitted).parent if root is not None else None
    if (parent.task if parent is not None else task.task) not in world.removed:
        return
    stored = [
        *world.server.tasks[task.partition].subjects([">"]),
        *(name for timers in world.server.timers for name in timers.subjects([">"])),
    ]
    if left := [subject for subject in stored if task.task in subject.split(".")]:
        yield f"it was removed, and these are left: {left}"


def _dead_letters(world: World) -> Iterator[str]:
    """Nothing that passes may bury a message."""
    for stream, entry in world.history.stored:
        if stream != world.server.dead_letters.name or is_about_a_notification(entry):
            continue
        if not _is_late_answer(entry):
            yield f"a dead letter or a failed attempt: {entry.data.decode()}"


def _is_late_answer(entry: Entry) -> bool:
    """Somebody answered who could not be told that it was too late: that is a letter, by intention."""
    if ".letter." not in entry.subject:
        return False
    letter = decode(entry.data, DeadLetter)
    return letter.subject.endswith(".answer") and letter.reason == "invalid_request"


def _recorded_once(world: World, task: TaskSubjects) -> Iterator[str]:
    """Facts are written once. What follows a task may be said again, as it was."""
    seen: dict[str, bytes] = {}
    for entry in world.history.by_task[task]:
        if entry.subject == task.state or any(kind in entry.subject for kind in CHANGING):
            continue
        if entry.subject == task.followed and isinstance(decode_followed(entry.data), TaskRemoving):
            continue  # what followed was removed before
        again = entry.subject == task.followed and seen.get(entry.subject) == entry.data
        if entry.subject in seen and not again:
            yield f"{entry.subject} was written twice"
        seen[entry.subject] = entry.data


def _tool_results(world: World, task: TaskSubjects, states: list[tuple[Entry, State]]) -> Iterator[str]:
    """One result for each call of an answer, in call order in the window, and true."""
    results = {entry.subject: entry for entry in world.history.of(task, f"{task.root}.evt.{task.task}.tool.>")}
    expected: set[str] = set()
    asked_at: dict[str, tuple[int, ...]] = {}
    for n, (_, state) in enumerate(states):
        asked = state.open_calls if isinstance(state, Failed | Cancelled) else state
        if not isinstance(asked, AwaitingTools | OpenCalls):
            continue
        wanted = [task.tool_event(asked.request, call.n) for call in asked.calls]
        asked_at[asked.request] = state.window
        expected |= set(wanted)
        if missing := [subject for subject in wanted if subject not in results]:
            yield f"these calls have no result: {missing}"
            continue
        after = states[n + 1][1] if n + 1 < len(states) else state
        if isinstance(state, AwaitingTools) and not isinstance(after, (AwaitingTools, *ENDED)):
            added = after.window[len(state.window) :][: len(wanted)]
            if added != tuple(results[subject].seq for subject in wanted):
                yield f"the results of {state.request} are not in call order: {added}"
    if surplus := results.keys() - expected:
        yield f"nobody asked for these results: {sorted(surplus)}"
    for entry in results.values():
        result = decode(entry.data, ToolFinished)
        if entry.subject in expected:
            yield from _is_true(world, result, last_said(world, asked_at[result.request], task))


def _is_true(world: World, result: ToolFinished, user: str) -> Iterator[str]:
    if result.outcome != "succeeded" or result.child:
        return
    if result.tool == QUESTION:
        if not result.content.endswith(" says so"):
            yield f"nobody answered {result.content!r}"
        return
    turn = result.request.removeprefix("r")
    key, tool = f"{user}/{turn}/{result.n}", result.tool.partition("__")[2]
    if result.content != said(tool, key):
        yield f"call {key} has the result of another: {result.content}"
    if not world.history.effects_of(key):
        yield f"call {key} succeeded, and its tool knows nothing of it"


def _effects(world: World) -> Iterator[str]:
    """A tool that must not do its work twice did not; one that may was told so in the ledger each time."""
    heard = hearers(world)
    for key in sorted({effect.key for effect in world.history.effects}):
        effects = world.history.effects_of(key)
        user, turn, n = key.split("/")
        task = world.scenario.subjects(heard.get(user, [user])[0])
        entries = world.history.of(task, task.ledger(f"r{turn}", int(n)))
        match effects[0].tool:
            case "pay" if len(effects) > 1:
                yield f"{key} was paid {len(effects)} times: {effects}"
            case "post" if len(effects) > len(entries):
                yield f"{key} was posted {len(effects)} times, with {len(entries)} entries in the ledger"
            case "pay" | "post" if not entries or entries[0].at > effects[0].at:
                yield f"{key} took effect before the ledger said so"
            case _:
                pass


def _model_calls(world: World) -> Iterator[str]:
    """No model is called while a tool call is open, and every result follows its call in order."""
    for call in world.history.model_calls:
        if problem := _broken_conversation(call.messages):
            yield f"a model was called (turn {call.turn}, by {call.by}) with a broken conversation: {problem}"


def _broken_conversation(messages: tuple[Message, ...]) -> str:
    open_calls: list[str] = []
    for message in messages:
        if isinstance(message, ToolMessage):
            if not open_calls or message.tool_call_id != open_calls.pop(0):
                return f"the result of {message.tool_call_id} is not in its place"
        elif open_calls:
            return f"{type(message).__name__} while {open_calls[0]} is open"
        elif isinstance(message, AssistantMessage):
            open_calls = [call.id for call in message.tool_calls]
    return f"{open_calls[0]} is open at the end" if open_calls else ""


def _commands(world: World, task: TaskSubjects, states: list[tuple[Entry, State]]) -> Iterator[str]:
    """What is under way follows from a state, and nothing of what the last state needs is missing."""
    wanted: dict[str, bytes] = {}
    for _, state in states:
        for one in outstanding(state):
            match one:
                case CallModel(turn=turn, attempt=attempt):
                    wanted[task.model_command(turn, attempt)] = encode(one)
                case RunTool(request=request, n=n):
                    wanted[task.tool_command(request, n)] = encode(one)
                case AskPerson(request=request, n=n):
                    wanted[task.ask_command(request, n)] = encode(one)
                case WithdrawQuestion(request=request, n=n):
                    wanted[task.withdraw_command(request, n)] = encode(one)
                case Notify():
                    wanted[task.notify_command] = encode(one)
                case _:
                    pass
    for entry in world.history.of(task, f"{task.root}.cmd.>"):
        if task.task not in entry.subject.split("."):
            continue
        if entry.subject.endswith(".look"):  # a tool's question, which the tool-executor recorded
            asking, call, question = entry.subject.split(".")[6:9]
            if not world.history.of(task, task.interaction_asked(asking, int(call), int(question))):
                yield f"{entry.subject} is about a question that nobody has"
        elif wanted.get(entry.subject) != entry.data:
            yield f"no state asked for the command {entry.subject}"
    stored = {entry.subject for entry in world.history.by_task[task]}
    for one in outstanding(states[-1][1]) if states else ():
        if isinstance(one, ToolFinished) and task.tool_event(one.request, one.n) not in stored:
            yield f"the result of {one.request} {one.n} was not recorded when the task ended"


def _spend(world: World, task: TaskSubjects, states: list[tuple[Entry, State]]) -> Iterator[str]:
    """What was used is what the recorded answers say, and is over the budget by the calls in flight at most."""
    if not states:
        return
    spent = states[-1][1].spend
    calls = tokens = 0
    cost = Decimal(0)
    for entry in world.history.of(task, f"{task.root}.evt.{task.task}.llm.>"):
        event = decode_task_event(entry.data)
        assert isinstance(event, ModelAnswered | ModelFailed | WindowCompacted)
        if (isinstance(event, ModelFailed) and event.failure == "throttled") or (
            isinstance(event, WindowCompacted) and event.usage == Usage()
        ):
            continue
        calls += 1
        tokens += event.usage.input_tokens + event.usage.output_tokens
        cost += event.usage.cost_usd or 0
    delegated = [decode(entry.data, ToolFinished) for entry in world.history.of(task, task.tool_events("*"))]
    for result in delegated:
        if result.spend is not None:
            calls, cost = calls + result.spend.model_calls, cost + result.spend.cost_usd
    in_flight = 1 + sum(bool(result.child) for result in delegated)
    ended = states[-1][1]
    if isinstance(ended, FinalAnswer) and (spent.model_calls, spent.cost_usd) != (calls, cost):
        yield f"it says that it made {spent.model_calls} calls for {spent.cost_usd}; recorded are {calls} for {cost}"
    for _, state in states:
        budget = getattr(state, "budget", None)
        if budget is None:
            continue
        if budget.max_turns is not None and getattr(state, "turn", 0) > budget.max_turns:
            yield f"turn {getattr(state, 'turn', 0)} of {budget.max_turns}"
        if budget.max_cost_usd is not None and spent.cost_usd > budget.max_cost_usd + CALL_COST_MAX * in_flight:
            yield f"spent {spent.cost_usd} of {budget.max_cost_usd}"
