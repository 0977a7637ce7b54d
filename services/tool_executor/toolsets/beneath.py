"""Files below one directory, and nothing else: each step of a path is opened in the directory before it.

No symbolic link is followed, at no step, so none leads out, and none that appears or changes meanwhile makes a
difference: what was opened is what is used. Only regular files are read and written; a write is a new file that takes
the old one's place in one step.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

DEPTH_MAX = 64
PATH_LENGTH_MAX = 4096
ENTRIES_MAX = 1000
"""Entries of a directory that are listed."""
MODE = 0o644
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotThere(Exception):
    """The path leads to nothing that can be used. The text tells the model why."""


class Listed(NamedTuple):
    """An entry of a directory."""

    name: str
    kind: str
    size: int


def parts_of(path: str, root: str) -> list[str]:
    """The steps of a path below `root`; absolute paths may begin with `root` itself. Raises `NotThere`."""
    if "\0" in path or len(path.encode(errors="surrogatepass")) > PATH_LENGTH_MAX:
        raise NotThere("The path holds a NUL character or is too long.")
    if path == root or path.startswith(f"{root}/"):
        path = path[len(root) :].lstrip("/")
    if path.startswith("/"):
        raise NotThere(f"{path!r} is outside of the working directory. Give a path relative to it.")
    steps: list[str] = []
    for step in path.split("/"):
        if step == ".." and not steps:
            raise NotThere(f"{path!r} leads out of the working directory.")
        if step == "..":
            steps.pop()
        elif step not in ("", "."):
            steps.append(step)
    if len(steps) > DEPTH_MAX:
        raise NotThere(f"The path has more than {DEPTH_MAX} steps.")
    return steps


@contextmanager
def folder(root: Path, steps: list[str], *, make: bool = False) -> Generator[int]:
    """A descriptor of a directory below `root`; with `make`, what is missing on the way is made. Raises `NotThere`."""
    descriptor = os.open(root, _FOLDER)
    try:
        for place, step in enumerate(steps):
            if make:
                with contextlib.suppress(FileExistsError), _explained(steps[: place + 1]):
                    os.mkdir(step, 0o755, dir_fd=descriptor)
            with _explained(steps[: place + 1]):
                inner = os.open(step, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def read_file(root: Path, steps: list[str], limit: int) -> bytes:
    """The bytes of a regular file. Raises `NotThere`."""
    with folder(root, _parent(steps)) as parent, _explained(steps):
        _regular(os.stat(steps[-1], dir_fd=parent, follow_symlinks=False), steps)
        descriptor = os.open(steps[-1], _FILE, dir_fd=parent)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
            size = _regular(os.fstat(descriptor), steps).st_size
            if size > limit:
                raise NotThere(f"{_shown(steps)} has {size} bytes, and this tool reads {limit} at most.")
            data = file.read(limit + 1)
    if len(data) > limit:
        raise NotThere(f"{_shown(steps)} is growing, and has more than the {limit} bytes that this tool reads.")
    return data


def write_file(root: Path, steps: list[str], data: bytes) -> bool:
    """Put a file in its place in one step; whether one was there. Raises `NotThere`."""
    with folder(root, _parent(steps), make=True) as parent, _explained(steps):
        mode, there = MODE, False
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(_regular(os.stat(steps[-1], dir_fd=parent, follow_symlinks=False), steps).st_mode)
            there = True
        new = f".holdfast-{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(new, flags, 0o600, dir_fd=parent)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor
                file.write(data)
                os.fchmod(descriptor, mode & 0o777)
            os.rename(new, steps[-1], src_dir_fd=parent, dst_dir_fd=parent)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=parent)
            raise
    return there


def list_folder(root: Path, steps: list[str]) -> tuple[list[Listed], int]:
    """The entries of a directory by name, and how many more there are. Raises `NotThere`."""
    found: list[Listed] = []
    with folder(root, steps) as descriptor, _explained(steps):
        names = sorted(os.listdir(descriptor))  # noqa: PTH208 - of a descriptor
        for name in names[:ENTRIES_MAX]:
            with contextlib.suppress(FileNotFoundError):
                about = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                found.append(Listed(name, _kind(about.st_mode), about.st_size))
    return found, max(len(names) - ENTRIES_MAX, 0)


def _parent(steps: list[str]) -> list[str]:
    if not steps:
        raise NotThere("The path is the working directory itself; a file in it is needed.")
    return steps[:-1]


def _regular(about: os.stat_result, steps: list[str]) -> os.stat_result:
    if not stat.S_ISREG(about.st_mode):
        raise NotThere(f"{_shown(steps)} is a {_kind(about.st_mode)}, not a file.")
    return about


def _kind(mode: int) -> str:
    for is_one, word in (
        (stat.S_ISREG, "file"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISLNK, "symbolic link"),
        (stat.S_ISFIFO, "pipe"),
        (stat.S_ISSOCK, "socket"),
    ):
        if is_one(mode):
            return word
    return "device"


@contextmanager
def _explained(steps: list[str]) -> Generator[None]:
    """What the system says of a path, as a model can read it."""
    try:
        yield
    except FileNotFoundError:
        raise NotThere(f"{_shown(steps)} does not exist.") from None
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise NotThere(f"{_shown(steps)} is a symbolic link or no directory; links are not followed.") from error
        if error.errno == errno.ENXIO:
            raise NotThere(f"{_shown(steps)} is not a file.") from error
        raise NotThere(f"{_shown(steps)} cannot be used: {error.strerror}.") from error


def _shown(steps: list[str]) -> str:
    return repr("/".join(steps) or ".")
