"""Resources, tasks and tool calls as documents: what `-o json` and `-o yaml` print.

A declared resource's document is a manifest that can be applied again; its `status` is ignored then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from schemas.messages import Message
from schemas.requests import TaskSpec
from schemas.resources import API_VERSION
from schemas.task import Ended, RetryingModel, State
from schemas.task_view import describe_state
from services.cli.client import Declared
from services.cli.kinds import KindInfo
from services.cli.toolcalls import ToolCallView

Document = dict[str, Any]


def status_text(declared: Declared, info: KindInfo) -> tuple[bool, str, str]:
    """Ready, status and detail of a resource; says who should say something when nobody has."""
    if declared.status is not None:
        return declared.status.ready, declared.status.status, declared.status.status_detail
    if info.kind in ("Quota", "Grant"):
        return True, "Ready", "in force"
    if not info.owner:
        return False, "Pending", "stored; no service uses it yet"
    return False, "Pending", f"waiting for {info.owner} to look at it"


def resource_document(declared: Declared, info: KindInfo) -> Document:
    """A declared resource."""
    resource = declared.resource
    metadata = resource.metadata
    ready, status, detail = status_text(declared, info)
    said: Document = {"ready": ready, "status": status, "statusDetail": detail}
    if declared.status is not None:
        said["lastTransitionTime"] = declared.status.at
        if declared.status.tools:
            said["tools"] = declared.status.tools
    if info.kind == "MCPServer":
        said = {"connected": ready, **said}
    return plain(
        {
            "apiVersion": API_VERSION,
            "kind": info.kind,
            "metadata": _metadata(metadata.name, metadata.namespace, metadata.labels, metadata.annotations),
            "spec": resource.spec,
            "status": said,
        }
    )


def task_document(
    state: State,
    revision: int,
    output: str | None,
    *,
    spec: TaskSpec | None = None,
    messages: Iterable[Message] | None = None,
    calls: Iterable[ToolCallView] = (),
) -> Document:
    """A task; with its request, conversation and tool calls where they were read."""
    status = _task_status(state, revision)
    if output is not None:
        status["output"] = output
    if messages is not None:
        status["contextWindow"] = list(messages)
    if listed := [toolcall_status(call) for call in calls]:
        status["toolCalls"] = listed
    said: Document = {"agentRef": {"name": state.agent}}
    if state.thread_id:
        said["threadID"] = state.thread_id
    if spec is not None:
        said |= {key: value for key, value in _fields(spec).items() if key in _ASKED and value}
    metadata = _metadata(state.task, state.namespace, state.labels, {})
    return plain({"apiVersion": API_VERSION, "kind": "Task", "metadata": metadata, "spec": said, "status": status})


def thread_of(state: State) -> str:
    """The first task of the thread, if the task goes on in one, or the thread has a name of its caller's."""
    return state.thread or (state.task if state.thread_id else "")


_ASKED = ("userMessage", "contextWindow", "limits", "priority", "responseFormat")


def _task_status(state: State, revision: int) -> Document:
    view = describe_state(state)
    spend = state.spend
    status: Document = {
        "phase": view.phase,
        "ready": view.ready,
        "status": view.status,
        "statusDetail": view.status_detail,
        "reason": view.reason,
        "revision": revision,
        "userMsgPreview": state.preview,
        "startTime": state.created_at,
        "updateTime": state.updated_at,
        "spend": {
            "modelCalls": spend.model_calls,
            "inputTokens": spend.input_tokens,
            "outputTokens": spend.output_tokens,
            "costUsd": spend.cost_usd,
            **({"byLlm": spend.by_llm} if spend.by_llm else {}),
        },
    }
    if first := thread_of(state):
        status["thread"] = first
    if isinstance(state, RetryingModel) and state.throttled:
        since = state.tries.parked_since or state.updated_at
        status["parked"] = {"since": since, "until": state.not_before, "reason": state.error}
    if isinstance(state, Ended):
        status["completionTime"] = state.ended_at
    if view.error:
        status["error"] = view.error
    return status


def toolcall_document(call: ToolCallView) -> Document:
    """A tool call."""
    return plain(
        {
            "apiVersion": API_VERSION,
            "kind": "ToolCall",
            "metadata": _metadata(call.name, call.namespace, {}, {}),
            "spec": {
                "taskRef": {"name": call.task},
                "toolRef": {"name": call.tool},
                "toolCallId": call.tool_call_id,
                "arguments": call.arguments,
            },
            "status": toolcall_status(call),
        }
    )


def toolcall_status(call: ToolCallView) -> Document:
    """How a tool call is."""
    status: Document = {"name": call.name, "tool": call.tool, "phase": call.phase, "startTime": call.started_at}
    if call.attempts:
        status["attempts"] = call.attempts
    if call.finished is not None:
        status |= {
            "completionTime": call.finished.at,
            "outcome": call.finished.outcome,
            "latencySeconds": round(call.finished.latency_s, 4),
            "result": call.finished.content,
            **({"images": call.finished.images} if call.finished.images else {}),
            **({"shortened": True} if call.finished.whole else {}),
        }
    return status


def plain(value: Mapping[str, Any]) -> Document:
    """A document of nothing but JSON's own types."""
    converted = msgspec.to_builtins(value)
    assert isinstance(converted, dict)
    return converted  # pyright: ignore[reportUnknownVariableType]  # to_builtins of a mapping is one


def _fields(value: msgspec.Struct) -> Document:
    converted = msgspec.to_builtins(value)
    assert isinstance(converted, dict)
    return converted  # pyright: ignore[reportUnknownVariableType]  # to_builtins of a struct is a mapping


def _metadata(name: str, namespace: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Document:
    metadata: Document = {"name": name, "namespace": namespace}
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return metadata
