"""What the chart writes down for others to do, done: KEDA's question to NATS, and the command of the notes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from schemas import subjects
from services.runtime.nats.bus import connect
from services.runtime.nats.server import free_port
from services.runtime.settings import Settings
from tests.support.chart import KUBE_NEWEST, Case, Chart, Object, Rendered, by_service
from tests.support.dev import Dev
from tests.support.nats_server import nats_server

COMMAND_S = 60


def queue_lengths(monitor: str, trigger: Object) -> list[int]:
    """What KEDA's scaler makes of NATS's answer: messages that wait or are in hand, of the consumer of a trigger."""
    with urllib.request.urlopen(f"{monitor}/jsz?acc={trigger['account']}&consumers=true&config=true") as answer:
        said: dict[str, Any] = json.load(answer)
    return [
        consumer["num_pending"] + consumer["num_ack_pending"]
        for account in said["account_details"]
        if account["name"] == trigger["account"]
        for stream in account["stream_detail"]
        if stream["name"] == trigger["stream"]
        for consumer in stream["consumer_detail"]
        if consumer["name"] == trigger["consumer"]
    ]


async def test_nats_answers_what_keda_asks_about_every_queue(rendered: Rendered, tmp_path: Path) -> None:
    scaled = by_service(rendered("KEDA over three partitions", KUBE_NEWEST), "ScaledObject")
    monitor = f"127.0.0.1:{free_port()}"
    with nats_server(tmp_path, extra=f"http: {monitor}") as server:
        bus = await connect(Settings(nats_url=server.url, partitions=3), service="planner")
        try:
            await bus.signals.publish(subjects.TaskSubjects(2, "default", "t").tool_command("r1", 1), b"{}")
            await bus.signals.publish(subjects.TaskSubjects(2, "default", "t").tool_command("r1", 2), b"{}")
        finally:
            await bus.close()

        lengths = {
            (name, trigger["metadata"]["stream"], trigger["metadata"]["consumer"]): queue_lengths(
                f"http://{monitor}", trigger["metadata"]
            )
            for name, found in scaled.items()
            for trigger in found["spec"]["triggers"]
        }

    waiting = ("tool-executor", "KV_holdfast_2", "tool-executor")
    assert lengths.pop(waiting) == [2]
    assert lengths
    assert all(length == [0] for length in lengths.values()), lengths


def test_the_command_of_the_notes_submits_a_first_task(chart: Chart, tmp_path: Path) -> None:
    notes = chart.notes(Case())
    command, manifests = notes.split(" -- sh -c '", 1)[1].split("' <<'EOF'\n", 1)
    manifests = "\n".join(line[2:] for line in manifests.split("\n  EOF", 1)[0].splitlines())
    assert "exec -i deploy/prod-holdfast-planner -- sh -c" in notes

    dev = Dev(tmp_path)
    try:
        dev.wait_until_ready()
        done = subprocess.run(
            ["sh", "-c", command],
            env=dev.env | {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))},
            input=manifests,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
    finally:
        dev.end()

    assert done.returncode == 0, done.stdout + done.stderr
    assert "I am, and what I said is stored." in done.stdout
