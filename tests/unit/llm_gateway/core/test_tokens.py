"""The estimate of tokens: its laws, and how it compares with counts that providers have published.

The counts are those of OpenAI's cookbook ("How to count tokens with tiktoken": of its tokenizers, and of the API for a
conversation) and of Anthropic's documentation ("Token counting": a tool and a question).
"""

from __future__ import annotations

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
from schemas.requests import ResponseFormat
from schemas.resources import ToolInfo
from schemas.tools import OfferedTool
from services.llm_gateway.core import tokens

JARGON: tuple[Message, ...] = (
    SystemMessage(
        content="You are a helpful, pattern-following assistant that translates corporate jargon into plain English."
    ),
    UserMessage(name="example_user", content="New synergies will help drive top-line growth."),
    UserMessage(name="example_assistant", content="Things working well together will increase revenue."),
    UserMessage(
        name="example_user",
        content="Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
    ),
    UserMessage(name="example_assistant", content="Let's talk later when we're less busy about how to do better."),
    UserMessage(content="This late pivot means we don't have time to boil the ocean for the client deliverable."),
)
WEATHER = OfferedTool(
    "get_weather",
    "",
    ToolInfo(
        name="get_weather",
        description="Get the current weather in a given location",
        input_schema={
            "type": "object",
            "properties": {"location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}},
            "required": ["location"],
        },
    ),
)
TEXTS = st.text(max_size=60)
MESSAGES = st.one_of(
    st.builds(SystemMessage, content=TEXTS),
    st.builds(UserMessage, content=TEXTS),
    st.builds(AssistantMessage, content=TEXTS, opaque=TEXTS),
    st.builds(ToolMessage, tool_call_id=st.just("a"), content=TEXTS),
)


def test_a_conversation_is_estimated_near_what_the_provider_counted() -> None:
    estimated = tokens.tokens_of(tokens.messages_weight(JARGON))
    assert 127 <= estimated <= 1.5 * 129


def test_a_tool_is_estimated_near_what_the_provider_counted() -> None:
    asked = UserMessage(content="What's the weather like in San Francisco?")
    estimated = tokens.tokens_of(tokens.tools_weight([WEATHER]) + tokens.message_weight(asked))
    assert 0.9 * 403 <= estimated <= 1.2 * 403


@pytest.mark.parametrize(
    ("text", "counted"),
    [("tiktoken is great!", 6), ("antidisestablishmentarianism", 6), ("お誕生日おめでとう", 9)],
)
def test_a_text_is_estimated_within_half_of_what_a_tokenizer_counts(text: str, counted: int) -> None:
    assert 0.8 * counted <= tokens.text_weight(text) / tokens.HUNDREDTHS <= 1.5 * counted


def test_other_scripts_have_more_tokens_in_a_character() -> None:
    same = {"en": "good morning to all", "ru": "доброе утро всем", "zh": "大家早上好", "el": "καλημέρα σε όλους"}
    per_character = {name: tokens.text_weight(text) / len(text) for name, text in same.items()}
    assert per_character["en"] < per_character["ru"] < per_character["zh"]
    assert per_character["en"] < per_character["el"]


def test_images_count_and_the_bytes_of_an_image_do_not() -> None:
    small = ImagePart(media_type="image/png", data="aGk=")
    large = ImagePart(media_type="image/png", data="aGk=" * 100_000)
    one = tokens.message_weight(UserMessage(content=(TextPart(text="see"), small)))
    assert one == tokens.message_weight(UserMessage(content=(TextPart(text="see"), large)))
    assert one >= tokens.IMAGE
    seen = ToolMessage(tool_call_id="a", content="", images=(small, ImagePart(url="https://example.com/a.png")))
    assert tokens.message_weight(seen) >= 2 * tokens.IMAGE


def test_calls_tools_formats_and_opaque_parts_count() -> None:
    call = ToolCall(id="a", name="get_weather", arguments='{"location": "Rome"}')
    plain = tokens.message_weight(AssistantMessage(content="x"))
    assert tokens.message_weight(AssistantMessage(content="x", tool_calls=(call,))) > plain
    assert tokens.message_weight(AssistantMessage(content="x", opaque="thoughts")) > plain
    assert tokens.tools_weight([]) == 0
    assert tokens.tools_weight([WEATHER, WEATHER]) > tokens.tools_weight([WEATHER])
    assert tokens.format_weight(None) == 0
    assert tokens.format_weight(ResponseFormat(schema={"type": "object"})) > 0


@given(TEXTS, TEXTS)
def test_weights_of_texts_add_up(one: str, other: str) -> None:
    assert tokens.text_weight(one + other) == tokens.text_weight(one) + tokens.text_weight(other)


@given(st.lists(MESSAGES, max_size=8), MESSAGES)
def test_a_longer_conversation_is_never_lighter_and_never_below_a_floor(messages: list[Message], more: Message) -> None:
    weight = tokens.messages_weight(messages)
    assert tokens.messages_weight([*messages, more]) == weight + tokens.message_weight(more)
    assert tokens.message_weight(more) > 0
    characters = sum(len(str(getattr(message, "content", ""))) for message in messages)
    assert tokens.tokens_of(weight) >= characters / 4
    assert tokens.tokens_of(weight) >= 4 * len(messages)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(tokens.SCALE_MIN, tokens.SCALE_MAX))
def test_more_weight_is_never_fewer_tokens(one: int, other: int, scale: float) -> None:
    low, high = sorted((one, other))
    assert tokens.tokens_of(low, scale) <= tokens.tokens_of(high, scale)


# --- what providers counted -------------------------------------------------------------


def test_an_unknown_llm_has_the_plain_estimate() -> None:
    assert tokens.Scales().get("model") == 1.0


def test_what_a_provider_counted_scales_the_next_estimate() -> None:
    scales = tokens.Scales()
    scales.learn("model", 1_250, 100_000)
    assert tokens.tokens_of(200_000, scales.get("model")) == 2_500
    assert scales.get("another") == 1.0


def test_a_scale_rises_at_once_and_falls_slowly() -> None:
    scales = tokens.Scales()
    scales.learn("model", 1_300, 100_000)
    scales.learn("model", 900, 100_000)
    assert 1.2 < scales.get("model") < 1.3
    scales.learn("model", 1_400, 100_000)
    assert scales.get("model") == 1.4


def test_a_count_that_makes_no_sense_is_bounded_or_ignored() -> None:
    scales = tokens.Scales()
    scales.learn("model", 0, 100_000)
    assert scales.get("model") == 1.0
    scales.learn("model", 1, 100_000)
    assert scales.get("model") == tokens.SCALE_MIN
    scales.learn("model", 10**9, 100_000)
    assert scales.get("model") == tokens.SCALE_MAX


def test_a_small_request_says_nothing_about_others() -> None:
    scales = tokens.Scales()
    scales.learn("model", 900, tokens.SCALE_WEIGHT_MIN - 1)
    assert scales.get("model") == 1.0


def test_what_is_remembered_of_llms_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "SCALES_MAX", 2)
    scales = tokens.Scales()
    for name in ("a", "b", "c"):
        scales.learn(name, 1_200, 100_000)
    assert [scales.get(name) for name in ("a", "b", "c")] == [1.0, 1.2, 1.2]
