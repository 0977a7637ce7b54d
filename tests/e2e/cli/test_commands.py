"""Every command against real services, in every form of output."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.support.dev import HOLDFAST, Dev


def rows(text: str) -> list[list[str]]:
    """A plain table's cells."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


# --- apply, get, describe, delete --------------------------------------------------------


def test_applying_again_changes_nothing_and_a_change_is_told(dev: Dev) -> None:
    manifest = """
        apiVersion: acp.humanlayer.dev/v1alpha1
        kind: LLM
        metadata: {name: other, namespace: team}
        spec: {provider: scripted, scripted: {transcript: [{text: %s}]}}
        """
    assert dev.good("apply", "-f", "-", given=manifest % "one").out == "llm/other created\n"
    assert dev.good("apply", "-f", "-", given=manifest % "one").out == "llm/other unchanged\n"
    assert dev.good("apply", "-f", "-", "-o", "name", "--wait", given=manifest % "two").out == "llm/other\n"
    assert dev.good("delete", "-f", "-", given=manifest % "two").out == "llm/other deleted\n"
    assert dev.run("get", "llm", "other", "-n", "team").code == 3


def test_waiting_for_what_cannot_get_ready_tells_why_and_ends(dev: Dev) -> None:
    manifest = """
        apiVersion: holdfast.dev/v1
        kind: Agent
        metadata: {name: orphan}
        spec: {llmRef: {name: missing}, system: Help.}
        """
    done = dev.run("apply", "-f", "-", "--wait", "--timeout", "1", given=manifest)
    assert done.code == 7
    assert "agent/orphan is " in done.err
    assert "missing" in done.err
    dev.good("delete", "agent", "orphan")


def test_resources_are_shown_as_tables_with_their_readiness(dev: Dev) -> None:
    table = rows(dev.good("get", "agents,llms,mcpservers").out)
    assert ["NAME", "READY", "STATUS"] in table
    assert ["agent/helper", "true", "Ready"] in table
    assert ["llm/scripted", "scripted", "true", "Ready"] in table
    assert ["mcpserver/time", "true", "Ready", "2"] in table
    wide = rows(dev.good("get", "agent", "helper", "-o", "wide").out)
    assert wide == [
        ["NAME", "READY", "STATUS", "LLM", "DETAIL"],
        ["helper", "true", "Ready", "scripted", "All dependencies validated successfully"],
    ]


def test_resources_are_shown_by_name_and_of_every_namespace(dev: Dev) -> None:
    assert dev.good("get", "agent/helper", "-o", "name").out == "agent/helper\n"
    assert rows(dev.good("get", "agents", "-A").out)[1][:2] == ["default", "helper"]
    empty = dev.good("get", "agents", "-n", "empty")
    assert (empty.out, empty.err) == ("", "nothing found in namespace 'empty'\n")


def test_what_get_prints_as_yaml_can_be_applied_again(dev: Dev) -> None:
    shown = dev.good("get", "llms,mcpservers,agents", "-o", "yaml").out
    documents = yaml.safe_load(shown)["items"]
    again = yaml.safe_dump_all(documents)
    assert dev.good("apply", "-f", "-", given=again).lines == [
        "llm/scripted unchanged",
        "mcpserver/time unchanged",
        "agent/helper unchanged",
    ]


def test_one_resource_as_json_has_its_status(dev: Dev) -> None:
    server = dev.good("get", "mcpserver", "time", "-o", "json").json
    assert server["kind"] == "MCPServer"
    assert server["spec"] == {"transport": "stdio", "command": "mcp-server-time"}
    assert server["status"]["connected"] is True
    assert [tool["name"] for tool in server["status"]["tools"]] == ["convert_time", "get_current_time"]


def test_describe_tells_a_resources_spec_status_and_tools(dev: Dev) -> None:
    text = dev.good("describe", "mcp", "time").out
    assert "Ready:        yes (Ready)" in text
    assert "get_current_time   read-only" in text
    assert "Labels:       tier=test" in dev.good("describe", "llm/scripted").out


@pytest.mark.parametrize("command", [["get", "agent", "nobody"], ["describe", "task", "none"], ["watch", "none"]])
def test_what_is_not_there_ends_with_3(dev: Dev, command: list[str]) -> None:
    done = dev.run(*command)
    assert done.code == 3
    assert "holdfast get" in done.err


# --- tasks ------------------------------------------------------------------------------


def test_a_task_is_shown_in_every_form(dev: Dev, task: str) -> None:
    header, row = rows(dev.good("get", "task", task).out)
    assert header == ["NAME", "AGENT", "READY", "STATUS", "PHASE", "PREVIEW", "OUTPUT", "AGE"]
    assert row[:6] == [task, "helper", "true", "Ready", "FinalAnswer", "What time is it?"]
    assert "STARTED" in dev.good("get", "task", task, "-o", "wide").lines[0]
    assert dev.good("get", "task", task, "-o", "name").out == f"task/{task}\n"
    document = dev.good("get", "task", task, "-o", "json").json
    assert document == yaml.safe_load(dev.good("get", "task", task, "-o", "yaml").out)
    status = document["status"]
    assert (status["phase"], status["spend"]["modelCalls"]) == ("FinalAnswer", 2)
    assert [call["outcome"] for call in status["toolCalls"]] == ["succeeded", "failed"]
    assert [message["role"] for message in status["contextWindow"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    assert "Asia/Tokyo" in status["output"]


def test_tool_calls_are_shown_by_their_derived_names(dev: Dev, task: str) -> None:
    listed = rows(dev.good("get", "toolcalls").out)
    assert [f"{task}-r1-tc-01", "Succeeded", task, "time__get_current_time"] in [row[:4] for row in listed]
    shown = dev.good("get", "toolcall", f"{task}-r1-tc-02", "-o", "yaml").out
    assert yaml.safe_load(shown)["status"]["outcome"] == "failed"
    assert "Nowhere/Nothing" in dev.good("describe", "toolcall", f"{task}-r1-tc-02").out


def test_events_are_told_in_every_form(dev: Dev, task: str) -> None:
    wanted = [
        "Initializing",
        "ValidationSucceeded",
        "SendingContextWindowToLLM",
        "ToolCallsPending",
        "ToolCallCreated",
        "ToolCallCreated",
        "ExecutionSucceeded",
        "ExecutionFailed",
        "SendingContextWindowToLLM",
        "LLMFinalAnswer",
    ]
    table = rows(dev.good("events", task).out)
    assert table[0] == ["AGE", "TYPE", "REASON", "MESSAGE"]
    assert sorted(row[2] for row in table[1:]) == sorted(wanted)
    as_json = dev.good("events", task, "-o", "json").json["items"]
    assert [event["reason"] for event in as_json] == [row[2] for row in table[1:]]
    assert yaml.safe_load(dev.good("events", task, "-o", "yaml").out)["items"] == as_json


def test_describe_tells_a_task_from_its_message_to_its_answer(dev: Dev, task: str) -> None:
    text = dev.good("describe", "task", task).out
    for part in ("Phase:        FinalAnswer", "Model calls:  2", "Let me look at the clock.", "LLMFinalAnswer"):
        assert part in text


def test_watching_a_task_that_has_ended_tells_it_again(dev: Dev, task: str) -> None:
    lines = dev.good("watch", task).lines
    assert lines[0] == f"task {task} for agent helper"
    assert 'call time__get_current_time {"timezone": "Asia/Tokyo"}' in lines
    assert lines[-1] == "FinalAnswer: LLM final response received"


def test_run_prints_the_answer_only_and_with_follow_tells_the_rest_beside_it(dev: Dev) -> None:
    quiet = dev.good("run", "helper", "What time is it?")
    assert quiet.out.startswith("It said: ")
    assert quiet.err == ""
    told = dev.good("run", "helper", "-", "--follow", given="What time is it?")
    assert told.out.startswith("It said: ")
    assert "result time__get_current_time succeeded" in told.err
    document = dev.good("run", "helper", "think", "-o", "json").json
    assert document["status"]["output"] == "I think a little."


def test_run_ends_with_1_when_the_task_fails(dev: Dev) -> None:
    done = dev.run("run", "helper", "refuse", "--name", "failing")
    assert done.code == 1
    assert done.out == ""
    assert "task failing failed (LLMRequestFailed4xx): LLM request failed with status 400" in done.err
    assert rows(dev.good("get", "task", "failing").out)[1][2:5] == ["false", "Error", "Failed"]
    assert dev.run("watch", "failing").code == 1


def test_run_ends_with_7_when_it_takes_too_long_and_the_task_goes_on(dev: Dev) -> None:
    done = dev.run("run", "helper", "slowly", "--name", "long", "--timeout", "1")
    assert done.code == 7
    assert "`holdfast watch long` follows it, `holdfast cancel long` ends it" in done.err
    assert dev.run("delete", "task", "long").code == 4
    assert dev.good("cancel", "long", "--reason", "enough").out == "task/long cancel requested\n"
    watched = dev.run("watch", "long")
    assert watched.code == 6
    assert "was cancelled by" in watched.err
    assert ": enough" in watched.err
    assert dev.good("cancel", "long").out == "task/long had ended already\n"
    assert dev.good("delete", "task", "long").out == "task/long deleted\n"
    assert dev.run("get", "task", "long").code == 3


def test_ctrl_c_ends_the_watcher_with_130_and_leaves_the_task(dev: Dev) -> None:
    dev.good("submit", "-a", "helper", "slowly", "--name", "watched")
    watcher = dev.start("watch", "watched")
    try:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "task watched for agent helper\n"
        watcher.send_signal(signal.SIGINT)
        _, said = watcher.communicate(timeout=20)
    finally:
        watcher.kill()
    assert watcher.returncode == 130
    assert "task watched goes on" in said
    dev.good("cancel", "watched")
    assert dev.run("watch", "watched").code == 6


def test_limits_end_a_task_with_their_reason(dev: Dev) -> None:
    done = dev.run("run", "helper", "What time is it?", "--max-turns", "1")
    assert done.code == 1
    assert "MaxTurnsReached" in done.err


def test_the_same_id_and_the_same_name_are_the_same_task(dev: Dev) -> None:
    first = dev.good("submit", "-a", "helper", "think", "--id", "order-1", "-o", "json").json
    again = dev.good("submit", "-a", "helper", "think", "--id", "order-1", "-o", "json").json
    assert again["task"] == first["task"]
    assert dev.good("submit", "-a", "helper", "think", "--name", "named").out == "task/named submitted\n"
    assert dev.good("submit", "-a", "helper", "think", "--name", "named").out == "task/named unchanged\n"
    other = dev.run("submit", "-a", "helper", "think again", "--name", "named")
    assert other.code == 4
    assert "asks for something else" in other.err


def test_a_task_is_submitted_from_a_manifest(dev: Dev) -> None:
    manifest = """
        apiVersion: acp.humanlayer.dev/v1alpha1
        kind: Task
        metadata: {name: from-manifest}
        spec:
          agentRef: {name: helper}
          contextWindow:
            - {role: system, content: Be brief.}
            - {role: user, content: think}
        """
    assert dev.good("submit", "-f", "-", given=manifest).out == "task/from-manifest submitted\n"
    assert dev.good("apply", "-f", "-", given=manifest).out == "task/from-manifest unchanged\n"
    assert dev.good("watch", "from-manifest", "-o", "name").out == "task/from-manifest\n"
    agent = "apiVersion: holdfast.dev/v1\nkind: Agent\nmetadata: {name: x}\nspec: {llmRef: {name: a}, system: s}\n"
    assert dev.run("submit", "-f", "-", given=agent).code == 4


def test_a_task_for_an_agent_that_comes_later_waits_for_it(dev: Dev) -> None:
    dev.good("submit", "-a", "latecomer", "think", "--name", "patient")
    deadline = time.monotonic() + 10
    while (shown := rows(dev.good("get", "task", "patient", "-o", "wide").out)[1])[5] != "Pending":
        assert time.monotonic() < deadline, shown
    assert "Waiting for Agent to exist" in shown
    agent = """
        apiVersion: holdfast.dev/v1
        kind: Agent
        metadata: {name: latecomer}
        spec: {llmRef: {name: scripted}, system: Help.}
        """
    dev.good("apply", "-f", "-", given=agent)
    assert dev.good("watch", "patient", "--timeout", "20").lines[-1] == "FinalAnswer: LLM final response received"
    dev.good("delete", "agent", "latecomer")


# --- dead letters -----------------------------------------------------------------------


PUBLISH = """
import asyncio, sys, nats
async def main():
    client = await nats.connect(sys.argv[1])
    await client.jetstream().publish("hf.tasks.default.submit", sys.argv[2].encode())
    await client.close()
asyncio.run(main())
"""


def new_letter(dev: Dev, known: set[str]) -> str:
    """The id of the next dead letter."""
    deadline = time.monotonic() + 10
    while not (fresh := set(dev.good("dlq", "list", "-o", "name").lines) - known):
        assert time.monotonic() < deadline
    (letter,) = fresh
    return letter


def test_a_request_that_is_refused_becomes_a_letter_that_can_be_shown_and_sent_again(dev: Dev) -> None:
    known = set(dev.good("dlq", "list", "-o", "name").lines)
    # The command line would not send this; any NATS client may.
    subprocess.run([sys.executable, "-c", PUBLISH, dev.url, '{"agent": 1}'], check=True)
    letter = new_letter(dev, known)
    assert letter.startswith("HOLDFAST_REQUESTS/")
    listed = [row[:3] for row in rows(dev.good("dlq", "list").out)]
    assert [letter, "invalid_request", "hf.tasks.default.submit"] in listed
    assert '{"agent": 1}' in dev.good("dlq", "show", letter).out
    assert dev.good("dlq", "show", letter, "-o", "json").json["payload"] == '{"agent": 1}'
    assert yaml.safe_load(dev.good("dlq", "show", letter, "-o", "yaml").out)["consumer"] == "planner-requests"
    assert "sent again to hf.tasks.default.submit" in dev.good("dlq", "redrive", letter).out
    again = new_letter(dev, known)
    assert again != letter
    assert dev.run("dlq", "show", letter).code == 3
    assert dev.good("dlq", "show", again, "-o", "json").json["headers"]["Holdfast-Redrive"] == "1"


# --- the shell --------------------------------------------------------------------------


def test_names_complete_when_the_server_answers(dev: Dev) -> None:
    env = {**dev.env, "_HOLDFAST_COMPLETE": "complete_bash", "COMP_WORDS": "holdfast run he", "COMP_CWORD": "2"}
    done = subprocess.run(HOLDFAST, env=env, capture_output=True, text=True, check=False, timeout=20)
    assert done.stdout.split() == ["helper"]
