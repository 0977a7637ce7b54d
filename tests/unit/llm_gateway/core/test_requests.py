"""Requests of both families: images, thinking, formats, cache marks, and what is kept for a provider alone.

Every request is read by the types of the provider's SDK, strictly.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

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
from schemas.requests import ResponseFormat
from schemas.resources import AnthropicOptions, LLMParameters, LLMSpec, OpenAIOptions, ToolInfo
from schemas.tools import OfferedTool
from services.llm_gateway.core.calls import ModelRequest
from services.llm_gateway.core.endpoints import BadSpec, endpoint_of, parameters_of, unsent
from services.llm_gateway.providers import chat_format, messages_format
from tests.support.provider_wire import Json, chat_problem, messages_problem, unmarked

PNG = ImagePart(media_type="image/png", data="aGVsbG8=")
WEB = ImagePart(url="https://example.com/a.webp")
TOOLS = tuple(OfferedTool(f"clock__{name}", "clock", ToolInfo(name=name)) for name in ("later", "now"))
HELLO: tuple[Message, ...] = (SystemMessage(content="Be brief."), UserMessage(content="Hello"))
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
STRICT = ResponseFormat(name="an answer", schema=SCHEMA)
LOOSE = ResponseFormat(schema={**SCHEMA, "additionalProperties": True})


def call(id_: str) -> ToolCall:
    return ToolCall(id=id_, name="clock__now", arguments="{}")


def result(id_: str, *images: ImagePart, content: str = "noon") -> ToolMessage:
    return ToolMessage(tool_call_id=id_, name="clock__now", content=content, images=images)


def chat(messages: tuple[Message, ...], provider: Any = "openai", **given: Any) -> Json:
    """The request to a server of the OpenAI family."""
    request = {name: given.pop(name) for name in ("tools", "response_format", "output_tokens_max") if name in given}
    options = given.pop("openai", None)
    spec = LLMSpec(provider=provider, parameters=LLMParameters(**given), openai=options)
    asked = ModelRequest(messages=messages, **request)
    body = chat_format.request_body(endpoint_of(spec), "m", parameters_of(spec), asked)
    assert provider == "mistral" or chat_problem(body) is None
    return body


def anthropic(
    messages: tuple[Message, ...], options: AnthropicOptions | None = None, *, version: str = "2026-10-21", **given: Any
) -> Json:
    """The request to Anthropic."""
    request = {name: given.pop(name) for name in ("tools", "response_format", "output_tokens_max") if name in given}
    spec = LLMSpec(provider="anthropic", parameters=LLMParameters(**given), anthropic=options)
    asked = ModelRequest(messages=messages, **request)
    body = messages_format.request_body(endpoint_of(spec), "m", parameters_of(spec), asked)
    assert messages_problem(body, version) is None
    return body


# --- images -----------------------------------------------------------------------------


def test_images_of_the_user_are_parts_in_their_order() -> None:
    said = UserMessage(content=(TextPart(text="Compare"), PNG, TextPart(text="with"), WEB, TextPart(text="")))
    assert chat((said,))["messages"][0]["content"] == [
        {"type": "text", "text": "Compare"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}},
        {"type": "text", "text": "with"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.webp"}},
    ]
    assert unmarked(anthropic((said,)))["messages"][0]["content"] == [
        {"type": "text", "text": "Compare"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}},
        {"type": "text", "text": "with"},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.webp"}},
    ]


def test_parts_without_an_image_are_plain_text_for_servers_that_know_no_parts() -> None:
    said = UserMessage(content=(TextPart(text="a"), TextPart(text="b")))
    assert chat((said,))["messages"][0]["content"] == "a\nb"


PICTURES: tuple[Message, ...] = (
    *HELLO,
    AssistantMessage(tool_calls=(call("a"), call("b"), call("c"))),
    result("a", PNG),
    result("b"),
    result("c", WEB, PNG, content=""),
)


def test_openai_is_shown_the_images_of_results_after_all_of_them() -> None:
    messages = chat(PICTURES)["messages"]
    assert [message["role"] for message in messages[2:]] == ["assistant", "tool", "tool", "tool", "user"]
    assert [message["content"] for message in messages[3:6]] == ["noon", "noon", ""]
    assert [part.get("text") or part["image_url"]["url"] for part in messages[6]["content"]] == [
        "Images in the result of tool call a (clock__now):",
        "data:image/png;base64,aGVsbG8=",
        "Images in the result of tool call c (clock__now):",
        "https://example.com/a.webp",
        "data:image/png;base64,aGVsbG8=",
    ]
    later = chat((*PICTURES, AssistantMessage(content="Seen."), UserMessage(content="And?")))["messages"]
    assert later[: len(messages)] == messages
    assert [message["role"] for message in later[7:]] == ["assistant", "user"]


def test_anthropic_is_shown_images_inside_their_results() -> None:
    blocks = unmarked(anthropic(PICTURES))["messages"][-1]["content"]
    assert [block["type"] for block in blocks] == ["tool_result"] * 3
    assert [part["type"] for part in blocks[0]["content"]] == ["text", "image"]
    assert blocks[1]["content"] == "noon"
    assert [part["type"] for part in blocks[2]["content"]] == ["image", "image"]


def test_mistral_is_shown_images_inside_their_results_because_nobody_may_speak_between() -> None:
    messages = chat(PICTURES, "mistral")["messages"]
    assert [message["role"] for message in messages[2:]] == ["assistant", "tool", "tool", "tool"]
    assert [part["type"] for part in messages[3]["content"]] == ["text", "image_url"]
    assert messages[4]["content"] == "noon"


# --- limits and thinking ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_resource", "of_budget", "sent"), [(None, None, None), (5, None, 5), (None, 7, 7), (5, 7, 5), (9, 7, 7)]
)
def test_the_smaller_limit_of_the_answer_is_sent(
    of_resource: int | None, of_budget: int | None, sent: int | None
) -> None:
    body = chat(HELLO, max_tokens=of_resource, output_tokens_max=of_budget)
    assert body.get("max_completion_tokens") == sent
    body = anthropic(HELLO, max_tokens=of_resource, output_tokens_max=of_budget)
    assert body["max_tokens"] == sent or (sent is None and body["max_tokens"] == messages_format.MAX_TOKENS_DEFAULT)


def test_a_budget_larger_than_the_default_does_not_raise_anthropics_limit() -> None:
    assert anthropic(HELLO, output_tokens_max=10**6)["max_tokens"] == messages_format.MAX_TOKENS_DEFAULT


@pytest.mark.parametrize(
    ("budget", "max_tokens", "left", "thinking", "limit"),
    [
        (2000, None, None, 2000, messages_format.MAX_TOKENS_DEFAULT + 2000),
        (2000, 3000, None, 2000, 3000),
        (1024, 3000, None, 1024, 3000),
        (30_000, None, None, 30_000, messages_format.MAX_TOKENS_DEFAULT + 30_000),
        (30_000, 40_000, 10_000, 5000, 10_000),
        (2000, None, 1500, None, 1500),  # half of it would be too little to think
    ],
)
def test_thinking_leaves_room_for_the_answer(
    budget: int, max_tokens: int | None, left: int | None, thinking: int | None, limit: int
) -> None:
    options = AnthropicOptions(thinking_budget_tokens=budget)
    body = anthropic(HELLO, options, max_tokens=max_tokens, output_tokens_max=left)
    assert body["max_tokens"] == limit
    assert body.get("thinking") == (thinking and {"type": "enabled", "budget_tokens": thinking})


@pytest.mark.parametrize(
    ("budget", "max_tokens", "text"),
    [(1023, None, "1024 at least"), (0, None, "1024 at least"), (2000, 2000, "must be more than"), (2000, 5, "2000")],
)
def test_thinking_that_the_api_would_refuse_is_an_error_of_the_resource(
    budget: int, max_tokens: int | None, text: str
) -> None:
    options = AnthropicOptions(thinking_budget_tokens=budget)
    spec = LLMSpec(provider="anthropic", parameters=LLMParameters(max_tokens=max_tokens), anthropic=options)
    with pytest.raises(BadSpec, match=text):
        parameters_of(spec)


def test_a_model_that_thinks_is_sent_no_sampling_but_a_high_top_p() -> None:
    given = LLMParameters(temperature="0.2", top_k=4, top_p="0.99")
    options = AnthropicOptions(thinking_budget_tokens=2000)
    spec = LLMSpec(provider="anthropic", parameters=given, anthropic=options)
    assert unsent(endpoint_of(spec), parameters_of(spec)) == ("topK", "temperature")
    low = msgspec.structs.replace(spec, parameters=LLMParameters(top_p=0.5))
    assert unsent(endpoint_of(low), parameters_of(low)) == ("topP",)
    without = msgspec.structs.replace(spec, anthropic=None)
    assert unsent(endpoint_of(without), parameters_of(without)) == ()


THOUGHT = AssistantMessage(
    tool_calls=(call("a"),),
    opaque='[{"block":{"type":"thinking","thinking":"t","signature":"s"}},{"call":0}]',
    opaque_for="anthropic",
)
UNTHOUGHT = AssistantMessage(tool_calls=(call("a"),))


@pytest.mark.parametrize(
    ("messages", "thinks"),
    [
        ((*HELLO, THOUGHT, result("a")), True),
        ((*HELLO, UNTHOUGHT, result("a")), False),  # begun by another model: a fallback, or one without thinking
        ((*HELLO, THOUGHT, result("a"), UNTHOUGHT, result("a")), True),  # only the turn's beginning must have it
        ((*HELLO, UNTHOUGHT, result("a"), THOUGHT, result("a")), False),
        ((*HELLO, UNTHOUGHT, result("a"), AssistantMessage(content="Noon."), UserMessage(content="And?")), True),
        ((*HELLO, UNTHOUGHT, result("a"), UserMessage(content="And?")), True),  # the user speaks beside the result
    ],
)
def test_a_turn_that_was_begun_without_thinking_is_ended_without(messages: tuple[Message, ...], thinks: bool) -> None:
    body = anthropic(messages, AnthropicOptions(thinking_budget_tokens=2000))
    assert ("thinking" in body) is thinks


# --- what is kept for a provider ------------------------------------------------------------


def test_another_providers_blocks_are_never_sent() -> None:
    details = '{"reasoning_content":"r","reasoning_details":[{"type":"reasoning.text","text":"r"}]}'
    foreign = AssistantMessage(tool_calls=(call("a"),), opaque=details, opaque_for="openai:openrouter.ai")
    conversation = (*HELLO, foreign, result("a"))
    assert "reasoning_details" in chat(conversation, base_url="https://openrouter.ai/api/v1")["messages"][2]
    for body in (chat(conversation), chat(conversation, base_url="https://other.example/v1"), anthropic(conversation)):
        assert "reasoning" not in str(body)
    thought = (*HELLO, THOUGHT, result("a"))
    assert "thinking" in str(anthropic(thought))
    for body in (chat(thought), anthropic(thought, base_url="https://other.example")):
        assert "thinking" not in str(body)
        assert "signature" not in str(body)


# --- formats ----------------------------------------------------------------------------------


def held(body: Json) -> Any:
    return body.get("response_format") or body.get("output_config", {}).get("format")


def system(body: Json) -> str:
    text: str = body["system"][0]["text"] if "system" in body else body["messages"][0]["content"]
    return text


def test_openai_holds_the_model_to_the_format_also_when_it_may_call_tools() -> None:
    sent = {"type": "json_schema", "json_schema": {"name": "an_answer", "schema": SCHEMA, "strict": True}}
    assert held(chat(HELLO, tools=TOOLS, response_format=STRICT)) == sent
    azure = OpenAIOptions(api_type="AZURE", api_version="2025-01-01")
    assert held(chat(HELLO, tools=TOOLS, response_format=STRICT, openai=azure, base_url="https://x")) == sent
    assert held(chat(HELLO, response_format=LOOSE))["json_schema"]["strict"] is False
    assert system(chat(HELLO, tools=TOOLS, response_format=STRICT)) == "Be brief."


@pytest.mark.parametrize(
    "given", [{"base_url": "http://localhost:8000/v1"}, {"provider": "google"}, {"provider": "mistral"}]
)
def test_servers_that_could_then_call_no_tools_are_told_in_words(given: dict[str, Any]) -> None:
    body = chat(HELLO, tools=TOOLS, response_format=STRICT, **given)
    assert held(body) is None
    assert '"additionalProperties": false' in system(body)
    alone = chat(HELLO, response_format=STRICT, **given)
    assert held(alone)["json_schema"]["strict"] is True
    assert system(alone) == "Be brief."


def test_a_format_that_is_no_object_is_said_in_words() -> None:
    body = chat(HELLO, response_format=ResponseFormat(schema={"type": "array"}))
    assert held(body) is None
    assert '{"type": "array"}' in system(body)


def test_anthropic_holds_the_model_to_a_schema_that_it_takes_and_is_told_of_others() -> None:
    body = anthropic(HELLO, tools=TOOLS, response_format=STRICT)
    assert held(body) == {"type": "json_schema", "schema": SCHEMA}
    assert system(body) == "Be brief."
    body = anthropic(HELLO, tools=TOOLS, response_format=LOOSE)
    assert held(body) is None
    assert system(body).startswith("Be brief.\n\nYour final answer must be JSON")
    elsewhere = anthropic(HELLO, response_format=STRICT, base_url="http://compatible.example")
    assert held(elsewhere) is None
    assert "JSON Schema" in system(elsewhere)


def test_effort_and_format_share_the_configuration_of_the_output() -> None:
    body = anthropic(HELLO, response_format=STRICT, reasoning_effort="low")
    assert body["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}


# --- tools ------------------------------------------------------------------------------------


def test_a_description_that_openai_would_refuse_goes_on_in_the_instructions() -> None:
    words = " ".join(str(n) for n in range(1000))
    exact = OfferedTool("a__exact", "a", ToolInfo(name="exact", description="x" * 1024))
    long = OfferedTool("a__long", "a", ToolInfo(name="long", description=words))
    body = chat(HELLO, tools=(exact, long))
    sent = [tool["function"]["description"] for tool in body["tools"]]
    assert [len(description) for description in sent] == [1024, 1024]
    begun, end = sent[1].removesuffix(chat_format.CUT), system(body)
    assert end.startswith("Be brief.\n\nThe description of the tool a__long goes on:\n")
    assert begun + end.split("goes on:\n")[1] == words
    for elsewhere in (chat(HELLO, "google", tools=(long,)), anthropic(HELLO, tools=(long,))):
        assert words in str(elsewhere["tools"])
        assert system(elsewhere) == "Be brief."


# --- the cache ----------------------------------------------------------------------------------


def marked(body: Json) -> list[str]:
    """Where the marks are."""
    places = [f"tool {tool['name']}" for tool in body.get("tools", ()) if "cache_control" in tool]
    places += [f"system {n}" for n, block in enumerate(body.get("system", ())) if "cache_control" in block]
    for at, message in enumerate(body["messages"]):
        places += [
            f"message {at}.{n} {block['type']}"
            for n, block in enumerate(message["content"])
            if "cache_control" in block
        ]
    return places


TURNS: list[tuple[Message, ...]] = [
    HELLO,
    (*HELLO, THOUGHT, result("a")),
    (*HELLO, THOUGHT, result("a"), AssistantMessage(tool_calls=(call("b"), call("c"))), result("b"), result("c", PNG)),
]


def test_marks_are_on_the_tools_the_instructions_and_the_ends_of_the_last_two_turns() -> None:
    assert marked(anthropic(TURNS[0], tools=TOOLS)) == ["tool clock__now", "system 0", "message 0.0 text"]
    assert marked(anthropic(TURNS[1], tools=TOOLS))[2:] == ["message 0.0 text", "message 2.0 tool_result"]
    assert marked(anthropic(TURNS[2], tools=TOOLS))[2:] == ["message 2.0 tool_result", "message 4.1 tool_result"]
    assert marked(anthropic(TURNS[2], AnthropicOptions(prompt_caching=False), tools=TOOLS)) == []


@pytest.mark.parametrize("response_format", [None, STRICT, LOOSE])
@pytest.mark.parametrize("build", [anthropic, chat])
def test_a_turn_repeats_the_bytes_of_the_one_before_but_for_the_marks(
    build: Any, response_format: ResponseFormat | None
) -> None:
    bodies = [unmarked(build(turn, tools=TOOLS, response_format=response_format)) for turn in TURNS]
    prefixes = [msgspec.json.encode({k: v for k, v in body.items() if k != "messages"}) for body in bodies]
    assert len(set(prefixes)) == 1
    said = [msgspec.json.encode(body["messages"]) for body in bodies]
    for before, after in itertools.pairwise(said):
        assert after.startswith(before[:-1])


def test_a_mark_changes_nothing_that_is_kept() -> None:
    info = ToolInfo(name="now", input_schema={"type": "object", "properties": {}})
    tools = (OfferedTool("clock__now", "clock", info),)
    anthropic(TURNS[1], tools=tools)
    assert anthropic(TURNS[1], AnthropicOptions(prompt_caching=False), tools=tools) == unmarked(
        anthropic(TURNS[1], tools=tools)
    )
    assert "cache_control" not in info.input_schema
