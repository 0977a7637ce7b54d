"""What a manifest says that no field alone can: rules across fields, and fields that have no effect yet.

The texts about contact channels, MCP servers and task input are the predecessor's, which its users know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from email.utils import parseaddr
from typing import TYPE_CHECKING

from schemas.ids import InvalidId, check_resource_name
from schemas.notifications import contradictions
from schemas.requests import InvalidRequest, Limits, check_task_input
from schemas.resources import (
    LLM,
    QUOTA_NAME,
    Agent,
    ContactChannel,
    ContactChannelSpec,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Quota,
    Ref,
    ServerRef,
    Subscription,
    SubscriptionSpec,
    Toolset,
)
from services.cli.conversation import as_message
from services.cli.yamldoc import FieldPath

if TYPE_CHECKING:
    from schemas.resources import Resource
    from services.cli.manifests import TaskManifest, TaskManifestSpec

Finding = tuple[FieldPath, str]

_SLACK_ID = re.compile(r"[CU][A-Z0-9]+")
_NOT_YET = "has no effect yet"
_NO_APPROVALS = "spec.approvalContactChannel: approvals cannot be asked for yet, so this server will not be used"


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
            several: tuple[tuple[str, tuple[Ref | ServerRef, ...]], ...] = (
                ("mcpServers", spec.mcp_servers),
                ("toolsets", spec.toolsets),
                ("humanContactChannels", spec.human_contact_channels),
                ("subAgents", spec.sub_agents),
            )
            refs: list[tuple[FieldPath, Ref | ServerRef]] = [(("spec", "llmRef", "name"), spec.llm_ref)]
            refs += ((("spec", field, n, "name"), ref) for field, some in several for n, ref in enumerate(some))
            refs += ((("spec", "fallbacks", n, "llmRef", "name"), one.llm_ref) for n, one in enumerate(spec.fallbacks))
            found = list(_check_refs(refs)) + list(_check_limits(spec.limits))
            if not spec.system:
                found.append((("spec", "system"), "must not be empty"))
            return found
        case Subscription(spec=spec):
            return list(_check_subscription(spec))
        case Toolset():
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
    window = None if spec.context_window is None else tuple(as_message(message) for message in spec.context_window)
    try:
        check_task_input(spec.user_message, window)
    except InvalidRequest as error:
        found.append((("spec",), str(error)))
    return found


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
    for name, count in (("maxTokens", parameters.max_tokens), ("topK", parameters.top_k)):
        if count is not None and count < 1:
            yield ("spec", "parameters", name), f"must be at least 1, not {count}"
    if spec.provider == "scripted" and spec.scripted is None:
        yield ("spec",), "scripted configuration is required for scripted provider"
    if spec.provider == "vertex" and spec.vertex is None:
        yield ("spec",), "vertex configuration is required for vertex provider"


def _check_mcp_server(spec: MCPServerSpec) -> Iterator[Finding]:
    if spec.transport == "stdio" and not spec.command:
        yield ("spec", "command"), "command is required for stdio transport"
    if spec.transport == "http" and not spec.url:
        yield ("spec", "url"), "url is required for http transport"
    if spec.transport == "http" and spec.url and not spec.url.startswith(("http://", "https://")):
        yield ("spec", "url"), f"must begin with http:// or https://, not {spec.url!r}"


def _check_contact_channel(spec: ContactChannelSpec) -> Iterator[Finding]:
    if spec.api_key_from is None and spec.channel_api_key_from is None:
        yield ("spec",), "either apiKeyFrom or channelApiKeyFrom must be provided"
    if spec.api_key_from is not None and spec.channel_api_key_from is not None:
        yield ("spec", "channelApiKeyFrom"), "apiKeyFrom and channelApiKeyFrom are mutually exclusive"
    if spec.channel_api_key_from is not None and not spec.channel_id:
        yield ("spec",), "channelId is required when channelApiKeyFrom is set"
    if spec.channel_id and spec.channel_api_key_from is None:
        yield ("spec", "channelId"), "channelId can only be used with channelApiKeyFrom"
    if spec.type == "slack" and spec.slack is None:
        yield ("spec",), "slackConfig is required for slack channel type"
    if spec.type == "email" and spec.email is None:
        yield ("spec",), "emailConfig is required for email channel type"
    if spec.slack is not None and not _SLACK_ID.fullmatch(spec.slack.channel_or_user_id):
        wanted = "must be a Slack id: C (channel) or U (person), then capitals and digits"
        yield ("spec", "slack", "channelOrUserID"), f"{wanted}; not {spec.slack.channel_or_user_id!r}"
    if spec.email is not None and not _is_address(spec.email.address):
        yield ("spec", "email", "address"), f"invalid email address: {spec.email.address!r}"


def _check_subscription(spec: SubscriptionSpec) -> Iterator[Finding]:
    for field, problem in contradictions(spec):
        yield ("spec", *filter(None, field.split("."))), problem
    if spec.email is not None:
        for n, address in enumerate(spec.email.to):
            if not _is_address(address):
                yield ("spec", "email", "to", n), f"invalid email address: {address!r}"
        if not _is_address(spec.email.from_):
            yield ("spec", "email", "from"), f"invalid email address: {spec.email.from_!r}"
    try:
        _check_names(spec.agents)
    except InvalidId as error:
        yield ("spec", "agents"), str(error)


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        check_resource_name("name", name)


def _is_address(text: str) -> bool:
    address = parseaddr(text)[1]
    local, at, domain = address.rpartition("@")
    return bool(local and at and "." in domain.strip("."))


def without_effect(manifest: Resource | TaskManifest) -> Iterator[Finding]:
    """Fields that are accepted and do nothing yet: to be told, so that nobody relies on them."""
    match manifest:
        case MCPServer(spec=spec):
            if spec.resources is not None:
                yield ("spec", "resources"), f"spec.resources {_NOT_YET}: limit the tool-executor's process instead"
            if spec.approval_contact_channel is not None:
                yield ("spec", "approvalContactChannel"), _NO_APPROVALS
        case Agent(spec=spec):
            if spec.human_contact_channels:
                yield ("spec", "humanContactChannels"), f"spec.humanContactChannels {_NOT_YET}"
            if spec.sub_agents:
                yield ("spec", "subAgents"), f"spec.subAgents {_NOT_YET}"
        case ContactChannel():
            yield ("kind",), f"ContactChannel is stored and {_NOT_YET}"
        case LLM() | Toolset() | Quota() | Subscription():
            return
        case _:
            yield from _task_without_effect(manifest)


def _task_without_effect(manifest: TaskManifest) -> Iterator[Finding]:
    for field, attribute in (
        ("baseURL", "base_url"),
        ("channelTokenFrom", "channel_token_from"),
        ("threadID", "thread_id"),
    ):
        if getattr(manifest.spec, attribute, None) is not None:
            yield ("spec", field), f"spec.{field} {_NOT_YET}"
