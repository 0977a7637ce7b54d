from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from schemas.commands import CallModel, RunTool
from schemas.events import ToolFinished
from schemas.messages import ToolOutcome, Usage
from schemas.task import (
    AwaitingModel,
    AwaitingTools,
    Budget,
    Cancelled,
    Failed,
    FinalAnswer,
    Initializing,
    RetryingModel,
    Spend,
    State,
    Waiting,
)
from schemas.task_view import describe_state
from services.planner.core.inputs import AgentReady, AgentUnready, ConversationPinned, Input, Undeliverable
from services.planner.core.machine import Impossible, transition
from services.planner.core.outstanding import Timer, outstanding, timers
from services.planner.core.policy import ATTEMPTS_MAX, CALL_TEXT_MAX, CALLS_MAX, EMPTY_REPLIES_MAX
from tests.support.playbook import (
    TASK,
    answered,
    at,
    cancel,
    deadline,
    failed,
    pinned,
    play,
    results,
    retry,
    submitted,
)


def model(turn: int, attempt: int = 1) -> CallModel:
    return CallModel(namespace="default", task="job", agent="helper", turn=turn, attempt=attempt)


def tool(turn: int, n: int, name: str, answer_seq: int = 10) -> RunTool:
    return RunTool(
        namespace="default", task="job", agent="helper", request=f"r{turn}", n=n, answer_seq=answer_seq, tool=name
    )


def closing(turn: int, n: int, name: str, outcome: ToolOutcome, content: str, *, seconds: float) -> ToolFinished:
    return ToolFinished(
        request=f"r{turn}",
        n=n,
        tool_call_id=f"call-{turn}-{n}",
        tool=name,
        outcome=outcome,
        content=content,
        at=at(seconds),
    )


def test_a_question_with_an_answer() -> None:
    state = play(
        None,
        (submitted(), ()),
        (pinned(), (model(1),)),
        (answered(1, text="It has none."), ()),
    )
    assert isinstance(state, FinalAnswer)
    assert state.window == (2, 10)
    assert state.preview == "what is the capital of the moon?"
    assert describe_state(state).status_detail == "LLM final response received"


def test_parallel_calls_are_followed_by_one_model_call_with_results_in_call_order() -> None:
    state = play(
        None,
        (submitted(), ()),
        (pinned(), (model(1),)),
        (
            answered(1, "time__now", "git__log", "git__status", text="Let me look."),
            (tool(1, 1, "time__now"), tool(1, 2, "git__log"), tool(1, 3, "git__status")),
        ),
        (results(1, 31, 29, 30), (model(2),)),
        (answered(2, text="Done.", seq=40), ()),
    )
    assert state.window == (2, 10, 31, 29, 30, 40)


def test_an_agent_that_is_not_there_is_waited_for() -> None:
    state = play(None, (submitted(), ()), (AgentUnready(reason="Waiting for Agent to exist", at=at(1)), ()))
    assert isinstance(state, Waiting)
    assert describe_state(state)[:4] == ("Pending", False, "Pending", "Waiting for Agent to exist")
    assert timers(state) == (Timer(kind="recheck", id="recheck", due=at(6)),)
    assert isinstance(play(state, (pinned(seconds=9), (model(1),))), AwaitingModel)


def test_an_agent_that_goes_away_in_the_middle_leaves_the_conversation_untouched() -> None:
    state = play(
        None,
        (submitted(), ()),
        (pinned(), (model(1),)),
        (answered(1, "time__now"), (tool(1, 1, "time__now"),)),
    )
    state = transition(transition(state, results(1, 11)), AgentUnready(reason="gone", at=at(4)))
    assert isinstance(state, Waiting)
    assert state.window == (2, 10, 11)
    state = play(state, (AgentReady(at=at(60)), (model(2),)))
    assert state.window == (2, 10, 11)


def test_a_waiting_task_keeps_its_attempt() -> None:
    state = play(
        None,
        (submitted(), ()),
        (pinned(), (model(1),)),
        (failed(1, "transient"), ()),
    )
    state = transition(transition(state, retry(10)), AgentUnready(reason="gone", at=at(10)))
    play(state, (AgentReady(at=at(11)), (model(1, 2),)))


def test_a_new_reason_to_wait_is_told_and_the_same_one_changes_nothing() -> None:
    state = play(None, (submitted(), ()), (AgentUnready(reason="one", at=at(1)), ()))
    assert transition(state, AgentUnready(reason="one", at=at(2))) is state
    moved = transition(state, AgentUnready(reason="two", at=at(3)))
    assert isinstance(moved, Waiting)
    assert (moved.reason, moved.since) == ("two", at(1))


def test_a_transient_failure_is_tried_again_when_its_time_has_come() -> None:
    state = play(None, (submitted(), ()), (pinned(), (model(1),)), (failed(1, "transient", retry_after_s=7), ()))
    assert isinstance(state, RetryingModel)
    assert state.not_before == at(9)
    assert timers(state) == (Timer(kind="retry", id="retry-1-2", due=at(9), turn=1, attempt=2),)
    view = describe_state(state)
    assert (view.phase, view.status, view.reason) == ("ReadyForLLM", "Error", "LLMRequestFailed")
    assert transition(state, retry(8)) is state
    state = play(state, (retry(9), (model(1, 2),)), (answered(1, text="Hello.", attempt=2), ()))
    assert isinstance(state, FinalAnswer)
    assert state.spend.model_calls == 2


def test_attempts_are_bounded() -> None:
    state: State = play(None, (submitted(), ()), (pinned(), (model(1),)))
    for attempt in range(1, ATTEMPTS_MAX):
        state = transition(state, failed(1, "transient", attempt=attempt))
        assert isinstance(state, RetryingModel)
        assert timedelta() <= state.not_before - at(2) <= timedelta(seconds=60)
        state = transition(state, retry(100))
    state = transition(state, failed(1, "transient", attempt=ATTEMPTS_MAX))
    assert isinstance(state, Failed)
    assert (state.reason, state.error) == (
        "LLMRequestFailed",
        "LLM request failed 10 times, lastly: connection timeout",
    )


def test_a_refused_call_fails_the_task_with_the_providers_words() -> None:
    state = play(
        None,
        (submitted(), ()),
        (pinned(), (model(1),)),
        (failed(1, "refused", status=400, error="invalid request: model not found"), ()),
    )
    assert isinstance(state, Failed)
    assert state.reason == "LLMRequestFailed4xx"
    assert state.error == "LLM request failed with status 400: invalid request: model not found"


def test_an_empty_reply_is_asked_again_a_bounded_number_of_times() -> None:
    state: State = play(None, (submitted(), ()), (pinned(), (model(1),)))
    for attempt in range(1, EMPTY_REPLIES_MAX):
        state = play(state, (answered(1, text=" \n", attempt=attempt), (model(1, attempt + 1),)))
        assert state.window == (2,)
    state = transition(state, answered(1, attempt=EMPTY_REPLIES_MAX))
    assert isinstance(state, Failed)
    assert state.reason == "LLMEmptyReply"


def test_the_last_allowed_turn_may_answer_but_not_call_tools() -> None:
    start = play(None, (submitted(), ()), (pinned(max_turns=1), (model(1),)))
    assert isinstance(transition(start, answered(1, text="Here.")), FinalAnswer)
    why = "Not done: the task failed (no final answer after 1 turns (maxTurns))."
    state = play(start, (answered(1, "time__now"), (closing(1, 1, "time__now", "failed", why, seconds=2),)))
    assert isinstance(state, Failed)
    assert state.reason == "MaxTurnsReached"


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(max_turns=20, max_tokens=100), "MaxTokensReached"),
        (Budget(max_turns=20, max_cost_usd=Decimal("0.01")), "MaxCostReached"),
    ],
)
def test_an_exhausted_budget_ends_the_task_before_the_next_call(budget: Budget, reason: str) -> None:
    usage = Usage(input_tokens=90, output_tokens=10, cost_usd=Decimal("0.01"))
    begun = ConversationPinned(seq=2, budget=budget, deadline=None, at=at(1))
    start = play(None, (submitted(), ()), (begun, (model(1),)))
    assert isinstance(transition(start, answered(1, text="Done.", usage=usage)), FinalAnswer)
    state = transition(start, answered(1, "time__now", usage=usage))
    assert isinstance(state, Failed)
    assert state.reason == reason
    assert state.spend == Spend(model_calls=1, input_tokens=90, output_tokens=10, cost_usd=Decimal("0.01"))
    assert len(outstanding(state)) == 1


def test_a_runaway_answer_fails_the_task_and_is_not_taken_into_the_conversation() -> None:
    start = play(None, (submitted(), ()), (pinned(), (model(1),)))
    for runaway in (answered(1, *["a__x"] * (CALLS_MAX + 1)), answered(1, "x" * (CALL_TEXT_MAX + 1))):
        state = play(start, (runaway, ()))
        assert isinstance(state, Failed)
        assert state.window == (2,)


def test_a_cancelled_task_gives_every_open_call_a_result() -> None:
    why = "Not done: the task was cancelled: changed my mind."
    state = play(
        None,
        (submitted(), ()),
        (pinned(), (model(1),)),
        (answered(1, "a__x", "a__y"), (tool(1, 1, "a__x"), tool(1, 2, "a__y"))),
        (
            cancel(),
            (closing(1, 1, "a__x", "cancelled", why, seconds=5), closing(1, 2, "a__y", "cancelled", why, seconds=5)),
        ),
    )
    assert isinstance(state, Cancelled)
    assert (state.by, state.reason) == ("ann", "changed my mind")


@pytest.mark.parametrize("steps", range(4))
def test_a_deadline_ends_a_task_wherever_it_is(steps: int) -> None:
    script: list[Input] = [pinned(), answered(1, "a__x"), results(1, 11)]
    state = transition(None, submitted(deadline_s=30))
    for happened in script[:steps]:
        state = transition(state, happened)
    assert Timer(kind="deadline", id="deadline", due=at(30)) in timers(state)
    assert transition(state, deadline(29.9)) is state
    ended = transition(state, deadline(30))
    assert isinstance(ended, Failed)
    assert (ended.reason, ended.error) == ("DeadlineExceeded", "not done within 30 s (deadline)")
    assert timers(ended) == ()


def test_the_sooner_of_two_deadlines_counts() -> None:
    begun = ConversationPinned(seq=2, budget=Budget(max_turns=20), deadline=at(10), at=at(1))
    state = transition(transition(None, submitted(deadline_s=30)), begun)
    assert isinstance(state, AwaitingModel)
    assert state.deadline == at(10)


def test_late_and_duplicate_answers_change_nothing() -> None:
    state = play(
        None,
        (submitted(), ()),
        (pinned(), (model(1),)),
        (answered(1, "a__x"), (tool(1, 1, "a__x"),)),
    )
    for late in (submitted(), pinned(), answered(1, text="again"), failed(1, "transient"), results(0, 5), retry(99)):
        assert transition(state, late) is state
    state = transition(state, results(1, 11))
    for late in (answered(1, "a__x"), results(1, 11)):
        assert transition(state, late) is state


def test_an_answer_to_a_call_that_was_never_made_is_impossible() -> None:
    state = play(None, (submitted(), ()), (pinned(), (model(1),)))
    for impossible in (answered(2, text="x"), answered(1, text="x", attempt=2), failed(3, "transient")):
        with pytest.raises(Impossible):
            transition(state, impossible)
    with pytest.raises(Impossible):
        transition(transition(None, submitted()), answered(1, text="x"))
    with pytest.raises(Impossible):
        transition(None, pinned())


def test_too_few_results_are_impossible() -> None:
    state = transition(transition(transition(None, submitted()), pinned()), answered(1, "a__x", "a__y"))
    assert isinstance(state, AwaitingTools)
    with pytest.raises(Impossible):
        transition(state, results(1, 11))


def test_an_undeliverable_event_fails_the_task() -> None:
    state = transition(transition(None, submitted()), pinned())
    state = transition(state, Undeliverable(subject=TASK.model_event(1, 1), error="broken: boom", at=at(9)))
    assert isinstance(state, Failed)
    assert state.reason == "DeadLettered"


def test_a_new_task_waits_to_be_looked_at() -> None:
    state = transition(None, submitted())
    assert isinstance(state, Initializing)
    assert describe_state(state).phase == "Initializing"
