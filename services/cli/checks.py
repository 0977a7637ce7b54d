"""What a manifest says that no field alone can: rules across fields, and fields that have no effect yet.

The texts about contact channels, MCP servers and task input are the predecessor's, which its users know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.contact_channels import is_address, problems_of
from schemas.ids import InvalidId, check_resource_name, check_thread_id
from schemas.notifications import contradictions
from schemas.requests import InvalidRequest, Limits, ResponseFormat, check_task_input
from schemas.resources import (
    LLM,
    QUOTA_NAME,
    Agent,
    AgentSpec,
    ContactChannel,
    ContactChannelSpec,
    Grant,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Quota,
    Ref,
    ServerRef,
    Subscription,
    SubscriptionSpec,
    Toolset,
    ToolsetSpec,
)
from schemas.toolsets import toolset_problems
from services.cli.conversation import as_message, misplaced_images
from services.cli.yamldoc import FieldPath

if TYPE_CHECKING:
    from schemas.resources import Resource
    from services.cli.manifests import TaskManifest, TaskManifestSpec

Finding = tuple[FieldPath, str]

THINKING_TOKENS_MIN = 1024
"""What Anthropic takes."""

_FORMAT_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_YET = "has no effect yet"


def check_resource(resource: Resource) -> list[Finding]:
    """What contradicts itself in a resource."""
    match resource:
        case LLM(spec=spec):
            return list(_check_llm(spec))
        case MCPServer(spec=spec):
            return list(_check_mcp_server(spec))
        case ContactChannel(spec=spec):
            return list(_check_contact_channel(spec))
        case Agent(spec=spec):
            return list(_check_agent(spec))
        case Subscription(spec=spec):
            return list(_check_subscription(spec))
        case Toolset(spec=spec):
            return list(_check_toolset(spec))
        case Grant():
            return []
        case Quota(metadata=metadata):
            if metadata.name == QUOTA_NAME:
                return []
            return [(("metadata", "name"), f"a namespace has one Quota, and its name is {QUOTA_NAME!r}")]


def check_task(spec: TaskManifestSpec) -> list[Finding]:
    """What contradicts itself in a task."""
    found: list[Finding] = []
    if spec.agent_ref is None and not spec.agent_name:
        found.append((("spec", "agentRef"), "required and missing"))
    elif spec.agent_ref is not None and spec.agent_name:
        found.append((("spec", "agentName"), "only one of agentRef and agentName can be given"))
    elif spec.agent_ref is not None:
        found += _check_refs([(("spec", "agentRef", "name"), spec.agent_ref)])
    else:
        found += _check_refs([(("spec", "agentName"), Ref(name=spec.agent_name))])
    found += _check_limits(spec.limits)
    found += check_response_format(spec.response_format, ("spec", "responseFormat"))
    for n, role in misplaced_images(spec.context_window or ()):
        found.append((("spec", "contextWindow", n, "content"), f"a message of role {role} cannot have images"))
    window = None if spec.context_window is None else tuple(as_message(message) for message in spec.context_window)
    try:
        check_task_input(spec.user_message, window)
    except InvalidRequest as error:
        found.append((("spec",), str(error)))
    try:
        if spec.thread_id:
            check_thread_id(spec.thread_id)
    except InvalidId as error:
        found.append((("spec", "threadID"), str(error)))
    return found


def _check_agent(spec: AgentSpec) -> Iterator[Finding]:
    several: tuple[tuple[str, tuple[Ref | ServerRef, ...]], ...] = (
        ("mcpServers", spec.mcp_servers),
        ("toolsets", spec.toolsets),
        ("humanContactChannels", spec.human_contact_channels),
        ("subAgents", spec.sub_agents),
    )
    refs: list[tuple[FieldPath, Ref | ServerRef]] = [(("spec", "llmRef", "name"), spec.llm_ref)]
    for field, some in several:
        refs += ((("spec", field, n, "name"), ref) for n, ref in enumerate(some))
        yield from _check_once(field, some)
    refs += ((("spec", "fallbacks", n, "llmRef", "name"), one.llm_ref) for n, one in enumerate(spec.fallbacks))
    yield from _check_refs(refs)
    yield from _check_limits(spec.limits)
    if not spec.system:
        yield ("spec", "system"), "must not be empty"
    for n, toolset in enumerate(spec.toolsets):
        for flag, given in (("resources", toolset.resources), ("prompts", toolset.prompts)):
            if given:
                yield ("spec", "toolsets", n, flag), f"only MCP servers have {flag}"
    for n, fallback in enumerate(spec.fallbacks):
        if not fallback.on:
            yield ("spec", "fallbacks", n, "on"), "names no failure, so this LLM would never be asked"
        if fallback.llm_ref.name == spec.llm_ref.name:
            yield ("spec", "fallbacks", n, "llmRef", "name"), "is the agent's own LLM"
    yield from check_response_format(spec.response_format, ("spec", "responseFormat"))


def _check_once(field: str, refs: Sequence[Ref | ServerRef]) -> Iterator[Finding]:
    seen: set[str] = set()
    for n, ref in enumerate(refs):
        if ref.name in seen:
            yield ("spec", field, n, "name"), f"{ref.name!r} is in {field} twice"
        seen.add(ref.name)


def check_response_format(format_: ResponseFormat | None, path: FieldPath) -> Iterator[Finding]:
    """What makes a response format useless."""
    if format_ is None:
        return
    from services.runtime.json_schema import flaw_of  # noqa: PLC0415 - a library of megabytes, and few manifests need it

    if problem := flaw_of(format_.schema):
        yield (*path, "schema"), f"is not a JSON Schema that can be used: {problem}"
    if not _FORMAT_NAME.fullmatch(format_.name):
        yield (*path, "name"), f"must be letters, digits, _ and -, 64 characters at most; not {format_.name[:80]!r}"


def _check_toolset(spec: ToolsetSpec) -> Iterator[Finding]:
    places = {
        **{f"{name}: ": ("spec", name) for name in ("shell", "http", "files", "commandOptions")},
        **{f"command {one.name!r}: ": ("spec", "commands", n) for n, one in enumerate(spec.commands)},
    }
    for problem in toolset_problems(spec):
        start = next((start for start in places if problem.startswith(start)), "")
        path: FieldPath = places[start] if start else ("spec",)
        said = problem.removeprefix(start)
        field = said.split(" ", 1)[0].removesuffix(":")
        if field in _fields_at(spec, path):
            yield (*path, field), said.removeprefix(field).lstrip(": ")
        else:
            yield path, said


def _fields_at(spec: ToolsetSpec, path: FieldPath) -> set[str]:
    """The fields of the part of a toolset that a path leads to."""
    part: Any = spec
    for step in path[1:]:
        if isinstance(step, int):
            part = part[step]
        else:
            part = next(getattr(part, f.name) for f in msgspec.structs.fields(part) if f.encode_name == step)
    return {field.encode_name for field in msgspec.structs.fields(part)}


def _check_refs(refs: Sequence[tuple[FieldPath, Ref | ServerRef]]) -> Iterator[Finding]:
    for path, ref in refs:
        try:
            check_resource_name("name", ref.name)
        except InvalidId as error:
            yield path, str(error)


def _check_limits(limits: Limits) -> Iterator[Finding]:
    values = (
        ("maxTurns", limits.max_turns),
        ("maxTokens", limits.max_tokens),
        ("maxCost", limits.max_cost_usd),
        ("deadlineSeconds", limits.deadline_s),
    )
    for field, value in values:
        if value is not None and value <= 0:
            yield ("spec", "limits", field), f"must be more than 0, not {value}"


def _check_llm(spec: LLMSpec) -> Iterator[Finding]:
    parameters = spec.parameters
    ranges = (
        ("temperature", parameters.temperature, 0.0, 2.0),
        ("topP", parameters.top_p, 0.0, 1.0),
        ("frequencyPenalty", parameters.frequency_penalty, -2.0, 2.0),
        ("presencePenalty", parameters.presence_penalty, -2.0, 2.0),
    )
    for field, value, lowest, highest in ranges:
        try:
            good = value is None or lowest <= float(value) <= highest
        except ValueError:
            good = False
        if not good:
            yield ("spec", "parameters", field), f"must be a number from {lowest:g} to {highest:g}, not {value!r}"
    counts = (
        ("maxTokens", parameters.max_tokens),
        ("topK", parameters.top_k),
        ("contextTokens", parameters.context_tokens),
        ("concurrency", parameters.concurrency),
    )
    for name, count in counts:
        if count is not None and count < 1:
            yield ("spec", "parameters", name), f"must be at least 1, not {count}"
    if parameters.timeout_s <= 0:
        yield ("spec", "parameters", "timeoutSeconds"), f"must be more than 0, not {parameters.timeout_s:g}"
    if parameters.context_tokens is not None and (parameters.max_tokens or 0) >= parameters.context_tokens:
        room = f"the context of {parameters.context_tokens} tokens (contextTokens) has no room for a question then"
        yield ("spec", "parameters", "maxTokens"), f"is {parameters.max_tokens}: {room}"
    thinking = spec.anthropic.thinking_budget_tokens if spec.anthropic is not None else None
    if thinking is not None and thinking < THINKING_TOKENS_MIN:
        yield ("spec", "anthropic", "thinkingBudgetTokens"), f"must be at least {THINKING_TOKENS_MIN}, not {thinking}"
    if spec.provider == "scripted" and spec.scripted is None:
        yield ("spec",), "scripted configuration is required for scripted provider"
    if spec.provider == "vertex" and spec.vertex is None:
        yield ("spec",), "vertex configuration is required for vertex provider"


def _check_mcp_server(spec: MCPServerSpec) -> Iterator[Finding]:
    if spec.transport == "stdio" and not spec.command:
        yield ("spec", "command"), "command is required for stdio transport"
    if spec.transport != "stdio" and not spec.url:
        yield ("spec", "url"), f"url is required for {spec.transport} transport"
    if spec.transport != "stdio" and spec.url and not spec.url.startswith(("http://", "https://")):
        yield ("spec", "url"), f"must begin with http:// or https://, not {spec.url!r}"
    signing_in = (("bearerFrom", spec.bearer_from), ("oauth", spec.oauth))
    for field, given in signing_in:
        if given is not None and spec.transport == "stdio":
            yield ("spec", field), "is for servers that are reached over http; this one is a process (stdio)"
    if all(given is not None for _, given in signing_in):
        yield ("spec", "oauth"), "only one of bearerFrom and oauth can be given"


def _check_contact_channel(spec: ContactChannelSpec) -> Iterator[Finding]:
    for path, problem in problems_of(spec):
        yield ("spec", *path), problem
    if spec.escalate_to is not None:
        yield from _check_refs([(("spec", "escalateTo", "name"), spec.escalate_to)])


def _check_subscription(spec: SubscriptionSpec) -> Iterator[Finding]:
    for field, problem in contradictions(spec):
        yield ("spec", *filter(None, field.split("."))), problem
    if spec.email is not None:
        for n, address in enumerate(spec.email.to):
            if not is_address(address):
                yield ("spec", "email", "to", n), f"invalid email address: {address!r}"
        if not is_address(spec.email.from_):
            yield ("spec", "email", "from"), f"invalid email address: {spec.email.from_!r}"
    try:
        _check_names(spec.agents)
    except InvalidId as error:
        yield ("spec", "agents"), str(error)


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        check_resource_name("name", name)


def without_effect(manifest: Resource | TaskManifest) -> Iterator[Finding]:
    """Fields that are accepted and do nothing yet: to be told, so that nobody relies on them."""
    match manifest:
        case MCPServer(spec=spec):
            if spec.resources is not None:
                yield ("spec", "resources"), f"spec.resources {_NOT_YET}: limit the tool-executor's process instead"
        case LLM() | Agent() | Toolset() | Quota() | ContactChannel() | Subscription() | Grant():
            return
        case _:
            yield from _task_without_effect(manifest)


def _task_without_effect(manifest: TaskManifest) -> Iterator[Finding]:
    for field, attribute in (
        ("baseURL", "base_url"),
        ("channelTokenFrom", "channel_token_from"),
    ):
        if getattr(manifest.spec, attribute, None) is not None:
            yield ("spec", field), f"spec.{field} {_NOT_YET}"
