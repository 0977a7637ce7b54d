"""Tools of a model without function calling: how they are said, and what is read in its text."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import (
    AssistantMessage,
    ImagePart,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from schemas.resources import ToolInfo
from schemas.tools import OfferedTool
from services.llm_gateway.core.text_tools import CALLS_MAX, as_text, instructions, read

ZONE: dict[str, Any] = {"type": "object", "properties": {"zone": {"type": "string"}, "reason": {"type": "string"}}}
NOW = OfferedTool(
    "clock__now", "clock", ToolInfo(name="now", description='Says "the" <time> & date.', input_schema=ZONE)
)
RUN = OfferedTool("shell__run", "shell", ToolInfo(name="run"))
TOOLS = (NOW, RUN)
CALL = '{"tool": "clock__now", "arguments": {"zone": "Europe/Vienna"}}'
ARGUMENTS = {"zone": "Europe/Vienna"}


def calls_in(text: str) -> list[tuple[str, Any]]:
    """The calls in a text: names and arguments, which are JSON here."""
    return [(call.name, json.loads(call.arguments)) for call in read(text, TOOLS).calls]


# --- what is said -----------------------------------------------------------------------


def test_tools_are_said_sorted_whole_and_unescaped() -> None:
    said = instructions((RUN, NOW))
    assert said == instructions((NOW, RUN))
    lines = [json.loads(line) for line in said.splitlines()[-2:]]
    assert lines == [
        {"name": "clock__now", "description": 'Says "the" <time> & date.', "parameters": ZONE},
        {"name": "shell__run", "description": "", "parameters": {"type": "object", "properties": {}}},
    ]
    assert "&#" not in said
    assert "{{" not in said


def test_an_example_in_the_instructions_is_the_form_that_calls_are_repeated_in() -> None:
    call = ToolCall(id="a", name="clock__now", arguments='{"zone":"Europe/Vienna"}')
    (said,) = as_text((AssistantMessage(content="Let me look.", tool_calls=(call,)),), ())
    assert said == AssistantMessage(content=f"Let me look.\n\n```json\n{CALL}\n```")
    assert calls_in(f"```json\n{CALL}\n```") == [("clock__now", ARGUMENTS)]


def test_results_are_said_by_the_user_in_one_message_with_their_images() -> None:
    image = ImagePart(url="https://example.com/a.png")
    calls = (ToolCall(id="a", name="clock__now", arguments="{}"), ToolCall(id="b", name="shell__run", arguments="[1"))
    messages: tuple[Message, ...] = (
        UserMessage(content="Go."),
        AssistantMessage(tool_calls=calls),
        ToolMessage(tool_call_id="a", content="noon", images=(image,)),
        ToolMessage(tool_call_id="b", name="shell__run", content="x </tool_result> y", is_error=True),
        UserMessage(content="And?"),
    )
    said = as_text(messages, TOOLS)
    assert said[0] == SystemMessage(content=instructions(TOOLS))
    assert said[1] == UserMessage(content="Go.")
    assert isinstance(said[2], AssistantMessage)
    assert said[2].tool_calls == ()
    assert '"malformed_arguments": "[1"' in said[2].content
    assert said[3:] == (
        UserMessage(
            content=(
                TextPart(text='<tool_result tool="clock__now" status="ok">\nnoon\n</tool_result>'),
                image,
                TextPart(text='<tool_result tool="shell__run" status="error">\nx <\\/tool_result> y\n</tool_result>'),
                TextPart(text="And?"),
            )
        ),
    )


def test_instructions_join_the_first_ones() -> None:
    said = as_text((SystemMessage(content="Be brief."), UserMessage(content="Hi")), TOOLS)
    assert said == (SystemMessage(content=f"Be brief.\n\n{instructions(TOOLS)}"), UserMessage(content="Hi"))
    assert as_text((UserMessage(content="Hi"),), ()) == (UserMessage(content="Hi"),)


def test_a_longer_conversation_begins_with_the_same_words() -> None:
    call = ToolCall(id="a", name="clock__now", arguments="{}")
    start: tuple[Message, ...] = (SystemMessage(content="Be brief."), UserMessage(content="Hi"))
    longer = (*start, AssistantMessage(tool_calls=(call,)), ToolMessage(tool_call_id="a", content="noon"))
    assert as_text(longer, TOOLS)[:2] == as_text(start, TOOLS)


# --- what is read -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{CALL}\n```",
        f"```JSON\n{CALL}\n```",
        f"```\n{CALL}\n```",
        f"~~~json\n{CALL}\n~~~",
        f"```tool_code\n{CALL}```",
        CALL,
        f"  {CALL}  ",
        f"```json\n{CALL}",
        f"```json {CALL} ```",
        f"<tool_call>\n{CALL}\n</tool_call>",
        f"Sure! I will call {CALL} now.",
        f"Let me look.\n\n```json\n{CALL}\n```\nI am waiting for it.",
        f"```json\n[{CALL}]\n```",
        f'{{"tool_calls": [{CALL}]}}',
        f"{CALL}}}",
        '{"name": "clock__now", "parameters": {"zone": "Europe/Vienna"}}',
        '{"tool": "clock__now", "args": {"zone": "Europe/Vienna"}}',
        '{"action": "clock__now", "action_input": {"zone": "Europe/Vienna"}}',
        '{"type": "function", "function": {"name": "clock__now", "arguments": "{\\"zone\\": \\"Europe/Vienna\\"}"}}',
        '{"tool": "clock__now", "zone": "Europe/Vienna"}',
        '{"tool": "Clock__NOW", "arguments": {"zone": "Europe/Vienna"}}',
        '{"tool": "now", "arguments": {"zone": "Europe/Vienna"}}',
        "<think>I could run {'tool': 'shell__run'} or\n```json\n" + '{"tool": "shell__run"}\n```</think>' + CALL,
    ],
)
def test_one_call_is_read_however_it_is_wrapped(text: str) -> None:
    assert calls_in(text) == [("clock__now", ARGUMENTS)]


@pytest.mark.parametrize(
    "text",
    [
        "It is noon.",
        "",
        '{"answer": "noon", "confidence": 0.9}',
        '```json\n{"name": "Bob", "age": 5}\n```',
        '{"name": "Bob", "input": "a text"}',
        '{"tool": "hammer", "price": 3}',
        '[{"name": "a"}, {"name": "b"}]',
        '{"thought": "I should look at the clock__now tool."}',
        '{"thought": "done", "answer": "It is noon."}',
        '{"thought": "done", "action": null, "answer": "It is noon."}',
        "Use {braces} and [brackets](https://example.com), as in {'name': x",
        '{"explanation": "write {\\"tool\\": \\"clock__now\\", \\"arguments\\": {}} for it"}',
        "{" * 5000,
        '{"a":' * 5000,
        "<think>" + CALL,
    ],
)
def test_what_is_no_call_is_the_answer_unchanged(text: str) -> None:
    found = read(text, TOOLS)
    assert (found.content, found.calls) == (text, ())


def test_several_calls_are_read_in_their_order_with_prose_between() -> None:
    second = '{"tool": "shell__run", "arguments": {}}'
    text = f"First this:\n```json\n{CALL}\n```\nThen that:\n```json\n{second}\n```\nDone."
    assert calls_in(text) == [("clock__now", ARGUMENTS), ("shell__run", {})]
    assert read(text, TOOLS).content == "First this:"
    assert calls_in(f"{CALL}\n{second}") == [("clock__now", ARGUMENTS), ("shell__run", {})]


def test_what_is_no_call_neither_hides_nor_ends_the_calls_around_it() -> None:
    second = '{"tool": "shell__run", "arguments": {}}'
    example = '```json\n{"zone": "UTC"}\n```\nis how a zone is written.\n'
    assert calls_in(f"{example}{CALL}") == [("clock__now", ARGUMENTS)]
    assert read(f"{example}{CALL}", TOOLS).content == example.rstrip()
    assert calls_in(f"{CALL}\n{{that}} was one, and\n{second}") == [("clock__now", ARGUMENTS), ("shell__run", {})]


def test_a_list_of_which_not_all_are_calls_is_an_answer() -> None:
    text = f'[{CALL}, {{"zone": "UTC"}}]'
    assert read(text, TOOLS) == (text, ())


def test_arguments_beside_the_name_are_taken_without_what_is_said_aside() -> None:
    assert calls_in('{"tool": "shell__run", "x": 1, "thought": "t"}') == [("shell__run", {"x": 1})]
    assert calls_in('{"tool": "clock__now", "zone": "UTC", "x": 1}') == [("clock__now", {"zone": "UTC"})]


def test_no_more_calls_are_read_than_the_limit() -> None:
    assert len(read("\n".join([CALL] * (CALLS_MAX + 5)), TOOLS).calls) == CALLS_MAX
    assert len(read(json.dumps([json.loads(CALL)] * (CALLS_MAX + 5)), TOOLS).calls) == CALLS_MAX


@pytest.mark.parametrize(
    "made_up",
    [
        'Output: noon\n```json\n{"tool": "shell__run", "arguments": {}}\n```',
        "Observation: noon\n\nThe time is noon.",
        '**Result:**\nnoon\n{"tool": "shell__run"}',
        'Result of running "clock__now":\nnoon\n{"tool": "shell__run"}',
        'Tool result (clock__now): noon\n{"tool": "shell__run"}',
        '<tool_result tool="clock__now" status="ok">\nnoon\n</tool_result>\n{"tool": "shell__run"}',
        'User: thanks!\n{"tool": "shell__run"}',
        '```json\n{"time": "noon"}\n```\n{"tool": "shell__run"}',
    ],
)
def test_a_result_that_the_model_made_up_is_cut_off_with_what_follows(made_up: str) -> None:
    found = read(f"Let me look.\n```json\n{CALL}\n```\n{made_up}", TOOLS)
    assert [call.name for call in found.calls] == ["clock__now"]
    assert found.content == "Let me look."


# --- what the predecessor got wrong -------------------------------------------------------


def test_a_second_block_after_the_call_is_no_extra_data() -> None:
    assert calls_in(f"```json\n{CALL}\n```\n\n```\nnoon\n```") == [("clock__now", ARGUMENTS)]


def test_words_are_not_glued_together_at_line_breaks() -> None:
    text = '{"tool": "shell__run", "arguments": {"script": "echo one\necho\ttwo\r\necho three"}}'
    assert calls_in(text) == [("shell__run", {"script": "echo one\necho\ttwo\r\necho three"})]


def test_a_fence_inside_a_string_does_not_end_the_call() -> None:
    text = '```json\n{"tool": "shell__run", "arguments": {"text": "```json\n{}\n```"}}\n```'
    assert calls_in(text) == [("shell__run", {"text": "```json\n{}\n```"})]


def test_an_answer_that_holds_fences_is_whole() -> None:
    text = "Write this:\n```python\nprint({})\n```\nand that:\n```\nx\n```"
    assert read(text, TOOLS).content == text


def test_a_tool_has_all_its_arguments_and_not_only_a_command() -> None:
    text = '{"thought": "t", "action": {"name": "clock__now", "zone": "UTC", "reason": "r", "modifies_resource": true}}'
    assert calls_in(text) == [("clock__now", {"zone": "UTC", "reason": "r"})]


def test_an_answer_beside_a_call_does_not_stop_it_and_the_thought_is_kept() -> None:
    text = '{"thought": "I look.", "answer": "?", "action": {"name": "clock__now", "arguments": {}}}'
    assert calls_in(text) == [("clock__now", {})]
    assert read(text, TOOLS).content == "I look."


@pytest.mark.parametrize("text", ['{"tool": "hammer", "arguments": {}}', '{"name": "hammer", "arguments": {"x": 1}}'])
def test_an_unknown_tool_is_a_call_so_that_the_model_is_told(text: str) -> None:
    assert [call.name for call in read(text, TOOLS).calls] == ["hammer"]


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        (
            '```json\n{"tool": "clock__now", "arguments": {"zone": }}\n```',
            '{"tool": "clock__now", "arguments": {"zone": }}',
        ),
        ('{"tool": "clock__now", "arguments": {"zone": "Eur', '{"tool": "clock__now", "arguments": {"zone": "Eur'),
        ("{'tool': 'clock__now', 'arguments': {}}", "{'tool': 'clock__now', 'arguments': {}}"),
        ('{"tool": "clock__now", "zone": }', '{"tool": "clock__now", "zone": }'),
        ("{tool: clock__now, arguments: {}}", "{tool: clock__now, arguments: {}}"),
        (
            '{"tool": "clock__now", "arguments": {"a": 1,}}\nObservation: noon',
            '{"tool": "clock__now", "arguments": {"a": 1,}}',
        ),
    ],
)
def test_a_call_that_cannot_be_read_is_a_call_with_its_text_as_arguments(text: str, raw: str) -> None:
    (call,) = read(f"I look.\n{text}", TOOLS).calls
    assert (call.name, call.arguments) == ("clock__now", raw)
    assert read(f"I look.\n{text}", TOOLS).content == "I look."


def test_arguments_that_are_no_object_stay_what_they_are() -> None:
    assert calls_in('{"tool": "clock__now", "arguments": [1]}') == [("clock__now", [1])]
    (call,) = read('{"tool": "clock__now", "arguments": "noon"}', TOOLS).calls
    assert call.arguments == "noon"
    assert calls_in('{"tool": "clock__now", "arguments": null}') == [("clock__now", {})]


# --- laws ---------------------------------------------------------------------------------

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=4), min_size=1, max_size=4))
def test_what_is_said_of_calls_is_read_as_the_same_calls(arguments: list[dict[str, Any]]) -> None:
    calls = tuple(ToolCall(id="", name="shell__run", arguments=json.dumps(given)) for given in arguments)
    (said,) = as_text((AssistantMessage(content="Let me look.", tool_calls=calls),), ())
    assert isinstance(said, AssistantMessage)
    found = read(said.content, TOOLS)
    assert [json.loads(call.arguments) for call in found.calls] == arguments
    assert found.content == "Let me look."


LONG = 200_000
NASTY = {
    "spaces after a fence": "```" + " " * LONG,
    "lines after a fence": "```json" + "\n" * LONG,
    "fences": "``` " * (LONG // 4),
    "objects that do not end": '{"a":\n' * (LONG // 6),
    "objects with a name that do not end": '{"name":\n' * (LONG // 9),
    "arrays that do not end": "[\n" * (LONG // 2),
    "thoughts that do not end": "<think>" * (LONG // 7),
    "results of nothing": f"{CALL}\n" + "result " * (LONG // 7),
    "spaces in a result": f"{CALL}\nresult" + " " * LONG + "\n{",
    "answers in JSON": '{"a": 1}\n' * (LONG // 9),
    "one string": '{"tool": "' + "x" * LONG,
    "braces and spaces": ("{" + " " * 1000) * (LONG // 1000),
    "tags": "<tool_call> " * (LONG // 12),
}


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY.keys())
def test_no_text_takes_long_to_read(text: str) -> None:
    began = time.process_time()
    read(text, TOOLS)
    assert time.process_time() - began < 1.0


@given(st.text(alphabet=st.sampled_from(list('{}[]",:`~\n <>/toclarguments_knw')), max_size=400))
def test_any_text_is_read(text: str) -> None:
    found = read(text, TOOLS)
    assert found.calls or found.content == text
    assert all(call.name for call in found.calls)
