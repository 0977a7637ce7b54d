"""People are asked in the terminal where they follow a task: real processes, and a real pseudo-terminal."""

from __future__ import annotations

import getpass
import json
import time
from pathlib import Path

import pytest

from tests.support.dev import HOLDFAST, Dev
from tests.support.pty_command import PtyCommand

MANIFESTS = """\
apiVersion: holdfast.dev/v1
kind: ContactChannel
metadata: {name: oncall, namespace: office}
spec: {type: console, timeoutSeconds: 900}
---
apiVersion: holdfast.dev/v1
kind: MCPServer
metadata: {name: time, namespace: office}
spec: {transport: stdio, command: mcp-server-time}
---
apiVersion: holdfast.dev/v1
kind: LLM
metadata: {name: careful, namespace: office}
spec:
  provider: scripted
  scripted:
    rules:
      - turn: 1
        reply:
          text: "I want to know the time.\\e[2J"
          calls: [{tool: time__get_current_time, arguments: {timezone: Asia/Tokyo}}]
    transcript: [{text: ""}, {text: "It said: {results}"}]
---
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: careful, namespace: office}
spec:
  llmRef: {name: careful}
  system: Help.
  mcpServers: [{name: time}]
  approvals: [{tools: ["*"], when: always, contactChannel: {name: oncall}}]
---
apiVersion: holdfast.dev/v1
kind: LLM
metadata: {name: asker, namespace: office}
spec:
  provider: scripted
  scripted:
    rules:
      - turn: 1
        reply:
          calls: [{tool: oncall__human_contact_console, arguments: {message: "Which?", choices: [red, blue]}}]
    transcript: [{text: ""}, {text: "It said: {results}"}]
---
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: asker, namespace: office}
spec: {llmRef: {name: asker}, system: Ask., humanContactChannels: [{name: oncall}]}
---
apiVersion: holdfast.dev/v1
kind: LLM
metadata: {name: boss, namespace: office}
spec:
  provider: scripted
  scripted:
    rules:
      - turn: 1
        reply: {calls: [{tool: delegate_to_agent__careful, arguments: {message: "The time, please"}}]}
    transcript: [{text: ""}, {text: "They said: {results}"}]
---
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: boss, namespace: office}
spec: {llmRef: {name: boss}, system: Delegate., subAgents: [{name: careful}]}
"""
CHOICE = "Your choice (1-7): "
ANSWER = "It said: "


@pytest.fixture(scope="module")
def office(dev: Dev) -> Dev:
    dev.good("apply", "-f", "-", "--wait", given=MANIFESTS)
    return dev


def at_terminal(dev: Dev, *arguments: str, **environ: str) -> PtyCommand:
    return PtyCommand([*HOLDFAST, *arguments, "-n", "office"], {**dev.env, **environ})


def until_asked(dev: Dev, task: str) -> None:
    deadline = time.monotonic() + 30
    while not dev.good("inbox", task, "-n", "office", "-o", "json").json["items"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def outcome(dev: Dev, task: str) -> tuple[str, str]:
    """How the task's one call ended, and what the model was told."""
    shown = dev.good("get", "toolcall", f"{task}-r1-tc-01", "-n", "office", "-o", "json").json["status"]
    return shown["outcome"], shown["result"]


def test_a_call_is_approved_in_the_terminal_where_the_task_runs(office: Dev) -> None:
    with at_terminal(office, "run", "careful", "What time is it?", "--name", "here") as terminal:
        end = terminal.until(CHOICE)
        shown = terminal.seen[:end]
        for text in (
            "? people are asked:",
            "here r1.1.0 (approval) through oncall, expires in ",
            "Agent careful wants to call time__get_current_time. In the model's words:\n    I want to know the time.",
            'With these arguments:\n    {"timezone": "Asia/Tokyo"}',
            "holdfast approve here r1.1.0 -n office",
            "  2  approve time__get_current_time for the rest of the task",
        ):
            assert text in shown, terminal.seen
        assert "\x1b[2J" not in terminal.raw
        terminal.type("1\n")
        terminal.until(f"r1.1.0 (time__get_current_time) was approved by {getpass.getuser()} on the bus", after=end)
        terminal.until(ANSWER)
        assert terminal.end() == 0
    assert outcome(office, "here")[0] == "succeeded"


def test_somebody_elses_answer_ends_the_prompt_and_says_so(office: Dev) -> None:
    with at_terminal(office, "run", "careful", "What time is it?", "--name", "elsewhere") as terminal:
        end = terminal.until(CHOICE)
        terminal.type("not a choice")
        office.good("approve", "elsewhere", "r1.1.0", "-n", "office", "--by", "bob")
        terminal.until("(no answer is needed any more)", after=end)
        terminal.until("was approved by bob on the bus")
        terminal.until(ANSWER)
        assert terminal.end() == 0


def test_a_call_is_rejected_with_a_comment_that_the_model_is_told(office: Dev) -> None:
    with at_terminal(office, "run", "careful", "What time is it?", "--name", "rejected") as terminal:
        terminal.until(CHOICE)
        terminal.type("6\n")
        terminal.until("Why? (Enter: no comment) ")
        terminal.type("not at night\n")
        terminal.until("was rejected by ")
        assert terminal.end() == 0
    assert outcome(office, "rejected") == ("rejected", "Rejected: not at night")


def test_arguments_are_changed_in_the_persons_editor(office: Dev, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's:Asia/Tokyo:Europe/Paris:' \"$1\"\n")
    editor.chmod(0o700)
    with at_terminal(office, "run", "careful", "Time?", "--name", "edited", VISUAL="", EDITOR=str(editor)) as terminal:
        terminal.until(CHOICE)
        terminal.type("5\n")
        end = terminal.until("Approve it so? (yes or no) ")
        assert '"timezone": "Europe/Paris"' in terminal.seen[:end]
        terminal.type("yes\n")
        assert terminal.end() == 0
    assert "Europe/Paris" in outcome(office, "edited")[1]


def test_ctrl_c_leaves_the_question_open_and_whoever_comes_back_is_asked_again(office: Dev) -> None:
    with at_terminal(office, "run", "careful", "What time is it?", "--name", "left") as terminal:
        terminal.until(CHOICE)
        terminal.type("\x03")
        terminal.until("task left goes on: `holdfast watch left -n office` follows it")
        terminal.until("stays open: `holdfast approve left r1.1.0 -n office` answers it")
        assert terminal.end() == 130
    (still,) = office.good("inbox", "left", "-n", "office", "-o", "json").json["items"]
    assert still["interaction"] == "r1.1.0"
    with at_terminal(office, "watch", "left") as terminal:
        end = terminal.until(CHOICE)
        terminal.type("\x04")
        end = terminal.until("r1.1.0 (time__get_current_time) stays open", after=end)
        office.good("approve", "left", "r1.1.0", "-n", "office", "--by", "bob")
        terminal.until("was approved by bob", after=end)
        assert terminal.end() == 0


def test_what_was_typed_before_the_question_was_shown_answers_nothing(office: Dev) -> None:
    with at_terminal(office, "run", "careful", "What time is it?", "--name", "hasty") as terminal:
        terminal.type("1\n1\n")
        terminal.until(CHOICE)
        time.sleep(0.5)
        (still,) = office.good("inbox", "hasty", "-n", "office", "-o", "json").json["items"]
        assert still["interaction"] == "r1.1.0"
        terminal.type("1\n")
        assert terminal.end() == 0


def test_a_question_with_choices_is_answered_by_a_number(office: Dev) -> None:
    with at_terminal(office, "run", "asker", "Ask me", "--name", "chosen") as terminal:
        end = terminal.until("Your choice (1-4): ")
        assert "Agent asker asks through oncall__human_contact_console:\n    Which?" in terminal.seen[:end]
        terminal.type("2\n")
        assert terminal.end() == 0
    assert outcome(office, "chosen") == ("succeeded", "blue")


def test_what_a_child_asks_is_asked_where_its_parent_is_followed(office: Dev) -> None:
    with at_terminal(office, "run", "boss", "What time is it?", "--name", "parent") as terminal:
        end = terminal.until(CHOICE)
        assert "? child parent-r1-1-" in terminal.seen[:end]
        terminal.type("y\n")
        terminal.until("They said: ", after=end)
        assert terminal.end() == 0


def test_without_input_a_question_is_only_shown(office: Dev) -> None:
    with at_terminal(office, "run", "careful", "What time is it?", "--name", "shown", "--no-input") as terminal:
        terminal.until("holdfast reject shown r1.1.0 -n office")
        until_asked(office, "shown")
        office.good("reject", "shown", "r1.1.0", "-n", "office", "--by", "bob", "-m", "later")
        terminal.until("was rejected by bob on the bus: later")
        assert terminal.end() == 0
        assert "Your choice" not in terminal.seen


def test_in_a_pipe_a_question_is_shown_beside_the_answer_and_as_json_on_its_own_line(office: Dev) -> None:
    quiet = office.start("run", "careful", "What time is it?", "--name", "piped", "-n", "office")
    until_asked(office, "piped")
    told = office.start("watch", "piped", "-n", "office", "-o", "jsonl")
    assert told.stdout is not None
    seen = [json.loads(told.stdout.readline())]
    while seen[-1]["event"] != "asked":
        seen.append(json.loads(told.stdout.readline()))
    assert seen[-1]["commands"][0] == "holdfast approve piped r1.1.0 -n office"
    office.good("approve", "piped", "r1.1.0", "-n", "office", "--by", "bob")
    out, err = quiet.communicate(timeout=30)
    assert (quiet.returncode, out.startswith(ANSWER)) == (0, True)
    assert "holdfast approve piped r1.1.0 -n office" in err
    assert "was approved by bob on the bus" in err
    rest, _ = told.communicate(timeout=30)
    events = [json.loads(line) for line in rest.splitlines()]
    assert [one["answer"]["by"] for one in events if one["event"] == "closed"] == ["bob"]
    assert (events[-1]["event"], events[-1]["phase"]) == ("state", "FinalAnswer")
