"""Laws of the task machine, over histories that nobody wrote by hand."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.commands import CallModel
from schemas.events import ModelFailure, ToolFinished
from schemas.messages import Usage
from schemas.requests import FailureCause
from schemas.task import (
    AwaitingModel,
    AwaitingTools,
    Cancelled,
    Failed,
    FinalAnswer,
    Initializing,
    RetryingModel,
    State,
    Waiting,
    decode_state,
)
from schemas.task_view import describe_state
from schemas.wire import encode
from services.planner.core.inputs import AgentReady, AgentUnready, Input, ModelCompacted, Submitted, Undeliverable
from services.planner.core.machine import Impossible, transition
from services.planner.core.outstanding import outstanding, timers
from services.planner.core.policy import ATTEMPTS_MAX, COMPACTIONS_MAX, REPAIRS_MAX
from tests.support.playbook import (
    TASK,
    answered,
    at,
    cancel,
    compacted,
    deadline,
    failed,
    pinned,
    results,
    retry,
    submitted,
)


@st.composite
def one_input(draw: st.DrawFn) -> Input:
    """Anything that may happen to a task, in any order and at any time."""
    seconds = draw(st.floats(0, 120))
    turn, attempt = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    llm = draw(st.sampled_from(["own", "other"]))
    usage = Usage(input_tokens=3, output_tokens=2)
    match draw(st.integers(0, 12)):
        case 0:
            return submitted(deadline_s=60)
        case 1:
            return pinned(seconds, max_turns=draw(st.integers(1, 3)))
        case 2:
            return AgentReady(at=at(seconds))
        case 3:
            return AgentUnready(reason=draw(st.sampled_from(["gone", "sick"])), at=at(seconds))
        case 4 | 5:
            tools = draw(st.lists(st.sampled_from(["a__x", "b__y"]), max_size=3))
            text = draw(st.sampled_from(["", "text"]))
            invalid = draw(st.sampled_from(["", "", "it is not JSON"]))
            return answered(
                turn, *tools, text=text, attempt=attempt, seconds=seconds, usage=usage, llm=llm, invalid=invalid
            )
        case 6 | 11:
            failure: ModelFailure = draw(st.sampled_from(FAILURES))
            fallback = draw(st.sampled_from(["", "other"]))
            cause = draw(st.sampled_from(CAUSES))
            wait_s = draw(st.none() | st.floats(0, 90))
            return failed(
                turn,
                failure,
                attempt=attempt,
                seconds=seconds,
                llm=llm,
                cause=cause,
                usage=draw(st.sampled_from([Usage(), usage])),
                fallback=fallback,
                retry_after_s=wait_s,
            )
        case 7:
            return results(turn, *draw(st.lists(st.integers(11, 99), max_size=3)), seconds=seconds)
        case 8:
            return retry(seconds)
        case 9:
            return deadline(seconds)
        case 12:
            spent = draw(st.sampled_from([Usage(), usage]))
            replaced = draw(st.integers(0, 4))
            return compacted(turn, replaced, attempt=attempt, seconds=seconds, usage=spent, llm=llm)
        case _:
            gone: list[Input] = [cancel(seconds), Undeliverable(subject=TASK.cancel, error="x", at=at(seconds))]
            return draw(st.sampled_from(gone))


FAILURES: tuple[ModelFailure, ...] = ("transient", "transient", "throttled", "refused", "dead")
CAUSES: tuple[FailureCause, ...] = ("overloaded", "contextTooLong", "quotaExhausted", "maxTokens", "namespaceQuota")
histories = st.lists(one_input(), max_size=25)
FIRST = submitted(deadline_s=60)
TERMINAL = (FinalAnswer, Failed, Cancelled)


def run(history: list[Input], first: Submitted = FIRST) -> list[State]:
    """The states that a history leads through; impossible inputs leave no trace, as in the shell."""
    states: list[State] = [transition(None, first)]
    for happened in history:
        try:
            states.append(transition(states[-1], happened))
        except Impossible:
            continue
    return states


@given(histories)
def test_a_terminal_state_absorbs_everything(history: list[Input]) -> None:
    states = run(history)
    for before, after in pairwise(states):
        if isinstance(before, TERMINAL):
            assert after is before


@given(histories)
@settings(max_examples=300)
def test_replay_through_the_wire_equals_live(history: list[Input]) -> None:
    live = run(history)
    state: State = transition(None, submitted(deadline_s=60))
    replayed = [state]
    for happened in history:
        try:
            state = transition(decode_state(encode(state)), happened)
        except Impossible:
            continue
        replayed.append(state)
    assert replayed == live
    assert [outstanding(one) for one in replayed] == [outstanding(one) for one in live]


@given(histories, st.integers(0, 24))
def test_the_same_input_twice_is_the_same_as_once(history: list[Input], index: int) -> None:
    state = run(history[:index])[-1]
    for happened in history[index : index + 1]:
        try:
            once = transition(state, happened)
        except Impossible:
            return
        try:
            assert transition(once, happened) == once
        except Impossible:
            raise AssertionError("a duplicate was called impossible") from None


@given(histories)
def test_what_is_spent_only_grows_and_is_all_known_by_llm(history: list[Input]) -> None:
    states = run(history)
    for before, after in pairwise(states):
        assert after.spend.model_calls >= before.spend.model_calls
        assert after.spend.input_tokens >= before.spend.input_tokens
        assert sum(one.model_calls for one in after.spend.by_llm.values()) == after.spend.model_calls
        assert sum(one.input_tokens for one in after.spend.by_llm.values()) == after.spend.input_tokens


@given(histories)
def test_a_window_only_grows_unless_a_recorded_step_replaces_its_beginning(history: list[Input]) -> None:
    state: State = transition(None, FIRST)
    for happened in history:
        try:
            after = transition(state, happened)
        except Impossible:
            continue
        if isinstance(happened, ModelCompacted) and after.window != state.window:
            assert after.window == (happened.seq, *state.window[happened.event.replaced :])
        else:
            assert after.window[: len(state.window)] == state.window
        state = after


@given(histories)
def test_what_is_tried_in_a_turn_is_bounded(history: list[Input]) -> None:
    for state in run(history):
        if isinstance(state, AwaitingModel | RetryingModel | Waiting):
            assert state.tries.failures < ATTEMPTS_MAX
            assert state.tries.compactions <= COMPACTIONS_MAX
            assert state.tries.repairs <= REPAIRS_MAX


@given(histories)
def test_no_model_call_is_made_while_a_call_is_unanswered(history: list[Input]) -> None:
    answered_calls = 0
    asked_calls = 0
    previous: State | None = None
    for state in run(history):
        if isinstance(state, AwaitingTools) and not isinstance(previous, AwaitingTools):
            asked_calls += len(state.calls)
        elif isinstance(previous, AwaitingTools) and not isinstance(state, AwaitingTools | Failed | Cancelled):
            answered_calls += len(state.window) - len(previous.window)
        if any(isinstance(command, CallModel) for command in outstanding(state)):
            assert asked_calls == answered_calls
        previous = state


@given(histories)
def test_a_task_that_ends_with_open_calls_closes_each_of_them(history: list[Input]) -> None:
    states = run(history)
    for before, after in pairwise(states):
        if isinstance(before, AwaitingTools) and isinstance(after, Failed | Cancelled):
            closed = [wanted for wanted in outstanding(after) if isinstance(wanted, ToolFinished)]
            assert [(one.n, one.tool_call_id) for one in closed] == [(call.n, call.id) for call in before.calls]


@given(histories)
def test_a_live_state_has_something_that_will_move_it(history: list[Input]) -> None:
    for state in run(history, submitted()):
        if not isinstance(state, (Initializing, *TERMINAL)):
            assert outstanding(state) or timers(state)


@given(histories)
def test_every_state_can_be_described_and_stays_small(history: list[Input]) -> None:
    for state in run(history):
        assert describe_state(state).status_detail
        assert len(encode(state)) < 4096
