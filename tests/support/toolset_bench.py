"""Toolsets on a bench: real processes, files and sockets, and a memory bus that knows the tasks they work for."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from schemas.resources import Metadata, ResourceStatus, Toolset, ToolsetSpec
from schemas.subjects import TaskSubjects, spec_key
from schemas.task import AwaitingTools, Budget, FinalAnswer
from schemas.wire import encode
from services.runtime.egress import Resolve, look_up
from services.runtime.memory.bus import MemoryBus
from services.runtime.ports import Outgoing
from services.runtime.resources import Resources
from services.runtime.secrets import Secrets
from services.runtime.service import Runtime
from services.runtime.settings import Settings
from services.runtime.tasks import Tasks
from services.runtime.telemetry.metrics import Metrics
from services.runtime.telemetry.traces import make_traces
from services.tool_executor.core.results import Attachment, Reply
from services.tool_executor.mcp.pool import ServerKey
from services.tool_executor.toolsets.readiness import ToolsetReadiness
from services.tool_executor.toolsets.sandbox import Sandbox
from services.tool_executor.toolsets.toolset import IDEMPOTENCY_KEY, Toolsets
from tests.support import waiting

NO_SANDBOX = Sandbox(why_not="this test does without")


def words_of(reply: Reply) -> str:
    """All text of a reply."""
    return "\n".join(f"[{part.mime_type}]" if isinstance(part, Attachment) else part.text for part in reply.parts)


class ToolsetBench:
    """What a test does and sees."""

    def __init__(self, bus: MemoryBus, runtime: Runtime, toolsets: Toolsets, root: Path) -> None:
        self.bus = bus
        self.runtime = runtime
        self.toolsets = toolsets
        self.root = root
        self._numbers = itertools.count(1)

    async def task(self, name: str = "", *, born: int = 1) -> TaskSubjects:
        """A live task; the same again, if it is there already."""
        task = TaskSubjects(0, "default", name or f"task-{next(self._numbers)}")
        if await self.bus.log(0).get(task.state) is not None:
            return task
        now = self.bus.clock.now()
        state = AwaitingTools(
            namespace=task.namespace,
            task=task.task,
            agent="helper",
            submitted_seq=born,
            created_at=now,
            updated_at=now,
            budget=Budget(max_turns=3),
            turn=1,
            request="r1",
            answer_seq=1,
            calls=(),
        )
        await self._write(task, state)
        return task

    async def end(self, task: TaskSubjects) -> None:
        """The task ends."""
        entry = await self.bus.log(0).get(task.state)
        assert entry is not None
        now = self.bus.clock.now()
        await self._write(
            task,
            FinalAnswer(
                namespace=task.namespace,
                task=task.task,
                agent="helper",
                submitted_seq=1,
                created_at=now,
                updated_at=now,
                ended_at=now,
                turn=1,
                ended_by="x",
            ),
        )

    async def _write(self, task: TaskSubjects, state: AwaitingTools | FinalAnswer) -> None:
        before = await self.bus.log(0).get(task.state)
        await self.bus.log(0).write(Outgoing(task.state, encode(state)), expected=before.seq if before else 0)

    async def declare(self, name: str, spec: ToolsetSpec) -> int:
        """Apply a toolset, and wait until this process knows it."""
        declared = Toolset(metadata=Metadata(name=name), spec=spec)
        revision = await self.bus.resources.put(spec_key("Toolset", "default", name), encode(declared))

        def known() -> bool:
            found = self.runtime.resources.known("Toolset", "default", name)
            return found is not None and found.revision == revision

        await waiting.until(known, f"{name} is known")
        return revision

    async def status(self, name: str) -> ResourceStatus:
        """What is said of a toolset."""
        await waiting.until(
            lambda: self.runtime.resources.status("Toolset", "default", name) is not None, f"a status of {name}"
        )
        status = self.runtime.resources.status("Toolset", "default", name)
        assert status is not None
        return status

    def said(self, name: str) -> str:
        """How a toolset is said to be, if anything is said of it."""
        status = self.runtime.resources.status("Toolset", "default", name)
        return status.status if status is not None else ""

    async def call(
        self,
        toolset: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        task: TaskSubjects | None = None,
        timeout_s: float = 20.0,
        key: str = "",
    ) -> Reply:
        """Call a tool, in a task of its own if none is given."""
        found = self.toolsets.find(ServerKey("default", toolset), task or await self.task(), 0)
        assert found is not None
        return await found.call(tool, arguments, timeout_s=timeout_s, meta={IDEMPOTENCY_KEY: key})

    async def use(self, name: str, spec: ToolsetSpec) -> None:
        """Apply a toolset under a name, without looking at its status."""
        await self.declare(name, spec)


@asynccontextmanager
async def toolset_bench(
    root: Path,
    *,
    sandbox: Sandbox | None = NO_SANDBOX,
    environ: Mapping[str, str] | None = None,
    resolve: Resolve = look_up,
    **settings: Any,
) -> AsyncGenerator[ToolsetBench]:
    """A bench with its working directories below `root`; `sandbox=None`: what this machine has."""
    bus = MemoryBus()
    resources = Resources(bus.resources, bus.clock, service="tool-executor")
    runtime = Runtime(
        bus=bus,
        settings=msgspec.convert({"work_dir": str(root), **settings}, Settings),
        resources=resources,
        secrets=Secrets("", environ or {}),
        metrics=Metrics(),
        traces=make_traces("test", "one"),
        replica="one",
    )
    tasks = Tasks()
    tasks.spawn(resources.run(), name="resources")
    await resources.loaded()
    toolsets = Toolsets(runtime, sandbox=sandbox, resolve=resolve)
    readiness = ToolsetReadiness(runtime, toolsets)
    await readiness.start()
    try:
        yield ToolsetBench(bus, runtime, toolsets, root)
    finally:
        await readiness.stop()
        await toolsets.stop()
        await tasks.close()
