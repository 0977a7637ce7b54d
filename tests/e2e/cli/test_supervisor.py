from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from services.cli.supervisor import GaveUp, LogLine, Supervisor, how_it_ended, parse_line, service_env
from services.runtime.leash import leashed
from tests.support.waiting import until

PATIENCE_S = 10.0
SERVICE = """
import json, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(json.dumps({"msg": "it runs", "level": "INFO", "action": "process.ready"}), file=sys.stderr, flush=True)
time.sleep(600)
"""


class Lines:
    """What children said, and a way to wait for it."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self._news = asyncio.Event()

    def take(self, line: LogLine) -> None:
        self.lines.append(line)
        self._news.set()

    async def until(self, text: str) -> LogLine:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for line in self.lines:
                    if text in line.message:
                        return line
                self._news.clear()
                await self._news.wait()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
async def supervisor(lines: Lines) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(lines.take)
    yield supervisor
    supervisor.kill_all()
    await supervisor.stop()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def test_children_are_started_read_and_ended(supervisor: Supervisor, lines: Lines) -> None:
    child = supervisor.start("one", python(SERVICE), os.environ)
    await supervisor.until_ready(PATIENCE_S)
    assert (await lines.until("it runs")).child == "one"
    pid = child.pid
    assert pid is not None
    await supervisor.stop()
    assert not psutil.pid_exists(pid)


async def test_a_child_that_is_killed_is_started_again(supervisor: Supervisor, lines: Lines) -> None:
    child = supervisor.start("one", python(SERVICE), os.environ)
    await supervisor.until_ready(PATIENCE_S)
    first = supervisor.kill("one")
    said = await lines.until("was ended by SIGKILL; starting again in")
    assert said.level == "WARNING"
    await until(lambda: child.starts == 2 and child.pid is not None, "a second process", within_s=PATIENCE_S)
    assert child.pid != first


async def test_a_child_that_never_gets_ready_is_given_up_with_its_last_words(supervisor: Supervisor) -> None:
    supervisor.start("broken", python("import sys; print('no such bus'); sys.exit(5)"), os.environ)
    with pytest.raises(GaveUp, match=r"broken does not start: it ended with code 5; it said\n.*no such bus"):
        await supervisor.until_ready(30)


async def test_children_are_ended_by_the_end_of_their_parent(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    parent = f"""
import asyncio, os, pathlib, sys
from services.cli.supervisor import Supervisor

async def main():
    supervisor = Supervisor(lambda line: None)
    child = supervisor.start("one", [sys.executable, "-c", {SERVICE!r}], os.environ)
    await supervisor.until_ready(10)
    draft = pathlib.Path({str(pids)!r} + ".draft")
    draft.write_text(str(child.pid))
    draft.replace({str(pids)!r})
    await asyncio.sleep(600)

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(*python(parent))
    try:
        await until(pids.exists, "the child to be ready", within_s=PATIENCE_S)
        child = int(pids.read_text())
        assert not is_gone(child)
        process.kill()
        await until(lambda: is_gone(child), "the child to be gone", within_s=PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_child_whose_parent_is_gone_before_it_runs_does_not_run() -> None:
    command = leashed(["echo", "ran"])
    command[command.index(str(os.getpid()))] = "999999999"
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"msg":"a","level":"ERROR","action":"x","error":"Trace"}', LogLine("c", "a", "ERROR", "x", "", "Trace")),
        (b"plain words\n", LogLine("c", "plain words")),
        (b'{"other": 1}', LogLine("c", '{"other": 1}')),
        (b"\xff\n", LogLine("c", "\ufffd")),
    ],
)
def test_a_line_that_is_not_ours_is_told_as_it_is(line: bytes, expected: LogLine) -> None:
    assert parse_line("c", line) == expected


def test_ends_are_told_in_words() -> None:
    assert how_it_ended(-9) == "was ended by SIGKILL"
    assert how_it_ended(3) == "ended with code 3"
    assert how_it_ended(-250) == "was ended by signal 250"


def test_a_childs_environment_names_only_our_server() -> None:
    environ = {"NATS_URL": "x", "HOLDFAST_NATS_TOKEN": "t", "HOLDFAST_PARTITIONS": "2", "PATH": "/bin"}
    env = service_env(environ, "nats://127.0.0.1:1", HOLDFAST_REPLICA="r")
    assert env == {
        "HOLDFAST_PARTITIONS": "2",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}/bin",
        "HOLDFAST_NATS_URL": "nats://127.0.0.1:1",
        "HOLDFAST_LOG_FORMAT": "json",
        "HOLDFAST_REPLICA": "r",
    }
