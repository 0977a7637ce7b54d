"""Being told what became of a task, from a manifest to the receiver, with the commands that show it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.runtime.signing import key_of, signature
from tests.support.dev import Dev
from tests.support.notifying import KEY

PATIENCE_S = 20.0
MANIFESTS = """\
apiVersion: holdfast.dev/v1
kind: LLM
metadata: {name: scripted}
spec: {provider: scripted, scripted: {transcript: [{text: It is noon.}]}}
---
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: helper}
spec: {llmRef: {name: scripted}, system: Help.}
---
apiVersion: holdfast.dev/v1
kind: Subscription
metadata: {name: ops}
spec:
  webhook:
    url: http://127.0.0.1:%d/ops
    secretFrom: [{secretKeyRef: {name: ops, key: signing}}]
"""
TASK = """\
apiVersion: holdfast.dev/v1
kind: Task
metadata: {name: told}
spec: {agentRef: {name: helper}, userMessage: "What time is it?", responseURL: "http://127.0.0.1:%d/answer"}
"""


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted, by path, and answers with a status."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posts: dict[str, list[tuple[dict[str, str], bytes]]] = {}
        self.statuses = {"/answer": 200, "/ops": 404}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        receiver = self.server
        assert isinstance(receiver, Receiver)
        receiver.posts.setdefault(self.path, []).append(({k.lower(): v for k, v in self.headers.items()}, body))
        self.send_response(receiver.statuses[self.path])
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def own_dev(tmp_path: Path) -> Iterator[Dev]:
    environ = {"HOLDFAST_EGRESS_ALLOW": "127.0.0.1", "HOLDFAST_SECRET_OPS_SIGNING": KEY}
    dev = Dev(tmp_path, "--services", "planner,llm-gateway,notifier", environ=environ)
    try:
        dev.wait_until_ready()
        yield dev
    finally:
        dev.end()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_who_asked_and_who_subscribed_are_told_and_a_letter_is_sent_again(own_dev: Dev, receiver: Receiver) -> None:
    port = receiver.server_address[1]
    own_dev.good("apply", "-f", "-", "--wait", given=MANIFESTS % port)
    assert "true" in own_dev.good("get", "subscriptions").out
    own_dev.good("apply", "-f", "-", given=TASK % port)
    assert own_dev.run("watch", "told").code == 0
    wait_for(lambda: receiver.posts.keys() == {"/answer", "/ops"}, "both are told")
    headers, body = receiver.posts["/answer"][0]
    said = json.loads(body)
    assert (said["run_id"], said["spec"]["msg"], said["call_id"]) == ("helper", "It is noon.", headers["webhook-id"])
    headers, body = receiver.posts["/ops"][0]
    signed = signature(key_of(KEY), headers["webhook-id"], int(headers["webhook-timestamp"]), body)
    assert headers["webhook-signature"] == signed

    def letters() -> list[str]:
        return own_dev.good("dlq", "list", "-o", "name").out.split()

    wait_for(lambda: len(letters()) == 1, "a dead letter")
    told = own_dev.good("describe", "task", "told").out
    notifications = told[told.index("Notifications:") :].splitlines()
    assert notifications[2].split()[:2] == ["responseURL", "Delivered"]
    assert notifications[3].split()[:3] == ["Subscription", "ops", "Failed"]
    receiver.statuses["/ops"] = 200
    own_dev.good("dlq", "redrive", letters()[0])
    wait_for(lambda: len(receiver.posts["/ops"]) == 2, "it is sent again")
    assert receiver.posts["/ops"][1][0]["webhook-id"] == headers["webhook-id"]
    wait_for(lambda: "Failed" not in own_dev.good("describe", "task", "told").out, "it is delivered")
    assert letters() == []
