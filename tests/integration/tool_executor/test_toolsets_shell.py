"""Commands run for real: what they find, what they cannot do, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from schemas.resources import (
    ContactChannel,
    ContactChannelSpec,
    EnvVar,
    Metadata,
    Ref,
    SecretKeyRef,
    SecretSource,
    ShellOptions,
    ToolPolicy,
    ToolsetSpec,
)
from services.tool_executor.mcp.errors import Lost, TimedOut
from tests.support import waiting
from tests.support.mcp_servers.bench import alive
from tests.support.stage import Stage
from tests.support.toolset_bench import ToolsetBench, toolset_bench, words_of

SECRET = "correct-horse-battery-staple"


def shell(**options: object) -> ToolsetSpec:
    return ToolsetSpec(shell=ShellOptions(**{"sandbox": "none", **options}))  # type: ignore[arg-type]  # what a test needs


async def run(bench: ToolsetBench, command: str, **how: object) -> str:
    return words_of(await bench.call("shell", "run", {"command": command}, **how))  # type: ignore[arg-type]  # as above


async def started(place: Path, count: int) -> list[int]:
    """The numbers of the processes that commands have noted in a file."""

    def there() -> bool:
        return place.exists() and len(place.read_text().split()) >= count

    await waiting.until(there, f"{count} processes have started")
    return noted_in(place)


def noted_in(place: Path) -> list[int]:
    return [int(word) for word in place.read_text().split()]


async def all_gone(pids: list[int]) -> None:
    await waiting.until(lambda: not any(alive(pid) for pid in pids), f"none of {pids} is left")


# --- what a command finds ----------------------------------------------------------------


async def test_a_command_says_something_and_its_exit_code_is_told(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        reply = await bench.call("shell", "run", {"command": "echo out; echo err >&2; exit 3"})
        assert words_of(reply) == (
            "out\nerr\n[exit code 3]\n[the working directory is new and was empty]"
            "\n[not in a sandbox: this test does without]"
        )
        assert reply.is_error
        assert not (await bench.call("shell", "run", {"command": "true"})).is_error


async def test_a_task_keeps_its_directory_and_has_none_of_another(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell())
        one, other = await bench.task(), await bench.task()
        await run(bench, "echo mine > file", task=one)
        assert await run(bench, "cat file; pwd", task=one) == f"mine\n{tmp_path}/work/default/{one.task}\n[exit code 0]"
        assert "No such file" in await run(bench, "cat file", task=other)


async def test_a_command_finds_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_SECRET_X_Y", SECRET)
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell(env=(EnvVar(name="GIVEN", value="yes"),)))
        task = await bench.task()
        said = await run(bench, "env -u _ | sort", task=task)
        home = f"{tmp_path}/work/default/{task.task}"
        assert said.splitlines()[:6] == [
            "GIVEN=yes",
            f"HOME={home}",
            "LANG=C.UTF-8",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            f"PWD={home}",
            "SHLVL=1",
        ]
        assert SECRET not in said


async def test_a_secret_is_given_and_not_repeated(tmp_path: Path) -> None:
    source = SecretSource(secret_key_ref=SecretKeyRef(name="api", key="key"))
    async with toolset_bench(tmp_path / "work", environ={"HOLDFAST_SECRET_API_KEY": SECRET}) as bench:
        await bench.use("shell", shell(env=(EnvVar(name="KEY", value_from=source),), output_bytes=100))
        assert await run(bench, "echo ${#KEY} $KEY") == (
            f"{len(SECRET)} [secret]\n[exit code 0]\n[the working directory is new and was empty]"
        )
        said = await run(bench, "printf 'x%.0s' {1..40}; printf %s $KEY $KEY $KEY; printf 'y%.0s' {1..40}")
        assert "[secret]" in said
        assert not any(SECRET[n : n + 5] in said for n in range(len(SECRET) - 4))


async def test_standard_input_is_at_its_end(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell())
        assert (await run(bench, "cat; read x || echo end")).startswith("end\n[exit code 0]")


# --- limits ------------------------------------------------------------------------------


async def test_output_without_end_fills_no_memory(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell(output_bytes=1000))
        before = rss_kib()
        with pytest.raises(TimedOut, match="no end within 1 s") as caught:
            await run(bench, "yes", timeout_s=1.0)
        assert "bytes of output were left out here" in caught.value.so_far
        assert len(caught.value.so_far) < 1200
        assert rss_kib() - before < 8_000


def rss_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


async def test_head_and_tail_of_long_output_are_kept(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell(output_bytes=100))
        said = await run(bench, "seq 1 100000")
        assert said.startswith("1\n2\n3\n")
        assert "[... 588795 of 588895 bytes of output were left out here ...]" in said
        assert "\n99999\n100000\n[exit code 0]" in said


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("while :; do :; done", {"cpu_s": 1}, "[it was ended by SIGXCPU: it used up its processor time]"),
        (
            "exec head -c 3000000 /dev/zero > big",
            {"file_mib": 1},
            "[it was ended by SIGXFSZ: a file became larger than it may be]",
        ),
        (f"exec {sys.executable} -c 'bytearray(1 << 30)'", {"memory_mib": 256}, "MemoryError"),
        ("ulimit -c; ulimit -n", {}, "0\n1024\n[exit code 0]"),
        ("kill -TERM $$", {}, "[it was ended by signal 15]"),
    ],
)
async def test_a_command_meets_its_limits(tmp_path: Path, command: str, options: dict[str, object], words: str) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell(**options))
        assert words in await run(bench, command)


async def test_a_command_that_multiplies_is_ended(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell(processes=20))
        noted = tmp_path / "pids"
        said = await run(bench, f"for n in {{1..200}}; do sleep 600 & echo $! >> {noted}; done; wait")
        assert "[it was ended because it had more than 20 processes at once]" in said
        await all_gone(noted_in(noted))


# --- nothing is left ---------------------------------------------------------------------

DAEMON = (
    "setsid bash -c 'trap \"\" TERM HUP INT; echo $$ >> {noted}; (setsid sleep 600 & echo $! >> {noted}); sleep 600'"
    " < /dev/null > /dev/null 2>&1 & disown; sleep 600 & echo $! >> {noted}; "
)
"""Processes that leave the session, twice, ignore signals and hold no pipe."""


async def test_what_a_command_leaves_running_ends_with_it(tmp_path: Path) -> None:
    noted = tmp_path / "pids"
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell())
        command = DAEMON.format(noted=noted) + f"until [ $(wc -l < {noted}) = 3 ]; do :; done; echo done"
        assert (await run(bench, command)).startswith("done\n[exit code 0]")
        await all_gone(await started(noted, 3))


async def test_a_command_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    noted = tmp_path / "pids"
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell())
        with pytest.raises(TimedOut) as caught:
            await run(bench, "echo so far; " + DAEMON.format(noted=noted) + "sleep 600", timeout_s=1.0)
        assert caught.value.so_far.startswith("so far")
        await all_gone(await started(noted, 3))


async def test_a_call_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    noted = tmp_path / "pids"
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell())
        call = asyncio.ensure_future(run(bench, DAEMON.format(noted=noted) + "yes"))  # noqa: TID251 - awaited below
        pids = await started(noted, 3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await all_gone(pids)


async def test_the_end_of_the_executor_is_the_end_of_its_commands(tmp_path: Path) -> None:
    """By SIGKILL: nobody can clean up, and still nothing is left."""
    noted = tmp_path / "pids"
    script = tmp_path / "executor.py"
    script.write_text(
        "import asyncio, sys\n"
        "from services.tool_executor.toolsets.process import Order, run\n"
        "order = Order(command=('bash', '-c', sys.argv[1]), directory='/', env={'PATH': '/usr/bin:/bin'},\n"
        "    timeout_s=600.0, limits={}, processes=50, output_bytes=1000)\n"
        "asyncio.run(run(order))\n"
    )
    command = DAEMON.format(noted=noted) + "sleep 600"
    root = Path(__file__).parents[3]
    executor = await asyncio.create_subprocess_exec(
        sys.executable, str(script), command, env={"PYTHONPATH": str(root), "PATH": os.environ["PATH"]}
    )
    pids = await started(noted, 3)
    executor.kill()
    await executor.wait()
    await all_gone(pids)


async def test_a_command_that_kills_its_supervisor_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell())
        noted = tmp_path / "pids"
        with pytest.raises(Lost, match="ended by force"):
            await run(bench, f"echo $$ > {noted}; kill -KILL $PPID; sleep 600")
        await all_gone(await started(noted, 1))


async def test_many_commands_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell())
        said = await asyncio.gather(*(run(bench, f"echo {n}; exit {n}") for n in range(12)))
        assert [text.splitlines()[:2] for text in said] == [[f"{n}", f"[exit code {n}]"] for n in range(12)]


# --- what cannot be run ------------------------------------------------------------------


async def test_a_task_that_has_ended_gets_no_directory_any_more(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell())
        task = await bench.task()
        await bench.end(task)
        reply = await bench.call("shell", "run", {"command": "true"}, task=task)
        assert reply.is_error
        assert words_of(reply) == "The task has ended, and its working directory with it."
        assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("command", ["echo a\0b", "echo " + "x" * 200_000])
async def test_a_line_that_no_program_can_be_given_is_refused(tmp_path: Path, command: str) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell())
        assert (await bench.call("shell", "run", {"command": command})).is_error


async def test_a_sandbox_that_is_required_and_not_there_is_a_refusal(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell(sandbox="required"))
        assert (
            await run(bench, "true") == "This tool runs in a sandbox only, and there is none: this test does without."
        )
        status = await bench.status("shell")
        assert (status.status, status.status_detail) == ("Error", "a sandbox is required: this test does without")


async def test_a_toolset_about_whose_calls_people_are_asked_is_ready_when_they_can_be(tmp_path: Path) -> None:
    people = ContactChannel(metadata=Metadata(name="people"), spec=ContactChannelSpec(type="console"))
    async with toolset_bench(tmp_path / "work") as bench:
        stage = Stage(bench.bus)

        async def until_said(status: str, detail: str) -> None:
            async def there() -> bool:
                found = await bench.status("shell")
                return (found.status, detail in found.status_detail) == (status, True)

            await waiting.until(there, f"{status}: {detail}")

        await bench.declare("shell", ToolsetSpec(shell=ShellOptions(), contact_channel=Ref(name="people")))
        await until_said("Error", 'ContactChannel "people" not found')
        revision = await stage.apply(people)
        await until_said("Pending", 'ContactChannel "people" is not ready')
        await stage.say_ready(people, revision)
        await until_said("Ready", "1 tool")
        asks = (ToolPolicy(tool="*", on_uncertain="ask"),)
        await bench.declare("shell", ToolsetSpec(shell=ShellOptions(), policies=asks))
        await until_said("Ready", "onUncertain: ask without contactChannel")


async def test_output_that_is_no_text_is_shown_as_well_as_it_can_be(tmp_path: Path) -> None:
    async with toolset_bench(tmp_path / "work") as bench:
        await bench.use("shell", shell())
        assert "a\ufffdb" in await run(bench, "printf 'a\\xffb'")
