"""What must hold of questions to people: each has one answer, an effect has an approval, nobody counts twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from schemas.events import ApprovalGranted, ModelAnswered, TaskSubmitted
from schemas.ids import call_digest
from schemas.interactions import InteractionAnswered, InteractionRequested, InteractionStep
from schemas.messages import ToolCall
from schemas.resources import ContactChannel, Grant
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingTools, CallRef, decode_state
from schemas.wire import decode
from tests.chaos.simulated.checks_threads import hearers

if TYPE_CHECKING:
    from tests.chaos.simulated.history import Effect
    from tests.chaos.simulated.people import Sent
    from tests.chaos.simulated.world import World


def check_people(world: World) -> Iterator[str]:
    """What is wrong with the questions of a world, and with what came of them."""
    for task in list(world.history.by_task):
        for entry in world.history.of(task, f"{task.root}.int.{task.task}.*.*.0.asked"):
            asked = decode(entry.data, InteractionRequested)
            yield from (f"{task.task} {asked.interaction}: {wrong}" for wrong in _question(world, task, asked))
        yield from _children(world, task)
    heard = hearers(world)
    for effect in world.history.effects:
        user, turn, n = effect.key.split("/")
        task = world.scenario.subjects(heard.get(user, [user])[0])
        yield from (f"{effect.key}: {wrong}" for wrong in _effect(world, effect, task, f"r{turn}", int(n)))


def _question(world: World, task: TaskSubjects, asked: InteractionRequested) -> Iterator[str]:
    request, n = asked.interaction.split(".")[0], int(asked.interaction.split(".")[1])
    place = task.interaction_answered(request, n, 0)
    answers = [decode(entry.data, InteractionAnswered) for entry in world.history.of(task, place)]
    if len(answers) != 1:
        if answers or task.task not in world.removed:
            yield f"it has {len(answers)} answers"
        return
    (answered,) = answers
    call = _call(world, task, request, n)
    if asked.kind == "approval" and (
        asked.arguments != call.arguments or asked.digest != call_digest(call.name, call.arguments)
    ):
        yield f"people saw {asked.arguments}, and the model wants {call.arguments}"
    if answered.via == "request":
        sent = [one for one in world.people.sent if (one.task, one.interaction) == (task.task, asked.interaction)]
        yield from _is_said(asked, answered, sent, timedelta(seconds=world.scenario.skew_s))
    elif answered.via == "expired":
        yield from _is_late(world, task, asked, answered)
    approvals = [
        decode(entry.data, ApprovalGranted) for entry in world.history.of(task, task.approval_event(request, n))
    ]
    for approval in approvals:
        arguments = answered.arguments or asked.arguments
        if answered.action != "accept" or approval.arguments != arguments:
            yield f"the answer {answered} was taken for {approval}"
        if approval.digest != call_digest(asked.tool, approval.arguments):
            yield f"the approval is not bound to its arguments: {approval}"


def _is_said(
    asked: InteractionRequested, answered: InteractionAnswered, sent: list[Sent], skew: timedelta
) -> Iterator[str]:
    """Those whose answer it is said so, and were enough."""
    names = {name.casefold() for name in answered.by.split(", ")}
    right = {one.by.casefold() for one in sent if one.right and one.action == answered.action}
    if wrong := names - right:
        yield f"it was answered ({answered.action}) by {sorted(wrong)}, who did not or may not"
    if answered.action == "accept" and len(names) < asked.quorum:
        yield f"{asked.quorum} have to accept, and {sorted(names)} did"
    if answered.arguments and answered.arguments not in {one.arguments for one in sent}:
        yield f"nobody wrote these arguments: {answered.arguments}"
    if min((one.at for one in sent), default=answered.at) > answered.at + skew * 2:
        yield f"it was answered at {answered.at}, before anybody said anything"


def _is_late(
    world: World, task: TaskSubjects, asked: InteractionRequested, answered: InteractionAnswered
) -> Iterator[str]:
    """Nobody is given up before their time, and nothing is approved by silence where that is not wanted."""
    request, n, _ = asked.interaction.split(".")
    entries = world.history.of(task, f"{task.root}.int.{task.task}.{request}.{n}.0.step.*")
    steps = [decode(entry.data, InteractionStep) for entry in entries]
    specs = {one.metadata.name: one.spec for one in world.scenario.resources if isinstance(one, ContactChannel)}
    asked_last = specs[max(steps, key=lambda step: step.step).channel if steps else asked.channel]
    until = [asked.expires, *(step.until for step in steps if step.until is not None)]
    if asked_last.timeout_s is not None:  # one that could not be reached has its time, too
        until += [step.at + timedelta(seconds=asked_last.timeout_s) for step in steps]
    if answered.at + timedelta(seconds=2 * world.scenario.skew_s) < min(until):
        yield f"it was given up at {answered.at}, before {min(until)}"
    if answered.action == "accept" and asked_last.on_timeout != "approve":
        yield f"silence was taken for an approval: {answered}"


def _effect(world: World, effect: Effect, task: TaskSubjects, request: str, n: int) -> Iterator[str]:
    """What was done is what people approved, by its arguments."""
    call = _call(world, task, request, n)
    wanted, made_by = json.loads(call.arguments), ""
    approvals = world.history.of(task, task.approval_event(request, n))
    if approvals:
        approval = decode(approvals[0].data, ApprovalGranted)
        wanted, made_by = json.loads(approval.arguments), f", approved by {approval.by or 'silence'}"
    elif _is_gated(world, task, call.name) and not _is_granted(world, effect, task, call):
        yield "it took effect without an approval"
    if dict(effect.arguments) != wanted:
        yield f"it took effect with {effect.arguments}, and wanted was {wanted}{made_by}"


def _is_gated(world: World, task: TaskSubjects, tool: str) -> bool:
    agent = decode(world.history.of(task, task.submitted)[0].data, TaskSubmitted).spec.agent
    rules = world.scenario.agents[agent].spec.approvals
    return any(fnmatchcase(tool, pattern) for rule in rules for pattern in rule.tools)


def _is_granted(world: World, effect: Effect, task: TaskSubjects, call: ToolCall) -> bool:
    """Whether people approved such calls before, for the task or for good."""
    for entry in world.history.of(task, f"{task.root}.evt.{task.task}.approval.*.*"):
        approval = decode(entry.data, ApprovalGranted)
        if approval.scope == "task" and approval.tool == call.name and entry.at <= effect.at:
            return True
    for _, entry in world.history.stored:
        if ".spec.Grant." in entry.subject and entry.data and entry.at <= effect.at:
            spec = decode(entry.data, Grant).spec
            if spec.tool == call.name and spec.digest in ("", call_digest(call.name, call.arguments)):
                return True
    return False


def _children(world: World, task: TaskSubjects) -> Iterator[str]:
    """A call of another agent begins after its approval, if it needs one."""
    for entry in world.history.of(task, task.state):
        state = decode_state(entry.data)
        if not isinstance(state, AwaitingTools):
            continue
        for call in state.calls:
            if call.child and call.gate == "approval":
                yield from _begins_after_its_approval(world, task, state.request, call)


def _begins_after_its_approval(world: World, task: TaskSubjects, request: str, call: CallRef) -> Iterator[str]:
    child = world.scenario.subjects(call.child)
    begun = world.history.of(child, child.submitted)
    approved = world.history.of(task, task.approval_event(request, call.n))
    if begun and (not approved or approved[0].seq > begun[0].seq):
        yield f"{call.child} began without an approval of call {call.n} of {request}"


def _call(world: World, task: TaskSubjects, request: str, n: int) -> ToolCall:
    for entry in world.history.of(task, task.state):
        state = decode_state(entry.data)
        asked = state if isinstance(state, AwaitingTools) else getattr(state, "open_calls", None)
        if asked is not None and asked.request == request:
            answer = next(one for one in world.history.by_task[task] if one.seq == asked.answer_seq)
            return decode(answer.data, ModelAnswered).message.tool_calls[n - 1]
    raise LookupError(f"{task.task} never asked for {request}")
