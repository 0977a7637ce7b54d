"""Captured content: in the conventions' form, bounded, and without the secrets that the process knows."""

from __future__ import annotations

import json

from schemas.messages import AssistantMessage, ImagePart, SystemMessage, TextPart, ToolCall, ToolMessage, UserMessage
from schemas.resources import SecretKeyRef
from services.runtime.secrets import Secrets
from services.runtime.telemetry.content import MESSAGES_MAX, TEXT_LENGTH_MAX, Content

KEY = "sk-a-key-that-opens-doors"


def content() -> Content:
    secrets = Secrets("", {"API_KEY": KEY})
    secrets.get(SecretKeyRef(name="any", key="API_KEY"))
    return Content(secrets)


def test_a_conversation_has_the_form_of_the_conventions() -> None:
    image = ImagePart(media_type="image/png", data="aGk=")
    call = ToolCall(id="c1", name="clock__now", arguments='{"a":1}')
    shown = content().asked(
        (
            SystemMessage(content="Be brief."),
            UserMessage(content=(TextPart(text="What is this?"), image)),
            AssistantMessage(content="Let me look.", tool_calls=(call,)),
            ToolMessage(tool_call_id="c1", content="noon"),
        )
    )
    assert json.loads(shown["gen_ai.system_instructions"]) == [{"type": "text", "content": "Be brief."}]
    assert json.loads(shown["gen_ai.input.messages"]) == [
        {
            "role": "user",
            "parts": [{"type": "text", "content": "What is this?"}, {"type": "image", "media_type": "image/png"}],
        },
        {
            "role": "assistant",
            "parts": [
                {"type": "text", "content": "Let me look."},
                {"type": "tool_call", "id": "c1", "name": "clock__now", "arguments": '{"a":1}'},
            ],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "noon"}]},
    ]
    answered = content().answered(AssistantMessage(content="Noon."), "stop")
    assert json.loads(answered["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Noon."}], "finish_reason": "stop"}
    ]


def test_it_is_bounded() -> None:
    shown = content().asked(tuple(UserMessage(content=f"{n} " + "x" * 100_000) for n in range(100)))
    messages = json.loads(shown["gen_ai.input.messages"])
    assert [one["parts"][0]["content"].split()[0] for one in messages] == [str(n) for n in range(100)][-MESSAGES_MAX:]
    assert len(shown["gen_ai.input.messages"]) < MESSAGES_MAX * (TEXT_LENGTH_MAX + 200)
    assert messages[0]["parts"][0]["content"].endswith("characters more)")


def test_no_secret_that_the_process_has_used_is_in_it() -> None:
    call = ToolCall(id="c1", name="http", arguments=json.dumps({"authorization": f"Bearer {KEY}"}))
    shown = content().asked((SystemMessage(content=f"The key is {KEY}."), AssistantMessage(tool_calls=(call,))))
    assert KEY not in str(shown)
    assert "[secret]" in shown["gen_ai.system_instructions"]
    half = "x" * (TEXT_LENGTH_MAX - 5) + KEY
    assert KEY[:5] not in content().text(half)
