"""Executors as real processes on a real server, killed while a command of theirs runs; and what they weigh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from schemas.resources import HTTPOptions, ServerRef, ShellOptions, ToolsetSpec
from services.runtime.nats.bus import connect
from services.runtime.settings import Settings
from tests.support import waiting
from tests.support.mcp_servers.bench import alive, until
from tests.support.mcp_servers.serve import ExecutorProcess
from tests.support.nats_server import nats_server
from tests.support.raw_http import raw_server, response
from tests.support.toolset_calls import Calls

RSS_MB_MAX = 90
SHELL = ToolsetSpec(shell=ShellOptions(sandbox="none"))
ENDLESS = (
    "(setsid bash -c 'trap \"\" TERM HUP; echo $$ >> pids; sleep 600 & echo $! >> pids; wait' > /dev/null 2>&1 &);"
    " echo $$ >> pids; sleep 600"
)
"""It leaves its session, ignores signals, and never ends."""


class Field:
    """A bench on a real bus, and executors to kill, each with working directories of its own."""

    def __init__(self, bench: Calls, url: str, directory: Path, stack: AsyncExitStack) -> None:
        self.bench = bench
        self._url = url
        self._directory = directory
        self._stack = stack

    async def executor(self, name: str) -> ExecutorProcess:
        """Start another executor."""
        variables = {
            "HOLDFAST_REPLICA": name,
            "HOLDFAST_WORK_DIR": str(self._directory / f"work-{name}"),
            "HOLDFAST_DRAIN_S": "0.3",
        }
        process = await ExecutorProcess.start(self._url, self._directory / f"{name}.log", **variables)
        self._stack.push_async_callback(process.kill)
        return process


@asynccontextmanager
async def field(directory: Path) -> AsyncGenerator[Field]:
    async with AsyncExitStack() as stack:
        (directory / "nats").mkdir()
        server = stack.enter_context(nats_server(directory / "nats"))
        bus = await stack.enter_async_context(await connect(Settings(nats_url=server.url), service="test"))
        yield Field(Calls(bus), server.url, directory, stack)


def noted(place: Path) -> list[int]:
    return [int(word) for word in place.read_text().split()] if place.exists() else []


async def test_a_command_dies_with_its_executor_and_its_outcome_is_said_to_be_unknown(tmp_path: Path) -> None:
    async with field(tmp_path) as here:
        bench, first = here.bench, await here.executor("first")
        await bench.toolset("shell", SHELL)
        await bench.offer(ServerRef(name="shell"))
        task = await bench.asks("a", "shell__run", command=ENDLESS)
        pids = tmp_path / "work-first" / "default" / "a" / "pids"
        await until(lambda: len(noted(pids)) == 3, "the command runs")
        await here.executor("second")
        await first.kill()
        result = await bench.until_result(task)
        assert result.outcome == "unknown"
        assert "may or may not have taken effect" in result.content
        await waiting.until(lambda: not any(alive(pid) for pid in noted(pids)), "nothing of it runs")
        other = await bench.gives("b", "shell__run", command="pwd")
        assert other.content.startswith(
            f"{tmp_path}/work-second/default/b\n[exit code 0]\n[the working directory is new"
        )


async def test_a_command_whose_executor_is_asked_to_leave_is_ended(tmp_path: Path) -> None:
    async with field(tmp_path) as here:
        bench, first = here.bench, await here.executor("first")
        await bench.toolset("shell", SHELL)
        await bench.offer(ServerRef(name="shell"))
        task = await bench.asks("a", "shell__run", command=ENDLESS)
        pids = tmp_path / "work-first" / "default" / "a" / "pids"
        await until(lambda: len(noted(pids)) == 3, "the command runs")
        assert await first.stop() == 0
        assert not any(alive(pid) for pid in noted(pids))
        assert await bench.result(task) is None
        await here.executor("second")
        assert (await bench.until_result(task)).outcome == "unknown"


async def test_an_executor_that_has_used_all_of_them_is_still_small(tmp_path: Path) -> None:
    async with field(tmp_path) as here, raw_server() as web:
        bench, process = here.bench, await here.executor("one")
        web.paths["/"] = response(b"hello")
        await bench.toolset("shell", SHELL)
        await bench.toolset("http", ToolsetSpec(http=HTTPOptions(allow=("127.0.0.1",))))
        await bench.offer(ServerRef(name="shell"), ServerRef(name="files"), ServerRef(name="http"))
        await bench.gives("a", "files__write", path="x", content="y")
        before = process.rss_mb
        answers = await asyncio.gather(
            *(bench.gives(f"s{n}", "shell__run", command="seq 1 200000") for n in range(8)),
            *(bench.gives(f"h{n}", "http__request", url=f"http://127.0.0.1:{web.port}/") for n in range(8)),
        )
        assert {answer.outcome for answer in answers} == {"succeeded"}
        print(f"executor: {before:.0f} MB after one call, {process.rss_mb:.0f} MB after many")  # noqa: T201 - measured
        assert process.rss_mb <= RSS_MB_MAX
