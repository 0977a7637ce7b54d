"""The examples of the pages in docs/howto, run as they are written."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nats
import pytest
import yaml

from schemas.live import TextAsked, TextDelta, TextSoFar
from schemas.wire import decode
from tests.support import npm
from tests.support.dev import Dev

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "howto" / "submit-a-task.md"
WATCH = PAGE.with_name("watch-a-task.md")


def example(language: str, page: Path = PAGE) -> str:
    """The code of one language on a page."""
    (code,) = re.finditer(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return code[1]


def run(command: list[str], dev: Dev, cwd: Path) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "NATS_URL": dev.url},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_submits_a_task_and_prints_its_answer(dev: Dev, tmp_path: Path) -> None:
    (tmp_path / "submit.py").write_text(example("python"))
    first = run([sys.executable, "submit.py"], dev, tmp_path)
    task = re.search(r"^task: (\S+)$", first, re.MULTILINE)
    assert task is not None
    assert re.search(r"^answer: It said: ", first, re.MULTILINE)
    assert dev.good("get", "task", task[1], "-o", "json").json["status"]["phase"] == "FinalAnswer"
    assert run([sys.executable, "submit.py"], dev, tmp_path) == first, "the same message id is the same task"


def test_the_node_example_submits_a_task(dev: Dev, tmp_path: Path) -> None:
    packages = npm.packages(Path(__file__).with_name("node") / "package-lock.json")
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    (tmp_path / "submit.mjs").write_text(example("javascript"))
    done = npm.node("submit.mjs", cwd=tmp_path, env={**os.environ, "NATS_URL": dev.url})
    assert done.returncode == 0, done.stderr
    assert dev.run("watch", done.stdout.removeprefix("task: ").strip()).code == 0


SPEAKER = """\
apiVersion: holdfast.dev/v1
kind: LLM
metadata: {name: speaker}
spec:
  provider: scripted
  scripted: {transcript: [{text: "one two three four five six seven eight nine \U0001f600", delaySeconds: 3}]}
---
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: speaker}
spec: {llmRef: {name: speaker}, system: Speak.}
"""


def test_the_python_watcher_that_joins_in_the_middle_shows_the_whole_text(dev: Dev, tmp_path: Path) -> None:
    (tmp_path / "watch.py").write_text(example("python", WATCH))
    dev.good("apply", "-f", "-", "--wait", given=SPEAKER)
    dev.good("submit", "-a", "speaker", "Speak", "--name", "spoken")
    asyncio.run(until_text(dev.url, "spoken"))
    shown = run([sys.executable, "watch.py", "spoken"], dev, tmp_path)
    assert shown == "\n[turn 1, attempt 1] one two three four five six seven eight nine \U0001f600"


async def until_text(url: str, task: str) -> None:
    """Wait until some of a task's text was published, and more of it is to come."""
    client = await nats.connect(url)  # pyright: ignore[reportUnknownMemberType]  # untyped options
    try:
        heard = await client.subscribe(f"hf.live.default.{task}")  # pyright: ignore[reportUnknownMemberType]  # untyped
        async with asyncio.timeout(10):
            async for message in heard.messages:
                said = json.loads(message.data)
                assert said.get("phase") != "FinalAnswer"
                if said.get("offset", 0) > 0:
                    return
    finally:
        await client.close()


def test_the_json_of_the_watching_page_is_what_is_said() -> None:
    blocks = re.findall(r"^ *```json\n(.*?)^ *```$", WATCH.read_text(), re.DOTALL | re.MULTILINE)
    delta, asked, said = blocks
    assert decode(delta.encode(), TextDelta).offset == 12
    assert decode(asked.encode(), TextAsked).offset == 12
    assert decode(said.encode(), TextSoFar).length == 12 + len("half past nine")


def test_the_json_of_the_page_is_what_is_sent_and_answered(dev: Dev) -> None:
    text = PAGE.read_text()
    for block in re.findall(r"^```json\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            assert isinstance(yaml.safe_load(line), dict)
    answer = dev.good("submit", "-a", "helper", "think", "--name", "page", "-o", "json").json
    assert answer == {"type": "accepted.v1", "namespace": "default", "task": "page"}
    again = dev.good("submit", "-a", "helper", "think", "--name", "page", "-o", "json").json
    assert again == {**answer, "created": False}


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "examples").glob("*.yaml")))
def test_every_example_is_a_good_manifest(dev: Dev, file: str) -> None:
    checked = dev.good("apply", "--dry-run", "-f", str(ROOT / "examples" / file))
    assert checked.lines
    assert checked.err == ""


def test_the_helper_of_the_readme_answers(dev: Dev) -> None:
    dev.good("apply", "-f", str(ROOT / "examples" / "helper.yaml"), "-n", "tour", "--wait")
    answer = dev.good("run", "helper", "What time is it in Tokyo?", "-n", "tour").out
    assert answer.startswith("I am only a script, but the tool is real. It said: ")
    assert "Asia/Tokyo" in answer


def test_the_predecessors_manifests_apply_unmodified(dev: Dev) -> None:
    applied = dev.good("apply", "-f", str(ROOT / "examples" / "acp.yaml"), "-n", "acp")
    assert applied.lines == [
        "llm/gpt-4o created",
        "mcpserver/clock created",
        "agent/timekeeper created",
        "task/hello submitted",
    ]
    dev.good("cancel", "hello", "-n", "acp")
