"""Tools of toolsets through the whole executor: offered to agents, checked, recorded once, stopped with their task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from schemas.events import ToolOutput
from schemas.resources import ServerRef, ShellOptions, ToolPolicy, ToolsetSpec
from schemas.wire import decode
from services.runtime.memory.bus import MemoryBus
from services.runtime.memory.server import MemoryServer
from services.runtime.settings import Settings
from tests.support import waiting
from tests.support.mcp_servers.bench import alive, executor
from tests.support.toolset_calls import Calls

PNG = "iVBORw0KGgo="


@asynccontextmanager
async def calls(work: Path) -> AsyncGenerator[Calls]:
    server = MemoryServer()
    async with executor(server, settings=Settings(work_dir=str(work), drain_s=0.1)):
        yield Calls(MemoryBus(server))


PLAIN = ToolsetSpec(shell=ShellOptions(sandbox="none"))


async def test_built_in_tools_are_there_for_agents_that_list_them_and_for_no_other(tmp_path: Path) -> None:
    async with calls(tmp_path) as bench:
        await bench.offer(ServerRef(name="files", tools=("write", "read")))
        wrote = await bench.gives("a", "files__write", path="x", content="y")
        assert (wrote.outcome, wrote.content) == ("succeeded", "Wrote x: 1 bytes.")
        assert (tmp_path / "default" / "a" / "x").read_text() == "y"
        for n, name in enumerate(("files__list", "shell__run", "http__request")):
            refused = await bench.gives(f"b{n}", name, path=".")
            assert refused.outcome == "failed"
            assert f"There is no tool {name!r}" in refused.content


async def test_arguments_are_checked_before_anything_is_done(tmp_path: Path) -> None:
    async with calls(tmp_path) as bench:
        await bench.offer(ServerRef(name="files"))
        refused = await bench.gives("a", "files__write", path="x", contents="y")
        assert refused.outcome == "failed"
        assert "perhaps 'content' instead of 'contents'" in refused.content
        assert not (tmp_path / "default").exists()


async def test_only_what_must_not_be_repeated_is_in_the_ledger(tmp_path: Path) -> None:
    async with calls(tmp_path) as bench:
        await bench.toolset("shell", PLAIN)
        await bench.toolset("safe", msgspec.structs.replace(PLAIN, policies=(ToolPolicy(tool="run", idempotent=True),)))
        await bench.offer(ServerRef(name="files"), ServerRef(name="shell"), ServerRef(name="safe"))
        await bench.gives("a", "files__write", path="x", content="y")
        await bench.gives("b", "files__list")
        await bench.gives("c", "safe__run", command="true")
        assert [await bench.started(task) for task in "abc"] == [None, None, None]
        await bench.gives("d", "shell__run", command="true")
        await bench.gives("e", "files__edit", path="x", old="a", new="b")
        assert await bench.started("d") is not None
        assert await bench.started("e") is not None


async def test_an_exit_code_that_is_not_zero_is_a_failed_call_with_its_output(tmp_path: Path) -> None:
    async with calls(tmp_path) as bench:
        await bench.toolset("shell", PLAIN)
        await bench.offer(ServerRef(name="shell"))
        result = await bench.gives("a", "shell__run", command="echo so; exit 7")
        assert result.outcome == "failed"
        assert result.content.startswith("so\n[exit code 7]")


async def test_a_long_output_is_kept_whole_beside_the_result(tmp_path: Path) -> None:
    async with calls(tmp_path) as bench:
        await bench.toolset("shell", PLAIN)
        await bench.offer(ServerRef(name="shell"))
        result = await bench.gives("a", "shell__run", command="seq 1 50000")
        assert "bytes were left out here" in result.content
        assert len(result.content) <= 64 * 1024
        entry = await bench.bus.log(0).get(result.whole)
        assert entry is not None
        assert "\n25000\n" in decode(entry.data, ToolOutput).content


async def test_an_image_reaches_the_model(tmp_path: Path) -> None:
    async with calls(tmp_path) as bench:
        await bench.toolset("shell", PLAIN)
        await bench.offer(ServerRef(name="shell"), ServerRef(name="files"))
        await bench.gives("a", "files__list")
        (tmp_path / "default" / "b").mkdir()
        (tmp_path / "default" / "b.born").write_text("1")
        (tmp_path / "default" / "b" / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        result = await bench.gives("b", "files__read", path="image.png")
        assert [(image.media_type, image.data) for image in result.images] == [("image/png", PNG)]


async def test_a_call_that_takes_too_long_says_what_it_had_said(tmp_path: Path) -> None:
    async with calls(tmp_path) as bench:
        await bench.toolset("shell", ToolsetSpec(shell=ShellOptions(sandbox="none", timeout_s=0.5)))
        await bench.offer(ServerRef(name="shell"))
        result = await bench.gives("a", "shell__run", command="echo so far; sleep 600")
        assert result.outcome == "timed_out"
        assert result.content.startswith("'run' of shell gave no end within 0.5 s, and was told to stop.")
        assert result.content.endswith("Until then it had said:\nso far")


async def test_a_task_that_is_stopped_stops_its_commands(tmp_path: Path) -> None:
    async with calls(tmp_path) as bench:
        await bench.toolset("shell", PLAIN)
        await bench.offer(ServerRef(name="shell"))
        task = await bench.asks("a", "shell__run", command="setsid sleep 600 & echo $! $$ > pids; wait")
        noted = tmp_path / "default" / "a" / "pids"
        await waiting.until(lambda: noted.exists() and len(noted.read_text().split()) == 2, "the command has started")
        pids = [int(word) for word in noted.read_text().split()]
        await bench.bus.signals.publish(task.stop, b"")
        assert (await bench.until_result(task)).outcome == "cancelled"
        await waiting.until(lambda: not any(alive(pid) for pid in pids), "nothing of it runs")


async def test_an_executor_that_is_stopped_leaves_no_command_behind(tmp_path: Path) -> None:
    noted = tmp_path / "work" / "default" / "a" / "pids"
    async with calls(tmp_path / "work") as bench:
        await bench.toolset("shell", PLAIN)
        await bench.offer(ServerRef(name="shell"))
        await bench.asks("a", "shell__run", command="setsid sleep 600 & echo $! $$ > pids; wait")
        await waiting.until(lambda: noted.exists() and len(noted.read_text().split()) == 2, "the command has started")
    pids = [int(word) for word in noted.read_text().split()]
    assert not any(alive(pid) for pid in pids)


async def test_no_more_commands_run_at_once_than_the_manifest_says(tmp_path: Path) -> None:
    async with calls(tmp_path) as bench:
        await bench.toolset("shell", msgspec.structs.replace(PLAIN, concurrency=1))
        await bench.offer(ServerRef(name="shell"))
        command = f"mkdir {tmp_path}/alone && sleep 0.05 && rmdir {tmp_path}/alone"
        results = await asyncio.gather(*(bench.gives(f"t{n}", "shell__run", command=command) for n in range(5)))
        assert [result.outcome for result in results] == ["succeeded"] * 5
