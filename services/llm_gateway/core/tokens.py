"""How many tokens a request has, estimated from its text: no tokenizer is needed, and none fits every provider.

A weight is the estimate before it is scaled, in hundredths of a token: it adds up exactly, so a conversation's is kept
as it grows. Weights are on the high side of what providers count for English, and higher for what has more tokens in a
byte: digits, punctuation, other scripts. What a provider counted for an earlier call then scales them.
"""

from __future__ import annotations

import string
from collections.abc import Hashable, Iterable

import msgspec

from schemas.messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage, images_of, text_of
from schemas.requests import ResponseFormat
from schemas.tools import OfferedTool
from services.llm_gateway.core.offers import parameters_of

HUNDREDTHS = 100
WORD_BYTE = 27
"""A Latin letter or a space: 3.7 of them in a token."""
DIGIT_BYTE = 40
MARK_BYTE = 55
"""Punctuation and line ends: JSON and source code are full of them."""
OTHER_BYTE = 50
"""A byte of UTF-8 beyond ASCII: a token for a Cyrillic letter, one and a half for a Chinese character."""
MESSAGE = 500
"""What is put around a message, a tool call or a tool."""
TOOLS = 30_000
"""What is put around all tools: one provider tells its models with 350 tokens how to call them."""
IMAGE = 160_000
"""Of both families, about the most for an image that is not split up."""
SCALE_MIN = 0.5
"""A count that is lower still leaves something out: what came from a cache, or what images take."""
SCALE_MAX = 1.5
"""A count that is higher has something in it that does not grow with the text: what a provider tells its models."""
SCALE_WEIGHT_MIN = 100_000
"""A request that is lighter says little about the text: most of it is what was put around."""
FALL = 0.1
"""How far a scale follows a lower one."""
SCALES_MAX = 1024
ROOM_DEFAULT = 4_096
"""What is expected of an answer, in tokens, where the LLM sets no `maxTokens`."""

_WORD_BYTES = f"{string.ascii_letters} ".encode()
_DIGIT_BYTES = string.digits.encode()
_ASCII = bytes(range(128))


def text_weight(text: str) -> int:
    """The weight of some text. Counts by deleting bytes, which takes a millisecond for a megabyte."""
    data = text.encode("utf-8", "surrogatepass")
    others = data.translate(None, _ASCII)
    without_words = data.translate(None, _WORD_BYTES)
    without_digits = without_words.translate(None, _DIGIT_BYTES)
    words = len(data) - len(without_words)
    digits = len(without_words) - len(without_digits)
    marks = len(without_digits) - len(others)
    return words * WORD_BYTE + digits * DIGIT_BYTE + marks * MARK_BYTE + len(others) * OTHER_BYTE


def message_weight(message: Message) -> int:
    """The weight of a message, with its images and calls."""
    match message:
        case SystemMessage(content=content):
            return MESSAGE + text_weight(content)
        case UserMessage(content=content, name=name):
            return MESSAGE + text_weight(text_of(content)) + text_weight(name) + IMAGE * len(images_of(content))
        case AssistantMessage(content=content, tool_calls=calls, opaque=opaque):
            called = sum(MESSAGE + text_weight(call.name) + text_weight(call.arguments) for call in calls)
            return MESSAGE + text_weight(content) + text_weight(opaque) + called
        case ToolMessage(content=content, images=images):
            return MESSAGE + text_weight(content) + IMAGE * len(images)


def messages_weight(messages: Iterable[Message]) -> int:
    """The weight of some messages."""
    return sum(map(message_weight, messages))


def tools_weight(tools: Iterable[OfferedTool]) -> int:
    """The weight of an agent's tools."""
    weights = [
        MESSAGE + text_weight(tool.name) + text_weight(tool.info.description) + _json_weight(parameters_of(tool.info))
        for tool in tools
    ]
    return TOOLS + sum(weights) if weights else 0


def format_weight(response_format: ResponseFormat | None) -> int:
    """The weight of what an answer has to look like."""
    return 0 if response_format is None else MESSAGE + _json_weight(response_format.schema)


def tokens_of(weight: int, scale: float = 1.0) -> int:
    """The tokens of a weight."""
    return -int(-weight * scale // HUNDREDTHS)


def scale_of(counted: int, weight: int) -> float:
    """What a provider's count of a request says about our weights, within reason."""
    return min(max(counted * HUNDREDTHS / max(weight, 1), SCALE_MIN), SCALE_MAX)


class Scales:
    """What providers counted against what was estimated, by LLM. A scale rises at once and falls slowly."""

    def __init__(self) -> None:
        self._scales: dict[Hashable, float] = {}

    def learn(self, llm: Hashable, counted: int, weight: int) -> None:
        """A request of this weight was counted so by the provider."""
        if counted <= 0 or weight < SCALE_WEIGHT_MIN:
            return
        new = scale_of(counted, weight)
        old = self._scales.pop(llm, new)
        self._scales[llm] = max(new, old + (new - old) * FALL)
        while len(self._scales) > SCALES_MAX:
            del self._scales[next(iter(self._scales))]

    def get(self, llm: Hashable) -> float:
        """What to multiply a weight with; 1, which is on the high side, if nothing is known."""
        return self._scales.get(llm, 1.0)


def _json_weight(value: object) -> int:
    return text_weight(msgspec.json.encode(value).decode())
