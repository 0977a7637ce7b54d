"""The sandbox around a command: `bwrap`, if it is there and works on this machine.

Inside there is a file system of its own: programs and libraries, read-only; the few files of `/etc` that programs
need; a private `/tmp`; and the task's working directory, the only place that can be written for longer. No network
unless it is asked for, no sight of other processes, no capabilities, no way to make further namespaces.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import msgspec

PROBE_S = 10.0
HELPERS = 2
"""Processes of `bwrap` around a command."""
TMP_BYTES = 512 << 20
"""Size of the private `/tmp`."""
PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SETTINGS = (
    *(
        "alternatives",
        "ca-certificates",
        "group",
        "gitconfig",
        "ld.so.cache",
        "ld.so.conf",
        "ld.so.conf.d",
        "localtime",
    ),
    *("mime.types", "nsswitch.conf", "passwd", "pki/ca-trust", "pki/tls/certs", "profile", "protocols", "services"),
    *("shells", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone"),
)
"""What is shown of `/etc`."""
NETWORK_SETTINGS = ("gai.conf", "host.conf", "hosts", "resolv.conf")
NAMESPACES = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
NEWER = ("--disable-userns",)
"""Options that older versions do not know."""


class Sandbox(msgspec.Struct, frozen=True):
    """What this machine offers."""

    program: str = ""
    """`bwrap`; empty: there is none that works."""
    options: tuple[str, ...] = ()
    """Of `NEWER`, those that it knows."""
    why_not: str = "it was not looked for"


def bwrap_command(
    sandbox: Sandbox,
    *,
    directory: str,
    network: bool = False,
    shown: Iterable[str] = (),
    hidden: Iterable[str] = (),
    blank: Iterable[str] = (),
    command: Sequence[str],
) -> tuple[str, ...]:
    """The command line that runs `command` in a sandbox.

    `shown` are directories that are read-only there; the directories `hidden` and the files `blank` are empty, even
    where they are inside of what is shown.
    """
    shown = tuple(shown)
    roots = (*PROGRAMS, *shown)
    line = [sandbox.program, "--die-with-parent", "--new-session", "--cap-drop", "ALL", *NAMESPACES, *sandbox.options]
    if not network:
        line.append("--unshare-net")
    settings = (*SETTINGS, *(NETWORK_SETTINGS if network else ()))
    for place in (*PROGRAMS, *(f"/etc/{name}" for name in settings)):
        line += ("--ro-bind-try", place, place)
    line += ("--proc", "/proc", "--dev", "/dev", "--size", str(TMP_BYTES), "--perms", "1777", "--tmpfs", "/tmp")  # noqa: S108 - its own
    for place in shown:  # some of it may be below /tmp
        line += ("--ro-bind-try", place, place)
    for place in hidden:
        if any(is_inside(place, root) for root in roots):
            line += ("--tmpfs", place)
    for place in blank:
        if any(is_inside(place, root) for root in roots):
            line += ("--ro-bind", "/dev/null", place)
    if directory:
        line += ("--bind", directory, directory, "--chdir", directory)
    return (*line, "--remount-ro", "/", "--", *command)


def is_inside(place: str, root: str) -> bool:
    """Whether an absolute path is `root` or below it."""
    return PurePosixPath(place).is_relative_to(root)


def places_of(program: str) -> tuple[str, ...]:
    """The directories that have to be shown so that a program can be run: of its name, and of where that leads."""
    found = (os.path.dirname(program), os.path.dirname(os.path.realpath(program)))  # noqa: PTH120 - text, not files
    return tuple(
        dict.fromkeys(
            place for place in found if len(place) > 1 and not any(is_inside(place, root) for root in PROGRAMS)
        )
    )


async def detect() -> Sandbox:
    """Whether `bwrap` is there and works: by running something in it."""
    program = shutil.which("bwrap")
    if program is None:
        return Sandbox(why_not="bwrap is not installed")
    why = ""
    for options in (NEWER, ()):
        sandbox = Sandbox(program, options, "")
        why = await _fails(bwrap_command(sandbox, directory="", command=("/bin/sh", "-c", ":")))
        if not why:
            return sandbox
    return Sandbox(why_not=f"{program} does not work here: {why}")


async def _fails(command: Sequence[str]) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={},
        )
    except OSError as error:
        return str(error)
    try:
        async with asyncio.timeout(PROBE_S):
            _, words = await process.communicate()
    except TimeoutError:
        return f"it did not end within {PROBE_S:g} s"
    finally:
        if process.returncode is None:  # out of patience, or the executor ends
            process.kill()
            await process.communicate()
    said = words.decode(errors="replace").strip()[-300:]
    return "" if process.returncode == 0 else said or f"it ended with status {process.returncode}"
