"""Files below one directory, with somebody at work who wants out."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tool_executor.toolsets import beneath
from services.tool_executor.toolsets.beneath import NotThere, list_folder, parts_of, read_file, write_file

LIMIT = 1000
RENAME_EXCHANGE = 2
"""Of renameat2(2): the two names change places in one step."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A working directory, and beside it what nobody may reach."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    work = tmp_path / "work"
    (work / "sub").mkdir(parents=True)
    (work / "sub" / "file").write_text("inside")
    return work


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("a", ["a"]),
        ("./a//b/", ["a", "b"]),
        ("a/../b", ["b"]),
        (".", []),
        ("", []),
        ("/work", []),
        ("/work/a", ["a"]),
        ("/work//a", ["a"]),
    ],
)
def test_a_path_is_taken_apart(path: str, steps: list[str]) -> None:
    assert parts_of(path, "/work") == steps


@pytest.mark.parametrize(
    "path", ["..", "../x", "a/../../x", "/etc/passwd", "/", "/workshop/x", "/work/../x", "a\0b", "a/" * 65, "x" * 5000]
)
def test_a_path_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(NotThere):
        parts_of(path, "/work")


@given(st.text(alphabet="ab./\0\udc80~", max_size=30))
def test_no_path_has_a_step_that_leads_up_or_anywhere_else(path: str) -> None:
    with contextlib.suppress(NotThere):
        for step in parts_of(path, "/work"):
            assert step not in ("", ".", "..")
            assert "/" not in step


# --- what is refused ---------------------------------------------------------------------


def link(root: Path, name: str, target: str) -> None:
    (root / name).symlink_to(target)


@pytest.mark.parametrize(
    ("name", "target", "path"),
    [
        ("out", "../outside", "out/secret"),
        ("out", "../outside/secret", "out"),
        ("root", "/", "root/etc/passwd"),
        ("loop", "loop", "loop"),
        ("near", "sub", "near/file"),
        ("gone", "nothing", "gone"),
    ],
)
def test_no_link_is_followed(root: Path, name: str, target: str, path: str) -> None:
    link(root, name, target)
    with pytest.raises(NotThere):
        read_file(root, parts_of(path, str(root)), LIMIT)
    with pytest.raises(NotThere):
        write_file(root, parts_of(f"{path}/new" if path == name else path, str(root)), b"x")
    assert sorted(place.name for place in (root.parent / "outside").iterdir()) == ["secret"]
    assert (root.parent / "outside" / "secret").read_text() == "secret"
    assert (root / "sub" / "file").read_text() == "inside"


def fifo(place: Path) -> None:
    os.mkfifo(place)


def socket(place: Path) -> None:
    import socket as sockets  # noqa: PLC0415 - for this one

    with sockets.socket(sockets.AF_UNIX) as one:
        one.bind(os.path.relpath(place))


@pytest.mark.parametrize(
    ("make", "word"), [(fifo, "pipe"), (socket, "socket"), (Path.mkdir, "directory")], ids=["fifo", "socket", "folder"]
)
def test_only_files_are_read_and_replaced(root: Path, make: Callable[[Path], None], word: str) -> None:
    make(root / "odd")
    for act in (lambda: read_file(root, ["odd"], LIMIT), lambda: write_file(root, ["odd"], b"x")):
        with pytest.raises(NotThere, match=f"'odd' is a {word}, not a file"):
            act()


def test_what_is_missing_or_in_the_way_is_said(root: Path) -> None:
    with pytest.raises(NotThere, match="'sub/none' does not exist"):
        read_file(root, ["sub", "none"], LIMIT)
    with pytest.raises(NotThere, match="'none' does not exist"):
        read_file(root, ["none", "file"], LIMIT)
    with pytest.raises(NotThere, match="no directory"):
        read_file(root, ["sub", "file", "x"], LIMIT)
    with pytest.raises(NotThere, match="no directory"):
        write_file(root, ["sub", "file", "x"], b"")
    with pytest.raises(NotThere, match="the working directory itself"):
        write_file(root, [], b"")
    (root / "long").write_bytes(b"x" * 1001)
    with pytest.raises(NotThere, match="has 1001 bytes"):
        read_file(root, ["long"], LIMIT)
    with pytest.raises(NotThere, match="File name too long"):
        write_file(root, ["n" * 300], b"")


# --- what is done ------------------------------------------------------------------------


def test_a_file_is_written_with_the_directories_on_its_way(root: Path) -> None:
    assert not write_file(root, ["a", "b", "c"], b"one")
    assert write_file(root, ["a", "b", "c"], b"two")
    assert (root / "a" / "b" / "c").read_text() == "two"
    assert [place.name for place in (root / "a" / "b").iterdir()] == ["c"]


def test_a_file_keeps_its_mode_and_its_other_names_keep_their_content(root: Path) -> None:
    script = root / "script"
    script.write_text("old")
    script.chmod(0o750)
    (root / "other").hardlink_to(script)
    write_file(root, ["script"], b"new")
    assert (script.read_text(), script.stat().st_mode & 0o7777) == ("new", 0o750)
    assert (root / "other").read_text() == "old"


def test_a_write_that_fails_leaves_what_was_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(NotThere, match="No space left"):
        write_file(root, ["sub", "file"], b"x")
    assert [place.name for place in (root / "sub").iterdir()] == ["file"]
    assert (root / "sub" / "file").read_text() == "inside"


def test_a_directory_is_listed_by_name_and_kind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link(root, "link", "/etc/passwd")
    (root / "file").write_text("12345")
    assert list_folder(root, []) == (
        [("file", "file", 5), ("link", "symbolic link", 11), ("sub", "directory", (root / "sub").stat().st_size)],
        0,
    )
    monkeypatch.setattr(beneath, "ENTRIES_MAX", 1)
    found, more = list_folder(root, [])
    assert ([one.name for one in found], more) == (["file"], 2)


# --- somebody changes things meanwhile ---------------------------------------------------


@contextlib.contextmanager
def meanwhile(act: Callable[[], None]) -> Generator[None]:
    """Do something over and over in a thread."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                act()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_directory_that_becomes_a_link_meanwhile_leads_nowhere(root: Path) -> None:
    """The classic race: the check sees a directory, the use a link. Here there is no check before the use."""
    outside = root.parent / "outside"
    (outside / "file").write_text("secret")
    (root / "spare").symlink_to(outside)

    swaps: list[int] = []

    def swap() -> None:
        here, sub, spare = -100, bytes(root / "sub"), bytes(root / "spare")
        swaps.append(ctypes.CDLL(None).renameat2(here, sub, here, spare, RENAME_EXCHANGE))

    seen: set[str] = set()
    with meanwhile(swap):
        for number in range(3000):
            with contextlib.suppress(NotThere):
                seen.add(read_file(root, ["sub", "file"], LIMIT).decode())
            with contextlib.suppress(NotThere):
                write_file(root, ["sub", f"new-{number % 7}"], b"inside")
            with contextlib.suppress(NotThere):
                seen.update(one.name for one in list_folder(root, ["sub"])[0] if one.name == "secret")
    assert seen == {"inside"}
    assert sorted(place.name for place in outside.iterdir()) == ["file", "secret"]
    assert swaps.count(0) > 100


def test_a_file_that_becomes_a_link_meanwhile_is_not_read_and_not_written_through(root: Path) -> None:
    secret = root.parent / "outside" / "secret"

    def swap() -> None:
        (root / "new").symlink_to(secret)
        (root / "new").rename(root / "sub" / "file")
        (root / "new").write_text("inside")
        (root / "new").rename(root / "sub" / "file")

    seen: set[str] = set()
    with meanwhile(swap):
        for _ in range(3000):
            with contextlib.suppress(NotThere):
                seen.add(read_file(root, ["sub", "file"], LIMIT).decode())
            with contextlib.suppress(NotThere):
                write_file(root, ["sub", "file"], b"inside")
    assert seen == {"inside"}
    assert secret.read_text() == "secret"
