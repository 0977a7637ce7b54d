"""What the `Clock` port promises."""

from __future__ import annotations

from datetime import UTC, timedelta

from tests.support.adapters import Adapter


async def test_the_time_is_in_utc_and_passes_while_one_sleeps(adapter: Adapter) -> None:
    clock = (await adapter.open()).clock
    before = clock.now()
    assert before.tzinfo == UTC
    await adapter.arrives(clock.sleep(0.3))
    assert clock.now() - before >= timedelta(seconds=0.29)


async def test_sleeping_for_no_time_returns(adapter: Adapter) -> None:
    clock = (await adapter.open()).clock
    await adapter.arrives(clock.sleep(0))
