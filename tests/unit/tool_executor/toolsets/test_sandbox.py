"""The command line of the sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.tool_executor.toolsets.sandbox import PROGRAMS, Sandbox, bwrap_command, is_inside, places_of

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
