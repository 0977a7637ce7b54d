"""Tools for a model that cannot call functions: they are described to it in words, and its calls are read in its text.

What goes out is the same bytes in every turn: the tools sorted, calls and results always written in one form. What
comes back is read forgivingly, because such models write sloppily: fenced or not, with prose around it, several calls,
line breaks inside strings. A model that goes on and makes up the result of its call is cut off there. A block that is
meant as a call and cannot be read becomes a call with that text as its arguments, so that the model is told what is
wrong. Whatever is not meant as a call is the answer, unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from schemas.messages import (
    AssistantMessage,
    ContentPart,
    ImagePart,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from schemas.tools import OfferedTool
from services.llm_gateway.core.formats import with_instructions
from services.llm_gateway.core.offers import arguments_object, parameters_of

CALLS_MAX = 64
"""Calls that are read in one answer."""
CANDIDATES_MAX = 256
"""Places in one answer that are looked at."""
BROKEN_LENGTH = 500
"""Characters of a block that cannot be read, in which the name of a tool shows that a call was meant."""

# --- what is said -----------------------------------------------------------------------

INSTRUCTIONS = """You can use tools. To call one, write a fenced block with one JSON object and nothing else in it:

```json
{{"tool": "<name of the tool>", "arguments": {{<its arguments>}}}}
```

Write one block for each call; several calls are made together. End your message after the last block: the results come
in the next message. Never write a result yourself. When you need no more tools, answer in plain text without a block.

The tools, one on each line; "parameters" is the JSON Schema of the arguments:
{tools}"""


def instructions(tools: Iterable[OfferedTool]) -> str:
    """How to call these tools; the same bytes for the same tools, in whatever order they come."""
    lines: list[str] = []
    for tool in sorted(tools, key=lambda tool: tool.name):
        said = {"name": tool.name, "description": tool.info.description, "parameters": parameters_of(tool.info)}
        lines.append(json.dumps(said, ensure_ascii=False, sort_keys=True))
    return INSTRUCTIONS.format(tools="\n".join(lines))


def as_text(messages: tuple[Message, ...], tools: Sequence[OfferedTool]) -> tuple[Message, ...]:
    """The conversation without tool calls and results but in words, with the instructions if there are tools."""
    said: list[Message] = []
    names: dict[str, str] = {}
    for message in messages:
        match message:
            case AssistantMessage(tool_calls=calls):
                names = {call.id: call.name for call in calls}
                said.append(AssistantMessage(content=_with_calls(message)) if calls else message)
            case ToolMessage(tool_call_id=id_):
                _add_user(said, _result(message, message.name or names.get(id_, "")))
            case UserMessage(content=content, name=name):
                parts = (TextPart(text=content),) if isinstance(content, str) else content
                _add_user(said, parts, name)
            case SystemMessage():
                said.append(message)
    return with_instructions(tuple(said), instructions(tools)) if tools else tuple(said)


def _with_calls(message: AssistantMessage) -> str:
    blocks = [f"```json\n{_call_text(call)}\n```" for call in message.tool_calls]
    return "\n\n".join([message.content, *blocks] if message.content.strip() else blocks)


def _call_text(call: ToolCall) -> str:
    return json.dumps({"tool": call.name, "arguments": arguments_object(call.arguments)}, ensure_ascii=False)


def _result(message: ToolMessage, name: str) -> tuple[ContentPart, ...]:
    status = "error" if message.is_error else "ok"
    content = _RESULT_END.sub(r"<\\/tool_result", message.content)  # a result cannot end itself and speak as the user
    text = f'<tool_result tool="{name}" status="{status}">\n{content}\n</tool_result>'
    return (TextPart(text=text), *message.images)


def _add_user(said: list[Message], parts: tuple[ContentPart, ...], name: str = "") -> None:
    """Add what the user says: to the last message if that is the user's, because such models take turns."""
    if said and isinstance(last := said[-1], UserMessage):
        before = (TextPart(text=last.content),) if isinstance(last.content, str) else last.content
        parts, name = (*before, *parts), last.name
        said.pop()
    if any(isinstance(part, ImagePart) for part in parts):
        said.append(UserMessage(content=parts, name=name))
    else:
        texts = [part.text for part in parts if isinstance(part, TextPart)]
        said.append(UserMessage(content="\n\n".join(texts), name=name))


# --- what is read -----------------------------------------------------------------------

_NAMES = ("tool", "tool_name", "name", "action", "function")
_ARGUMENTS = ("arguments", "args", "parameters", "input", "action_input", "tool_input")
_ASIDE = frozenset({"thought", "thoughts", "reason", "reasoning", "answer", "id", "type"})
_LISTS = ("tool_calls", "calls", "actions")
_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
_RESULT_END = re.compile(r"</tool_result", re.IGNORECASE)
_START = re.compile(
    r"(?:```|~~~)[^\n`{\[]*(?:\n\s*)?(?=[{\[])"  # a fence, whatever language it names
    r"|<(?:tool_call|function_call)>\s*(?=[{\[])"
    r"|^[ \t]*(?=[{\[])"
    rf"|(?=\{{\s*[\"'](?:{'|'.join(_NAMES)})[\"']\s*:)",
    re.MULTILINE,
)
_BLOCK_END = re.compile(r"^[ \t]*(?:```|~~~)|</(?:tool_call|function_call)>|\Z", re.MULTILINE)
_MADE_UP = re.compile(
    r"^[ \t>*_#]*(?:observation|output|results?|response|tool[ _]?(?:results?|outputs?|responses?)|user|human|system)\b"
    r"(?:[ \t]+(?:of|from|for)\b[^\n:]{0,80}|[ \t]*\([^)\n]{0,80}\))?[ \t*_]*:|<tool_(?:result|response)",
    re.IGNORECASE | re.MULTILINE,
)
"""Where a model goes on with what others would say."""
_OBJECT = re.compile(r"[\[\s]*\{\s*[\"']?\w+[\"']?\s*:")
_BROKEN_NAME = re.compile(rf"[\"']?\b(?:{'|'.join(_NAMES)})[\"']?\s*:\s*[\"']?([\w.\-]+)")
_BROKEN_ARGUMENTS = re.compile(rf"[\"']?\b(?:{'|'.join(_ARGUMENTS)})[\"']?\s*:")
_DECODER = json.JSONDecoder(strict=False)  # a line break inside a string is one

Fields = dict[str, Any]


class Read(NamedTuple):
    """An answer: the text before its calls, and the calls, without ids. No calls: the whole text."""

    content: str
    calls: tuple[ToolCall, ...]


class _Found(NamedTuple):
    calls: tuple[ToolCall, ...]
    thought: str
    end: int


def read(text: str, tools: Iterable[OfferedTool]) -> Read:
    """The calls that are meant in a model's text."""
    offered = {tool.name: tool for tool in tools}
    visible = _THOUGHT.sub(lambda thought: " " * len(thought[0]), text)  # thinking of a call is no call
    calls: list[ToolCall] = []
    begun, at, thought = len(text), 0, ""
    for _ in range(CANDIDATES_MAX):
        start = _START.search(visible, at)
        if start is None or len(calls) >= CALLS_MAX or (calls and _MADE_UP.search(visible, at, start.start())):
            break
        found = _look(visible, start.end(), offered)
        at = max(found.end, start.end() + 1)
        if found.calls:
            begun = min(begun, start.start())
            thought = thought or found.thought
            calls += found.calls
        elif calls and found.end > start.end():
            break  # JSON that is no call, after a call: what the model thinks would come back
    if not calls:
        return Read(text, ())
    return Read(text[:begun].rstrip() or thought, tuple(calls[:CALLS_MAX]))


def _look(text: str, at: int, offered: Mapping[str, OfferedTool]) -> _Found:
    """What begins with the bracket at this place, and where it ends; where it begins, if it is nothing."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return _broken(text, at, offered)
    return _Found(_calls_in(value, offered), _thought_in(value), end)


def _broken(text: str, at: int, offered: Mapping[str, OfferedTool]) -> _Found:
    named = _BROKEN_NAME.search(text, at, at + BROKEN_LENGTH) if _OBJECT.match(text, at) else None
    if named is None:
        return _Found((), "", at)
    end_of_block = _BLOCK_END.search(text, at)
    end = end_of_block.start() if end_of_block else len(text)
    if made_up := _MADE_UP.search(text, at, end):
        end = made_up.start()
    tool = _resolved(named[1], offered)
    if named.end() > end or (tool is None and not _BROKEN_ARGUMENTS.search(text, at, end)):
        return _Found((), "", at)
    call = ToolCall(id="", name=tool.name if tool else named[1], arguments=text[at:end].strip())
    return _Found((call,), "", end)


def _calls_in(value: object, offered: Mapping[str, OfferedTool]) -> tuple[ToolCall, ...]:
    if isinstance(value, list):
        each = [_calls_in(item, offered) for item in msgspec.convert(value, list[Any])]
        return tuple(call for calls in each for call in calls) if all(each) else ()
    if not isinstance(value, dict):
        return ()
    fields: Fields = msgspec.convert(value, Fields)
    for name in _LISTS:
        if isinstance(fields.get(name), list):
            return _calls_in(fields[name], offered)
    for name in ("action", "function"):
        if isinstance(fields.get(name), dict):
            return _calls_in(fields[name], offered)
    call = _call(fields, offered)
    return (call,) if call is not None else ()


def _call(fields: Fields, offered: Mapping[str, OfferedTool]) -> ToolCall | None:
    key = next((key for key in _NAMES if isinstance(fields.get(key), str)), None)
    if key is None:
        return None
    tool = _resolved(fields[key], offered)
    given = next((name for name in _ARGUMENTS if name in fields and name != key), None)
    if tool is None and not _looks_like_a_call(fields, key, given):
        return None
    if given is None:
        arguments = _dumped(_flat(fields, key, tool))
    else:
        arguments = fields[given] if isinstance(fields[given], str) else _dumped(fields[given] or {})
    return ToolCall(id="", name=tool.name if tool is not None else fields[key], arguments=arguments)


def _looks_like_a_call(fields: Fields, key: str, given: str | None) -> bool:
    """Whether an object that names no tool of ours is a call all the same, and not an answer in JSON."""
    if given is None or not fields.keys() <= {key, given} | _ASIDE:
        return False
    return key != "name" or isinstance(fields[given], dict)


def _flat(fields: Fields, key: str, tool: OfferedTool | None) -> Fields:
    """The arguments of a call that has them beside the tool's name: those that the tool knows, if it says."""
    known: Mapping[str, Any] = parameters_of(tool.info)["properties"] if tool is not None else {}
    rest = {name: value for name, value in fields.items() if name != key}
    return {name: value for name, value in rest.items() if (name in known if known else name not in _ASIDE)}


def _resolved(name: str, offered: Mapping[str, OfferedTool]) -> OfferedTool | None:
    """The tool of this name, or the only one that it can mean: in other letters, or by the tool's own name."""
    if name in offered:
        return offered[name]
    wanted = name.casefold()
    in_other_letters = [tool for tool in offered.values() if tool.name.casefold() == wanted]
    by_its_own_name = [tool for tool in offered.values() if tool.info.name.casefold() == wanted]
    return next((meant[0] for meant in (in_other_letters, by_its_own_name) if len(meant) == 1), None)


def _thought_in(value: object) -> str:
    if not isinstance(value, dict):
        return ""
    thought = msgspec.convert(value, Fields).get("thought")
    return thought if isinstance(thought, str) else ""


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
