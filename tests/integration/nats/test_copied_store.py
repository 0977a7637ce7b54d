"""The store directory of a stopped server is plain files: a server that is started on a copy has all that was there."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from schemas.subjects import LLM_GATEWAY, PLANNER_TIMERS, TaskSubjects
from services.runtime.ports import Change, Outgoing
from tests.support.nats_server import Connect, NatsServer, nats_server

TASK = TaskSubjects(0, "default", "t1")


async def test_a_server_on_a_copy_of_a_stopped_servers_store_has_everything(
    server: NatsServer, connected: Connect, tmp_path: Path
) -> None:
    bus = await connected(server.url)
    due = datetime.now(UTC) + timedelta(seconds=2)
    command = Outgoing(TASK.model_command(1, 1), b"command")
    revision = await bus.log(0).commit(Change(Outgoing(TASK.state, b"state"), 0, (command,)))
    await bus.timers.set(TASK.timer("deadline"), TASK.timer_fired("deadline"), due, b"due", {})
    await bus.resources.put("spec.Agent.default.a", b"agent")
    server.kill()
    (tmp_path / "copied").mkdir()
    with nats_server(tmp_path / "copied") as other:
        other.kill()
        shutil.rmtree(other.directory / "store")
        shutil.copytree(server.directory / "store", other.directory / "store")
        other.start()
        copy = await connected(other.url)
        entry = await copy.log(0).get(TASK.state)
        assert entry is not None
        assert (entry.seq, entry.data) == (revision, b"state")
        found = await copy.resources.get("spec.Agent.default.a")
        assert found is not None
        assert found.data == b"agent"
        (delivery,) = await (await copy.queue(LLM_GATEWAY, 0)).take(1)
        assert (delivery.subject, delivery.data) == (command.subject, b"command")
        timers = await copy.queue(PLANNER_TIMERS)
        while not (fired := await timers.take(1)):
            pass
        assert (fired[0].data, fired[0].at >= due) == (b"due", True)
        await copy.close()
    server.start()
