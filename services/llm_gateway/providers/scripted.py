"""A model that follows a script: rules first, then a transcript. It is no model, and says so.

    {user}      the last user message            {result}   the last tool result
    {results}   all tool results since the last answer, one per line
    {turn}      the number of the turn

The same conversation gets the same answer, with the same tool-call ids, however often it is asked. What the script
gives a delay comes in pieces over that time; what it does not comes at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from schemas.messages import AssistantMessage, Message, ToolCall, ToolMessage, Usage, UserMessage, text_of
from schemas.resources import ScriptedFailure, ScriptedOptions, ScriptedReply, ScriptedRule
from services.llm_gateway.core.calls import CallFailed, Failure, ModelReply, ModelRequest
from services.llm_gateway.core.failures import http_failure
from services.llm_gateway.providers.base import Checked, OnText, Setup

NAME = "scripted"
CHARACTERS_PER_TOKEN = 4
PIECES_MAX = 200
"""Pieces of a delayed text."""

_PLACES = re.compile(r"\{(user|result|results|turn)\}")
_WORDS = re.compile(r"\S*\s*")


class ScriptedModel:
    """The `Provider` of the family `scripted`."""

    def __init__(self, setup: Setup) -> None:
        self._script = setup.spec.scripted or ScriptedOptions()
        self._model = setup.model or NAME
        self._clock = setup.clock

    async def call(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """What the script says for this conversation."""
        places = _places(request)
        reply = _choose(self._script, request.turn, places)
        if reply.fail is not None and request.attempt <= reply.fail.times:
            await self._wait(reply.delay_s)
            raise CallFailed(_failure(reply.fail))
        text = _fill(reply.text, places)
        await self._say(text, reply.delay_s, on_text)
        calls = tuple(
            ToolCall(id=f"call_{request.turn}_{n}", name=call.tool, arguments=_arguments(call.arguments, places))
            for n, call in enumerate(reply.calls, start=1)
        )
        return ModelReply(
            message=AssistantMessage(content=text, tool_calls=calls),
            usage=_usage(reply, request, text, calls),
            model=self._model,
            finish_reason="tool_calls" if calls else "stop",
        )

    async def check(self) -> Checked:
        """A script is always there."""
        return Checked()

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _wait(self, delay_s: float) -> None:
        if delay_s > 0:
            await self._clock.sleep(delay_s)

    async def _say(self, text: str, delay_s: float, on_text: OnText) -> None:
        if delay_s <= 0 or not text:
            await self._wait(delay_s)
            if text:
                on_text(text)
            return
        words = [word for word in _WORDS.findall(text) if word]
        step = -(-len(words) // PIECES_MAX)
        pieces = ["".join(words[at : at + step]) for at in range(0, len(words), step)]
        for piece in pieces:
            await self._clock.sleep(delay_s / len(pieces))
            on_text(piece)


def make(setup: Setup) -> ScriptedModel:
    """The model of a script."""
    return ScriptedModel(setup)


def _choose(script: ScriptedOptions, turn: int, places: Mapping[str, str]) -> ScriptedReply:
    for rule in script.rules:
        if _holds(rule, turn, places):
            return rule.reply
    if not script.transcript:
        raise CallFailed(
            http_failure(NAME, 404, f"no rule of the script matches turn {turn}, and it has no transcript")
        )
    return script.transcript[min(turn, len(script.transcript)) - 1]


def _holds(rule: ScriptedRule, turn: int, places: Mapping[str, str]) -> bool:
    return (
        (rule.turn is None or rule.turn == turn)
        and (rule.user_contains is None or rule.user_contains.casefold() in places["user"].casefold())
        and (rule.result_contains is None or rule.result_contains.casefold() in places["results"].casefold())
    )


def _places(request: ModelRequest) -> dict[str, str]:
    results = _results(request.messages)
    last = results[-1] if results else ""
    return {
        "user": next((text_of(m.content) for m in reversed(request.messages) if isinstance(m, UserMessage)), ""),
        "result": last,
        "results": "\n".join(results),
        "turn": str(request.turn),
    }


def _results(messages: tuple[Message, ...]) -> list[str]:
    results: list[str] = []
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        results.append(message.content)
    return results[::-1]


def _fill(text: str, places: Mapping[str, str]) -> str:
    return _PLACES.sub(lambda match: places[match[1]], text) if "{" in text else text


def _arguments(arguments: dict[str, Any] | str, places: Mapping[str, str]) -> str:
    if isinstance(arguments, str):
        return _fill(arguments, places)
    return json.dumps(_fill_values(arguments, places), ensure_ascii=False)


def _fill_values(value: Any, places: Mapping[str, str]) -> Any:
    match value:
        case str():
            return _fill(value, places)
        case dict():
            return {key: _fill_values(inner, places) for key, inner in value.items()}  # pyright: ignore[reportUnknownVariableType] - any JSON
        case list():
            return [_fill_values(inner, places) for inner in value]  # pyright: ignore[reportUnknownVariableType] - any JSON
        case _:
            return value


def _failure(fail: ScriptedFailure) -> Failure:
    return http_failure(NAME, fail.status, fail.message, retry_after_s=fail.retry_after_s)


def _usage(reply: ScriptedReply, request: ModelRequest, text: str, calls: tuple[ToolCall, ...]) -> Usage:
    written = len(text) + sum(len(call.arguments) for call in calls)
    return Usage(
        input_tokens=request.size // CHARACTERS_PER_TOKEN if reply.input_tokens is None else reply.input_tokens,
        output_tokens=-(-written // CHARACTERS_PER_TOKEN) if reply.output_tokens is None else reply.output_tokens,
    )
