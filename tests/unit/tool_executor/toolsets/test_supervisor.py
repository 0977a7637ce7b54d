"""What a supervisor keeps of a stream."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.tool_executor.toolsets.supervisor import CHUNK, Kept


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 60))
def test_head_and_tail_are_kept_and_the_rest_is_counted(pieces: list[bytes], limit: int) -> None:
    kept, whole = Kept(limit), b"".join(pieces)
    for piece in pieces:
        kept.add(piece)
    kept.close()
    head = limit - limit // 2
    assert kept.head == whole[:head]
    assert kept.tail == whole[head:][max(len(whole) - head - limit // 2, 0) :]
    assert kept.seen == len(whole)


def test_a_stream_without_end_takes_no_more_room() -> None:
    kept = Kept(1000)
    for _ in range(1000):
        kept.add(bytes(CHUNK))
        assert len(kept.head) + len(kept.tail) <= 1000 + 2 * CHUNK
    assert kept.seen == 1000 * CHUNK
