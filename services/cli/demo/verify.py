"""What is checked at the end, by reading the stream and the tools' own traces: never by asking a service."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from schemas.events import ModelAnswered, ToolFinished, ToolStarted
from schemas.ids import request_id
from schemas.subjects import PREFIX
from schemas.task import FinalAnswer
from schemas.task_view import describe_state
from services.cli.client import Client
from services.cli.demo.stage import COMMIT_MESSAGE, Stage, commits_of
from services.cli.demo.striker import Strike
from services.cli.history import Recorded
from services.cli.listing import TaskDetails, details

TAKEOVER_MAX_S = 10.0


class Check(NamedTuple):
    """Something that must be so."""

    good: bool
    text: str


async def verify(client: Client, stage: Stage, task: str, strikes: list[Strike]) -> list[Check]:
    """All checks."""
    known = await details(client, "default", task)
    checks = [_final(known), *_results(known), *_effects(known)]
    if stage.repository is not None:
        checks.append(_commits(stage))
    letters = await client.bus.dead_letters.last([f"{PREFIX}.dlq.letter.>"])
    checks.append(Check(not letters, f"{len(letters)} dead letters" if letters else "no dead letters"))
    wanted = ("tool call", "model call") if stage.repository is not None else ("model call",)
    for what in wanted:
        strike = next((one for one in strikes if one.what == what), None)
        if strike is None:
            checks.append(Check(False, f"nothing was killed during a {what}: the moment never came"))
        else:
            took = f"{strike.took_over_s:.1f} s after the kill, {strike.by} went on with the {what}"
            checks.append(Check(strike.took_over_s <= TAKEOVER_MAX_S, took))
    return checks


def _final(known: TaskDetails) -> Check:
    state = known.state
    answers = [record for record in _counted(known) if not record.fact.message.tool_calls] if known.records else []
    good = isinstance(state, FinalAnswer) and len(answers) == 1 and bool(known.output)
    return Check(
        good,
        f"the task is in {describe_state(state).phase}, with {len(answers)} final answer{'s' * (len(answers) != 1)}",
    )


class _Answer(NamedTuple):
    seq: int
    fact: ModelAnswered


def _counted(known: TaskDetails) -> list[_Answer]:
    """The answers in the conversation, in order."""
    window = frozenset(known.state.window)
    found = [_Answer(r.seq, r.fact) for r in known.records if isinstance(r.fact, ModelAnswered) and r.seq in window]
    return sorted(found)


def _results(known: TaskDetails) -> list[Check]:
    """Each call has one result, and the conversation has them in the order of the calls."""
    asked = [
        (request_id(answer.fact.turn), n, call.id)
        for answer in _counted(known)
        for n, call in enumerate(answer.fact.message.tool_calls, start=1)
    ]
    results = {record.seq: record.fact for record in known.records if isinstance(record.fact, ToolFinished)}
    recorded = Counter((result.request, result.n, result.tool_call_id) for result in results.values())
    told = [results[seq] for seq in known.state.window if seq in results]
    once = recorded == Counter(asked)
    ordered = [(result.request, result.n, result.tool_call_id) for result in told] == asked
    return [
        Check(
            once,
            f"{len(asked)} tool calls were asked for, and {sum(recorded.values())} results are recorded: one for each",
        ),
        Check(ordered, "the model saw every result, in the order of its calls"),
    ]


def _effects(known: TaskDetails) -> list[Check]:
    """No call that must not run twice was begun twice."""
    begun = [record for record in known.records if isinstance(record.fact, ToolStarted)]
    again = [record for record in begun if _attempt(record) > 1]
    if not begun:
        return []
    text = f"{_count(len(begun), 'call')} must not run twice, and {len(again) or 'none'} was begun again"
    return [Check(not again, text)]


def _attempt(record: Recorded) -> int:
    return record.fact.attempt if isinstance(record.fact, ToolStarted) else 0


def _commits(stage: Stage) -> Check:
    assert stage.repository is not None
    subjects = commits_of(stage.repository)
    made = subjects.count(COMMIT_MESSAGE)
    runs = len(stage.hook_started.read_text().splitlines()) if stage.hook_started.exists() else 0
    new = len(subjects) - 1
    text = (
        f"git has {_count(new, 'new commit')}, {made} of them {COMMIT_MESSAGE!r}; its hook ran {_count(runs, 'time')}"
    )
    return Check(made == 1 and new == 1, text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
