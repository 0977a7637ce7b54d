"""What the command line asks of the bus: resources, requests, tasks.

Everything here goes through the ports of `services.runtime`. Nothing is cached; what is tried again is a lost race, and
a request without an answer.
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from schemas import subjects
from schemas.events import TaskSubmitted
from schemas.ids import InvalidId, check_resource_name, check_token, partition_of
from schemas.interactions import AnswerInteraction
from schemas.requests import Accepted, CancelTask, DeleteTask, RefusalCode, Rejected, Reply, SendMessage, SubmitTask
from schemas.resources import Resource, ResourceStatus
from schemas.subjects import TaskSubjects
from schemas.task import Initializing, State, decode_state
from schemas.wire import Malformed, decode, encode
from services.cli.exits import ExitCode, Stop, not_found
from services.runtime.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from services.runtime.ports import Bus, Entry, Log

Applied = Literal["created", "configured", "unchanged"]

RACES_MAX = 5
"""How often somebody else may change a resource while it is being applied."""
ASK_S = 6.0
"""How long a planner may take to answer, or to come back."""
ASK_ONCE_S = 3.0
ASK_AGAIN_S = 0.2


class Declared(msgspec.Struct, frozen=True):
    """A resource, and what its owner says of this very specification (None: nothing yet)."""

    resource: Resource
    revision: int
    status: ResourceStatus | None


class StoredTask(msgspec.Struct, frozen=True):
    """A task's state and its revision."""

    state: State
    revision: int


class Client:
    """A bus, as the commands use it."""

    def __init__(self, bus: Bus, *, ask_once_s: float = ASK_ONCE_S) -> None:
        self.bus = bus
        self._ask_once_s = ask_once_s

    # --- resources ----------------------------------------------------------------------

    async def resources(self, kind: str, namespace: str | None) -> list[Declared]:
        """All resources of a kind, by namespace and name; of every namespace when none is given."""
        specs: dict[tuple[str, str], tuple[Resource, int]] = {}
        statuses: dict[tuple[str, str], ResourceStatus] = {}
        async for entry in self.bus.resources.watch():
            if entry is None:
                break
            try:
                key = subjects.parse_resource_key(entry.key)
                if entry.data is None or key.kind != kind or namespace not in (None, key.namespace):
                    continue
                if key.part == "spec":
                    specs[key.namespace, key.name] = (_resource(entry.data), entry.revision)
                else:
                    statuses[key.namespace, key.name] = decode(entry.data, ResourceStatus)
            except (Malformed, ValueError):
                continue  # written by a newer version, or not by us
        return [
            Declared(spec, revision, _about(statuses.get(key), revision))
            for key, (spec, revision) in sorted(specs.items())
        ]

    async def resource(self, kind: str, namespace: str, name: str) -> Declared | None:
        """One resource, or None."""
        key = _resource_key(kind, namespace, name)
        spec = await self.bus.resources.get(subjects.spec_key(*key))
        if spec is None or spec.data is None:
            return None
        status = await self.bus.resources.get(subjects.status_key(*key))
        known = None if status is None or status.data is None else decode(status.data, ResourceStatus)
        return Declared(_resource(spec.data), spec.revision, _about(known, spec.revision))

    async def apply(self, resource: Resource) -> Applied:
        """Make a resource be as given."""
        metadata = resource.metadata
        key = subjects.spec_key(type(resource).__name__, metadata.namespace, metadata.name)
        for _ in range(RACES_MAX):
            entry = await self.bus.resources.get(key)
            data = None if entry is None else entry.data
            if data is not None and _same(data, resource):
                return "unchanged"
            try:
                await self.bus.resources.put(key, encode(resource), expected=0 if entry is None else entry.revision)
            except Conflict:
                continue
            return "created" if data is None else "configured"
        raise Stop(f"{key} is being changed by others all the time; try again", ExitCode.REFUSED)

    async def delete_resource(self, kind: str, namespace: str, name: str) -> bool:
        """Remove a resource; False if there was none. Its owner removes the status."""
        key = subjects.spec_key(*_resource_key(kind, namespace, name))
        entry = await self.bus.resources.get(key)
        if entry is None or entry.data is None:
            return False
        await self.bus.resources.delete(key)
        return True

    # --- requests -----------------------------------------------------------------------

    async def submit(self, namespace: str, request: SubmitTask, *, message_id: str = "") -> Accepted:
        """Start a task. The same message id, or the same name and content, is the same task."""
        return await self._ask(namespace, "submit", request, {subjects.MSG_ID: message_id or uuid.uuid4().hex})

    async def send(self, namespace: str, request: SendMessage, *, message_id: str = "") -> Accepted:
        """Say something more in a task's thread. The same message id is the same message."""
        return await self._ask(namespace, "send", request, {subjects.MSG_ID: message_id or uuid.uuid4().hex})

    async def cancel(self, namespace: str, task: str, *, by: str, reason: str) -> Accepted:
        """Ask for a task to be cancelled; it is some moments later."""
        return await self._ask(namespace, "cancel", CancelTask(task=task, by=by, reason=reason), {})

    async def delete_task(self, namespace: str, task: str) -> Accepted:
        """Remove an ended task and everything stored about it."""
        return await self._ask(namespace, "delete", DeleteTask(task=task), {})

    async def answer(self, namespace: str, request: AnswerInteraction) -> Accepted:
        """Answer an interaction; the same answer again is no other one."""
        return await self._ask(namespace, "answer", request, {})

    async def _ask(self, namespace: str, verb: str, request: msgspec.Struct, headers: dict[str, str]) -> Accepted:
        """Ask a planner; again if none answers, because every request may be repeated."""
        subject = subjects.ask(_checked_namespace(namespace), verb)
        clock = self.bus.clock
        deadline = clock.now() + timedelta(seconds=ASK_S)
        while True:
            try:
                answer = await self.bus.signals.request(subject, encode(request), headers, timeout_s=self._ask_once_s)
                break
            except Unavailable as error:
                if clock.now() >= deadline:
                    fix = "start the services with `holdfast dev` or `holdfast serve all`"
                    raise Stop(f"no planner answered the request ({error}): {fix}", ExitCode.UNREACHABLE) from error
                await clock.sleep(ASK_AGAIN_S)
        reply = decode(answer.data, cast("type[Reply]", Reply))
        if isinstance(reply, Rejected):
            raise Stop(reply.error, _REJECTIONS[reply.code])
        return reply

    # --- tasks --------------------------------------------------------------------------

    def subjects_of(self, namespace: str, task: str) -> TaskSubjects:
        """The subjects of a task."""
        try:
            check_token("task", task)
        except InvalidId as error:
            raise Stop(str(error), ExitCode.USAGE) from error
        partition = partition_of(_checked_namespace(namespace), task, self.bus.partitions)
        return TaskSubjects(partition, namespace, task)

    def log_of(self, task: TaskSubjects) -> Log:
        """The stream that a task lives in."""
        return self.bus.log(task.partition)

    async def task(self, namespace: str, name: str) -> StoredTask | None:
        """A task's state, or None. One that was accepted a moment ago may have none yet; it is then as it begins."""
        task = self.subjects_of(namespace, name)
        log = self.log_of(task)
        entry = await log.get(task.state)
        if entry is not None:
            return StoredTask(decode_state(entry.data), entry.seq)
        submitted = await log.get(task.submitted)
        return None if submitted is None else StoredTask(_beginning(submitted), 0)

    async def existing_task(self, namespace: str, name: str) -> StoredTask:
        """A task's state; the command ends when there is no such task."""
        found = await self.task(namespace, name)
        if found is None:
            raise not_found("Task", namespace, name)
        return found

    async def tasks(self, namespace: str | None) -> list[StoredTask]:
        """All tasks, the newest first; of every namespace when none is given."""
        found: list[StoredTask] = []
        for partition in range(self.bus.partitions):
            filter_ = f"$KV.{subjects.state_bucket(partition)}.{namespace or '*'}.*"
            for entry in await self.bus.log(partition).last([filter_]):
                try:
                    found.append(StoredTask(decode_state(entry.data), entry.seq))
                except Malformed:
                    continue  # written by a newer version
        return sorted(found, key=lambda task: task.state.created_at, reverse=True)


_REJECTIONS: dict[RefusalCode, ExitCode] = {
    "malformed": ExitCode.REFUSED,
    "invalid": ExitCode.REFUSED,
    "forbidden": ExitCode.REFUSED,
    "conflict": ExitCode.REFUSED,
    "not_found": ExitCode.NOT_FOUND,
    "unavailable": ExitCode.UNREACHABLE,
}


def _beginning(submitted: Entry) -> Initializing:
    event = decode(submitted.data, TaskSubmitted)
    return Initializing(
        namespace=event.namespace,
        task=event.task,
        agent=event.spec.agent,
        submitted_seq=submitted.seq,
        created_at=event.at,
        updated_at=event.at,
        labels=event.spec.labels,
    )


def _resource(data: bytes) -> Resource:
    return decode(data, cast("type[Resource]", Resource))


def _about(status: ResourceStatus | None, revision: int) -> ResourceStatus | None:
    """A status, if it is about this revision of the specification."""
    return status if status is not None and status.observed_revision == revision else None


def _same(data: bytes, resource: Resource) -> bool:
    try:
        return _resource(data) == resource
    except Malformed:
        return False


def _resource_key(kind: str, namespace: str, name: str) -> tuple[str, str, str]:
    try:
        check_resource_name("name", name)
    except InvalidId as error:
        raise Stop(str(error), ExitCode.USAGE) from error
    return kind, _checked_namespace(namespace), name


def _checked_namespace(namespace: str) -> str:
    try:
        return check_token("namespace", namespace)
    except InvalidId as error:
        raise Stop(str(error), ExitCode.USAGE) from error
