from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.dev import Dev

MANIFESTS = """\
apiVersion: holdfast.dev/v1
kind: LLM
metadata: {name: scripted, labels: {tier: test}}
spec:
  provider: scripted
  scripted:
    rules:
      - {userContains: refuse, reply: {fail: {status: 400, message: no such model}}}
      - userContains: slowly
        reply: {text: "one two three four five six seven eight nine ten", delaySeconds: 30}
      - {userContains: think, turn: 1, reply: {text: I think a little., delaySeconds: 0.5}}
      - turn: 1
        reply:
          text: Let me look at the clock.
          calls:
            - {tool: time__get_current_time, arguments: {timezone: Asia/Tokyo}}
            - {tool: time__get_current_time, arguments: {timezone: Nowhere/Nothing}}
    transcript:
      - text: ""
      - text: "It said: {results}"
---
apiVersion: holdfast.dev/v1
kind: MCPServer
metadata: {name: time}
spec: {transport: stdio, command: mcp-server-time}
---
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: helper}
spec:
  llmRef: {name: scripted}
  system: Help.
  mcpServers: [{name: time}]
"""


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One server and all services for all tests of this folder, with an agent that is ready."""
    dev = Dev(tmp_path_factory.mktemp("dev"))
    try:
        dev.wait_until_ready()
        dev.good("apply", "-f", "-", "--wait", given=MANIFESTS)
        yield dev
    finally:
        dev.end()


@pytest.fixture(scope="session")
def task(dev: Dev) -> str:
    """A task that has ended with an answer."""
    name = dev.good("submit", "-a", "helper", "What time is it?", "--name", "told", "-o", "name").out.strip()
    assert dev.run("watch", "told").code == 0
    return name.removeprefix("task/")
