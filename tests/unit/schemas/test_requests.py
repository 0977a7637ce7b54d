from __future__ import annotations

import pytest

from schemas.messages import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, UserMessage
from schemas.requests import InvalidRequest, Limits, SubmitTask, check_task_input
from schemas.wire import Malformed, decode

USER = UserMessage(content="hello")
ASKED = AssistantMessage(
    tool_calls=(ToolCall(id="1", name="a__b", arguments="{}"), ToolCall(id="2", name="a__c", arguments="{}"))
)
RESULT_1 = ToolMessage(tool_call_id="1", content="one")
RESULT_2 = ToolMessage(tool_call_id="2", content="two")


@pytest.mark.parametrize(
    ("message", "window", "problem"),
    [
        ("hello", (USER,), "only one of userMessage or contextWindow can be provided"),
        (None, None, "one of userMessage or contextWindow must be provided"),
        ("", None, "one of userMessage or contextWindow must be provided"),
        (None, (), "contextWindow must contain at least one user message"),
        (None, (SystemMessage(content="x"),), "contextWindow must contain at least one user message"),
        (None, (USER, RESULT_1), "has a result for tool call '1', which is not open"),
        (None, (USER, ASKED, RESULT_1, RESULT_1), "has a result for tool call '1', which is not open"),
        (None, (USER, ASKED, RESULT_1, USER), "goes on while tool call '2' has no result"),
        (None, (USER, ASKED, RESULT_2), "ends while tool call '1' has no result"),
    ],
)
def test_a_task_that_no_model_could_go_on_with_is_refused(
    message: str | None, window: tuple[Message, ...] | None, problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        check_task_input(message, window)


@pytest.mark.parametrize(
    ("message", "window"),
    [
        ("hello", None),
        (None, (USER,)),
        (None, (SystemMessage(content="x"), USER, ASKED, RESULT_2, RESULT_1)),
        (None, (USER, ASKED, RESULT_1, RESULT_2, AssistantMessage(content="done"), USER)),
    ],
)
def test_a_task_with_one_input_is_accepted(message: str | None, window: tuple[Message, ...] | None) -> None:
    check_task_input(message, window)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('{"agentNam":"helper"}', "unknown field `agentNam`"),
        ('{"limits":{"maxTurn":3}}', "unknown field `maxTurn`"),
        ('{"limits":{"maxCost":"NaN"}}', "maxCost is NaN"),
        ('{"limits":{"maxCost":"1e99"}}', r"maxCost is 1E\+99"),
        ('{"limits":{"deadlineSeconds":1e300}}', "deadlineSeconds is 1e.300"),
        ('{"contextWindow":[{"role":"robot","content":"x"}]}', "'robot'"),
        ('{"agentName":7}', r"\$\.agentName"),
        ("[]", "Expected `object`"),
    ],
)
def test_a_request_that_says_something_else_is_malformed_and_told_where(body: str, problem: str) -> None:
    with pytest.raises(Malformed, match=problem):
        decode(body.encode(), SubmitTask)


def test_amounts_may_be_written_with_and_without_quotes() -> None:
    plain = decode(b'{"limits":{"maxCost":0.5}}', SubmitTask)
    quoted = decode(b'{"limits":{"maxCost":"0.5"}}', SubmitTask)
    assert plain == quoted
    with pytest.raises(ValueError, match="maxCost"):
        Limits(max_cost_usd=plain.limits.max_cost_usd and plain.limits.max_cost_usd * 10**15)
