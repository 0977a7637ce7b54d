"""Trace contexts (W3C `traceparent`): which trace a message belongs to, and which span stands for what.

A span whose beginning and end nobody lives to see (a whole task, a wait for people) has an id that derives from its
trace and its name. So every replica knows it, at any time, and saying it twice says the same.
"""

from __future__ import annotations

import hashlib
import re

_CONTEXT = re.compile(r"00-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})")


def is_traceparent(value: str) -> bool:
    """Whether `value` is a W3C trace context."""
    return bool(_CONTEXT.fullmatch(value))


def trace_id(traceparent: str) -> str:
    """The trace id of a context; empty if it is not a valid one."""
    match = _CONTEXT.fullmatch(traceparent)
    return match[1] if match else ""


def span_id(traceparent: str) -> str:
    """The span id of a context; empty if it is not a valid one."""
    match = _CONTEXT.fullmatch(traceparent)
    return match[2] if match else ""


def is_sampled(traceparent: str) -> bool:
    """Whether whoever began the trace wants it recorded."""
    match = _CONTEXT.fullmatch(traceparent)
    return match is not None and bool(int(match[3], 16) & 1)


def derived(within: str, *names: str) -> str:
    """The context of the span of this name in the trace of `within`; empty if that is no context."""
    match = _CONTEXT.fullmatch(within)
    if match is None:
        return ""
    span = hashlib.sha256("/".join((match[1], *names)).encode()).hexdigest()[:16]
    return f"00-{match[1]}-{span}-{match[3]}"


def task_context(within: str, namespace: str, task: str) -> str:
    """The context of the span that stands for a whole task, in the trace of `within`; empty if that is no context."""
    return derived(within, namespace, task)


def call_context(within: str, namespace: str, child: str) -> str:
    """The context of the span of the delegated call that task `child` answers."""
    return derived(within, namespace, child, "call")
