"""Task requests from a command line's options, checked before they are sent."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from schemas.ids import InvalidId, check_resource_name, check_thread_id, check_token
from schemas.messages import ContentPart, Message, TextPart, UserMessage
from schemas.requests import InvalidRequest, Limits, Priority, ResponseFormat, SubmitTask, check_task_input
from services.cli.checks import check_response_format
from services.cli.exits import ExitCode, Stop
from services.cli.fields import convert
from services.cli.images import image_of
from services.cli.manifests import said
from services.cli.sources import read_sources
from services.cli.yamldoc import Plain, read_documents, spelled


class Question(NamedTuple):
    """A task's input: exactly one of these."""

    user_message: str | None
    context_window: tuple[Message, ...] | None


def task_request(
    *,
    agent: str,
    message: str,
    images: Sequence[str],
    name: str,
    labels: Sequence[str],
    limits: Limits,
    priority: Priority,
    response_format: str,
    thread: str = "",
) -> SubmitTask:
    """The request for a task from the options of `run` and `submit`; the message `-` is standard input."""
    question = question_of(sys.stdin.read() if message == "-" else message, images)
    return checked(
        SubmitTask(
            agent_name=agent,
            name=name,
            user_message=question.user_message,
            context_window=question.context_window,
            limits=limits,
            labels=labels_of(labels),
            priority=priority,
            response_format=response_format_of(response_format),
            thread_id=thread,
        )
    )


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


def labels_of(given: Sequence[str]) -> dict[str, str]:
    """Labels from `key=value` texts."""
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise Stop(f"--label {text!r} must be KEY=VALUE", ExitCode.USAGE)
        found[key] = value
    return found


def question_of(text: str, images: Sequence[str]) -> Question:
    """What the agent is asked: a text, or a message of a text and images."""
    if not images:
        return Question(text, None)
    parts: tuple[ContentPart, ...] = tuple(map(image_of, images))
    parts = (TextPart(text=text), *parts) if text else parts
    return Question(None, (UserMessage(content=parts),))


def response_format_of(file: str) -> ResponseFormat | None:
    """The response format in a file of JSON or YAML: a JSON Schema alone, or with its name and `strict`."""
    if not file:
        return None
    ((name, text),) = read_sources([file])
    documents, problems = read_documents(text, name)
    if problems or len(documents) != 1:
        why = said(problems[0]) if problems else f"{name} must hold one document, not {len(documents)}"
        raise Stop(why, ExitCode.REFUSED)
    data = documents[0].data
    if isinstance(data, dict):
        inner = data.get("json_schema")
        data = inner if isinstance(inner, dict) else data  # OpenAI's form
        if not isinstance(data.get("schema"), dict):
            alone: dict[str, Plain] = {"schema": data}
            data = alone
    found, wrong = convert(data, ResponseFormat)
    if found is None:
        raise Stop("\n".join(f"{name}: {spelled(one.path)}: {one.message}" for one in wrong), ExitCode.REFUSED)
    for path, message in check_response_format(found, ()):
        raise Stop(f"{name}: {spelled(path)} {message}", ExitCode.REFUSED)
    return found


def checked(request: SubmitTask) -> SubmitTask:
    """The request, if it is one that a planner can accept; the command ends otherwise."""
    try:
        check_resource_name("AGENT", request.agent_name)
        if request.name:
            check_token("--name", request.name)
        if request.thread_id:
            check_thread_id(request.thread_id)
        check_task_input(request.user_message, request.context_window)
    except (InvalidId, InvalidRequest) as error:
        raise Stop(str(error), ExitCode.REFUSED) from error
    return request
