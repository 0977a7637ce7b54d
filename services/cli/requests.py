"""Task requests from a command line's options, checked before they are sent."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from schemas.ids import InvalidId, check_resource_name, check_token
from schemas.requests import InvalidRequest, Limits, SubmitTask, check_task_input
from services.cli.exits import ExitCode, Stop


def limits_of(max_turns: int | None, max_tokens: int | None, max_cost: str, deadline: float | None) -> Limits:
    """The limits that were given."""
    cost: Decimal | None = None
    if max_cost:
        try:
            cost = Decimal(max_cost.removeprefix("$"))
        except InvalidOperation:
            raise Stop(f"--max-cost {max_cost!r} is not a number of US dollars", ExitCode.USAGE) from None
        if not cost > 0:
            raise Stop(f"--max-cost must be more than 0, not {max_cost}", ExitCode.USAGE)
    if deadline is not None and not deadline > 0:
        raise Stop(f"--deadline must be more than 0, not {deadline:g}", ExitCode.USAGE)
    return Limits(max_turns=max_turns, max_tokens=max_tokens, max_cost_usd=cost, deadline_s=deadline)


def labels_of(given: list[str] | None) -> dict[str, str]:
    """Labels from `key=value` texts."""
    found: dict[str, str] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise Stop(f"--label {text!r} must be KEY=VALUE", ExitCode.USAGE)
        found[key] = value
    return found


def checked(request: SubmitTask) -> SubmitTask:
    """The request, if it is one that a planner can accept; the command ends otherwise."""
    try:
        check_resource_name("AGENT", request.agent_name)
        if request.name:
            check_token("--name", request.name)
        check_task_input(request.user_message, request.context_window)
    except (InvalidId, InvalidRequest) as error:
        raise Stop(str(error), ExitCode.REFUSED) from error
    return request
