"""`holdfast dev` and `holdfast demo` as processes: what they start, survive and leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.dev import HOLDFAST, Dev
from tests.support.provider_server import Stream, provider_server
from tests.support.provider_wire import Call, chat_stream

PATIENCE_S = 30.0
MODEL = """\
apiVersion: holdfast.dev/v1
kind: LLM
metadata: {name: scripted}
spec:
  provider: scripted
  scripted: {transcript: [{text: "one two three four five six seven eight nine ten", delaySeconds: 1.5}]}
---
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: helper}
spec: {llmRef: {name: scripted}, system: Help.}
"""


@pytest.fixture
def own_dev(tmp_path: Path) -> Iterator[Dev]:
    """A `holdfast dev` that a test may ill-treat."""
    dev = Dev(tmp_path)
    try:
        dev.wait_until_ready()
        yield dev
    finally:
        dev.end(signal.SIGKILL)


def family(dev: Dev) -> list[psutil.Process]:
    """All processes below a dev."""
    return psutil.Process(dev.process.pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


def service(dev: Dev, name: str) -> psutil.Process:
    """The process of a service, by its command line."""
    return next(process for process in family(dev) if process.cmdline()[-2:] == ["serve", name])


def test_a_killed_gateway_is_started_again_and_its_task_ends(own_dev: Dev) -> None:
    own_dev.good("apply", "-f", "-", "--wait", given=MODEL)
    own_dev.good("submit", "-a", "helper", "count", "--name", "counting")
    service(own_dev, "llm-gateway").kill()
    watched = own_dev.good("watch", "counting", "--timeout", str(PATIENCE_S))
    assert "one two three four five six seven eight nine ten" in watched.lines
    log = own_dev.log.read_text()
    assert "llm-gateway     | WARNING: was ended by SIGKILL; starting again in" in log


def test_a_killed_server_is_started_again_with_its_data(own_dev: Dev) -> None:
    own_dev.good("apply", "-f", "-", "--wait", given=MODEL)
    url = own_dev.url
    own_dev.good("submit", "-a", "helper", "count", "--name", "counting")
    server = next(process for process in family(own_dev) if "nats-server" in process.name())
    server.kill()
    wait_for(lambda: own_dev.run("get", "task", "counting").code == 0, "the server to be back")
    assert own_dev.good("watch", "counting", "--timeout", str(PATIENCE_S)).code == 0
    assert own_dev.url == url


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_everything_and_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    dev = Dev(tmp_path, "--services", "planner:2")
    try:
        dev.wait_until_ready()
        processes = family(dev)
        assert len(processes) == 3
        assert dev.end(number) == 0
        assert alive(processes) == []
        log = dev.log.read_text()
        assert log.count("planner is draining") == 2
        assert not list((tmp_path / "state").glob("dev.json"))
    finally:
        dev.end(signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes of other systems are not told of their parent's end")
def test_even_sigkill_leaves_nothing_running_and_the_data_intact(own_dev: Dev, tmp_path: Path) -> None:
    own_dev.good("apply", "-f", "-", "--wait", given=MODEL)
    processes = family(own_dev)
    assert own_dev.end(signal.SIGKILL) == -signal.SIGKILL
    wait_for(lambda: alive(processes) == [], "all children to end with their parent")
    assert own_dev.run("get").code == 5
    own_dev.ready.unlink()
    again = Dev(tmp_path)
    try:
        again.wait_until_ready()
        assert again.good("get", "agent", "helper", "-o", "name").out == "agent/helper\n"
    finally:
        again.end()


def test_a_second_dev_on_the_same_data_says_so(own_dev: Dev) -> None:
    second = own_dev.run("dev")
    assert second.code == 4
    assert f"is in use by `holdfast dev` with process id {own_dev.process.pid}" in second.err
    port = own_dev.url.rpartition(":")[2]
    other = own_dev.run("dev", "--data-dir", str(own_dev.directory / "other"), "--port", port)
    assert other.code == 4
    assert f"port {port} is in use" in other.err


def test_a_server_that_cannot_be_used_is_named(own_dev: Dev) -> None:
    done = own_dev.run("dev", "--data-dir", str(own_dev.directory / "other"), "--nats-server", "/nowhere/nats-server")
    assert done.code == 4
    assert "/nowhere/nats-server" in done.err


def test_on_a_terminal_the_text_streams_and_the_answer_is_there_once(dev: Dev) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*HOLDFAST, "run", "helper", "think"], env={**dev.env, "TERM": "xterm"}, stdout=slave, stderr=slave, stdin=slave
    )
    os.close(slave)
    pieces: list[bytes] = []
    try:
        while piece := os.read(master, 65536):
            pieces.append(piece)
    except OSError:
        pass  # the terminal's other side is closed
    finally:
        os.close(master)
    assert process.wait(20) == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", b"".join(pieces).decode())
    assert shown.count("I think a little.") == 1
    assert "waiting for the model" in shown


# --- the demo ---------------------------------------------------------------------------


def demo(environ: dict[str, str], tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HOLDFAST_", "NATS_"))}
    for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        env.pop(key, None)
    env |= {"TMPDIR": str(tmp_path), **environ}
    return subprocess.run(
        [*HOLDFAST, "demo", *arguments], env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_demo_kills_finishes_once_and_leaves_nothing(tmp_path: Path) -> None:
    done = demo({}, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The model is scripted" in done.stdout
    assert done.stdout.count("!! SIGKILL") == 2
    assert "FAIL" not in done.stdout
    assert "git has 1 new commit, 1 of them 'Add the notes'; its hook ran 1 time" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*HOLDFAST, "demo", "--scripted"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        wait_for(lambda: len(psutil.Process(process.pid).children()) >= 3, "processes to be started")
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.communicate(timeout=40)
    finally:
        process.kill()
    assert process.returncode == 130
    wait_for(lambda: alive(children) == [], "all children to end")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_without_git_uses_the_clock_only(tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    done = demo({"PATH": str(bare)}, tmp_path, "--scripted")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "There is no git on this machine" in done.stdout
    assert done.stdout.count("!! SIGKILL") == 1


async def test_with_a_key_the_demo_uses_the_real_providers_protocol(tmp_path: Path) -> None:
    def call(name: str, **arguments: object) -> Call:
        return Call(f"call_{name}", f"git__{name}", json.dumps({"repo_path": "repository", **arguments}))

    looks = chat_stream("I look at the history first.", [call("git_log")])
    async with provider_server() as server:
        server.keys = {"sk-test"}
        server.then(
            Stream(chat_stream("", [call("git_add", files=["NOTES.md"])])),
            Stream(chat_stream("", [call("git_commit", message="Add the notes")])),
            Stream(looks, stall_after=5),
            Stream(looks),
            Stream(chat_stream("The notes are committed once.")),
        )
        environ = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": server.openai_url}
        done = await asyncio.to_thread(demo, environ, tmp_path, "--model", "gpt-test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The model is a real one, of openai" in done.stdout
    assert "git has 1 new commit" in done.stdout
    assert {request.body["model"] for request in server.generations()} == {"gpt-test"}
