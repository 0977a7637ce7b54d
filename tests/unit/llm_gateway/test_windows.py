"""Conversations out of entries, and the memory of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import ConversationStarted, ModelAnswered, ToolFinished, WindowCompacted
from schemas.messages import AssistantMessage, SystemMessage, ToolCall, ToolMessage, Usage, UserMessage
from schemas.subjects import TaskSubjects
from schemas.wire import encode
from services.llm_gateway.core.window import BadWindow, Window, extend
from services.llm_gateway.windows import Windows
from services.runtime.memory.bus import MemoryBus
from services.runtime.ports import Entry, Log, Outgoing

AT = datetime(2030, 1, 1, tzinfo=UTC)
TASK = TaskSubjects(0, "team", "job")
CONTEXT = (TASK.context, encode(ConversationStarted(messages=(SystemMessage(content="s"), UserMessage(content="u")))))


def answer(turn: int, *calls: str, text: str = "") -> tuple[str, bytes]:
    made = tuple(ToolCall(id=call, name="t", arguments="{}") for call in calls)
    message = AssistantMessage(content=text, tool_calls=made)
    event = ModelAnswered(turn=turn, attempt=1, message=message, usage=Usage(), at=AT)
    return TASK.model_event(turn, 1), encode(event)


def result(turn: int, n: int, call: str, content: str = "r", *, outcome: str = "succeeded") -> tuple[str, bytes]:
    fields = {"request": f"r{turn}", "n": n, "tool_call_id": call, "tool": "t", "content": content, "at": AT}
    return TASK.tool_event(f"r{turn}", n), encode(ToolFinished(**fields, outcome=outcome))  # type: ignore[arg-type]  # as a table


def conversation(turns: int) -> list[tuple[str, bytes]]:
    entries = [CONTEXT]
    for turn in range(1, turns + 1):
        entries += [answer(turn, f"a{turn}", f"b{turn}"), result(turn, 1, f"a{turn}"), result(turn, 2, f"b{turn}")]
    return entries


def test_entries_become_a_conversation() -> None:
    window = extend(Window(), [*conversation(1)[:3], result(1, 2, "b1", "no", outcome="failed")])
    assert window.messages == (
        SystemMessage(content="s"),
        UserMessage(content="u"),
        AssistantMessage(
            tool_calls=(ToolCall(id="a1", name="t", arguments="{}"), ToolCall(id="b1", name="t", arguments="{}"))
        ),
        ToolMessage(tool_call_id="a1", name="t", content="r"),
        ToolMessage(tool_call_id="b1", name="t", content="no", is_error=True),
    )
    assert window.unanswered == ()


@given(st.integers(0, 6), st.data())
def test_extending_piece_by_piece_is_the_same_as_at_once(turns: int, data: st.DataObject) -> None:
    entries = conversation(turns)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(entries)))))
    window = Window()
    for start, end in itertools.pairwise([0, *cuts, len(entries)]):
        window = extend(window, entries[start:end])
    assert window == extend(Window(), entries)


def test_an_open_call_is_known() -> None:
    assert extend(Window(), conversation(1)[:3]).unanswered == ("b1",)


@pytest.mark.parametrize(
    "entries",
    [
        [CONTEXT, answer(1, "a"), answer(2, text="on")],
        [CONTEXT, answer(1, "a"), result(1, 1, "b")],
        [CONTEXT, answer(1, "a"), result(1, 1, "a"), result(1, 1, "a")],
        [CONTEXT, result(1, 1, "a")],
        [CONTEXT, (TASK.submitted, b"{}")],
        [CONTEXT, (TASK.model_event(1, 1), b"{}")],
        [CONTEXT, (TASK.tool_event("r1", 1), b"\xff")],
        [(TASK.state, b"{}")],
    ],
)
def test_what_is_no_conversation_is_refused(entries: list[tuple[str, bytes]]) -> None:
    with pytest.raises(BadWindow):
        extend(Window(), entries)


class Recording:
    """A log that remembers what was read."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.read_seqs: list[int] = []

    async def read(self, seqs: Sequence[int]) -> list[Entry]:
        self.read_seqs += seqs
        return await self._log.read(seqs)

    async def record(self, message: Outgoing) -> int:
        seq = await self._log.record(message)
        assert seq is not None
        return seq


async def stored(count: int, turns: int = 2) -> tuple[Recording, list[int]]:
    log = MemoryBus().log(0)
    seqs: list[int] = []
    for subject, data in conversation(turns)[:count]:
        seq = await log.record(Outgoing(subject, data))
        assert seq is not None
        seqs.append(seq)
    return Recording(log), seqs


async def test_only_what_is_new_is_read() -> None:
    log, seqs = await stored(7)
    windows = Windows()
    await windows.get(log, "k", seqs[:4])  # type: ignore[arg-type]  # reads only
    assert log.read_seqs == seqs[:4]
    whole = await windows.get(log, "k", seqs)  # type: ignore[arg-type]  # reads only
    assert log.read_seqs == seqs
    assert whole == extend(Window(), conversation(2))


async def test_a_window_that_does_not_go_on_from_what_is_known_is_read_anew() -> None:
    log, seqs = await stored(7)
    windows = Windows()
    await windows.get(log, "k", seqs)  # type: ignore[arg-type]  # reads only
    shorter = await windows.get(log, "k", [seqs[0], *seqs[4:]])  # type: ignore[arg-type]  # reads only
    entries = conversation(2)
    assert shorter == extend(Window(), [entries[0], *entries[4:]])


async def test_a_conversation_goes_on_from_a_beginning_that_was_replaced() -> None:
    log, seqs = await stored(7)
    windows = Windows()
    await windows.get(log, "k", seqs)  # type: ignore[arg-type]  # reads only
    step = WindowCompacted(
        turn=3,
        attempt=1,
        policy="summarize",
        replaced=4,
        messages=(UserMessage(content="in short"),),
        tokens_before=9,
        tokens_after=3,
        at=AT,
    )
    entry = (TASK.model_event(3, 1), encode(step))
    seq = await log.record(Outgoing(*entry))
    shorter = [seq, *seqs[4:]]
    after = await windows.get(log, "k", shorter)  # type: ignore[arg-type]  # reads only
    assert after == extend(Window(), [entry, *conversation(2)[4:]])
    assert windows.size == after.size
    log.read_seqs.clear()
    more = answer(3, "a3")
    windows.add("k", seq + 1, *more)
    longer = await windows.get(log, "k", [*shorter, seq + 1])  # type: ignore[arg-type]  # reads only
    assert longer == extend(after, [more])
    assert log.read_seqs == []


async def test_what_was_written_here_is_not_read_back() -> None:
    log, seqs = await stored(5)
    windows = Windows()
    await windows.get(log, "k", seqs[:4])  # type: ignore[arg-type]  # reads only
    windows.add("k", seqs[4], *conversation(2)[4])
    log.read_seqs.clear()
    assert await windows.get(log, "k", seqs) == extend(Window(), conversation(2)[:5])  # type: ignore[arg-type]  # reads only
    assert log.read_seqs == []


async def test_memory_is_bounded_by_tasks_and_bytes_and_loses_the_oldest() -> None:
    log, seqs = await stored(1)
    size = len(CONTEXT[1])
    windows = Windows(bytes_max=3 * size, tasks_max=2)
    for key in ("a", "b", "a", "c"):
        await windows.get(log, key, seqs)  # type: ignore[arg-type]  # reads only
    assert (len(windows), windows.size) == (2, 2 * size)
    log.read_seqs.clear()
    await windows.get(log, "a", seqs)  # type: ignore[arg-type]  # reads only
    assert log.read_seqs == []
    tight = Windows(bytes_max=size - 1)
    await tight.get(log, "a", seqs)  # type: ignore[arg-type]  # reads only
    assert (len(tight), tight.size) == (0, 0)


async def test_what_is_forgotten_is_gone() -> None:
    log, seqs = await stored(1)
    windows = Windows()
    await windows.get(log, "k", seqs)  # type: ignore[arg-type]  # reads only
    windows.forget("k")
    windows.forget("k")
    assert (len(windows), windows.size) == (0, 0)


async def test_an_answer_whose_receipt_comes_late_is_not_put_behind_what_came_after_it() -> None:
    log, seqs = await stored(7)
    windows = Windows()
    await windows.get(log, "k", seqs[:5])  # type: ignore[arg-type]  # reads only
    windows.add("k", seqs[1], *conversation(2)[1])
    assert await windows.get(log, "k", seqs) == extend(Window(), conversation(2))  # type: ignore[arg-type]  # reads only
