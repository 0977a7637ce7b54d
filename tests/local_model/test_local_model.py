"""A task that a real model answers, on this machine: `make test-local-model`.

Whatever the model says is right; what counts is that it was streamed, counted and recorded as it was said.
"""

# ruff: noqa: T201 - what the model said is what this prints
from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest

from schemas.events import ModelAnswered
from schemas.live import TextDelta
from schemas.messages import text_of
from schemas.resources import LLM, Agent, AgentSpec, LLMParameters, LLMSpec, Metadata, Pricing, Ref, ServerRef
from schemas.task import Ended, FinalAnswer
from schemas.wire import Malformed, decode
from services.runtime.ports import Signal
from tests.local_model.server import CONTEXT_TOKENS, MODEL
from tests.support.mcp_servers.bench import plain
from tests.support.stack import Stack, stack

PYTHON = os.environ.get("LOCAL_MODEL_PYTHON", "")
SERVER = Path(__file__).with_name("server.py")
LOAD_S = 120.0
ANSWER_S = 300.0
"""A busy machine says five words a second."""
TOKENS_MAX = 48

pytestmark = pytest.mark.skipif(not PYTHON, reason="run it with `make test-local-model`, which installs the model")


@contextmanager
def local_model() -> Generator[str]:
    """The model's address."""
    with subprocess.Popen([PYTHON, SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], LOAD_S)[0], "the model is not there in time"
            address = process.stdout.readline().strip()
            assert address, "the server of the model has ended"
            yield address
        finally:
            process.kill()


async def declare(
    running: Stack, address: str, *, tool_calling: Literal["native", "text"] = "native", servers: tuple[str, ...] = ()
) -> None:
    """The LLM and an agent that uses it."""
    parameters = LLMParameters(
        model=MODEL, base_url=address, temperature=0, max_tokens=TOKENS_MAX, context_tokens=CONTEXT_TOKENS
    )
    pricing = Pricing(input=Decimal(1), output=Decimal(2))
    spec = LLMSpec(provider="openai", parameters=parameters, pricing=pricing, tool_calling=tool_calling)
    await running.stage.apply(LLM(metadata=Metadata(name="local"), spec=spec))
    agent = AgentSpec(
        llm_ref=Ref(name="local"),
        system="You are a helpful assistant. Answer in one short sentence.",
        mcp_servers=tuple(ServerRef(name=name) for name in servers),
    )
    await running.stage.apply(Agent(metadata=Metadata(name="helper"), spec=agent))


async def test_a_task_is_answered_by_a_real_model(tmp_path: Path) -> None:
    heard: list[TextDelta] = []

    async def hear(signal: Signal) -> None:
        try:
            heard.append(decode(signal.data, TextDelta))
        except Malformed:
            return  # a transition

    with local_model() as address:
        async with stack(tmp_path) as running:
            await declare(running, address)
            task = running.stage.task("capital")
            await running.stage.bus.signals.subscribe(task.live, hear)
            await running.stage.submit(name="capital", userMessage="What is the capital of France?")
            state = await running.stage.until_state(task, FinalAnswer, wait_s=ANSWER_S)
            answer = decode(await running.stage.stored(task, task.model_event(1, 1)), ModelAnswered)
    text = text_of(answer.message.content)
    print(f"\n{MODEL}: {text!r}\n{answer.usage}, {len(heard)} deltas, {answer.latency_s:.1f} s, {state.spend}")
    assert text
    assert "".join(delta.text for delta in heard) == text
    assert len(heard) > 1
    assert [delta.offset for delta in heard] == [len("".join(d.text for d in heard[:n])) for n in range(len(heard))]
    assert answer.usage.input_tokens > 10
    assert 1 <= answer.usage.output_tokens <= TOKENS_MAX
    assert (state.spend.model_calls, state.spend.input_tokens) == (1, answer.usage.input_tokens)
    assert state.spend.cost_usd > 0


async def test_a_model_without_function_calling_is_told_of_tools_in_its_instructions(tmp_path: Path) -> None:
    """One this small seldom calls them; the task ends in any case."""
    with local_model() as address:
        async with stack(tmp_path) as running:
            await declare(running, address, tool_calling="text", servers=("plain",))
            await running.stage.apply(plain("plain", tmp_path / "record"))
            task = await running.stage.submit(userMessage="What can you do?", limits={"maxTurns": 3})
            state = await running.stage.until_state(task, Ended, wait_s=ANSWER_S)
            answer = decode(await running.stage.stored(task, task.model_event(1, 1)), ModelAnswered)
    print(f"\n{MODEL}, tools as text: {text_of(answer.message.content)!r}\n{answer.usage}, {type(state).__name__}")
    assert answer.usage.input_tokens > 100, "the tools are not described"
    assert answer.usage.output_tokens > 0
