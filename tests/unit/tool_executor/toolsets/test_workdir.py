"""Working directories: for one task alone, and gone after it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.tool_executor.toolsets.workdir import Unusable, WorkDirs


class Tasks:
    """The tasks that live, by name."""

    def __init__(self) -> None:
        self.born: dict[str, int] = {}

    async def __call__(self, namespace: str, task: str) -> int:
        return self.born.get(task, 0)


@pytest.fixture
def directories(tmp_path: Path) -> WorkDirs:
    return WorkDirs(str(tmp_path / "work"))


async def test_a_task_keeps_its_directory_and_only_this_user_sees_it(directories: WorkDirs) -> None:
    first, new = directories.open("ns", "task", 7)
    assert new
    (first / "file").touch()
    assert directories.open("ns", "task", 7) == (first, False)
    assert (first / "file").exists()
    assert [place.stat().st_mode & 0o777 for place in (directories.root, first.parent, first)] == [0o700] * 3
    assert first == directories.root / "ns" / "task"


async def test_another_task_of_the_same_name_finds_nothing_of_the_one_before(directories: WorkDirs) -> None:
    first, _ = directories.open("ns", "task", 7)
    (first / "file").touch()
    again, new = directories.open("ns", "task", 8)
    assert new
    assert list(again.iterdir()) == []


async def test_a_directory_goes_when_two_sweeps_have_seen_its_task_ended(directories: WorkDirs) -> None:
    tasks = Tasks()
    tasks.born = {"lives": 1, "ended": 2}
    for task, born in tasks.born.items():
        directories.open("ns", task, born)
    await directories.sweep(tasks)
    del tasks.born["ended"]
    await directories.sweep(tasks)
    assert (directories.root / "ns" / "ended").exists()
    await directories.sweep(tasks)
    assert sorted(place.name for place in (directories.root / "ns").iterdir()) == ["lives", "lives.born"]


async def test_one_sweep_that_saw_an_old_state_removes_nothing(directories: WorkDirs) -> None:
    tasks = Tasks()
    directories.open("ns", "task", 1)
    for born in (0, 1, 0, 1, 0):
        tasks.born = {"task": born}
        await directories.sweep(tasks)
    assert (directories.root / "ns" / "task").exists()


async def test_a_directory_in_use_is_left_until_the_call_is_over(directories: WorkDirs) -> None:
    tasks = Tasks()
    place, _ = directories.open("ns", "task", 1)
    with directories.in_use("ns", "task"):
        for _ in range(3):
            await directories.sweep(tasks)
        assert place.exists()
    await directories.sweep(tasks)
    assert not place.exists()


async def test_what_a_task_made_unreadable_is_removed_and_what_its_links_lead_to_is_not(
    directories: WorkDirs, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    place, _ = directories.open("ns", "task", 1)
    (place / "closed" / "inner").mkdir(parents=True)
    (place / "link").symlink_to(outside)
    (place / "closed" / "link").symlink_to(outside / "file")
    (place / "closed").chmod(0)
    for _ in range(2):
        await directories.sweep(Tasks())
    assert list((directories.root / "ns").iterdir()) == []
    assert (outside / "file").exists()


async def test_a_removal_that_was_cut_off_is_finished(directories: WorkDirs) -> None:
    directories.open("ns", "other", 1)
    left = directories.root / "ns" / "task.gone"
    left.mkdir()
    (left / "file").touch()
    await directories.sweep(Tasks())
    assert not left.exists()


async def test_a_root_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name in ("open", "link", "file"):
        with pytest.raises(Unusable):
            WorkDirs(str(tmp_path / name)).open("ns", "task", 1)


async def test_a_sweep_of_nothing_is_nothing(tmp_path: Path) -> None:
    await WorkDirs(str(tmp_path / "none")).sweep(Tasks())
    assert not (tmp_path / "none").exists()


async def test_many_calls_at_once_of_a_new_task_share_one_directory(directories: WorkDirs) -> None:
    for born in range(1, 20):
        found = await asyncio.gather(*(asyncio.to_thread(directories.open, "ns", "task", born) for _ in range(8)))
        assert {place for place, _ in found} == {directories.root / "ns" / "task"}
        assert [new for _, new in found].count(True) == 1


async def test_a_task_that_comes_while_its_namesakes_directory_is_swept_keeps_its_own(directories: WorkDirs) -> None:
    directories.open("ns", "task", 1)
    await directories.sweep(Tasks())

    async def born_at(_namespace: str, _task: str) -> int:
        """The sweep has looked at the old one; now the new one begins."""
        place, _ = await asyncio.to_thread(directories.open, "ns", "task", 2)
        (place / "file").touch()
        return 0

    await directories.sweep(born_at)
    assert (directories.root / "ns" / "task" / "file").exists()
