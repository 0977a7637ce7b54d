"""Servers that others wrote in another language, by the other official SDK, over every transport that they offer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from schemas.resources import MCPServer, ServerRef, ToolPolicy
from services.tool_executor.mcp import connection
from tests.support.mcp_servers.bench import Bench, http_server, on_bench, stdio_server, until
from tests.support.mcp_servers.everything import EverythingServer, program
from tests.support.npm import packages

LOCK = Path(__file__).with_name("npm") / "package-lock.json"
LONG = "trigger-long-running-operation"
CAREFUL = (ToolPolicy(tool=LONG, read_only=False, idempotent=False),)


@pytest.fixture(scope="module")
def installed() -> Path:
    """The folder with the servers' packages."""
    return packages(LOCK)


class Everything:
    """The server over one transport."""

    def __init__(self, installed: Path, transport: str, process: EverythingServer | None) -> None:
        self._installed = installed
        self._transport = transport
        self._process = process

    def manifest(self, *, policies: Sequence[ToolPolicy] = (), timeout_s: float = 20.0) -> MCPServer:
        """Its manifest."""
        if self._process is not None:
            return http_server("e", self._process.url, policies=policies, timeout_s=timeout_s)
        command = program(self._installed, "server-everything", "stdio")
        return stdio_server("e", command, policies=policies, timeout_s=timeout_s)

    def signal(self, number: int) -> None:
        """Send its process a signal."""
        if self._process is not None:
            self._process.signal(number)
        else:
            (pid,) = children("server-everything")
            os.kill(pid, number)

    def start_again(self) -> None:
        """Start it again after it was killed; over stdio, that is the executor's part."""
        if self._process is not None:
            self._process.kill()
            self._process.start()


def children(word: str) -> list[int]:
    """Our child processes with this word in their commands."""
    found: list[int] = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        for pid in (task / "children").read_text().split():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_text()
            except FileNotFoundError:
                continue
            if word in command:
                found.append(int(pid))
    return found


@pytest.fixture(params=["stdio", "sse", "streamableHttp"])
def everything(request: pytest.FixtureRequest, installed: Path) -> Iterator[Everything]:
    """The server over each transport."""
    with ExitStack() as stack:
        process = None
        if request.param != "stdio":
            process = stack.enter_context(EverythingServer(installed, request.param))
        yield Everything(installed, request.param, process)


async def ready(bench: Bench, server: MCPServer, *, tool: str = "echo") -> None:
    """Declare it, with all that an agent may have of it, and wait for a tool."""
    await bench.declare(server)
    await bench.declare_agent(ServerRef(name=server.metadata.name, resources=True, prompts=True))

    async def there() -> bool:
        status = await bench.status(server.metadata.name)
        return status is not None and status.ready and tool in {one.name for one in status.tools}

    await until(there, f"{tool} of {server.metadata.name}")


async def succeeded(bench: Bench, tool: str, arguments: object = None) -> str:
    result = await bench.call(tool, arguments)
    assert result.outcome == "succeeded", result.content
    return result.content


async def test_everything_is_used(everything: Everything) -> None:
    async with on_bench() as bench:
        await ready(bench, everything.manifest())
        assert await succeeded(bench, "e__echo", {"message": "hello"}) == "Echo: hello"
        assert "42" in await succeeded(bench, "e__get-sum", {"a": 40, "b": 2})
        image = await bench.call("e__get-tiny-image")
        assert [part.media_type for part in image.images] == ["image/png"]
        assert "[image image/png, " in image.content
        weather = await succeeded(bench, "e__get-structured-content", {"location": "Chicago"})
        assert json.loads(weather)["conditions"]
        links = await succeeded(bench, "e__get-resource-links", {"count": 2})
        assert links.count("[resource link") == 2
        embedded = await succeeded(bench, "e__get-resource-reference", {"resourceType": "Text", "resourceId": 1})
        assert "[resource text/plain" in embedded
        annotated = await bench.call("e__get-annotated-message", {"messageType": "error", "includeImage": True})
        assert len(annotated.images) == 1
        wrong = await bench.call("e__get-sum", {"a": "forty"})
        assert (wrong.outcome, "'forty' is not of type 'number'" in wrong.content) == ("failed", True)


async def test_the_environment_is_what_is_declared(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-executor")
    async with on_bench() as bench:
        await ready(bench, stdio_server("e", program(installed, "server-everything"), env={"MINE": "yes"}))
        seen = json.loads(await succeeded(bench, "e__get-env"))
        assert seen["MINE"] == "yes"
        assert seen.keys() <= {"MINE", "PYTHONPATH", "HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"}


async def test_resources_and_prompts_of_everything(everything: Everything) -> None:
    async with on_bench() as bench:
        await ready(bench, everything.manifest())
        listed = json.loads(await succeeded(bench, "e__list_resources"))
        assert any(one["uriTemplate"].startswith("demo://resource/dynamic/text/") for one in listed["templates"])
        document = listed["resources"][0]["uri"]
        assert document in await succeeded(bench, "e__read_resource", {"uri": document})
        blob = await succeeded(bench, "e__read_resource", {"uri": "demo://resource/dynamic/blob/1"})
        assert blob.startswith("[resource text/plain, ")
        missing = await bench.call("e__read_resource", {"uri": "demo://nothing"})
        assert missing.outcome == "failed"
        names = {one["name"] for one in json.loads(await succeeded(bench, "e__list_prompts"))["prompts"]}
        assert "args-prompt" in names
        prompt = await succeeded(bench, "e__get_prompt", {"name": "args-prompt", "arguments": {"city": "Oslo"}})
        assert "user:" in prompt
        assert "Oslo" in prompt


async def test_everything_asks_a_person(everything: Everything) -> None:
    async with on_bench() as bench:
        await ready(bench, everything.manifest(), tool="trigger-elicitation-request")
        task = await bench.ask("e__trigger-elicitation-request")
        question = await bench.question(task)
        assert question.message == "Please provide inputs for the following fields:"
        assert question.schema is not None
        assert question.schema["required"] == ["name"]
        await bench.reply(task, "accept", {"name": "Ann", "check": True, "integer": 7})
        told = (await bench.until_result(task)).content
        assert "- Name: Ann" in told
        assert "- Agreed to terms: true" in told
        no = await bench.ask("e__trigger-elicitation-request")
        await bench.question(no)
        await bench.reply(no, "decline")
        assert "declined" in (await bench.until_result(no)).content


async def test_progress_is_heard_and_a_stopped_call_ends(everything: Everything) -> None:
    heard: list[Any] = []

    async def hear(said: Any) -> None:
        heard.append(json.loads(said.data))

    async with on_bench() as bench:
        await bench.bus.signals.subscribe("hf.live.default.*", hear)
        await ready(bench, everything.manifest())
        content = await succeeded(bench, f"e__{LONG}", {"duration": 0.5, "steps": 3})
        assert "Long running operation completed" in content
        await until(lambda: any(one.get("progress") == 3 for one in heard), "the last step")
        task = await bench.ask(f"e__{LONG}", {"duration": 60, "steps": 600})
        await until(lambda: any(one.get("total") == 600 for one in heard), "the call is under way")
        await bench.bus.signals.publish(task.stop, b"")
        assert (await bench.until_result(task, within_s=5)).outcome == "cancelled"
        assert await succeeded(bench, "e__echo", {"message": "again"}) == "Echo: again"


def _under_way(heard: asyncio.Event) -> Callable[[Any], Any]:
    async def hear(said: Any) -> None:
        if b'"total":50' in said.data:
            heard.set()

    return hear


@pytest.mark.parametrize("policies", [(), CAREFUL], ids=["repeatable", "careful"])
async def test_a_server_that_is_killed_in_the_middle_of_a_call(
    everything: Everything, policies: Sequence[ToolPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CHECK_S", 0.3)
    heard = asyncio.Event()
    async with on_bench() as bench:
        await bench.bus.signals.subscribe("hf.live.default.*", _under_way(heard))
        await ready(bench, everything.manifest(policies=policies))
        task = await bench.ask(f"e__{LONG}", {"duration": 2, "steps": 50})
        await heard.wait()
        everything.signal(signal.SIGKILL)
        everything.start_again()
        result = await bench.until_result(task)
        if policies:
            assert result.outcome == "unknown"
            assert "may or may not have taken effect" in result.content
        else:
            assert (result.outcome, result.attempt) == ("succeeded", 2)
        assert await succeeded(bench, "e__echo", {"message": "again"}) == "Echo: again"


async def test_a_server_that_hangs(everything: Everything) -> None:
    async with on_bench() as bench:
        await ready(bench, everything.manifest(policies=[ToolPolicy(tool="echo", timeout_s=1.0)]))
        everything.signal(signal.SIGSTOP)
        try:
            result = await bench.call("e__echo", {"message": "?"})
        finally:
            everything.signal(signal.SIGCONT)
        assert (result.outcome, "no answer within 1 s" in result.content) == ("timed_out", True)
        assert await succeeded(bench, "e__echo", {"message": "again"}) == "Echo: again"


async def test_files_are_read_and_written_where_they_may_be(installed: Path, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (tmp_path / "secret.txt").write_text("hidden")
    async with on_bench() as bench:
        await ready(bench, stdio_server("f", program(installed, "server-filesystem", str(allowed))), tool="write_file")
        written = await bench.ask("f__write_file", {"path": str(allowed / "a.txt"), "content": "hello\n" * 3})
        assert (await bench.until_result(written)).outcome == "succeeded"
        assert (allowed / "a.txt").read_text() == "hello\n" * 3
        assert "hello" in await succeeded(bench, "f__read_text_file", {"path": str(allowed / "a.txt"), "head": 1})
        refused = await bench.call("f__read_text_file", {"path": str(tmp_path / "secret.txt")})
        assert (refused.outcome, "hidden" in refused.content) == ("failed", False)
        status = await bench.until_ready("f")
        hints = {tool.name: tool.annotations for tool in status.tools}
        assert hints["read_text_file"].read_only
        assert not hints["write_file"].read_only
        (allowed / "b.png").write_bytes(TINY_PNG)
        image = await bench.call("f__read_media_file", {"path": str(allowed / "b.png")})
        assert [part.media_type for part in image.images] == ["image/png"]


TINY_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6364f84f"
    "b50f0003860180"
    "5a347d6b0000000049454e44ae426082"
)


async def test_memory_is_kept_over_the_death_of_its_server(installed: Path, tmp_path: Path) -> None:
    store = tmp_path / "memory.jsonl"
    server = stdio_server("m", program(installed, "server-memory"), env={"MEMORY_FILE_PATH": str(store)})
    async with on_bench() as bench:
        await ready(bench, server, tool="create_entities")
        ann = {"name": "Ann", "entityType": "person", "observations": ["likes tea"]}
        await succeeded(bench, "m__create_entities", {"entities": [ann]})
        (pid,) = children("server-memory")
        os.kill(pid, signal.SIGKILL)
        assert "likes tea" in await succeeded(bench, "m__read_graph")
        assert children("server-memory") != [pid]
