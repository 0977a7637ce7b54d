"""The tools for files, as a model calls them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from schemas.resources import CommandTool, EnvVar, FilesOptions, SecretKeyRef, SecretSource, ShellOptions, ToolsetSpec
from schemas.subjects import spec_key
from services.tool_executor.core.results import Attachment
from services.tool_executor.mcp.errors import TimedOut
from tests.support import waiting
from tests.support.toolset_bench import ToolsetBench, toolset_bench, words_of

PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)


async def do(bench: ToolsetBench, tool: str, task: str = "t", **arguments: object) -> str:
    return words_of(await bench.call("files", tool, arguments, task=await bench.task(task)))


async def test_what_one_call_writes_the_next_reads(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path) as bench:
        assert await do(bench, "list") == "[the directory is empty]"
        assert await do(bench, "write", path="a/b.txt", content="one\ntwo\nthree\n") == "Wrote a/b.txt: 14 bytes."
        assert await do(bench, "read", path="a/b.txt") == "one\ntwo\nthree\n"
        assert await do(bench, "read", path="a/b.txt", first_line=2, lines=1) == "[lines 2 to 2 of 3]\ntwo\n"
        assert await do(bench, "read", path="a/b.txt", first_line=3) == "[lines 3 to 3 of 3]\nthree\n"
        assert await do(bench, "read", path="a/b.txt", first_line=9) == "The file has 3 lines; there is no line 9."
        assert await do(bench, "edit", path="a/b.txt", old="two", new="2") == "Edited a/b.txt."
        assert await do(bench, "read", path=f"{tmp_path}/default/t/a/b.txt") == "one\n2\nthree\n"
        assert await do(bench, "write", path="a/b.txt", content="") == "Replaced a/b.txt: 0 bytes."
        assert await do(bench, "read", path="a/b.txt") == "[the file is empty]"
        assert await do(bench, "list") == "a/"
        assert await do(bench, "list", path="a") == "b.txt  0 bytes"
        assert await do(bench, "list", task="other") == "[the directory is empty]"


async def test_shell_and_files_work_in_the_same_place(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path) as bench:
        await do(bench, "write", path="script", content="echo hello from $1")
        task = await bench.task("t")
        assert words_of(await bench.call("shell", "run", {"command": "bash script here"}, task=task)).startswith(
            "hello from here\n[exit code 0]"
        )


@pytest.mark.parametrize(
    ("old", "words"),
    [("x", "not there in f"), ("a", "there 2 times in f"), ("", "'old' is empty")],
)
async def test_what_is_not_there_exactly_once_is_not_replaced(tmp_path: Path, old: str, words: str) -> None:
    async with toolset_bench(tmp_path) as bench:
        await do(bench, "write", path="f", content="a b a")
        assert words in await do(bench, "edit", path="f", old=old, new="c")
        assert await do(bench, "read", path="f") == "a b a"


async def test_images_are_shown_and_other_bytes_are_counted(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path) as bench:
        await do(bench, "list")
        (tmp_path / "default" / "t" / "image").write_bytes(PNG)
        (tmp_path / "default" / "t" / "bytes").write_bytes(b"a\0b")
        reply = await bench.call("files", "read", {"path": "image"}, task=await bench.task("t"))
        (shown,) = reply.parts
        assert isinstance(shown, Attachment)
        assert (shown.kind, shown.mime_type, shown.size) == ("image", "image/png", len(PNG))
        assert await do(bench, "read", path="bytes") == "[a binary file of 3 bytes]"
        assert "not a text in UTF-8" in await do(bench, "edit", path="image", old="a", new="b")


async def test_limits_and_permissions_are_those_of_the_manifest(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path) as bench:
        await bench.use("files", ToolsetSpec(files=FilesOptions(file_bytes=10)))
        assert "this tool writes 10 at most" in await do(bench, "write", path="f", content="x" * 11)
        (tmp_path / "default" / "t" / "long").write_text("x" * 11)
        assert "this tool reads 10 at most" in await do(bench, "read", path="long")
        assert "'../../x' leads out" in await do(bench, "read", path="../../x")
        status = await bench.status("files")
        assert [tool.name for tool in status.tools] == ["edit", "list", "read", "write"]
        await bench.use("looks", ToolsetSpec(files=FilesOptions(read_only=True)))
        assert [tool.name for tool in (await bench.status("looks")).tools] == ["list", "read"]


# --- commands ----------------------------------------------------------------------------

SAY = "import sys; print(sys.argv[1:]); print(sys.stdin.read(), end='')"
PROGRAM = (sys.executable, "-c", SAY)


def commands(*tools: CommandTool, **options: object) -> ToolsetSpec:
    limits = ShellOptions(**{"sandbox": "none", **options})  # type: ignore[arg-type]  # what a test needs
    return ToolsetSpec(commands=tools, command_options=limits)


def tool(name: str = "say", **fields: object) -> CommandTool:
    plain: dict[str, object] = {"name": name, "description": "says it", "command": PROGRAM}
    return CommandTool(**(plain | fields))  # type: ignore[arg-type]  # what a test needs


async def say(bench: ToolsetBench, name: str = "say", **arguments: object) -> str:
    return words_of(await bench.call("ours", name, arguments))


async def test_a_program_is_given_the_words_of_a_line(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path) as bench:
        await bench.use("ours", commands(tool(), tool("echo", command="echo 'the words'", command_desc="words")))
        assert (await say(bench, command="a 'b c' $HOME *")).startswith("['a', 'b c', '$HOME', '*']\n[exit code 0]")
        assert (await say(bench, "echo", command="x")).startswith("the words x\n")
        assert (await say(bench, "echo", command="echo 'the words' x")).startswith("the words x\n")
        assert "There is a pipe in the command" in await say(bench, command="a | b")
        status = await bench.status("ours")
        assert (status.status, status.status_detail) == ("Ready", "2 tools")


async def test_a_line_goes_to_a_shell_where_the_manifest_says_so(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path) as bench:
        await bench.use("ours", commands(tool("echo", command="echo", shell=True)))
        assert (await say(bench, "echo", command="a b | tr ab xy")).startswith("x y\n")
        assert (await say(bench, "echo", command="echo a && echo b")).startswith("a\nb\n")


async def test_a_schema_gives_a_program_its_arguments_one_by_one_and_as_json(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"what": {"type": "string"}, "n": {"type": "integer"}}}
    async with toolset_bench(tmp_path) as bench:
        await bench.use("ours", commands(tool(command=(*PROGRAM, "--n={n}", "{what}"), input_schema=schema)))
        said = await say(bench, what="a; rm -rf / $(id)", n=3)
        assert said.splitlines()[:2] == ["['--n=3', 'a; rm -rf / $(id)']", '{"what":"a; rm -rf / $(id)","n":3}']
        assert "what begins with '-'" in await say(bench, what="--evil")
        assert (await say(bench, what="x")).startswith("['x']\n")


async def test_a_program_has_the_limits_and_variables_of_its_toolset(tmp_path: Path) -> None:
    source = SecretSource(secret_key_ref=SecretKeyRef(name="api", key="key"))
    environ = {"HOLDFAST_SECRET_API_KEY": "correct-horse-battery"}
    async with toolset_bench(tmp_path, environ=environ) as bench:
        spec = commands(
            tool("env", command=("env",)),
            tool("sleep", command=("sleep",), timeout_s=1),
            env=(EnvVar(name="KEY", value_from=source),),
        )
        await bench.use("ours", spec)
        assert "KEY=[secret]" in await say(bench, "env", command="")
        with pytest.raises(TimedOut):
            await bench.call("ours", "sleep", {"command": "600"}, timeout_s=0.2)


# --- what is said of toolsets ------------------------------------------------------------

MISSING = SecretSource(secret_key_ref=SecretKeyRef(name="no", key="key"))


@pytest.mark.parametrize(
    ("spec", "detail"),
    [
        (ToolsetSpec(), "exactly one of shell, http, files and commands is needed, not none"),
        (ToolsetSpec(shell=ShellOptions(), files=FilesOptions()), "not shell and files"),
        (commands(tool(command="no-such-program x")), "the program 'no-such-program' was not found (PATH is "),
        (commands(tool(command="./here")), "the program './here' was not found"),
        (commands(tool(command="'open")), "cannot be split into words"),
        (commands(tool(), tool()), "two commands have the name 'say'"),
        (commands(tool(is_interactive=True)), "a program that wants a terminal cannot be a tool"),
        (commands(tool(shell=True, input_schema={"type": "object"})), "shell and inputSchema exclude each other"),
        (commands(tool(), env=(EnvVar(name="K", value_from=MISSING),)), "failed to get secret: key 'key' not found"),
        (commands(tool(), memory_mib=0), "commandOptions: memoryMib is 0; it must be more than 0"),
    ],
)
async def test_a_toolset_that_cannot_work_says_why(tmp_path: Path, spec: ToolsetSpec, detail: str) -> None:
    async with toolset_bench(tmp_path) as bench:
        await bench.use("ours", spec)
        status = await bench.status("ours")
        assert status.status == "Error"
        assert detail in status.status_detail
        assert status.tools == ()


async def test_a_status_follows_what_is_declared_and_goes_with_it(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path) as bench:
        await bench.use("ours", commands(tool(command="no-such-program")))
        assert (await bench.status("ours")).status == "Error"
        await bench.use("ours", commands(tool()))
        await waiting.until(lambda: bench.said("ours") == "Ready", "it is ready")
        await bench.bus.resources.delete(spec_key("Toolset", "default", "ours"))

        async def forgotten() -> bool:
            return await bench.bus.resources.get("status.Toolset.default.ours") is None

        await waiting.until(forgotten, "the status is gone")


async def test_directories_of_ended_tasks_are_swept_away(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path) as bench:
        await do(bench, "list", task="lives")
        await do(bench, "list", task="ends")
        ends = await bench.task("ends")
        await bench.end(ends)
        for _ in range(2):
            await bench.toolsets.sweep()
        assert sorted(place.name for place in (tmp_path / "default").iterdir()) == ["lives", "lives.born"]
