"""A system is saved while it works, lost as a whole, and brought back on an empty server: everything goes on."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from schemas.events import ToolFinished
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    ApprovalRule,
    ContactChannel,
    ContactChannelSpec,
    EnvVar,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    ScriptedCall,
    ScriptedOptions,
    ScriptedReply,
    ServerRef,
)
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingTools, FinalAnswer
from schemas.wire import decode
from services.runtime.nats.bus import connect
from services.runtime.settings import Settings
from services.runtime.tasks import spawn
from tests.support.nats_server import NatsServer
from tests.support.stack import SERVICES, stack
from tests.support.stage import Stage
from tests.support.waiting import until

EVERYBODY = (*SERVICES, "human-contact", "notifier")
PLANTED = "qzjxkvwpyfgbmc"
PLAIN = "wvhqjzkxupdyfs"
"""What a person says, and what an agent is told: like nothing else, so compression does not break it up."""
CROWD = 6
END_S = 90.0


async def holdfast(url: str, keys: Path, *arguments: str) -> str:
    """Run the command line; what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli.main", *arguments),
        env={**os.environ, "NATS_URL": url, "HOLDFAST_PAYLOAD_KEYS_DIR": str(keys)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), END_S)
    assert process.returncode == 0, err.decode()
    return out.decode()


def effects(record: Path) -> list[str]:
    """What the tools did to the world, one after another."""
    return record.read_text().splitlines()


@asynccontextmanager
async def system(directory: Path, keys: Path) -> AsyncGenerator[tuple[Stage, str]]:
    """All services on a server over this folder, and a client that has the keys."""
    environ = {"HOLDFAST_PAYLOAD_KEYS_DIR": str(keys)}
    async with stack(directory, services=EVERYBODY, environ=environ) as running:
        settings = Settings(nats_url=running.server.url, payload_keys_dir=str(keys))
        async with await connect(settings, service="test") as bus:
            yield Stage(bus), running.server.url


async def declare(stage: Stage, record: Path) -> None:
    """Agents that call one tool each, and say what it said."""
    kitchen = MCPServerSpec(
        transport="stdio",
        command=sys.executable,
        args=("-m", "tests.support.mcp_servers.kitchen"),
        env=(EnvVar(name="RECORD", value=str(record)),),
    )
    await stage.apply(MCPServer(metadata=Metadata(name="kitchen"), spec=kitchen))
    await stage.apply(ContactChannel(metadata=Metadata(name="console"), spec=ContactChannelSpec(type="console")))
    for name, tool, seconds, asks in (
        ("doer", "effect", 0, False),
        ("asker", "effect", 0, True),
        ("sleeper", "set_value", 8, False),
        ("doubter", "effect", 600, False),
        ("crowd", "set_value", 0, False),
    ):
        call = ScriptedCall(tool=f"kitchen__{tool}", arguments={"text": name, "seconds": seconds})
        script = ScriptedOptions(
            transcript=(ScriptedReply(calls=(call,)), ScriptedReply(text=f"{name} said: {{results}}"))
        )
        await stage.apply(LLM(metadata=Metadata(name=name), spec=LLMSpec(provider="scripted", scripted=script)))
        spec = AgentSpec(
            llm_ref=Ref(name=name),
            system=PLAIN,
            mcp_servers=(ServerRef(name="kitchen"),),
            approvals=(ApprovalRule(contact_channel=Ref(name="console")),) if asks else (),
        )
        await stage.apply(Agent(metadata=Metadata(name=name), spec=spec))


async def asked(stage: Stage, agent: str) -> TaskSubjects:
    return await stage.submit(agentName=agent, userMessage=f"{PLANTED}: go")


async def crowd(stage: Stage, tasks: list[TaskSubjects], stop: asyncio.Event) -> None:
    """Tasks without end: submitted, run, ended, all the time."""
    while not stop.is_set():
        task = await asked(stage, "crowd")
        tasks.append(task)
        await stage.until_state(task, FinalAnswer, wait_s=END_S)


async def begun(stage: Stage, record: Path) -> dict[str, TaskSubjects]:
    """One task that has ended, one that waits for a person, two whose calls are in hand."""
    await declare(stage, record)
    tasks = {name: await asked(stage, name) for name in ("doer", "asker", "sleeper", "doubter")}
    await stage.until_state(tasks["doer"], FinalAnswer, wait_s=END_S)
    await stage.until_state(tasks["asker"], AwaitingTools, wait_s=END_S)
    await stage.stored(tasks["asker"], tasks["asker"].interaction_step("r1", 1, 0, 0))
    await until(lambda: {"sleeper", "doubter"} <= set(effects(record)), "both calls in hand", within_s=END_S)
    return tasks


async def result(stage: Stage, task: TaskSubjects) -> ToolFinished:
    await stage.until_state(task, FinalAnswer, wait_s=END_S)
    return decode(await stage.stored(task, task.tool_event("r1", 1)), ToolFinished)


async def test_all_is_lost_and_a_backup_of_the_running_system_brings_it_back(tmp_path: Path) -> None:
    keys, record, backup = tmp_path / "keys", tmp_path / "record", tmp_path / "backup"
    for folder in (keys, tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
    (keys / "default").write_text(base64.b64encode(os.urandom(32)).decode())
    several: list[TaskSubjects] = []
    async with system(tmp_path / "first", keys) as (stage, url):
        tasks = await begun(stage, record)
        stop = asyncio.Event()
        busy = [spawn(crowd(stage, several, stop), name="test:crowd") for _ in range(CROWD)]
        await until(lambda: len(several) > 3 * CROWD, "a crowd", within_s=END_S)
        before = list(several)
        assert "stood still for" in await holdfast(url, keys, "backup", str(backup))
        until_now = len(several)
        await until(lambda: len(several) > until_now + CROWD, "work after the backup", within_s=END_S)
        stop.set()
        await asyncio.gather(*busy)
    assert_sealed(backup)
    slept, ran = effects(record).count("sleeper"), effects(record).count("crowd")

    empty = NatsServer(tmp_path / "second", name="holdfast-embedded")
    try:
        empty.start()
        await holdfast(empty.url, keys, "restore", str(backup))
    finally:
        empty.close()
    async with system(tmp_path / "second", keys) as (stage, url):
        assert (await result(stage, tasks["doer"])).content == "doer done"
        assert "doer said: doer done" in await holdfast(url, keys, "watch", tasks["doer"].task)
        await holdfast(url, keys, "approve", tasks["asker"].task, "r1.1.0")
        assert (await result(stage, tasks["asker"])).content == "asker done"
        assert (await result(stage, tasks["sleeper"])).content == "sleeper done"
        assert (await result(stage, tasks["doubter"])).outcome == "unknown"
        for task in before:
            await stage.until_state(task, FinalAnswer, wait_s=END_S)
        await stage.until_state(await asked(stage, "crowd"), FinalAnswer, wait_s=END_S)
        assert await stage.bus.dead_letters.last(["hf.dlq.letter.>"]) == []
    done = effects(record)
    assert {name: done.count(name) for name in ("doer", "asker", "doubter")} == {"doer": 1, "asker": 1, "doubter": 1}
    assert done.count("sleeper") == slept + 1
    assert done.count("crowd") <= ran + CROWD + 1, "only what was under way at the backup, and the new one"


def assert_sealed(backup: Path) -> None:
    """What people said is not to be read in a backup; what is not encrypted is, so this would see it."""
    files = {path.name: path.read_bytes() for path in backup.iterdir()}
    assert [name for name, data in files.items() if PLANTED.encode() in data] == []
    assert [name for name, data in files.items() if PLAIN.encode() in data] == ["KV_holdfast_resources.tar.s2"]
