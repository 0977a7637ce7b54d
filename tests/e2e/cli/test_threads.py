"""Threads on the command line, against real services."""

from __future__ import annotations

import json

from services.cli.exits import ExitCode
from tests.support.dev import Dev

THREAD = "TICKET-17 (größer)"
MANIFESTS = """\
apiVersion: holdfast.dev/v1
kind: LLM
metadata: {name: scripted, namespace: desk}
spec: {provider: scripted, scripted: {rules: [{userContains: "", reply: {text: "You said: {user}"}}]}}
---
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: clerk, namespace: desk}
spec: {llmRef: {name: scripted}, system: Help.}
"""


def test_a_ticket_is_one_thread_whoever_goes_on_in_it(dev: Dev) -> None:
    dev.good("apply", "-f", "-", "--wait", given=MANIFESTS)
    where = ("-n", "desk")
    assert dev.good("run", "clerk", "first words", "--thread", THREAD, *where).out == "You said: first words\n"
    assert dev.good("run", "clerk", "second words", "--thread", THREAD, *where).out == "You said: second words\n"
    third = dev.good("send", "--thread", THREAD, "third words", *where).out.strip()
    assert "You said: third words" in dev.good("watch", third, *where).out
    dev.good("run", "clerk", "elsewhere", *where)

    listed = json.loads(dev.good("get", "tasks", "--thread", THREAD, "-o", "json", *where).out)["items"]
    assert [one["spec"]["threadID"] for one in listed] == [THREAD] * 3
    (first,) = {one["status"]["thread"] for one in listed}
    by_first = dev.good("get", "tasks", "--thread", first, "-o", "name", *where).out.split()
    assert sorted(by_first) == sorted(f"task/{one['metadata']['name']}" for one in listed)
    assert THREAD in dev.good("get", "tasks", "-o", "wide", *where).out
    assert f"{THREAD} (begun by task {first})" in dev.good("describe", "task", third, *where).out
    assert f"{THREAD} (begun by this task)" in dev.good("describe", "task", first, *where).out

    refused = dev.run("run", "clerk", "x", "--thread", THREAD, "--name", "another", *where)
    assert refused.code == ExitCode.REFUSED
    assert f"was begun by task {first!r}: leave name out to go on in it" in refused.err
    nobody = dev.run("send", "--thread", "nobody", "x", *where)
    assert nobody.code == ExitCode.NOT_FOUND
    assert "there is no thread 'nobody'" in nobody.err
    for wrong in (("send", "x"), ("send", "--thread", THREAD, first, "x"), ("get", "agents", "--thread", THREAD)):
        assert dev.run(*wrong, *where).code == ExitCode.USAGE
    assert dev.run("run", "clerk", "x", "--thread", "a\tb", *where).code == ExitCode.REFUSED
    kept = dev.good("submit", "-a", "clerk", "more", "--thread", THREAD, "--max-turns", "3", *where)
    assert "the thread keeps the limits that it began with" in kept.err
