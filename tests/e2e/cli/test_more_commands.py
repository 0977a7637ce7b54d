"""Toolsets, quotas, images, response formats and usage, on the command line against real services."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.dev import Dev

MANIFESTS = """\
apiVersion: holdfast.dev/v1
kind: Quota
metadata: {name: default, namespace: lab}
spec: {maxTokensPerDay: 1000000, tokensPerMinute: 500000}
---
apiVersion: holdfast.dev/v1
kind: Toolset
metadata: {name: notes, namespace: lab}
spec:
  commands:
    - name: count
      description: Count from one to a number.
      command: [seq, "{to}"]
      inputSchema: {type: object, properties: {to: {type: integer}}, required: [to]}
      readOnly: true
---
apiVersion: holdfast.dev/v1
kind: LLM
metadata: {name: scripted, namespace: lab}
spec:
  provider: scripted
  pricing: {input: 1000, output: 1000}
  limits: {tokensPerMinute: 100000}
  scripted:
    rules:
      - {userContains: receipt, reply: {text: '{"total": 12.5}'}}
      - {userContains: count, turn: 1, reply: {calls: [{tool: notes__count, arguments: {to: 100000}}]}}
    transcript: [{text: done}]
---
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: clerk, namespace: lab}
spec:
  llmRef: {name: scripted}
  system: Help.
  toolsets: [{name: notes}, {name: files, tools: [read]}]
"""


def rows(text: str) -> list[list[str]]:
    """A plain table's cells."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


@pytest.fixture(scope="module")
def lab(dev: Dev) -> Dev:
    dev.good("apply", "-f", "-", "--wait", given=MANIFESTS)
    return dev


def test_toolsets_and_quotas_are_listed_and_described(lab: Dev) -> None:
    assert rows(lab.good("get", "toolsets", "-n", "lab").out) == [
        ["NAME", "READY", "STATUS", "TYPE", "TOOLS"],
        ["notes", "true", "Ready", "commands", "1"],
    ]
    assert rows(lab.good("get", "quota", "-n", "lab").out)[1] == ["default", "500000", "1000000"]
    described = lab.good("describe", "quota", "default", "-n", "lab").out
    assert "of 1000000 tokens" in described
    assert "command: null" not in lab.good("describe", "toolset", "notes", "-n", "lab").out
    assert lab.good("delete", "-f", "-", given=MANIFESTS.split("---", maxsplit=1)[0]).out == "quota/default deleted\n"
    lab.good("apply", "-f", "-", given=MANIFESTS.split("---", maxsplit=1)[0])


def test_an_image_and_a_response_format_go_with_the_question(lab: Dev, tmp_path: Path) -> None:
    image, schema = tmp_path / "receipt.png", tmp_path / "receipt.json"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 1000)
    schema.write_text('{"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}')
    asked = ("run", "clerk", "Read this receipt", "-n", "lab", "--image", str(image), "--priority", "high")
    done = lab.good(*asked, "--response-format", str(schema), "--name", "receipt")
    assert json.loads(done.out) == {"total": 12.5}
    described = lab.good("describe", "task", "receipt", "-n", "lab").out
    assert "    [image image/png, 1 kB]" in described
    assert "Priority:     high" in described
    assert "  By scripted:  1 call, " in described
    document = lab.good("get", "task", "receipt", "-n", "lab", "-o", "json").json
    assert document["spec"]["priority"] == "high"
    assert document["spec"]["responseFormat"]["schema"]["required"] == ["total"]
    image.write_bytes(b"%PDF-1.7")
    assert lab.run(*asked).code == 4


def test_a_long_result_is_shortened_for_the_model_and_printed_whole(lab: Dev) -> None:
    lab.good("run", "clerk", "Please count", "-n", "lab", "--name", "counted")
    described = lab.good("describe", "task", "counted", "-n", "lab").out
    assert "`holdfast get toolcall counted-r1-tc-01 --whole` prints all of it" in described
    whole = lab.good("get", "toolcall", "counted-r1-tc-01", "--whole", "-n", "lab").lines
    assert [line for line in whole if line.isdigit()] == [str(n) for n in range(1, 100_001)]
    assert lab.run("get", "toolcalls", "--whole").code == 2


def test_usage_is_added_up_with_the_quotas_of_today(lab: Dev) -> None:
    lab.good("run", "clerk", "hello", "-n", "lab", "--name", "used")
    table = rows(lab.good("usage", "--by", "task", "-n", "lab").out)
    assert table[0] == ["TASK", "CALLS", "IN", "OUT", "CACHED", "REASONING", "COST"]
    assert "lab/used" in [row[0] for row in table]
    account = lab.good("usage", "-n", "lab", "-o", "json", "--since", "1h").json
    (line,) = account["items"]
    assert line["name"] == "scripted"
    assert line["inputTokens"] > 0
    assert float(line["costUsd"]) == pytest.approx((line["inputTokens"] + line["outputTokens"]) / 1000)
    assert {**account["total"], "name": "scripted"} == line
    (quota,) = account["quotas"]
    assert (quota["namespace"], quota["tokensMax"]) == ("lab", 1_000_000)
    assert quota["tokens"] > 0
    assert lab.run("usage", "--since", "soon").code == 2


def test_a_model_with_limits_is_described_with_what_is_used_of_them(lab: Dev) -> None:
    lab.good("run", "clerk", "hello", "-n", "lab", "--name", "counted-in")
    described = lab.good("describe", "llm", "scripted", "-n", "lab").out
    used = re.search(r"Last minute:  (\d+) requests, (\d+) of 100000 tokens", described)
    assert used is not None, described
    assert int(used[1]) >= 1
    assert int(used[2]) >= 1


def test_a_run_in_a_pipe_says_what_it_waits_for(dev: Dev) -> None:
    done = dev.run("run", "nobody-yet", "hello", "--timeout", "2", "--name", "early")
    assert done.code == 7
    assert done.out == ""
    assert "task early waits: Waiting for Agent to exist" in done.err
    dev.good("cancel", "early")
