"""The spans, in the words of OpenTelemetry's semantic conventions: every name, kind and attribute, in one table.

Messaging: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/, as of 1.44. GenAI:
https://github.com/open-telemetry/semantic-conventions-genai, with the names of 1.41, the last version that was
published; all of it is in development there. What no convention has a word for begins with `holdfast.`. Tests hold
every span that they receive against this table, and docs/operations/tracing.md has it for people.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from schemas import catalog
from schemas.subjects import TaskSubjects

if TYPE_CHECKING:
    from services.runtime.consumer import Inbound

ERROR = "error.type"
CONTENT = frozenset(
    {
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.system_instructions",
        "gen_ai.tool.call.arguments",
        "gen_ai.tool.call.result",
    }
)
"""What was said: only on spans of processes that were told to capture it (`HOLDFAST_TRACE_CONTENT`)."""

_TASK = ("holdfast.namespace", "holdfast.task")


class SpanForm(NamedTuple):
    """A kind of span."""

    name: str
    """With `{attributes}` for what is not always the same."""
    kind: str
    service: str
    """Who records it; empty: every service."""
    says: str
    required: tuple[str, ...]
    """Attributes that each has."""
    optional: tuple[str, ...] = ()
    """Those that it has where they are known, beside `error.type`."""

    def fits(self, name: str, attributes: Mapping[str, Any]) -> bool:
        """Whether a span of this name may be one of these."""
        form = re.sub(r"\{([\w.]+)\}", lambda match: str(attributes.get(match[1], "")), self.name)
        return name == form


FORMS = (
    SpanForm(
        "invoke_agent {gen_ai.agent.name}",
        "internal",
        "planner",
        "A whole task, from its request to its end; recorded when it has ended.",
        (
            "gen_ai.operation.name",
            "gen_ai.agent.name",
            "gen_ai.conversation.id",
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.output_tokens",
            *_TASK,
            "holdfast.phase",
            "holdfast.turns",
        ),
    ),
    SpanForm(
        "process {messaging.destination.template}",
        "consumer",
        "",
        "A message that is handled, with a link to the span that it was made in.",
        (
            "messaging.system",
            "messaging.operation.type",
            "messaging.operation.name",
            "messaging.destination.name",
            "messaging.destination.template",
            "messaging.consumer.group.name",
            "messaging.message.id",
            "messaging.message.body.size",
            *_TASK,
            "holdfast.delivery",
        ),
        ("messaging.destination.partition.id", "holdfast.event", "holdfast.handed_back"),
    ),
    SpanForm(
        "chat {gen_ai.request.model}",
        "client",
        "llm-gateway",
        "A call to a model's provider.",
        (
            "gen_ai.operation.name",
            "gen_ai.provider.name",
            "gen_ai.request.model",
            "gen_ai.conversation.id",
            "gen_ai.agent.name",
            "gen_ai.request.stream",
            "holdfast.llm",
            "holdfast.turn",
            "holdfast.attempt",
        ),
        (
            "gen_ai.output.type",
            "gen_ai.request.temperature",
            "gen_ai.request.top_p",
            "gen_ai.request.top_k",
            "gen_ai.request.max_tokens",
            "gen_ai.request.frequency_penalty",
            "gen_ai.request.presence_penalty",
            "gen_ai.request.seed",
            "gen_ai.response.model",
            "gen_ai.response.id",
            "gen_ai.response.finish_reasons",
            "gen_ai.response.time_to_first_chunk",
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.output_tokens",
            "gen_ai.usage.cache_read.input_tokens",
            "gen_ai.usage.cache_creation.input_tokens",
            "gen_ai.usage.reasoning.output_tokens",
            "server.address",
            "server.port",
            "gen_ai.input.messages",
            "gen_ai.output.messages",
            "gen_ai.system_instructions",
            "holdfast.parked_s",
            "holdfast.cause",
            "holdfast.handed_back",
        ),
    ),
    SpanForm(
        "execute_tool {gen_ai.tool.name}",
        "internal",
        "tool-executor",
        "A tool call, and what the tool asks people meanwhile.",
        (
            "gen_ai.operation.name",
            "gen_ai.tool.name",
            "gen_ai.tool.call.id",
            "gen_ai.tool.type",
            "gen_ai.agent.name",
            *_TASK,
        ),
        (
            "holdfast.outcome",
            "holdfast.attempt",
            "gen_ai.tool.call.arguments",
            "gen_ai.tool.call.result",
            "holdfast.handed_back",
        ),
    ),
    SpanForm(
        "execute_tool {gen_ai.tool.name}",
        "internal",
        "planner",
        "A call that another agent answers, with a link to the span of its task; recorded when that has ended.",
        (
            "gen_ai.operation.name",
            "gen_ai.tool.name",
            "gen_ai.tool.call.id",
            "gen_ai.tool.type",
            "gen_ai.agent.name",
            *_TASK,
            "holdfast.child",
        ),
    ),
    SpanForm(
        "wait_for_person {holdfast.question}",
        "internal",
        "human-contact",
        "From a question to people to its answer, however long that takes; recorded when it was answered.",
        (
            *_TASK,
            "holdfast.question",
            "holdfast.interaction",
            "holdfast.answer",
            "holdfast.via",
            "gen_ai.tool.name",
        ),
        ("gen_ai.tool.call.id", "gen_ai.agent.name"),
    ),
    SpanForm(
        "notify {holdfast.sink}",
        "client",
        "notifier",
        "One attempt to tell somebody what became of a task.",
        ("holdfast.notification", "holdfast.sink", "holdfast.attempt", *_TASK),
        ("holdfast.outcome", "server.address", "server.port", "http.response.status_code"),
    ),
    SpanForm(
        "notification {holdfast.receiver}",
        "internal",
        "notifier",
        "From the wish to tell somebody to its end, with all attempts and the waits between; recorded at that end.",
        ("holdfast.notification", "holdfast.receiver", "holdfast.outcome", "holdfast.attempts", *_TASK),
    ),
)


def form_of(service: str, name: str, attributes: Mapping[str, Any]) -> SpanForm | None:
    """The kind of span that a service may have recorded under this name."""
    return next((form for form in FORMS if form.service in ("", service) and form.fits(name, attributes)), None)


def flaws(service: str, name: str, kind: str, attributes: Mapping[str, Any], *, content: bool = False) -> list[str]:
    """What a span has that its convention does not know, or lacks that it wants."""
    form = form_of(service, name, attributes)
    if form is None:
        return [f"{service} has no span {name!r}"]
    unknown = attributes.keys() - {*form.required, *form.optional, ERROR}
    found = [f"{name} has {key}" for key in sorted(unknown)]
    found += [f"{name} lacks {key}" for key in form.required if key not in attributes]
    found += [f"{name} is {kind} and not {form.kind}"] if kind != form.kind else []
    if not content:
        found += [f"{name} shows content in {key}" for key in sorted(CONTENT & attributes.keys())]
    return found


def reference() -> str:
    """The table, for the document about traces."""
    return "\n".join(_described(form) for form in FORMS)


def _described(form: SpanForm) -> str:
    always, known = (", ".join(f"`{name}`" for name in names) for names in (form.required, form.optional))
    lines = [f"### `{form.name}`", "", f"{form.says} By {form.service or 'every service'}; kind `{form.kind}`.", ""]
    lines += [f"- always: {always}"] + ([f"- where known: {known}"] if known else [])
    return "\n".join([*lines, ""])


def process_name(subject: str) -> str:
    """The name of the span around a message's handling: no ids in it."""
    return f"process {destination_template(subject)}"


def process_attributes(inbound: Inbound, task: TaskSubjects, group: str) -> dict[str, str | int]:
    """The attributes of the span around a message's handling."""
    return {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": inbound.subject,
        "messaging.destination.template": destination_template(inbound.subject),
        "messaging.destination.partition.id": str(task.partition),
        "messaging.consumer.group.name": group,
        "messaging.message.id": str(inbound.seq),
        "messaging.message.body.size": len(inbound.data),
        "holdfast.namespace": task.namespace,
        "holdfast.task": task.task,
        "holdfast.delivery": inbound.delivered,
    }


def destination_template(subject: str) -> str:
    """A subject without its ids, as the catalogue of messages has it; empty if it is not in there."""
    parts = subject.split(".")
    return next((address for address, tokens in _templates(len(parts)) if _matches(tokens, parts)), "")


@functools.cache
def _templates(length: int) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The addresses of so many tokens, those with the fewest placeholders first."""
    addresses = {channel.address for channel in catalog.CHANNELS if channel.address.count(".") == length - 1}
    ordered = sorted(addresses, key=lambda address: (address.count("{"), address))
    return tuple((address, tuple(address.split("."))) for address in ordered)


def _matches(tokens: tuple[str, ...], parts: list[str]) -> bool:
    return all(token == part or "{" in token for token, part in zip(tokens, parts, strict=True))
