"""Commands under the real `bwrap`, where it is there and works; where it does not, the reason is printed."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from schemas.resources import CommandTool, ShellOptions, ToolsetSpec
from services.tool_executor.mcp.errors import TimedOut
from services.tool_executor.toolsets.sandbox import detect
from tests.support import waiting
from tests.support.toolset_bench import ToolsetBench, toolset_bench, words_of

FOUND = asyncio.run(detect())
pytestmark = pytest.mark.skipif(not FOUND.program, reason=f"no sandbox on this machine: {FOUND.why_not}")


async def run(bench: ToolsetBench, command: str, **how: object) -> str:
    return words_of(await bench.call("box", "run", {"command": command}, **how))  # type: ignore[arg-type]  # what a test needs


def box(**options: object) -> ToolsetSpec:
    return ToolsetSpec(shell=ShellOptions(**{"sandbox": "required", **options}))  # type: ignore[arg-type]  # as above


def with_ours(command: str) -> list[str]:
    """Processes on this machine whose command line holds some text."""
    found: list[str] = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = place.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if command in line:
            found.append(line)
    return found


async def test_only_the_working_directory_can_be_written_and_it_is_kept(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work", sandbox=None) as bench:
        await bench.use("box", box())
        task = await bench.task()
        said = await run(bench, "echo kept > file; touch /x /usr/x /etc/x; echo t > /tmp/t && cat /tmp/t", task=task)
        assert said.count("Read-only file system") == 3
        assert "\nt\n[exit code 0]" in said
        assert "not in a sandbox" not in said
        assert await run(bench, "cat file; ls /tmp/t", task=task) == (
            "kept\nls: cannot access '/tmp/t': No such file or directory\n[exit code 2]"
        )
        assert (tmp_path / "work" / "default" / task.task / "file").read_text() == "kept\n"


async def test_other_tasks_secrets_and_the_machine_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text("secret")
    async with toolset_bench(tmp_path / "work", sandbox=None, secrets_dir=str(tmp_path / "secrets")) as bench:
        await bench.use("box", box())
        other, task = await bench.task("other"), await bench.task("mine")
        await run(bench, "echo secret > file", task=other)
        said = await run(
            bench,
            f"ls {tmp_path}/work/default; cat {tmp_path}/secrets/key /etc/shadow; ls /root /home /var /run",
            task=task,
        )
        assert said.splitlines()[0] == "mine"
        assert said.count("No such file or directory") == 6
        assert "secret\n" not in said


async def test_nobody_else_is_seen_and_nobody_can_be_signalled(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work", sandbox=None) as bench:
        await bench.use("box", box())
        said = await run(
            bench, "ls -d /proc/[0-9]* | wc -l; kill -KILL $PPID; cat /proc/1/comm; id -u; unshare -Ur true"
        )
        lines = said.splitlines()
        assert int(lines[0]) <= 5
        assert "bwrap" in said
        assert "unshare failed" in said
        assert "CapEff:\t0000000000000000" in await run(bench, "grep CapEff /proc/self/status")


async def test_there_is_no_network_unless_it_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected"
        async with toolset_bench(tmp_path / "work", sandbox=None) as bench:
            await bench.use("box", box())
            assert "connected" not in await run(bench, command)
            await bench.use("box", box(network=True))
            assert (await run(bench, command)).startswith("connected")


async def test_everything_of_it_ends_in_time_and_with_it(tmp_path: Path) -> None:
    daemon = "(setsid bash -c 'trap \"\" TERM HUP; sleep 87654 & sleep 87654' > /dev/null 2>&1 &) ; "
    async with toolset_bench(tmp_path / "work", sandbox=None) as bench:
        await bench.use("box", box())
        assert (await run(bench, daemon + "echo done")).startswith("done\n[exit code 0]")
        await waiting.until(lambda: not with_ours("sleep 87654"), "the daemon is gone")
        with pytest.raises(TimedOut, match="no end within 1 s"):
            await run(bench, daemon + "sleep 87654", timeout_s=1.0)
        await waiting.until(lambda: not with_ours("sleep 87654"), "the daemon is gone")


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("while :; do :; done", {"cpu_s": 1}, "[exit code 152: perhaps SIGXCPU: it used up its processor time]"),
        (
            "exec head -c 3000000 /dev/zero > big",
            {"file_mib": 1},
            "[exit code 153: perhaps SIGXFSZ: a file became larger than it may be]",
        ),
        ("for n in {1..200}; do sleep 600 & done; wait", {"processes": 20}, "more than 20 processes"),
    ],
)
async def test_limits_hold_inside(tmp_path: Path, command: str, options: dict[str, object], words: str) -> None:
    async with toolset_bench(tmp_path / "work", sandbox=None) as bench:
        await bench.use("box", box(**options))
        reply = await bench.call("box", "run", {"command": command}, timeout_s=15.0)
        assert reply.is_error
        assert words in words_of(reply)


async def test_a_program_from_elsewhere_is_shown_alone(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "say").write_text('#!/bin/sh\necho said "$@"; cat; touch "$0.x"\n')
    (tools / "say").chmod(0o755)
    command = CommandTool(
        name="say", description="d", command=(str(tools / "say"), "{what}"), input_schema={"type": "object"}
    )
    async with toolset_bench(tmp_path / "work", sandbox=None) as bench:
        await bench.use("tools", ToolsetSpec(commands=(command,), command_options=ShellOptions(sandbox="required")))
        said = words_of(await bench.call("tools", "say", {"what": "a b"}))
        assert said.startswith('said a b\n{"what":"a b"}\n')
        assert "Read-only file system" in said
        assert (await bench.status("tools")).status_detail == "1 tool, in a sandbox"
