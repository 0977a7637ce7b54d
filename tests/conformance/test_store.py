"""What the `Store` port promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.runtime.errors import Conflict
from services.runtime.ports import Bus, StoreEntry
from tests.support.adapters import Adapter

KEY = "spec.LLM.default.gpt-4.1"
OTHER = "spec.LLM.default.other"
RACERS = 10


async def next_of(adapter: Adapter, watch: AsyncIterator[StoreEntry | None], count: int) -> list[StoreEntry | None]:
    async def collect() -> list[StoreEntry | None]:
        return [await anext(watch) for _ in range(count)]

    return await adapter.arrives(collect())


async def test_a_key_that_was_never_written_is_none(bus: Bus) -> None:
    assert await bus.resources.get(KEY) is None


async def test_a_value_is_read_back_with_its_revision(bus: Bus) -> None:
    first = await bus.resources.put(KEY, b"1")
    assert await bus.resources.get(KEY) == StoreEntry(KEY, first, b"1")
    second = await bus.resources.put(KEY, b"2")
    assert second > first
    assert await bus.resources.get(KEY) == StoreEntry(KEY, second, b"2")


async def test_a_key_is_created_once(bus: Bus) -> None:
    await bus.resources.put(KEY, b"1", expected=0)
    with pytest.raises(Conflict):
        await bus.resources.put(KEY, b"2", expected=0)
    entry = await bus.resources.get(KEY)
    assert entry is not None
    assert entry.data == b"1"


async def test_a_key_is_written_at_its_revision_only(bus: Bus) -> None:
    first = await bus.resources.put(KEY, b"1")
    second = await bus.resources.put(KEY, b"2", expected=first)
    for wrong in (first, second + 1, 0):
        with pytest.raises(Conflict):
            await bus.resources.put(KEY, b"3", expected=wrong)
    assert await bus.resources.get(KEY) == StoreEntry(KEY, second, b"2")


async def test_of_many_who_write_at_one_revision_one_wins(adapter: Adapter) -> None:
    buses = [await adapter.open() for _ in range(2)]
    revision = await buses[0].resources.put(KEY, b"start")
    results = await asyncio.gather(
        *(buses[n % 2].resources.put(KEY, str(n).encode(), expected=revision) for n in range(RACERS)),
        return_exceptions=True,
    )
    (winner,) = [n for n, result in enumerate(results) if isinstance(result, int)]
    assert all(isinstance(result, Conflict) for n, result in enumerate(results) if n != winner)
    entry = await buses[1].resources.get(KEY)
    assert entry is not None
    assert entry.data == str(winner).encode()


async def test_a_deleted_key_is_gone_and_may_be_created_again(bus: Bus) -> None:
    first = await bus.resources.put(KEY, b"1")
    await bus.resources.delete(KEY)
    assert await bus.resources.get(KEY) is None
    again = await bus.resources.put(KEY, b"2", expected=0)
    assert again > first
    assert await bus.resources.get(KEY) == StoreEntry(KEY, again, b"2")


async def test_a_deleted_key_is_not_at_its_old_revision(bus: Bus) -> None:
    first = await bus.resources.put(KEY, b"1")
    await bus.resources.delete(KEY)
    with pytest.raises(Conflict):
        await bus.resources.put(KEY, b"2", expected=first)


async def test_deleting_what_is_not_there_is_no_error(bus: Bus) -> None:
    await bus.resources.delete(KEY)
    assert await bus.resources.get(KEY) is None


async def test_a_key_is_deleted_at_its_revision_only(bus: Bus) -> None:
    first = await bus.resources.put(KEY, b"1")
    second = await bus.resources.put(KEY, b"2")
    with pytest.raises(Conflict):
        await bus.resources.delete(KEY, expected=first)
    assert await bus.resources.get(KEY) == StoreEntry(KEY, second, b"2")
    await bus.resources.delete(KEY, expected=second)
    assert await bus.resources.get(KEY) is None
    await bus.resources.delete(KEY, expected=second)


async def test_deleting_what_is_not_there_is_no_change(adapter: Adapter) -> None:
    bus = await adapter.open()
    await bus.resources.put(KEY, b"1")
    await bus.resources.delete(KEY)
    watch = bus.resources.watch()
    assert await next_of(adapter, watch, 1) == [None]
    await bus.resources.delete(KEY)
    await bus.resources.delete(OTHER)
    revision = await bus.resources.put(OTHER, b"2")
    assert await next_of(adapter, watch, 1) == [StoreEntry(OTHER, revision, b"2")]


async def test_a_watch_of_an_empty_store_says_so_at_once(adapter: Adapter) -> None:
    bus = await adapter.open()
    assert await next_of(adapter, bus.resources.watch(), 1) == [None]


async def test_a_watch_says_all_keys_then_none_then_every_change(adapter: Adapter) -> None:
    bus, other = [await adapter.open() for _ in range(2)]
    await bus.resources.put(KEY, b"old")
    await bus.resources.put("gone.key", b"x")
    await bus.resources.delete("gone.key")
    one = await bus.resources.put(KEY, b"1")
    two = await bus.resources.put(OTHER, b"2")
    watch = bus.resources.watch()
    start = await next_of(adapter, watch, 3)
    assert start[2] is None
    assert sorted(entry.key for entry in start[:2] if entry) == sorted([KEY, OTHER])
    assert {entry.revision: entry.data for entry in start[:2] if entry} == {one: b"1", two: b"2"}

    three = await other.resources.put(KEY, b"3")
    four = await other.resources.put("new.key", b"4")
    await other.resources.delete(KEY)
    changed, added, deleted = await next_of(adapter, watch, 3)
    assert changed == StoreEntry(KEY, three, b"3")
    assert added == StoreEntry("new.key", four, b"4")
    assert deleted is not None
    assert (deleted.key, deleted.data) == (KEY, None)
    assert deleted.revision > four


async def test_every_watch_sees_every_change(adapter: Adapter) -> None:
    buses = [await adapter.open() for _ in range(2)]
    watches = [bus.resources.watch() for bus in buses]
    for watch in watches:
        assert await next_of(adapter, watch, 1) == [None]
    revisions = [await buses[0].resources.put(f"key.{n}", b"x") for n in range(20)]
    for watch in watches:
        seen = await next_of(adapter, watch, 20)
        assert [entry.revision for entry in seen if entry] == revisions
