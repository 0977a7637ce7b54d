"""What may come of a model call beside an answer: fallbacks, waits for a limit, shorter conversations, repairs."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace

from schemas.commands import CallModel
from schemas.events import ModelFailure
from schemas.messages import Usage
from schemas.requests import FailureCause
from schemas.task import AwaitingModel, Failed, FailureReason, FinalAnswer, LLMSpend, RetryingModel, State, Tries
from services.planner.core.inputs import AgentReady, AgentUnready
from services.planner.core.machine import Impossible, transition
from services.planner.core.outstanding import Timer, outstanding, timers
from services.planner.core.policy import ATTEMPTS_MAX, COMPACTIONS_MAX, PARK_MAX_S, PARK_MIN_S
from tests.support.playbook import answered, at, compacted, failed, pinned, play, results, retry, submitted

USAGE = Usage(input_tokens=30, output_tokens=4, cached_tokens=20, reasoning_tokens=2, cost_usd=Decimal("0.01"))


def model(turn: int, attempt: int = 1, llm: str = "") -> CallModel:
    return CallModel(namespace="default", task="job", agent="helper", turn=turn, attempt=attempt, llm=llm)


def asked(**budget: int) -> State:
    """A task that waits for its first model call."""
    return play(None, (submitted(), ()), (pinned(**budget), (model(1),)))


def in_turn_two() -> State:
    """A task whose window has four entries."""
    state = transition(asked(), answered(1, "a__x", "a__y"))
    return transition(state, results(1, 11, 12))


# --- fallbacks --------------------------------------------------------------------------


@pytest.mark.parametrize("failure", ["transient", "refused"])
def test_a_fallback_is_asked_at_once(failure: ModelFailure) -> None:
    state = play(
        asked(),
        (failed(1, failure, llm="own", fallback="other"), (model(1, 2, "other"),)),
        (answered(1, text="Hello.", attempt=2, llm="other"), ()),
    )
    assert isinstance(state, FinalAnswer)
    assert sorted(state.spend.by_llm) == ["other", "own"]


def test_a_turn_begins_with_the_agents_own_llm_whoever_answered_before() -> None:
    state = play(asked(), (failed(1, "transient", fallback="other"), (model(1, 2, "other"),)))
    state = transition(state, answered(1, "a__x", attempt=2))
    play(state, (results(1, 11), (model(2),)))


def test_after_the_last_fallback_the_task_waits_and_begins_again_with_its_own_llm() -> None:
    state = play(
        asked(),
        (failed(1, "transient", fallback="second"), (model(1, 2, "second"),)),
        (failed(1, "transient", attempt=2, fallback="third"), (model(1, 3, "third"),)),
        (failed(1, "transient", attempt=3, retry_after_s=30), ()),
    )
    assert isinstance(state, RetryingModel)
    assert (state.not_before, state.tries) == (at(32), Tries(failures=3))
    play(state, (retry(32), (model(1, 4),)))


def test_failures_of_all_llms_together_are_bounded() -> None:
    state: State = asked()
    attempt = 1
    while isinstance(state, AwaitingModel):
        state = transition(state, failed(1, "transient", attempt=attempt, fallback="other", error="away"))
        attempt += 1
    assert isinstance(state, Failed)
    assert attempt == ATTEMPTS_MAX + 1
    assert (state.reason, state.error) == ("LLMRequestFailed", "LLM request failed 10 times, lastly: away")


def test_a_refusal_of_the_last_fallback_is_the_tasks_failure() -> None:
    state = play(
        asked(),
        (failed(1, "transient", fallback="other"), (model(1, 2, "other"),)),
        (failed(1, "refused", attempt=2, status=401, cause="authentication", error="bad key"), ()),
    )
    assert isinstance(state, Failed)
    assert state.error == "LLM request failed with status 401: bad key"


def test_a_dead_letter_has_no_fallback() -> None:
    assert isinstance(transition(asked(), failed(1, "dead", fallback="other")), Failed)


def test_a_fallback_is_not_asked_beyond_the_budget() -> None:
    begun = asked(max_tokens=30)
    state = transition(begun, failed(1, "transient", usage=USAGE, fallback="other"))
    assert isinstance(state, Failed)
    assert state.reason == "MaxTokensReached"


def test_a_fallback_survives_a_wait_for_the_agent() -> None:
    state = play(asked(), (failed(1, "transient", fallback="other"), (model(1, 2, "other"),)))
    state = transition(state, AgentUnready(reason="gone", at=at(3)))
    play(state, (AgentReady(at=at(4)), (model(1, 2, "other"),)))


# --- limits of ours ---------------------------------------------------------------------


def test_a_call_that_was_not_made_waits_by_a_timer_and_is_no_failure() -> None:
    state = play(asked(), (failed(1, "throttled", retry_after_s=40, error="120 of 120 requests"), ()))
    assert isinstance(state, RetryingModel)
    assert state.throttled
    assert state.tries == Tries(parks=1, parked_since=at(2))
    assert state.spend.model_calls == 0
    assert timers(state) == (Timer(kind="retry", id="retry-1-2", due=at(42), turn=1, attempt=2),)
    state = play(state, (retry(42), (model(1, 2),)))
    assert isinstance(state, AwaitingModel)
    again = transition(state, failed(1, "throttled", attempt=2, retry_after_s=1, seconds=43))
    assert isinstance(again, RetryingModel)
    assert again.tries == Tries(parks=2, parked_since=at(2))


def test_waiting_for_a_limit_is_not_bounded_by_the_attempts() -> None:
    state: State = asked()
    for attempt in range(1, 3 * ATTEMPTS_MAX):
        state = transition(state, failed(1, "throttled", attempt=attempt, retry_after_s=1))
        assert isinstance(state, RetryingModel)
        assert state.tries.failures == 0
        state = transition(state, retry(1000))
    assert isinstance(state, AwaitingModel)


@pytest.mark.parametrize(("wanted", "given"), [(None, PARK_MIN_S), (0.0, PARK_MIN_S), (1e9, PARK_MAX_S), (7.0, 7.0)])
def test_a_wait_for_a_limit_has_bounds(wanted: float | None, given: float) -> None:
    state = transition(asked(), failed(1, "throttled", retry_after_s=wanted))
    assert isinstance(state, RetryingModel)
    assert state.not_before == at(2) + timedelta(seconds=given)


def test_a_fallback_may_be_asked_rather_than_wait_for_a_limit() -> None:
    state = play(asked(), (failed(1, "throttled", fallback="other"), (model(1, 2, "other"),)))
    assert isinstance(state, AwaitingModel)
    assert state.tries == Tries(llm="other")


@pytest.mark.parametrize(
    ("cause", "reason"),
    [("maxTokens", "MaxTokensReached"), ("maxCost", "MaxCostReached"), ("namespaceQuota", "QuotaReached")],
)
def test_a_call_that_a_budget_has_no_room_for_fails_the_task_in_its_own_words(
    cause: FailureCause, reason: FailureReason
) -> None:
    state = transition(asked(), failed(1, "refused", cause=cause, error="no room for 900 tokens"))
    assert isinstance(state, Failed)
    assert (state.reason, state.error) == (reason, "no room for 900 tokens")


@pytest.mark.parametrize(
    ("cause", "status", "reason", "error"),
    [
        ("contextTooLong", 400, "ContextTooLong", "LLM request failed with status 400: why"),
        ("contextTooLong", None, "ContextTooLong", "LLM request failed: why"),
        ("quotaExhausted", 429, "LLMQuotaExhausted", "LLM request failed with status 429: why"),
        ("invalidRequest", 422, "LLMRequestFailed4xx", "LLM request failed with status 422: why"),
        ("contentFiltered", None, "LLMRequestFailed", "LLM request failed: why"),
    ],
)
def test_a_refusal_is_named_by_its_cause(
    cause: FailureCause, status: int | None, reason: FailureReason, error: str
) -> None:
    state = transition(asked(), failed(1, "refused", cause=cause, status=status, error="why"))
    assert isinstance(state, Failed)
    assert (state.reason, state.error) == (reason, error)


# --- shorter conversations --------------------------------------------------------------


def test_a_shorter_beginning_replaces_the_old_one_and_the_call_is_made_again() -> None:
    state = play(in_turn_two(), (compacted(2, 3), (model(2, 2),)))
    assert isinstance(state, AwaitingModel)
    assert state.window == (50, 12)
    assert state.tries == Tries(compactions=1)
    state = play(state, (answered(2, text="Done.", attempt=2, seq=60), ()))
    assert state.window == (50, 12, 60)


def test_a_summary_is_booked_and_a_step_without_one_is_not() -> None:
    state = transition(in_turn_two(), compacted(2, 3, usage=USAGE, llm="own"))
    assert state.spend.by_llm["own"].input_tokens == 30
    assert state.spend.model_calls == 2
    assert transition(in_turn_two(), compacted(2, 3, llm="own")).spend.model_calls == 1


def test_a_summary_may_use_up_the_budget() -> None:
    state = transition(asked(max_tokens=30), compacted(1, 1, usage=USAGE))
    assert isinstance(state, Failed)
    assert state.reason == "MaxTokensReached"


def test_a_conversation_is_made_shorter_a_bounded_number_of_times_in_a_turn() -> None:
    state: State = asked()
    for attempt in range(1, COMPACTIONS_MAX + 1):
        state = play(state, (compacted(1, 1, attempt=attempt), (model(1, attempt + 1),)))
    state = transition(state, compacted(1, 1, attempt=COMPACTIONS_MAX + 1))
    assert isinstance(state, Failed)
    assert state.reason == "ContextTooLong"
    assert "too long" in state.error


def test_the_next_turn_may_shorten_again() -> None:
    state = play(asked(), (compacted(1, 1), (model(1, 2),)))
    state = transition(state, answered(1, "a__x", attempt=2))
    state = transition(state, results(1, 11))
    assert isinstance(state, AwaitingModel)
    assert state.tries == Tries()


@pytest.mark.parametrize("replaced", [0, -1, 5])
def test_entries_that_are_not_there_cannot_be_replaced(replaced: int) -> None:
    with pytest.raises(Impossible):
        transition(in_turn_two(), compacted(2, replaced))


def test_a_late_shortening_changes_nothing() -> None:
    state = transition(in_turn_two(), compacted(2, 3))
    assert transition(state, compacted(2, 3)) is state
    assert transition(state, compacted(1, 1)) is state
    with pytest.raises(Impossible):
        transition(state, compacted(2, 1, attempt=3))


def test_a_shorter_conversation_keeps_the_fallback_that_asked_for_it() -> None:
    state = play(
        asked(),
        (failed(1, "transient", fallback="smaller"), (model(1, 2, "smaller"),)),
        (compacted(1, 1, attempt=2), (model(1, 3, "smaller"),)),
    )
    assert isinstance(state, AwaitingModel)
    assert state.tries == Tries(failures=1, llm="smaller", compactions=1)


# --- answers that do not fit ------------------------------------------------------------


def test_an_answer_that_does_not_fit_is_mended_in_the_same_turn() -> None:
    state = play(
        asked(),
        (answered(1, text="warm", invalid="it is not JSON", seq=10), (model(1, 2),)),
        (answered(1, text="{}", attempt=2, seq=11), ()),
    )
    assert isinstance(state, FinalAnswer)
    assert state.window == (2, 10, 11)


def test_a_repair_that_does_not_fit_either_fails_the_task() -> None:
    state = transition(asked(), answered(1, text="warm", invalid="it is not JSON"))
    state = transition(state, answered(1, text="mild", invalid="still not", attempt=2))
    assert isinstance(state, Failed)
    assert (state.reason, state.window) == ("InvalidResponse", (2, 10))
    assert state.error == "the answer does not fit the response format, after 1 repair: still not"


def test_a_repair_may_call_tools_and_keeps_the_llm_that_is_asked() -> None:
    state = play(
        asked(),
        (failed(1, "transient", fallback="other"), (model(1, 2, "other"),)),
        (answered(1, text="warm", attempt=2, invalid="not JSON"), (model(1, 3, "other"),)),
    )
    state = transition(state, answered(1, "a__x", attempt=3, seq=12))
    assert state.window == (2, 10, 12)
    assert len(outstanding(state)) == 1


def test_a_repair_is_not_asked_for_beyond_the_budget() -> None:
    state = transition(asked(max_tokens=30), answered(1, text="warm", invalid="not JSON", usage=USAGE))
    assert isinstance(state, Failed)
    assert state.reason == "MaxTokensReached"


# --- what it cost -----------------------------------------------------------------------


def test_what_is_spent_is_known_by_llm() -> None:
    state = transition(asked(), failed(1, "transient", llm="own", usage=USAGE, fallback="other"))
    state = transition(state, answered(1, "a__x", attempt=2, llm="other", usage=USAGE))
    state = transition(transition(state, results(1, 11)), answered(2, text="Done.", llm="own", usage=USAGE))
    assert state.spend.model_calls == 3
    assert state.spend.by_llm["other"] == LLMSpend(
        model_calls=1,
        input_tokens=30,
        output_tokens=4,
        cached_tokens=20,
        reasoning_tokens=2,
        cost_usd=Decimal("0.01"),
    )
    assert state.spend.by_llm["own"].model_calls == 2
    assert sum(one.cost_usd for one in state.spend.by_llm.values()) == state.spend.cost_usd


def test_a_wait_counts_from_when_the_server_stored_the_failure() -> None:
    """A replica whose clock is behind would otherwise have its calls come back at once, again and again."""
    event = failed(1, "throttled", retry_after_s=5, seconds=2)
    parked = transition(asked(), replace(event, recorded_at=at(4)))
    assert isinstance(parked, RetryingModel)
    assert parked.not_before == at(9)
