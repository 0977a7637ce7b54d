"""The resources of the bus as this process knows them: one watcher, hot-reloaded, and a writer of statuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from schemas import subjects
from schemas.approvals import approving_channel, is_granted
from schemas.resources import (
    LLM,
    Agent,
    ContactChannel,
    Grant,
    MCPServer,
    Quota,
    Resource,
    ResourceStatus,
    Status,
    Subscription,
    ToolInfo,
    Toolset,
)
from schemas.subjects import ResourceKey
from schemas.tools import OfferedTool, contact_tool, delegate_tool
from schemas.toolsets import builtin_toolset, toolset_tools
from schemas.wire import Malformed, decode, encode
from services.runtime.errors import Conflict

if TYPE_CHECKING:
    from services.runtime.ports import Clock, Store, StoreEntry

logger = logging.getLogger(__name__)

CONFLICTS_MAX = 5
"""Lost races of one write of a status."""

R = TypeVar("R", LLM, Agent, MCPServer, Toolset, ContactChannel, Quota, Grant, Subscription)


class Known(msgspec.Struct, frozen=True):
    """A resource and the revision of its specification."""

    resource: Resource
    revision: int


class Resources:
    """A live view of the resources bucket. Reading it costs nothing; it may be milliseconds behind."""

    def __init__(self, store: Store, clock: Clock, *, service: str) -> None:
        self._store = store
        self._clock = clock
        self._service = service
        self._specs: dict[ResourceKey, Known] = {}
        self._statuses: dict[ResourceKey, ResourceStatus] = {}
        self._status_revisions: dict[ResourceKey, int] = {}
        self._listeners: list[Callable[[ResourceKey], None]] = []
        self._loaded = asyncio.Event()

    async def run(self) -> None:
        """Follow the bucket for ever."""
        async for entry in self._store.watch():
            if entry is None:
                self._loaded.set()
            else:
                self._take(entry)

    async def loaded(self) -> None:
        """Wait until everything that was there at the start is known."""
        await self._loaded.wait()

    def on_change(self, listener: Callable[[ResourceKey], None]) -> None:
        """Call `listener` with the key of everything that changes from now on; it must be quick and not raise."""
        self._listeners.append(listener)

    def get(self, kind: type[R], namespace: str, name: str) -> R | None:
        """A resource as it was applied, or None."""
        known = self.known(kind.__name__, namespace, name)
        return known.resource if known is not None and isinstance(known.resource, kind) else None

    def known(self, kind: str, namespace: str, name: str) -> Known | None:
        """A resource and its revision, or None."""
        return self._specs.get(ResourceKey("spec", kind, namespace, name))

    def all(self, kind: type[R]) -> Iterable[tuple[R, int]]:
        """Every resource of a kind, with its revision, in no order."""
        return [(known.resource, known.revision) for known in self._specs.values() if isinstance(known.resource, kind)]

    def keys(self, namespace: str) -> Iterable[str]:
        """The keys of all resources of a namespace, and of what is said of them, in no order."""
        return [".".join(key) for key in (*self._specs, *self._statuses) if key.namespace == namespace]

    def status(self, kind: str, namespace: str, name: str) -> ResourceStatus | None:
        """What its owner says of it; None when it says nothing yet, or spoke of an earlier specification."""
        status = self._statuses.get(ResourceKey("status", kind, namespace, name))
        known = self.known(kind, namespace, name)
        if status is None or known is None or status.observed_revision != known.revision:
            return None
        return status

    async def set_status(
        self,
        kind: str,
        namespace: str,
        name: str,
        *,
        status: Status,
        detail: str,
        tools: tuple[ToolInfo, ...] = (),
        pool: str = "",
    ) -> bool:
        """Say what is true of a resource now. Written only if it is news; True if it was.

        Any replica of the owner may say it: what another one just said of the same specification is left at that.
        """
        known = self.known(kind, namespace, name)
        if known is None:
            return False
        key = ResourceKey("status", kind, namespace, name)
        new = ResourceStatus(
            ready=status == "Ready",
            status=status,
            status_detail=detail,
            observed_revision=known.revision,
            at=self._clock.now(),
            by=self._service,
            tools=tools,
            pool=pool,
        )
        old = self._statuses.get(key)
        if old is not None and msgspec.structs.replace(old, at=new.at, by=new.by) == new:
            return False
        revision = await self._put_status(key, new)
        if revision is None:
            return False
        self._statuses[key] = new
        self._status_revisions[key] = revision
        logger.info("%s %s/%s is %s: %s", kind, namespace, name, status, detail, extra={"action": "resource.status"})
        self._tell(key)
        return True

    async def _put_status(self, key: ResourceKey, new: ResourceStatus) -> int | None:
        """Write a status; its revision, or None if another replica was quicker and has seen as much."""
        name = ".".join(key)
        revision = self._status_revisions.get(key, 0)
        for _ in range(CONFLICTS_MAX):
            try:
                return await self._store.put(name, encode(new), expected=revision)
            except Conflict:
                entry = await self._store.get(name)
            if entry is not None and _observed(entry) >= new.observed_revision:
                if entry.revision > self._status_revisions.get(key, 0):
                    self._take(entry)  # whoever judges by it must not wait for the watcher to bring it
                return None
            revision = entry.revision if entry is not None else 0
        return None

    async def forget_status(self, kind: str, namespace: str, name: str) -> None:
        """Remove the status of a resource that was deleted, if it has one: a removal is a change, which is seen.

        Only the status that is known here: if another replica has said something since, the resource is there again.
        """
        key = ResourceKey("status", kind, namespace, name)
        if key not in self._statuses:
            return
        try:
            await self._store.delete(".".join(key), expected=self._status_revisions[key])
        except Conflict:
            return
        self._statuses.pop(key, None)

    def _take(self, entry: StoreEntry) -> None:
        try:
            key = subjects.parse_resource_key(entry.key)
            if key.part == "spec":
                self._take_spec(key, entry)
            else:
                self._take_status(key, entry)
        except (Malformed, ValueError) as error:
            logger.error("ignoring resource %s: %s", entry.key, error, extra={"action": "resource.malformed"})  # noqa: TRY400 - the text says it all
            return
        self._tell(key)

    def _take_spec(self, key: ResourceKey, entry: StoreEntry) -> None:
        if entry.data is None:
            self._specs.pop(key, None)
        else:
            self._specs[key] = Known(decode(entry.data, Resource), entry.revision)  # type: ignore[arg-type]  # a union is a type to msgspec

    def _take_status(self, key: ResourceKey, entry: StoreEntry) -> None:
        if entry.revision <= self._status_revisions.get(key, 0):
            return
        self._status_revisions[key] = entry.revision
        if entry.data is None:
            self._statuses.pop(key, None)
        else:
            self._statuses[key] = decode(entry.data, ResourceStatus)

    def _tell(self, key: ResourceKey) -> None:
        for listener in self._listeners:
            listener(key)


def tools_of(resources: Resources, namespace: str, kind: str, name: str) -> tuple[ToolInfo, ...]:
    """The tools of a server, as it last said, of a toolset, as declared or built in, or to delegate to an agent."""
    if kind == "Agent":
        agent = resources.get(Agent, namespace, name)
        return (delegate_tool(name, agent.spec.description if agent is not None else ""),)
    if kind == "Toolset":
        toolset = resources.get(Toolset, namespace, name)
        spec = toolset.spec if toolset is not None else builtin_toolset(name)
        return toolset_tools(spec) if spec is not None else ()
    if kind == "ContactChannel":
        channel = resources.get(ContactChannel, namespace, name)
        return (contact_tool(channel.spec),) if channel is not None else ()
    status = resources.status(kind, namespace, name)
    return status.tools if status is not None else ()


def approver_of(resources: Resources, agent: Agent, tool: OfferedTool) -> str:
    """The contact channel that has to approve a call of an agent's tool; empty: none has to."""
    namespace = agent.metadata.namespace

    def server_channel(name: str) -> str:
        server = resources.get(MCPServer, namespace, name)
        channel = server.spec.approval_contact_channel if server is not None else None
        return channel.name if channel is not None else ""

    return approving_channel(agent.spec, tool, server_channel)


def is_approved_for_good(resources: Resources, agent: Agent, tool: str, arguments: str) -> bool:
    """Whether people have approved such calls until somebody revokes it."""
    name, namespace = agent.metadata.name, agent.metadata.namespace
    grants = (grant for grant, _ in resources.all(Grant) if grant.metadata.namespace == namespace)
    return any(is_granted(grant, name, tool, arguments) for grant in grants)


def _observed(entry: StoreEntry) -> int:
    """The revision that a stored status is about; 0 if it cannot be read."""
    try:
        return decode(entry.data or b"", ResourceStatus).observed_revision
    except Malformed:
        return 0
