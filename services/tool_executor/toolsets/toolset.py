"""Toolsets as servers of tools: found by namespace and name, and called like any other.

A toolset has no connection that could be lost: what it needs (secrets, programs, the sandbox) is looked at anew for
every call. One is found for a task, because its tools work in that task's directory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from schemas.ids import partition_of
from schemas.resources import Toolset, ToolsetSpec
from schemas.subjects import TaskSubjects
from schemas.task import Cancelled, Failed, FinalAnswer, decode_state
from schemas.toolsets import builtin_toolset, toolset_tools
from services.runtime.egress import Resolve, look_up
from services.runtime.tasks import Tasks
from services.tool_executor.core.policy import toolset_policy
from services.tool_executor.core.results import Reply
from services.tool_executor.mcp.errors import TimedOut
from services.tool_executor.mcp.pool import ServerKey
from services.tool_executor.toolsets.equip import Machine, equip, kept_from_commands
from services.tool_executor.toolsets.job import CannotRun, Job, words
from services.tool_executor.toolsets.sandbox import Sandbox, detect
from services.tool_executor.toolsets.slots import Slots
from services.tool_executor.toolsets.workdir import Unusable, WorkDirs, default_root

if TYPE_CHECKING:
    from services.runtime.service import Runtime
    from services.tool_executor.mcp.connection import Progress

logger = logging.getLogger(__name__)

IDEMPOTENCY_KEY = "holdfast.dev/idempotency-key"
END_S = 10.0
"""What a tool that ends itself in time gets beyond it, to say so."""


class Asker(NamedTuple):
    """Whose call it is."""

    task: TaskSubjects
    seq: int
    """Where the command is; a state that is not older than it is the task's."""


class Toolsets:
    """The toolsets of all namespaces, declared and built in."""

    def __init__(self, runtime: Runtime, *, sandbox: Sandbox | None = None, resolve: Resolve = look_up) -> None:
        self._bus = runtime.bus
        self._resolve = resolve
        self._resources = runtime.resources
        self._secrets = runtime.secrets
        self._directories = WorkDirs(runtime.settings.work_dir or default_root(runtime.settings.nats_url))
        self._kept = kept_from_commands(runtime.settings, str(self._directories.root))
        self._slots: dict[ServerKey, Slots] = {}
        self._sandbox = sandbox
        self._looking = asyncio.Lock()
        self._tasks = Tasks()

    async def start(self) -> None:
        """Look for a sandbox, and remove the directories of ended tasks from now on."""
        self._tasks.spawn(self.machine(), name="toolsets:sandbox")
        self._tasks.spawn(self._directories.sweep_for_ever(self._born_at, self._bus.clock.sleep), name="toolsets:sweep")

    async def sweep(self) -> None:
        """Look at the tasks whose directories are there, once."""
        await self._directories.sweep(self._born_at)

    async def stop(self) -> None:
        """Leave the directories to whoever comes next."""
        await self._tasks.close()

    def find(self, key: ServerKey, task: TaskSubjects, seq: int) -> BoundToolset | None:
        """A toolset, for a call of a task that is asked for by the command at `seq`."""
        declared = self._resources.get(Toolset, *key)
        spec = declared.spec if declared is not None else builtin_toolset(key.name)
        if spec is None:
            return None
        slots = self._slots.get(key)
        if slots is None or slots.concurrency != max(spec.concurrency, 1):
            slots = self._slots[key] = Slots(max(spec.concurrency, 1))
        return BoundToolset(self, spec, slots, Asker(task, seq))

    async def machine(self) -> Machine:
        """What this machine offers; found out once."""
        async with self._looking:
            if self._sandbox is None:
                self._sandbox = await detect()
                found = f"{self._sandbox.program} works" if self._sandbox.program else self._sandbox.why_not
                logger.info("sandbox: %s", found, extra={"action": "sandbox.detected"})
        hidden, blank = self._kept
        return Machine(sandbox=self._sandbox, hidden=hidden, blank=blank, resolve=self._resolve)

    async def run(self, spec: ToolsetSpec, asker: Asker, job: Job) -> Reply:
        """Carry out a call of a task. Raises `TimedOut`, `Lost` and `Unavailable`."""
        try:
            with self._directories.in_use(asker.task.namespace, asker.task.task):
                run = equip(spec, self._secrets, await self.machine())
                async with asyncio.timeout(job.timeout_s if spec.http or spec.files else job.timeout_s + END_S):
                    return await run(job)
        except (CannotRun, Unusable) as error:
            return words(str(error), is_error=True)
        except TimeoutError as error:
            raise TimedOut(f"no answer within {job.timeout_s:g} s") from error

    async def directory(self, asker: Asker) -> tuple[Path, bool]:
        """The working directory of a task, and whether it was made just now. Raises `CannotRun` if it has ended."""
        task = asker.task
        born = await self._born(task, at_least=asker.seq)
        if not born:
            raise CannotRun("The task has ended, and its working directory with it.")
        return await asyncio.to_thread(self._directories.open, task.namespace, task.task, born)

    async def _born(self, task: TaskSubjects, *, at_least: int = 0) -> int:
        entry = await self._bus.log(task.partition).get(task.state, at_least=at_least)
        if entry is None:
            return 0
        state = decode_state(entry.data)
        return 0 if isinstance(state, FinalAnswer | Failed | Cancelled) else state.submitted_seq

    async def _born_at(self, namespace: str, task: str) -> int:
        return await self._born(TaskSubjects(partition_of(namespace, task, self._bus.partitions), namespace, task))


class BoundToolset:
    """A toolset for one task: what a call needs of a server."""

    detail = ""

    def __init__(self, toolsets: Toolsets, spec: ToolsetSpec, slots: Slots, asker: Asker) -> None:
        self._toolsets = toolsets
        self._spec = spec
        self._slots = slots
        self._asker = asker

    @property
    def calls(self) -> int:
        """Calls that run or wait for a slot."""
        return self._slots.calls

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """One of the calls that may run at once."""
        async with self._slots.one():
            yield

    async def ready(self, timeout_s: float) -> bool:  # noqa: ARG002 - there is nothing to wait for
        """Always."""
        return True

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout_s: float,
        meta: Mapping[str, Any],
        progress: Progress | None = None,  # noqa: ARG002 - these tools do not say how far they are
    ) -> Reply:
        """Call a tool. Raises `Lost` or `TimedOut`; when it is cancelled, nothing of it runs any more."""
        info = next(info for info in toolset_tools(self._spec) if info.name == tool)
        policy = toolset_policy(self._spec, info)
        may_repeat = policy.repeatable or policy.on_uncertain == "retry"
        job = Job(
            tool=tool,
            arguments=arguments,
            timeout_s=timeout_s,
            place=lambda: self._toolsets.directory(self._asker),
            key=str(meta.get(IDEMPOTENCY_KEY, "")) if may_repeat else "",
        )
        return await self._toolsets.run(self._spec, self._asker, job)
