"""Background tasks: named, loud when they fail, ended together."""

from __future__ import annotations

import asyncio

import pytest

from services.runtime.tasks import Tasks, spawn


async def fail() -> None:
    raise ValueError("why")


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_task_that_fails_is_reported_by_name(caplog: pytest.LogCaptureFixture) -> None:
    task = spawn(fail(), name="the-one")
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert "background task the-one failed" in caplog.text
    assert "ValueError: why" in caplog.text


async def test_a_task_that_is_cancelled_is_not_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[BaseException] = []
    tasks = Tasks(on_failure=failures.append)
    tasks.spawn(for_ever(), name="waits")
    await tasks.close()
    assert (failures, caplog.text, len(tasks)) == ([], "", 0)


async def test_the_owner_is_told_of_a_failure() -> None:
    failures: list[BaseException] = []
    tasks = Tasks(on_failure=failures.append)
    tasks.spawn(fail(), name="fails")
    await tasks.join()
    assert [str(error) for error in failures] == ["why"]


async def test_joining_waits_for_those_that_were_begun_meanwhile() -> None:
    tasks, done = Tasks(), list[str]()

    async def second() -> None:
        await asyncio.sleep(0)
        done.append("second")

    async def first() -> None:
        tasks.spawn(second(), name="second")
        done.append("first")

    tasks.spawn(first(), name="first")
    await tasks.join()
    assert done == ["first", "second"]
