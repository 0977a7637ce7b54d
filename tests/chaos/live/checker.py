"""Judges a record: nothing lost, nothing stuck, one result per call, no forbidden second effect, one final answer.

Knows the words on the wire and the tools of `tools.py`, and nothing of how the services work.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

from tests.chaos.live.checker_people import allowed_outcomes, expected_ends, family, people
from tests.chaos.live.record import Json, Record, Stored

ONCE = frozenset({"charge", "slow_charge", "endless"})
"""Tools that must not act twice for one call."""
WORKING = frozenset({*ONCE, "lookup", "save"})
"""Tools that leave a trace when they act."""
TERMINAL = {
    "task.final-answer.v1": "FinalAnswer",
    "task.failed.v1": "Failed",
    "task.cancelled.v1": "Cancelled",
}
FOR_GOOD = {*TERMINAL, "interaction.requested.v1", "interaction.answered.v1"}
PREFIX = "effects__"
NOT_CALLED = "could not be called"
CLOCKS = timedelta(milliseconds=5)
"""Two processes look at the same clock, but one writes the time down a little later."""


class Call(NamedTuple):
    """A tool call that the model asked for."""

    request: str
    n: int
    tool: str
    key: str


class Task:
    """One task, as the stream has it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Stored | None = None
        self.context: Stored | None = None
        self.commands: dict[str, Stored] = {}
        """By what follows the task's name: `llm.1.1`, `tool.r1.2`."""
        self.events: dict[str, Stored] = {}
        self.ledger: dict[str, Stored] = {}
        self.interactions: dict[str, Stored] = {}
        self.begins = ""
        """The thread that begins with it, by the name that its caller gave to that."""

    @property
    def phase(self) -> str:
        """The phase it has ended in, or what it is in."""
        if self.state is None:
            return "nothing"
        kind = str(self.state.body["type"])
        return TERMINAL.get(kind, kind)

    @property
    def answers(self) -> list[tuple[int, Stored]]:
        """The model's answers, by turn; without one that came after the task was ended from outside."""
        found = [
            (int(event.body["turn"]), event)
            for name, event in self.events.items()
            if name.startswith("llm.") and event.body["type"] == "model.answered.v1" and not self._is_late(event)
        ]
        return sorted(found, key=lambda each: each[0])

    def _is_late(self, answer: Stored) -> bool:
        """Whether nobody waited for an answer any more, so that none of its calls was asked for."""
        if self.state is None or self.phase not in ("Failed", "Cancelled"):
            return False
        asked = any(name.startswith(f"tool.r{answer.body['turn']}.") for name in self.commands)
        return not asked and answer.seq not in self.state.body.get("window", ())

    def calls(self) -> Iterator[Call]:
        """The tool calls that the model asked for, in its order."""
        for turn, answer in self.answers:
            for n, call in enumerate(_calls_of(answer), 1):
                yield Call(f"r{turn}", n, str(call["name"]).removeprefix(PREFIX), _key(str(call["arguments"])))


def check(record: Record) -> list[str]:
    """What is wrong; empty if all is well."""
    tasks = _tasks(record.messages)
    wrong: list[str] = []
    for name, phase in expected_ends(record.accepted, tasks).items():
        task = tasks.get(name)
        if task is None:
            wrong.append(f"{name}: lost, nothing is stored about it")
            continue
        wrong += (
            f"{name}: {what}"
            for checked in (
                _ended(task, phase),
                _commands(task),
                _results(task),
                _window(task),
                _order(task),
                _thread(task),
            )
            for what in checked
        )
        wrong += (f"{name}: {what}" for what in people(task, record.effects))
        wrong += (f"{name}: {what}" for what in _outcomes(task, record))
    wrong += _once_terminal(record)
    wrong += _effects(tasks, record)
    wrong += family(tasks)
    wrong += (f"dead letter or failed attempt: {letter.subject}: {letter.body}" for letter in record.letters)
    wrong += (f"{count} messages of consumer {name} are not settled" for name, count in record.unsettled.items())
    wrong += record.surprises
    return wrong


def _tasks(messages: Sequence[Stored]) -> dict[str, Task]:
    tasks: dict[str, Task] = {}

    def of(name: str) -> Task:
        return tasks.setdefault(name, Task(name))

    for message in messages:
        match message.subject.split("."):
            case ["$KV", _, _, name]:
                of(name).state = message
            case ["hf", _, _, "cmd", kind, name, *rest]:
                of(name).commands[".".join((kind, *rest))] = message
            case ["hf", _, _, "evt", name, *rest]:
                of(name).events[".".join(rest)] = message
            case ["hf", _, _, "msg", name, _]:
                of(name).context = message
            case ["hf", _, _, "int", name, *rest]:
                of(name).interactions[".".join(rest)] = message
            case ["hf", _, _, "led", name, *rest]:
                of(name).ledger[".".join(rest)] = message
            case ["hf", _, _, "thr", _]:
                of(str(message.body["submitted"]["task"])).begins = str(message.body["submitted"]["spec"]["threadID"])
            case _:
                raise ValueError(f"{message.subject} is not known")
    return tasks


def _thread(task: Task) -> Iterator[str]:
    submitted = task.events.get("submitted")
    named = submitted.body.get("spec", {}).get("threadID", "") if submitted is not None else ""
    if task.begins != named:
        yield f"the task was asked for in thread {named!r}, and begins thread {task.begins!r}"


def _calls_of(answer: Stored) -> list[Json]:
    calls: list[Json] = answer.body["message"].get("toolCalls", [])
    return calls


def _key(arguments: str) -> str:
    try:
        return str(json.loads(arguments).get("key", ""))
    except ValueError:
        return ""


# --- the invariants ---------------------------------------------------------------------


def _ended(task: Task, phase: str) -> Iterator[str]:
    if task.phase != phase:
        yield f"should have ended as {phase} and is {task.phase}: {task.state.body if task.state else None}"


def _commands(task: Task) -> Iterator[str]:
    """Every command was answered, and nobody answered what was not asked."""
    for name in task.commands:
        if name.startswith("ask."):
            continue  # what people decide is judged with them
        if name not in task.events and not (name.startswith("llm.") and task.phase != "FinalAnswer"):
            yield f"command {name} has no outcome"
    for name, event in task.events.items():
        if name.startswith("tool.") and (name.replace("tool.", "ask.", 1) in task.commands or event.body.get("child")):
            continue
        if name.startswith(("llm.", "tool.")) and name not in task.commands and task.phase == "FinalAnswer":
            yield f"outcome {name} has no command"


def _results(task: Task) -> Iterator[str]:
    """Every call has its result, and every result its call."""
    asked = {f"tool.{call.request}.{call.n}": call for call in task.calls()}
    given = {name for name in task.events if name.startswith("tool.")}
    for name in sorted(asked.keys() - given):
        yield f"call {name} ({asked[name].tool}) has no result"
    for name in sorted(given - asked.keys()):
        yield f"result {name} has no call"
    for turn, answer in task.answers:
        for n, call in enumerate(_calls_of(answer), 1):
            result = task.events.get(f"tool.r{turn}.{n}")
            if result is not None and result.body["toolCallId"] != call["id"]:
                yield f"result tool.r{turn}.{n} is for call {result.body['toolCallId']} and not {call['id']}"


def _window(task: Task) -> Iterator[str]:
    """The conversation holds the context, then each answer with its results in the order of the calls."""
    if task.state is None or task.phase not in TERMINAL.values():
        return
    if task.context is None:
        yield "has no context"
        return
    expected = [task.context.seq]
    for turn, answer in task.answers:
        expected.append(answer.seq)
        results = [task.events.get(f"tool.r{turn}.{n}") for n in range(1, len(_calls_of(answer)) + 1)]
        expected += [result.seq for result in results if result is not None]
    window = list(task.state.body.get("window", ()))
    # A task that was ended from outside keeps the conversation as it was then.
    if window != (expected if task.phase == "FinalAnswer" else expected[: len(window)]):
        yield f"its window is {window} and should be {expected}"
    if task.phase == "FinalAnswer" and (not task.answers or _calls_of(task.answers[-1][1])):
        yield "its last entry is not an answer"


def _order(task: Task) -> Iterator[str]:
    """No model is called while a result is missing."""
    for name, command in task.commands.items():
        if not name.startswith("llm."):
            continue
        turn = int(name.split(".")[1])
        for earlier, answer in task.answers:
            if earlier >= turn:
                continue
            for n in range(1, len(_calls_of(answer)) + 1):
                result = task.events.get(f"tool.r{earlier}.{n}")
                if result is None or result.seq > command.seq:
                    yield f"model command {name} came before result {n} of turn {earlier}"


def _outcomes(task: Task, record: Record) -> Iterator[str]:
    """Each call ended as its tool says, or is uncertain for a reason."""
    for call in task.calls():
        name = f"tool.{call.request}.{call.n}"
        result, command = task.events.get(name), task.commands.get(name)
        if result is None:
            continue
        outcome = result.body["outcome"]
        decided = allowed_outcomes(task, call)
        if decided is not None:
            allowed = decided
        elif call.tool not in WORKING:
            allowed = {"failed"}
        elif task.phase == "FinalAnswer":
            allowed = {"succeeded"}
            if command is not None and _killed(record, command, result):
                # Executors may be killed faster than the servers of their tools can start; that is said in the end.
                allowed |= {"unknown"} if call.tool in ONCE else set()
                allowed |= {"failed"} if NOT_CALLED in result.body["content"] else set()
        else:
            allowed = {"succeeded", "cancelled", "failed", "unknown"}
        if outcome not in allowed:
            yield f"call {name} ({call.tool}) ended as {outcome}: {result.body['content'][:200]}"


def _killed(record: Record, command: Stored, result: Stored) -> bool:
    """Whether somebody who matters to a tool call was killed while it was under way."""
    return any(
        kill.victim in ("tool-executor", "server") and command.at - CLOCKS <= kill.at <= result.at + CLOCKS
        for kill in record.kills
    )


def _once_terminal(record: Record) -> Iterator[str]:
    """A task that has ended never changes; nor do a question and its answer."""
    ended: dict[str, Stored] = {}
    for state in record.states:
        before = ended.get(state.subject)
        if before is not None and state.seq != before.seq:
            yield f"{state.subject} changed at {state.seq} after it had ended at {before.seq}"
        if state.body["type"] in FOR_GOOD:
            ended[state.subject] = state


def _effects(tasks: dict[str, Task], record: Record) -> Iterator[str]:
    """What the tools did against what was recorded of them."""
    counted = Counter((effect.tool, effect.key) for effect in record.effects)
    calls: dict[tuple[str, str], list[tuple[Task, Call]]] = defaultdict(list)
    for task in tasks.values():
        for call in task.calls():
            calls[call.tool, call.key].append((task, call))
    for tool_key, count in counted.items():
        if tool_key not in calls:
            yield f"{tool_key[0]} acted {count} times for {tool_key[1]!r}, which no model asked for"
    for (tool, key), asked in calls.items():
        if tool not in WORKING:
            continue
        (task, call), *others = asked
        if others:
            yield f"{tool} was asked twice for {key!r}: the workload must use a key once"
        count = counted[tool, key]
        result = task.events.get(f"tool.{call.request}.{call.n}")
        outcome = result.body["outcome"] if result is not None else "missing"
        if tool in ONCE and count > 1:
            yield f"{task.name}: {tool} acted {count} times for {key!r}"
        if tool in ONCE and count and result is not None and NOT_CALLED in result.body["content"]:
            yield f"{task.name}: {tool} acted for {key!r}, and its result says that it was not called"
        if outcome == "succeeded" and count == 0:
            yield f"{task.name}: {tool} did nothing for {key!r}, and its result says it did"
        if tool in ONCE and count and f"{call.request}.{call.n}" not in task.ledger:
            yield f"{task.name}: {tool} acted for {key!r} without an entry in the ledger"
