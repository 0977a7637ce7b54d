"""What a supervisor keeps of a stream, and whom it looks after."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tool_executor.toolsets.supervisor import CHUNK, Kept, family


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


def nowhere(_path: str) -> bool:
    return False


@pytest.mark.parametrize("lists", [True, False])
def test_a_family_is_found_on_every_kernel(monkeypatch: pytest.MonkeyPatch, *, lists: bool) -> None:
    if not lists:
        monkeypatch.setattr(os.path, "exists", nowhere)
    command = "sleep 60 & (sleep 60 & sleep 60) & echo started; wait"
    with subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            deadline = time.monotonic() + 5
            expected = {process.pid}
            while len(expected) < 5:
                assert time.monotonic() < deadline
                expected = {process.pid} | {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
            assert expected <= family(os.getpid())
            assert family(process.pid) == expected - {process.pid}
        finally:
            os.killpg(process.pid, signal.SIGKILL)
