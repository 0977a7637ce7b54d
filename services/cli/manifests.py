"""Manifests: YAML documents as the resources and tasks of the contract, or every problem with its place.

Two versions are read: `holdfast.dev/v1`, and `acp.humanlayer.dev/v1alpha1` as its users wrote it. Both give the same
structs. Nothing is guessed: an unknown field is a problem, and a field that has no effect yet is said to have none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from schemas.ids import InvalidId, check_resource_name, check_token
from schemas.requests import Limits, Priority, ResponseFormat, SubmitTask
from schemas.resources import (
    API_VERSION,
    API_VERSIONS_ACCEPTED,
    KINDS,
    LLM,
    Agent,
    ContactChannel,
    Grant,
    MCPServer,
    Metadata,
    Quota,
    Ref,
    Resource,
    SecretKeyRef,
    Subscription,
    Toolset,
)
from schemas.wire import Strict
from services.cli.checks import check_resource, check_task, without_effect
from services.cli.conversation import ManifestMessage, as_message
from services.cli.fields import convert
from services.cli.yamldoc import Document, FieldPath, Plain, Problem, read_documents

KINDS_OF_MANIFESTS = (*KINDS, "Task")
MADE_BY_THE_SYSTEM = ("ToolCall", "Interaction")
PREDECESSOR = "acp.humanlayer.dev/v1alpha1"
_SERVER_MADE = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")
"""What the predecessor's API server adds to metadata when it prints an object."""


class TaskManifestSpec(Strict, frozen=True, kw_only=True):
    """A task as a manifest says it."""

    agent_ref: Ref | None = None
    agent_name: str = ""
    """The same in the words of a request."""
    user_message: str | None = None
    context_window: tuple[ManifestMessage, ...] | None = None
    limits: Limits = Limits()
    contact_channel_ref: Ref | None = None
    priority: Priority = "normal"
    response_format: ResponseFormat | None = None
    response_url: str = msgspec.field(default="", name="responseURL")
    thread_id: str = msgspec.field(default="", name="threadID")


class PredecessorTaskSpec(TaskManifestSpec, frozen=True, kw_only=True):
    """The same with what only the predecessor's version has."""

    base_url: str | None = msgspec.field(default=None, name="baseURL")
    channel_token_from: SecretKeyRef | None = None


class TaskManifest(Strict, frozen=True, kw_only=True, tag_field="kind", tag="Task"):
    """`kind: Task`."""

    metadata: Metadata
    spec: TaskManifestSpec
    api_version: str = API_VERSION


class PredecessorTaskManifest(TaskManifest, frozen=True, kw_only=True, tag_field="kind", tag="Task"):
    """`kind: Task` of the predecessor's version."""

    spec: PredecessorTaskSpec


Manifest = Resource | TaskManifest
_SHAPES: dict[str, type[Manifest]] = {
    "LLM": LLM,
    "Agent": Agent,
    "MCPServer": MCPServer,
    "Toolset": Toolset,
    "Quota": Quota,
    "Grant": Grant,
    "ContactChannel": ContactChannel,
    "Subscription": Subscription,
    "Task": TaskManifest,
}


class Submission(msgspec.Struct, frozen=True):
    """A task to be submitted."""

    namespace: str
    request: SubmitTask
    kind: Literal["Task"] = "Task"


class Parsed(msgspec.Struct, frozen=True):
    """What a set of manifests says."""

    resources: tuple[Resource, ...]
    """In the order in which it is useful to apply them."""
    submissions: tuple[Submission, ...]
    notes: tuple[str, ...]
    """What was accepted and has no effect."""


class BadManifests(ValueError):
    """Some manifests are wrong; nothing of them may be used."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(said(problem) for problem in self.problems))


def said(problem: Problem) -> str:
    """A problem as text: file, line, field, what is wrong, and the lines around it."""
    field = f"{problem.field}: " if problem.field else ""
    lines = [f"{problem.source}:{problem.line}: {field}{problem.message}"]
    lines += [f"    {line}" for line in problem.excerpt]
    return "\n".join(lines)


def parse(sources: Iterable[tuple[str, str]], *, namespace: str | None = None) -> Parsed:
    """The manifests in `sources`, pairs of a name and a text; raises `BadManifests` with every problem.

    `namespace` is for those that do not say theirs; one that says another is a problem.
    """
    reader = _Reader(namespace)
    for source, text in sources:
        before = len(reader.problems)
        documents, problems = read_documents(text, source)
        for document in documents:
            reader.take(document)
        reader.problems[before:] = sorted([*reader.problems[before:], *problems], key=lambda problem: problem.line)
    if reader.problems:
        raise BadManifests(reader.problems)
    order: dict[str, int] = {kind: place for place, kind in enumerate(KINDS)}
    resources = sorted(reader.resources, key=lambda resource: order[type(resource).__name__])
    return Parsed(tuple(resources), tuple(reader.submissions), tuple(reader.notes))


class _Reader:
    def __init__(self, namespace: str | None) -> None:
        self.resources: list[Resource] = []
        self.submissions: list[Submission] = []
        self.notes: list[str] = []
        self.problems: list[Problem] = []
        self._namespace = namespace
        self._seen: dict[tuple[str, str, str], str] = {}

    def take(self, document: Document) -> None:
        kind = self._kind(document)
        if kind is None or not isinstance(document.data, dict):
            return
        data = self._prepared(document.data)
        predecessor = kind == "Task" and data["apiVersion"] == PREDECESSOR
        value, problems = convert(data, PredecessorTaskManifest if predecessor else _SHAPES[kind])
        if value is None:
            self.problems += [document.problem(problem.path, problem.message) for problem in problems]
            return
        found = self._names(document, kind, value.metadata)
        found += check_task(value.spec) if isinstance(value, TaskManifest) else check_resource(value)
        self.problems += [document.problem(path, message) for path, message in found]
        if not found:
            self.notes += [
                f"{document.source}:{document.line_of(path)}: {message}" for path, message in without_effect(value)
            ]
            self._keep(value)

    def _kind(self, document: Document) -> str | None:
        """The kind, if it is one that can be applied."""
        problem: tuple[FieldPath, str] | None = None
        data = document.data
        kind = data.get("kind") if isinstance(data, dict) else None
        if not isinstance(data, dict):
            problem = ((), "a manifest is a mapping with apiVersion, kind, metadata and spec")
        elif kind == "Secret":
            self.problems.append(document.problem(("kind",), _about_secrets(data), show=False))
            return None
        elif kind in MADE_BY_THE_SYSTEM:
            problem = (("kind",), f"a {kind} is made by the system: read it with `holdfast get`")
        elif kind not in KINDS_OF_MANIFESTS:
            known = ", ".join(KINDS_OF_MANIFESTS)
            problem = (("kind",), f"{kind!r} is not a kind; known are {known}" if kind else f"required; one of {known}")
        elif data.get("apiVersion") not in API_VERSIONS_ACCEPTED:
            versions = " or ".join(API_VERSIONS_ACCEPTED)
            problem = (("apiVersion",), f"must be {versions}, not {data.get('apiVersion')!r}")
        if problem is None:
            return str(kind)
        self.problems.append(document.problem(*problem))
        return None

    def _prepared(self, document: dict[str, Plain]) -> dict[str, Plain]:
        """A document without what a server added when it printed the object, and with its namespace."""
        data = {key: value for key, value in document.items() if key != "status"}
        metadata = data.get("metadata")
        if isinstance(metadata, dict):
            if data["apiVersion"] == PREDECESSOR:
                metadata = {key: value for key, value in metadata.items() if key not in _SERVER_MADE}
            if self._namespace is not None and metadata.get("namespace") is None:
                metadata = {**metadata, "namespace": self._namespace}
            data["metadata"] = metadata
        return data

    def _names(self, document: Document, kind: str, metadata: Metadata) -> list[tuple[FieldPath, str]]:
        found: list[tuple[FieldPath, str]] = []
        try:
            (check_token if kind == "Task" else check_resource_name)("name", metadata.name)
        except InvalidId as error:
            found.append((("metadata", "name"), str(error)))
        try:
            check_token("namespace", metadata.namespace)
        except InvalidId as error:
            found.append((("metadata", "namespace"), str(error)))
        if self._namespace is not None and metadata.namespace != self._namespace:
            said_so = f"the manifest is for namespace {metadata.namespace!r} and the command for {self._namespace!r}"
            found.append((("metadata", "namespace"), said_so))
        key = (kind, metadata.namespace, metadata.name)
        place = f"{document.source}:{document.line}"
        if (first := self._seen.setdefault(key, place)) != place:
            found.append((("metadata", "name"), f"{kind} {metadata.name!r} is also in {first}"))
        return found

    def _keep(self, value: Manifest) -> None:
        if isinstance(value, TaskManifest):
            self.submissions.append(Submission(value.metadata.namespace, _request(value)))
        else:
            self.resources.append(msgspec.structs.replace(value, api_version=API_VERSION))


def _request(manifest: TaskManifest) -> SubmitTask:
    spec = manifest.spec
    window = spec.context_window
    return SubmitTask(
        agent_name=spec.agent_ref.name if spec.agent_ref else spec.agent_name,
        name=manifest.metadata.name,
        user_message=spec.user_message,
        context_window=None if window is None else tuple(as_message(message) for message in window),
        limits=spec.limits,
        labels=manifest.metadata.labels,
        contact_channel_ref=spec.contact_channel_ref.name if spec.contact_channel_ref else "",
        priority=spec.priority,
        response_format=spec.response_format,
        response_url=spec.response_url,
        thread_id=spec.thread_id,
    )


def _about_secrets(data: dict[str, Plain]) -> str:
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    parts = (data.get("data"), data.get("stringData"))
    keys = [key for part in parts if isinstance(part, dict) for key in part]
    files = ", ".join(f"$HOLDFAST_SECRETS_DIR/{name or '<name>'}/{key}" for key in keys or ["<key>"])
    return (
        f"secrets are not stored on the bus; give this one to the services as files ({files}) "
        "or as variables HOLDFAST_SECRET_<NAME>_<KEY>, and take the document out"
    )
