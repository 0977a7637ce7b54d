"""A conversation as `describe` prints it: who said what, who answered, and what was done to the conversation itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from schemas.events import ModelAnswered, ModelFailed, ToolFinished, WindowCompacted
from schemas.ids import toolcall_name
from schemas.messages import AssistantMessage, ImagePart, Message, SystemMessage, ToolMessage, UserMessage
from services.cli.history import Recorded, Step
from services.cli.images import image_text
from services.cli.render import plain_rows
from services.cli.text import money, one_line, safe, seconds_text

PART_WIDTH = 2000
"""Characters of one message that are shown."""


def transcript(task: str, entries: Iterable[Step]) -> list[str]:
    """A conversation, each message under its role."""
    lines: list[str] = []
    for entry in entries:
        fact = entry.fact
        if isinstance(fact, WindowCompacted):
            tokens = f"about {fact.tokens_before} tokens became {fact.tokens_after}"
            why = f": {one_line(fact.reason)}" if fact.reason else ""
            lines.append(f"[made shorter in turn {fact.turn} by {fact.policy}, {tokens}{why}]")
        by = fact.llm if isinstance(fact, ModelAnswered) else ""
        for message in entry.messages:
            lines += _message(message, by)
        if isinstance(fact, ToolFinished) and fact.whole:
            lines.append(f"  {shortened(toolcall_name(task, fact.request, fact.n))}")
        if isinstance(fact, ModelAnswered) and fact.invalid:
            lines.append(f"[does not fit the response format: {one_line(fact.invalid, PART_WIDTH)}]")
    return lines


def shortened(call: str) -> str:
    """Where the whole of a shortened result is."""
    return f"(shortened; `holdfast get toolcall {call} --whole` prints all of it)"


def _message(message: Message, by: str) -> Iterator[str]:
    match message:
        case SystemMessage(content=content):
            yield from _said("system", content)
        case UserMessage(content=content, name=name):
            parts = [content] if isinstance(content, str) else [_part(part) for part in content]
            yield from _said(f"user {name}".rstrip(), "\n".join(parts))
        case AssistantMessage(content=content, tool_calls=calls):
            yield from _said(f"assistant ({by})" if by else "assistant", content)
            yield from (f"  calls {call.name} {one_line(call.arguments, 200)}  [{call.id}]" for call in calls)
        case ToolMessage(content=content, name=name, tool_call_id=call):
            yield from _said(f"tool {name} [{call}]{' (error)' if message.is_error else ''}", content)
            yield from (f"  {image_text(image)}" for image in message.images)


def _part(part: object) -> str:
    return image_text(part) if isinstance(part, ImagePart) else getattr(part, "text", "")


def _said(who: str, content: str) -> list[str]:
    text = safe(content)
    shown = text[:PART_WIDTH] + (f"… ({len(text) - PART_WIDTH} characters more)" if len(text) > PART_WIDTH else "")
    return [f"{who}:", *(f"  {line}" for line in shown.splitlines())]


def model_call_rows(records: Iterable[Recorded]) -> list[str]:
    """Every model call with the LLM that was asked and what came of it, as a table; nothing before the first."""
    rows: list[tuple[str, ...]] = []
    for record in sorted(records, key=lambda record: record.seq):
        match record.fact:
            case ModelAnswered() as answer:
                outcome = "does not fit the format" if answer.invalid else answer.finish_reason or "answered"
                latency = seconds_text(answer.latency_s) if answer.latency_s else ""
            case ModelFailed() as answer:
                outcome, latency = f"{answer.failure} ({answer.cause}): {one_line(answer.error, 60)}", ""
            case WindowCompacted() as answer:
                outcome, latency = f"made shorter ({answer.policy})", ""
            case _:
                continue
        usage = answer.usage
        rows.append(
            (
                str(answer.turn),
                str(answer.attempt),
                answer.llm,
                answer.model if isinstance(answer, ModelAnswered) else "",
                str(usage.input_tokens),
                str(usage.output_tokens),
                "" if usage.cost_usd is None else money(usage.cost_usd),
                latency,
                outcome,
            )
        )
    return plain_rows(("TURN", "ATTEMPT", "LLM", "MODEL", "IN", "OUT", "COST", "TOOK", "OUTCOME"), rows) if rows else []
