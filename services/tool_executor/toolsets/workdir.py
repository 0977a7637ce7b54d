"""The working directories of tasks: one for each, made when a tool first needs it, gone soon after its task has ended.

    <root>/<namespace>/<task>           the directory, for its task alone
    <root>/<namespace>/<task>.born      which task of that name it belongs to: the place of its request in the stream
    <root>/<namespace>/<task>.gone      what is being removed

Every replica has its own, unless the root is a volume that they share. Nobody tells an executor that a task has ended,
so a sweep looks at the states of the tasks whose directories are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import stat
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from schemas.ids import digest
from services.runtime.errors import Unavailable

logger = logging.getLogger(__name__)

SWEEP_S = 60.0
"""How often the states of tasks are looked at."""

BornAt = Callable[[str, str], Awaitable[int]]
"""`(namespace, task) -> ` the place of the request of the live task of that name; 0 if there is none."""


class Unusable(Exception):
    """There is no place for working directories. The text says why."""


def default_root(bus: str) -> str:
    """Where working directories are if nothing else is said: others for every bus, whose sweeps know its tasks only."""
    return str(Path(tempfile.gettempdir()) / f"holdfast-work-{os.geteuid()}-{digest('holdfast-work', bus)[:8]}")


class WorkDirs:
    """The working directories on this machine."""

    def __init__(self, root: str) -> None:
        self.root = Path(root).absolute()
        self._lock = threading.Lock()
        """Whoever makes or removes directories is alone."""
        self._in_use: Counter[tuple[str, str]] = Counter()
        self._ended: set[tuple[str, str]] = set()
        """Those whose task had ended at the last sweep: they go at the next, if that sees the same."""

    @contextmanager
    def in_use(self, namespace: str, task: str) -> Generator[None]:
        """A call of the task is under way: its directory stays."""
        key = (namespace, task)
        self._in_use[key] += 1
        try:
            yield
        finally:
            self._in_use[key] -= 1
            if not self._in_use[key]:
                del self._in_use[key]

    def open(self, namespace: str, task: str, born: int) -> tuple[Path, bool]:
        """The directory of a task, and whether it was made just now. Raises `Unusable`. It touches the disk."""
        try:
            with self._lock:
                self._check_root()
                return self._open(namespace, task, str(born))
        except OSError as error:
            raise Unusable(f"the working directory cannot be made: {error}") from error

    def _open(self, namespace: str, task: str, born: str) -> tuple[Path, bool]:
        home = self.root / namespace
        home.mkdir(mode=0o700, exist_ok=True)
        directory, note = home / task, home / f"{task}.born"
        if directory.is_dir():
            if _read(note) == born:
                return directory, False
            self._remove(namespace, task)
        new = home / f"{task}.new"
        new.write_text(born)
        new.replace(note)
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:  # another replica that shares the volume was quicker
            return directory, False
        return directory, True

    def _check_root(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.root.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise Unusable(
                f"{self.root} is not a directory that only this user can write to; set HOLDFAST_WORK_DIR to one that is"
            )

    async def sweep_for_ever(self, born_at: BornAt, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Remove what is over, every minute."""
        while True:
            try:
                await self.sweep(born_at)
            except (Unavailable, OSError) as error:
                logger.warning("working directories: %s", error, extra={"action": "workdir.left"})
            await sleep(SWEEP_S)

    async def sweep(self, born_at: BornAt) -> None:
        """Remove the directories of tasks that this sweep and the one before found ended, replaced or removed."""
        ended: set[tuple[str, str]] = set()
        for namespace, task in await asyncio.to_thread(self._there):
            note = _read(self.root / namespace / f"{task}.born")
            if str(await born_at(namespace, task)) == note:
                continue
            if (namespace, task) not in self._ended:
                ended.add((namespace, task))
            elif await asyncio.to_thread(self._remove_if, namespace, task, note):
                logger.info("removed the working directory of %s/%s", namespace, task, extra={"action": "workdir.gone"})
            else:
                ended.add((namespace, task))
        self._ended = ended

    def _there(self) -> list[tuple[str, str]]:
        """The tasks that have a directory; what is left of removals that were cut off is finished on the way."""
        found: list[tuple[str, str]] = []
        for place in _listed(self.root):
            for name in _listed(place):
                if name.suffix == ".gone":
                    _remove_tree(name)
                elif not name.suffix and name.is_dir():
                    found.append((place.name, name.name))
        return found

    def _remove_if(self, namespace: str, task: str, note: str) -> bool:
        """Remove a directory, unless it is in use, or another task's by now."""
        with self._lock:
            if (namespace, task) in self._in_use or _read(self.root / namespace / f"{task}.born") != note:
                return False
            self._remove(namespace, task)
            return True

    def _remove(self, namespace: str, task: str) -> None:
        directory = self.root / namespace / task
        gone = directory.with_name(f"{task}.gone")
        _remove_tree(gone)
        with contextlib.suppress(FileNotFoundError):  # another replica that shares the volume was quicker
            directory.rename(gone)
        directory.with_name(f"{task}.born").unlink(missing_ok=True)
        _remove_tree(gone)


def _listed(place: Path) -> list[Path]:
    try:
        return sorted(place.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(note: Path) -> str:
    try:
        return note.read_text()
    except OSError:
        return ""


def _remove_tree(place: Path) -> None:
    """Remove a directory and all in it, also what a command has made unreadable."""
    shutil.rmtree(place, ignore_errors=True)
    if not place.is_dir() or place.is_symlink():
        return
    for folder, names, _ in os.walk(place):
        for name in names:
            inner = Path(folder) / name
            if not inner.is_symlink():
                inner.chmod(0o700)
    place.chmod(0o700)
    shutil.rmtree(place, ignore_errors=True)
    if place.exists():
        logger.warning("%s cannot be removed", place, extra={"action": "workdir.left"})
