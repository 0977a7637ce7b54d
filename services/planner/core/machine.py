"""The task machine: one total function, `transition(state, input) -> state`.

Rules of this file:
- A late or duplicate input leaves the state as it is: the very same object comes back.
- An impossible input raises `Impossible`, and nothing is written.
- A terminal state absorbs everything.
- Every call of an answer ends with exactly one result: a task that ends while calls are open says so in `open_calls`,
  and `outstanding` has their results recorded.
- No clock, no randomness, no I/O: time and places arrive in the input.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, assert_never

import msgspec

from schemas.events import TaskSubmitted
from schemas.ids import request_id
from schemas.messages import ToolCall, Usage, UserMessage, text_of
from schemas.task import (
    AwaitingModel,
    AwaitingTools,
    CallRef,
    Cancelled,
    Failed,
    FailureReason,
    FinalAnswer,
    Initializing,
    Live,
    OpenCalls,
    RetryingModel,
    State,
    TaskHeader,
    Waiting,
)
from services.planner.core import policy
from services.planner.core.inputs import (
    AgentReady,
    AgentUnready,
    Approved,
    CancelAsked,
    CannotStart,
    ConversationPinned,
    DeadlinePassed,
    Delegate,
    Gate,
    Input,
    ModelCallFailed,
    ModelCompacted,
    ModelReplied,
    RetryDue,
    Said,
    Submitted,
    ToolsAnswered,
    Undeliverable,
)


class Impossible(Exception):
    """An input that cannot follow from this state: a bug, or a hand in the stream."""


def transition(state: State | None, happened: Input) -> State:
    """The state after `happened`. `state` is None before the task exists; only `Submitted` can follow then."""
    if state is None:
        if isinstance(happened, Submitted):
            return _initial(happened.seq, happened.event)
        raise Impossible(f"{type(happened).__name__} before the task was submitted")
    if isinstance(state, FinalAnswer | Failed | Cancelled):
        return state
    match happened:
        case Submitted():
            return state
        case ConversationPinned():
            return _pinned(state, happened)
        case CannotStart(reason=reason, at=at):
            started = not isinstance(state, Initializing | Waiting) or _turn(state) > 0
            return state if started else _failed(state, "", at, "ValidationFailed", reason)
        case AgentUnready():
            return _agent_unready(state, happened)
        case AgentReady(at=at):
            return _agent_ready(state, at)
        case ModelReplied():
            return _model_replied(state, happened)
        case ModelCallFailed():
            return _model_failed(state, happened)
        case ModelCompacted():
            return _model_compacted(state, happened)
        case Approved():
            return _approved(state, happened)
        case ToolsAnswered():
            return _tools_answered(state, happened)
        case RetryDue(at=at):
            return _retry_due(state, at)
        case Said(seq=seq, event=said):
            if seq in state.queued or seq in state.window:
                return state
            return msgspec.structs.replace(state, queued=(*state.queued, seq), updated_at=said.at)
        case CancelAsked(subject=subject, event=event):
            return _cancelled(state, subject, event.at, event.reason, event.by)
        case DeadlinePassed(subject=subject, at=at):
            if state.deadline is None or at < state.deadline:
                return state
            seconds = (state.deadline - state.created_at).total_seconds()
            return _failed(state, subject, at, "DeadlineExceeded", f"not done within {seconds:g} s (deadline)")
        case Undeliverable(subject=subject, error=error, at=at):
            return _failed(state, subject, at, "DeadLettered", f"{subject} could not be handled: {error}")
        case _:
            assert_never(happened)


# --- the beginning ----------------------------------------------------------------------


def _initial(seq: int, event: TaskSubmitted) -> Initializing:
    spec = event.spec
    asked = spec.user_message
    if asked is None:
        said = (m.content for m in reversed(spec.context_window or ()) if isinstance(m, UserMessage))
        asked = text_of(next(said, ""))
    return Initializing(
        namespace=event.namespace,
        task=event.task,
        agent=spec.agent,
        submitted_seq=seq,
        created_at=event.at,
        updated_at=event.at,
        traceparent=event.traceparent,
        parent_span=event.parent_span,
        deadline=_sooner(policy.deadline_of(spec.limits, event.at), event.parent.deadline if event.parent else None),
        preview=policy.preview(asked),
        labels=spec.labels,
        priority=spec.priority,
        parent=event.parent,
        continues=event.continues,
        thread=event.thread,
        thread_id=spec.thread_id,
        response_url=spec.response_url,
        contact_channel=spec.contact_channel,
    )


def _pinned(state: Live, happened: ConversationPinned) -> State:
    match state:
        case Initializing():
            pass
        case Waiting(turn=0):
            pass
        case _:
            return state
    changes: dict[str, Any] = {
        "window": (*happened.before, happened.seq, *state.queued),
        "queued": (),
        "deadline": _sooner(state.deadline, happened.deadline),
    }
    if happened.asked:
        changes["preview"] = policy.preview(happened.asked)
    return AwaitingModel(
        **_header(state, happened.at, **changes),
        budget=happened.budget,
        turn=1,
    )


def _agent_unready(state: Live, happened: AgentUnready) -> State:
    match state:
        case Initializing():
            return Waiting(**_header(state, happened.at), reason=happened.reason, since=happened.at)
        case Waiting(reason=reason):
            if reason == happened.reason:
                return state
            return msgspec.structs.replace(state, reason=happened.reason, updated_at=happened.at)
        case AwaitingModel():
            return Waiting(**_header(state, happened.at), **_call(state), reason=happened.reason, since=happened.at)
        case RetryingModel() | AwaitingTools():
            return state
        case _:
            assert_never(state)


def _agent_ready(state: Live, at: datetime) -> State:
    if not isinstance(state, Waiting) or state.budget is None:
        return state
    return AwaitingModel(**_header(state, at), **_call(state))


# --- the model --------------------------------------------------------------------------


def _is_awaited(state: Live, turn: int, attempt: int) -> bool:
    """Whether this is the model call that the state waits for; raises for one that was never asked for."""
    match state:
        case AwaitingModel(turn=current, attempt=tried):
            if (turn, attempt) == (current, tried):
                return True
            asked_for = (current, tried)
        case RetryingModel(turn=current, attempt=tried) | Waiting(turn=current, attempt=tried):
            asked_for = (current, tried - 1)
        case AwaitingTools(turn=current):
            asked_for = (current + 1, 0)
        case Initializing():
            asked_for = (0, 0)
        case _:
            assert_never(state)
    if (turn, attempt) > asked_for:
        raise Impossible(
            f"a model call for turn {turn}, attempt {attempt} while {asked_for} was the last one asked for"
        )
    return False


def _model_replied(state: Live, happened: ModelReplied) -> State:
    event = happened.event
    if not _is_awaited(state, event.turn, event.attempt):
        return state
    assert isinstance(state, AwaitingModel)
    spent = msgspec.structs.replace(state, spend=policy.add_usage(state.spend, event.usage, event.llm))
    if event.message.tool_calls:
        return _tools_wanted(spent, happened)
    if event.invalid:
        return _invalid_reply(spent, happened)
    if event.message.content.strip():
        if spent.queued:
            return _heard(spent, happened)
        return FinalAnswer(
            **_header(spent, event.at, window=(*spent.window, happened.seq)),
            ended_at=event.at,
            turn=event.turn,
            ended_by=happened.subject,
        )
    return _empty_reply(spent, happened)


def _heard(state: AwaitingModel, happened: ModelReplied) -> State:
    """The model has answered, and something more was said meanwhile: the conversation goes on with that."""
    at = happened.event.at
    window = (*state.window, happened.seq, *state.queued)
    going_on = AwaitingModel(**_header(state, at, window=window, queued=()), budget=state.budget, turn=state.turn + 1)
    if stop := policy.exhausted(state.spend, state.budget, going_on.turn):
        return _failed(going_on, happened.subject, at, *stop)
    return going_on


def _tools_wanted(state: AwaitingModel, happened: ModelReplied) -> State:
    event = happened.event
    if problem := policy.unreasonable(event.message.tool_calls):
        return _failed(state, happened.subject, event.at, "LLMRequestFailed", problem)
    wanted = AwaitingTools(
        **_header(state, event.at, window=(*state.window, happened.seq)),
        budget=state.budget,
        turn=state.turn,
        request=request_id(state.turn),
        answer_seq=happened.seq,
        calls=tuple(
            _call_ref(n, call, happened.delegated.get(n), happened.gates.get(n))
            for n, call in enumerate(event.message.tool_calls, start=1)
        ),
    )
    if stop := policy.exhausted(state.spend, state.budget, state.turn + 1):
        return _failed(wanted, happened.subject, event.at, *stop)
    return wanted


def _call_ref(n: int, call: ToolCall, delegate: Delegate | None, gate: Gate | None) -> CallRef:
    return CallRef(
        n=n,
        id=call.id,
        tool=call.name,
        agent=delegate.agent if delegate is not None else "",
        child=delegate.child if delegate is not None else "",
        gate=gate.kind if gate is not None else None,
        channel=gate.channel if gate is not None else "",
    )


def _empty_reply(state: AwaitingModel, happened: ModelReplied) -> State:
    empty = state.empty_replies + 1
    at = happened.event.at
    if empty >= policy.EMPTY_REPLIES_MAX:
        error = f"the model gave an empty reply {empty} times in turn {state.turn}"
        return _failed(state, happened.subject, at, "LLMEmptyReply", error)
    if stop := policy.exhausted(state.spend, state.budget, state.turn):
        return _failed(state, happened.subject, at, *stop)
    return msgspec.structs.replace(state, attempt=state.attempt + 1, empty_replies=empty, updated_at=at)


def _invalid_reply(state: AwaitingModel, happened: ModelReplied) -> State:
    """The answer does not fit the response format: it and what is wrong with it join the conversation, once."""
    event = happened.event
    if state.tries.repairs >= policy.REPAIRS_MAX:
        error = f"the answer does not fit the response format, after {state.tries.repairs} repair: {event.invalid}"
        return _failed(state, happened.subject, event.at, "InvalidResponse", error)
    if stop := policy.exhausted(state.spend, state.budget, state.turn):
        return _failed(state, happened.subject, event.at, *stop)
    tries = msgspec.structs.replace(state.tries, repairs=state.tries.repairs + 1)
    return AwaitingModel(
        **_header(state, event.at, window=(*state.window, happened.seq)),
        **_call(state, attempt=state.attempt + 1, tries=tries),
    )


def _model_failed(state: Live, happened: ModelCallFailed) -> State:
    event = happened.event
    if not _is_awaited(state, event.turn, event.attempt):
        return state
    assert isinstance(state, AwaitingModel)
    if event.failure == "throttled":
        return _throttled(state, happened)
    spent = msgspec.structs.replace(state, spend=policy.add_usage(state.spend, event.usage, event.llm))
    if event.failure == "dead":
        return _failed(spent, happened.subject, event.at, "DeadLettered", event.error)
    failures = state.tries.failures + 1
    if happened.fallback and failures < policy.ATTEMPTS_MAX:
        return _fallen_back(spent, happened)
    if event.failure == "refused":
        return _failed(spent, happened.subject, event.at, *policy.refusal(event))
    if failures >= policy.ATTEMPTS_MAX:
        error = f"LLM request failed {policy.ATTEMPTS_MAX} times, lastly: {event.error}"
        return _failed(spent, happened.subject, event.at, "LLMRequestFailed", error)
    if stop := policy.exhausted(spent.spend, state.budget, state.turn):
        return _failed(spent, happened.subject, event.at, *stop)
    tries = msgspec.structs.replace(state.tries, failures=failures, llm="")
    return RetryingModel(
        **_header(spent, event.at),
        **_call(spent, attempt=state.attempt + 1, tries=tries),
        not_before=_since(happened) + policy.backoff(state.task, event, failures),
        error=event.error,
    )


def _since(happened: ModelCallFailed) -> datetime:
    """The time that a wait counts from."""
    at = happened.event.at
    return at if happened.recorded_at is None else max(at, happened.recorded_at)


def _throttled(state: AwaitingModel, happened: ModelCallFailed) -> State:
    """A limit of ours leaves no room: the task waits without holding anything, or asks a fallback."""
    event = happened.event
    if happened.fallback:
        return _fallen_back(state, happened)
    tries = msgspec.structs.replace(
        state.tries, parks=state.tries.parks + 1, parked_since=state.tries.parked_since or event.at, llm=""
    )
    return RetryingModel(
        **_header(state, event.at),
        **_call(state, attempt=state.attempt + 1, tries=tries),
        not_before=_since(happened) + policy.park(event),
        error=event.error,
        throttled=True,
    )


def _fallen_back(state: AwaitingModel, happened: ModelCallFailed) -> State:
    """The next LLM of the agent's list is asked at once."""
    event = happened.event
    if stop := policy.exhausted(state.spend, state.budget, state.turn):
        return _failed(state, happened.subject, event.at, *stop)
    failures = state.tries.failures + (event.failure != "throttled")
    tries = msgspec.structs.replace(state.tries, failures=failures, llm=happened.fallback)
    return AwaitingModel(**_header(state, event.at), **_call(state, attempt=state.attempt + 1, tries=tries))


def _model_compacted(state: Live, happened: ModelCompacted) -> State:
    event = happened.event
    if not _is_awaited(state, event.turn, event.attempt):
        return state
    assert isinstance(state, AwaitingModel)
    if not 0 < event.replaced <= len(state.window):
        raise Impossible(f"{event.replaced} entries replaced in a window of {len(state.window)}")
    spend = policy.add_usage(state.spend, event.usage, event.llm) if event.usage != Usage() else state.spend
    spent = msgspec.structs.replace(state, spend=spend)
    compactions = state.tries.compactions + 1
    if compactions > policy.COMPACTIONS_MAX:
        error = f"the conversation does not fit into the model's context after {policy.COMPACTIONS_MAX} compactions"
        return _failed(spent, happened.subject, event.at, "ContextTooLong", f"{error}: {event.reason}")
    if stop := policy.exhausted(spend, state.budget, state.turn):
        return _failed(spent, happened.subject, event.at, *stop)
    tries = msgspec.structs.replace(state.tries, compactions=compactions)
    return AwaitingModel(
        **_header(spent, event.at, window=(happened.seq, *state.window[event.replaced :])),
        **_call(state, attempt=state.attempt + 1, tries=tries),
    )


def _retry_due(state: Live, at: datetime) -> State:
    if not isinstance(state, RetryingModel) or at < state.not_before:
        return state
    return AwaitingModel(**_header(state, at), **_call(state))


# --- the tools --------------------------------------------------------------------------


def _approved(state: Live, happened: Approved) -> State:
    event = happened.event
    if not isinstance(state, AwaitingTools) or state.request != event.request:
        return state
    call = next((call for call in state.calls if call.n == event.n), None)
    if call is None or call.gate != "approval":
        raise Impossible(f"an approval of call {event.n} of request {event.request}, which needs none")
    if call.approved_seq:
        return state
    made = msgspec.structs.replace(call, approved_seq=happened.seq)
    calls = tuple(made if one is call else one for one in state.calls)
    approved = state.approved
    if event.scope == "task" and call.tool not in approved:
        approved = (*approved, call.tool)
    return msgspec.structs.replace(state, calls=calls, approved=approved, updated_at=event.at)


def _tools_answered(state: Live, happened: ToolsAnswered) -> State:
    if not isinstance(state, AwaitingTools) or state.request != happened.request:
        return state
    if len(happened.seqs) != len(state.calls):
        raise Impossible(f"{len(happened.seqs)} results for the {len(state.calls)} calls of request {state.request}")
    spend = policy.add_spend(state.spend, *happened.spend)
    window = (*state.window, *happened.seqs, *state.queued)
    header = _header(state, happened.at, window=window, queued=(), spend=spend)
    going_on = AwaitingModel(**header, budget=state.budget, turn=state.turn + 1)
    if happened.spend and (stop := policy.exhausted(spend, state.budget, going_on.turn)):
        return _failed(going_on, "", happened.at, *stop)
    return going_on


# --- the end ----------------------------------------------------------------------------


def _turn(state: Live) -> int:
    return 0 if isinstance(state, Initializing) else state.turn


def _open_calls(state: Live) -> OpenCalls | None:
    if not isinstance(state, AwaitingTools):
        return None
    return OpenCalls(request=state.request, answer_seq=state.answer_seq, calls=state.calls)


def _failed(state: Live, subject: str, at: datetime, reason: FailureReason, error: str) -> Failed:
    return Failed(
        **_header(state, at),
        ended_at=at,
        turn=_turn(state),
        ended_by=subject,
        reason=reason,
        error=error,
        open_calls=_open_calls(state),
    )


def _cancelled(state: Live, subject: str, at: datetime, reason: str, by: str) -> Cancelled:
    return Cancelled(
        **_header(state, at),
        ended_at=at,
        turn=_turn(state),
        ended_by=subject,
        reason=reason,
        by=by,
        open_calls=_open_calls(state),
    )


def _sooner(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((at for at in (one, other) if at is not None), default=None)


def _call(state: Waiting | AwaitingModel | RetryingModel, **changes: Any) -> dict[str, Any]:
    """What a state about a model call carries over to the next such state."""
    kept: dict[str, Any] = {
        "budget": state.budget,
        "turn": state.turn,
        "attempt": state.attempt,
        "empty_replies": state.empty_replies,
        "tries": state.tries,
    }
    return {**kept, **changes}


def _header(state: TaskHeader, at: datetime, **changes: Any) -> dict[str, Any]:
    """What every state has in common, carried over."""
    header = {name: getattr(state, name) for name in TaskHeader.__struct_fields__}
    return {**header, "updated_at": at, **changes}
