"""Judges what a record says of people who were asked, and of agents that asked other agents. A part of `checker.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tests.chaos.live.record import Effect, Json, Stored

if TYPE_CHECKING:
    from tests.chaos.live.checker import Call, Task

NOBODY = "nobody"
"""The channel through which nobody ever answers."""
DELEGATED = "delegate_to_agent__"
TOKENS = ("inputTokens", "outputTokens")


def parent_of(task: Task) -> Json:
    """The call that a task answers; empty if nobody but a user asked for it."""
    submitted = task.events.get("submitted")
    found: Json = (submitted.body.get("parent") if submitted is not None else None) or {}
    return found


def expected_ends(accepted: Mapping[str, str], tasks: Mapping[str, Task]) -> dict[str, str]:
    """How each task must end: those that others asked for, as the root of their tree."""
    expected = dict(accepted)
    for name, task in tasks.items():
        root, above = name, parent_of(task)
        while above and root not in accepted:
            root = str(above["task"])
            above = parent_of(tasks[root]) if root in tasks else {}
        if root in accepted:
            expected.setdefault(name, accepted[root])
    return expected


def allowed_outcomes(task: Task, call: Call) -> set[str] | None:
    """What may become of a call that is another agent's, or that people decide; None: the call itself decides."""
    if task.phase != "FinalAnswer":
        return None if f"ask.{call.request}.{call.n}" not in task.commands and not _delegated(call) else {"cancelled"}
    if _delegated(call):
        return {"succeeded"}
    asked, answered = _question(task, call)
    if asked is None or answered is None:
        return None
    if answered.body["action"] == "decline":
        return {"rejected"}
    return {"succeeded"} if asked.body["kind"] == "question" else None


def _delegated(call: Call) -> bool:
    return call.tool.startswith(DELEGATED)


def _question(task: Task, call: Call) -> tuple[Stored | None, Stored | None]:
    """What was asked about a call, and what was answered."""
    where = f"{call.request}.{call.n}.0"
    return task.interactions.get(f"{where}.asked"), task.interactions.get(f"{where}.answered")


def people(task: Task, effects: Sequence[Effect]) -> Iterator[str]:
    """Each call that people decide about was asked once and answered once, and nothing was done before or instead."""
    asked_calls: set[str] = set()
    for call in task.calls():
        name = f"{call.request}.{call.n}"
        if f"ask.{name}" not in task.commands:
            continue
        asked_calls.add(name)
        asked, answered = _question(task, call)
        if asked is None or answered is None:
            yield f"the question about {name} has no {'answer' if asked is not None else 'place'}"
            continue
        in_time = "expired" if asked.body.get("channel") == NOBODY else "request"
        via = in_time if task.phase == "FinalAnswer" else "withdrawn"
        if answered.body.get("via", "request") != via:
            yield f"the question about {name} was answered via {answered.body.get('via', 'request')} and not {via}"
        approved = asked.body["kind"] == "approval" and answered.body["action"] == "accept"
        if approved != (f"approval.{name}" in task.events):
            yield f"the approval of {name} is recorded, and nobody gave it, or the other way round"
        done = [each for each in effects if (each.tool, each.key) == (call.tool, call.key)]
        if done and not approved:
            yield f"{call.tool} acted for {call.key!r}, which nobody approved"
        if any(each.at < answered.at for each in done):
            yield f"{call.tool} acted for {call.key!r} before it was approved"
    for place in task.interactions:
        request, n, k, *_ = place.split(".")
        if k != "0" or f"{request}.{n}" not in asked_calls:
            yield f"{place} is about a question that nobody has"


def family(tasks: Mapping[str, Task]) -> Iterator[str]:
    """Each delegated call is one task, whose answer is its result; and what a tree used is the sum of it."""
    children: dict[tuple[str, str, int], list[Task]] = {}
    for task in tasks.values():
        if parent := parent_of(task):
            children.setdefault((parent["task"], parent["request"], parent["n"]), []).append(task)
    for task in tasks.values():
        spent: list[Json] = [answer.body.get("usage") or {} for _, answer in task.answers]
        for call in task.calls():
            mine = children.pop((task.name, call.request, call.n), [])
            if len(mine) != _delegated(call):
                yield f"{task.name}: {len(mine)} tasks were made of {call.tool} ({call.request}.{call.n})"
                continue
            result = task.events.get(f"tool.{call.request}.{call.n}")
            if mine and result is not None:
                if result.body.get("child") != mine[0].name:
                    yield f"{task.name}: the result of {call.tool} is not of {mine[0].name}"
                spent.append(result.body.get("spend") or {})
        if task.phase == "FinalAnswer" and task.state is not None:
            said: Json = task.state.body.get("spend") or {}
            for what in TOKENS:
                if (total := sum(each.get(what, 0) for each in spent)) != said.get(what, 0):
                    yield f"{task.name}: its {what} are {said.get(what, 0)} and should be {total}"
    for (caller, request, n), orphans in children.items():
        yield f"{orphans[0].name}: was asked for by {request}.{n} of {caller}, which made no such call"
