"""A provider whose model calls tools in its text (`toolCalling: text`), in front of any other provider.

The text goes to watchers as it comes, blocks and all; recorded is what was said before the first call, and the calls.
"""

from __future__ import annotations

import msgspec

from services.llm_gateway.core.calls import ModelReply, ModelRequest
from services.llm_gateway.core.formats import instruction, with_instructions
from services.llm_gateway.core.text_tools import as_text, read
from services.llm_gateway.providers.base import Checked, OnText, Provider


class TextCalling:
    """The `Provider` of a model without function calling."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def call(self, request: ModelRequest, on_text: OnText) -> ModelReply:
        """The whole answer, with the calls that are in its text."""
        reply = await self._provider.call(_in_words(request), on_text)
        message = reply.message
        if message.tool_calls or not request.tools:
            return reply
        found = read(message.content, request.tools)
        if not found.calls:
            return reply
        # What was kept of the provider's own form stands for a text that is another now.
        message = msgspec.structs.replace(
            message, content=found.content, tool_calls=found.calls, opaque="", opaque_for=""
        )
        return msgspec.structs.replace(reply, message=message)

    async def check(self) -> Checked:
        """As the provider behind it."""
        return await self._provider.check()

    async def close(self) -> None:
        """Close the provider behind it."""
        await self._provider.close()


def _in_words(request: ModelRequest) -> ModelRequest:
    messages, wanted = as_text(request.messages, request.tools), request.response_format
    if wanted is not None and request.tools:
        # A model that is held to the format could not write a call.
        messages, wanted = with_instructions(messages, instruction(wanted)), None
    return msgspec.structs.replace(request, messages=messages, tools=(), response_format=wanted)
