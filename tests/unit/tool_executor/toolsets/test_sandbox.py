"""The command line of the sandbox, and how it is found."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.runtime.tasks import spawn
from services.tool_executor.toolsets import sandbox
from services.tool_executor.toolsets.sandbox import PROGRAMS, Sandbox, bwrap_command, detect, is_inside, places_of
from tests.support import waiting
from tests.support.mcp_servers.bench import alive

BOX = Sandbox("/usr/bin/bwrap", ("--disable-userns",), "")


def pairs(line: tuple[str, ...], option: str) -> list[tuple[str, str]]:
    return [(line[n + 1], line[n + 2]) for n, word in enumerate(line) if word == option]


def test_only_the_working_directory_can_be_written() -> None:
    line = bwrap_command(BOX, directory="/w/ns/task", command=("bash", "-c", "ls"))
    assert pairs(line, "--bind") == [("/w/ns/task", "/w/ns/task")]
    assert {source for source, _ in pairs(line, "--ro-bind-try")} >= set(PROGRAMS)
    assert all(source == target for source, target in pairs(line, "--ro-bind-try"))
    assert line[line.index("--chdir") + 1] == "/w/ns/task"
    assert line[-4:] == ("--", "bash", "-c", "ls")
    assert pairs(line, "--remount-ro") == [("/", "--")]
    assert not {"--dev-bind", "--share-net", "--setenv", "--cap-add"} & set(line)


def test_a_command_has_no_network_and_sees_nobody_unless_it_is_said() -> None:
    line = bwrap_command(BOX, directory="/w", command=("x",))
    alone = {"--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-user", "--new-session"}
    assert alone | {"--die-with-parent", "--disable-userns"} <= set(line)
    assert line[line.index("--cap-drop") + 1] == "ALL"
    assert "/etc/resolv.conf" not in line
    online = bwrap_command(BOX, directory="/w", command=("x",), network=True)
    assert "--unshare-net" not in online
    assert "/etc/resolv.conf" in online


def test_an_older_version_is_not_asked_for_what_it_does_not_know() -> None:
    assert "--disable-userns" not in bwrap_command(Sandbox("bwrap", (), ""), directory="/w", command=("x",))


def test_nothing_of_etc_is_shown_that_may_hold_secrets() -> None:
    line = bwrap_command(BOX, directory="/w", command=("x",), network=True)
    shown = {source for source, _ in pairs(line, "--ro-bind-try")}
    assert not {"/etc", "/etc/shadow", "/etc/ssl", "/etc/ssl/private", "/", "/root", "/home", "/run", "/var"} & shown


def test_secrets_inside_of_what_is_shown_are_covered_and_others_are_not_there_anyway() -> None:
    line = bwrap_command(
        BOX,
        directory="/usr/w/task",
        shown=("/srv/tools",),
        hidden=("/srv/tools/secrets", "/var/secrets", "/usr/w"),
        blank=("/usr/local/creds", "/root/creds"),
        command=("x",),
    )
    tmpfs = [line[n + 1] for n, word in enumerate(line) if word == "--tmpfs"]
    assert tmpfs == ["/tmp", "/srv/tools/secrets", "/usr/w"]
    assert pairs(line, "--ro-bind") == [("/dev/null", "/usr/local/creds")]
    assert line.index("/usr/w") < line.index("--bind")  # what is hidden does not hide the task's own


@pytest.mark.parametrize(
    ("place", "root", "inside"),
    [("/a/b", "/a", True), ("/a", "/a", True), ("/ab", "/a", False), ("/a/b", "/a/b/c", False)],
)
def test_a_place_is_inside_of_another_by_whole_names(place: str, root: str, *, inside: bool) -> None:
    assert is_inside(place, root) == inside


def test_the_directories_of_a_program_are_shown_if_they_are_not_anyway(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "tool").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "tool")
    assert places_of("/usr/bin/bash") == ()
    assert places_of(str(tmp_path / "link")) == (str(tmp_path), str(tmp_path / "real"))
    assert places_of("/program") == ()


def stand_in(monkeypatch: pytest.MonkeyPatch, place: Path, script: str) -> None:
    """A `bwrap` that does what a test says."""
    program = place / "bwrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("script", "options", "why_not"),
    [
        ("exit 0", ("--disable-userns",), ""),
        ('case "$*" in *--disable-userns*) echo unknown >&2; exit 1;; esac', (), ""),
        ("echo No permissions to create new namespace >&2; exit 1", (), "does not work here: No permissions"),
        ("exit 3", (), "does not work here: it ended with status 3"),
    ],
)
async def test_the_sandbox_is_tried_before_it_is_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, options: tuple[str, ...], why_not: str
) -> None:
    stand_in(monkeypatch, tmp_path, script)
    found = await detect()
    assert why_not in found.why_not
    assert (bool(found.program), found.options) == (not why_not, options)


async def test_a_sandbox_that_hangs_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "PROBE_S", 0.1)
    stand_in(monkeypatch, tmp_path, "exec sleep 60")
    assert "it did not end within 0.1 s" in (await detect()).why_not


async def test_a_machine_without_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await detect() == Sandbox(why_not="bwrap is not installed")


async def test_looking_for_it_can_be_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    looking = spawn(detect(), name="looking")
    noted = tmp_path / "pid"
    await waiting.until(lambda: noted.exists() and bool(noted.read_text().strip()), "it runs")
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert not alive(int(noted.read_text()))
