"""Who may say and hear what on the bus: an account for each service and each tenant, read off the catalogue. Pure.

The core account owns the streams; the planner and the operator are in it. Every other party has an account of its own,
in which there is nothing but what it imports: permissions alone would not isolate it, because a reply subject makes the
server write where its asker may not (ADR 0035). What a service may write is what the catalogue says that it publishes.

What an account imports of the JetStream API has a name of its own there (`API_PREFIX`): by its real name the server
would take it for a question about the asker's account.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from schemas import catalog, subjects
from schemas.catalog import CHANNELS, Channel, Party
from services.runtime.nats.topology import ConsumerPlan, consumer_plans, payloads_stream, stream_plans
from services.runtime.settings import Settings

API = "$JS.API"
API_PREFIX = "HOLDFAST.API"
"""What the JetStream API is called in an account that imports it."""
CORE = "CORE"
SYSTEM = "SYS"
SERVICES: tuple[Party, ...] = ("llm-gateway", "tool-executor", "human-contact", "notifier")
"""The services that have accounts of their own: all that talk to the world outside."""
CORE_USERS = ("planner", "operator")
TENANT_VERBS = ("submit", "cancel", "send", "answer", "delete")

_PLACEHOLDER = re.compile(r"\{[^}]*\}")


class Import(NamedTuple):
    """Something of another account that an account may use: ask on it (`service`), or hear it (`stream`)."""

    kind: Literal["service", "stream"]
    account: str
    subject: str
    local: str = ""
    """What it is called here; empty: the same."""


class Account(NamedTuple):
    """An account."""

    name: str
    users: tuple[str, ...]
    imports: tuple[Import, ...] = ()


class Export(NamedTuple):
    """Something of an account that others may import."""

    kind: Literal["service", "stream"]
    subject: str
    accounts: tuple[str, ...]
    many: bool
    """Whether a question has several answers."""


def account_of(party: str) -> str:
    """The account of a service."""
    return CORE if party in CORE_USERS else party.upper().replace("-", "_")


def tenant_account(namespace: str) -> str:
    """The account of whoever works in a namespace."""
    return f"TENANT_{namespace}"


def accounts(partitions: int, tenants: Sequence[str]) -> list[Account]:
    """All accounts."""
    return [
        Account(CORE, CORE_USERS, tuple(_core_imports())),
        *(Account(account_of(party), (party,), tuple(_service_imports(party, partitions))) for party in SERVICES),
        *(
            Account(tenant_account(namespace), (f"tenant-{namespace}",), tuple(_tenant_imports(namespace)))
            for namespace in tenants
        ),
    ]


def exports(account: str, all_: Iterable[Account]) -> list[Export]:
    """What an account exports: what others import of it, and nothing else."""
    found: dict[tuple[Literal["service", "stream"], str], list[str]] = {}
    for other in all_:
        for wanted in other.imports:
            if wanted.account == account:
                found.setdefault((wanted.kind, wanted.subject), []).append(other.name)
    return [
        Export(kind, subject, tuple(dict.fromkeys(names)), kind == "service" and _has_many_answers(subject))
        for (kind, subject), names in found.items()
    ]


# --- what each party needs --------------------------------------------------------------


def _core_imports() -> Iterator[Import]:
    for party in SERVICES:
        yield from (Import("stream", account_of(party), subject) for subject in _heard_of(party))
        yield from (Import("service", account_of(party), subject) for subject in _answered_by(party))


def _tenant_imports(namespace: str) -> Iterator[Import]:
    for verb in TENANT_VERBS:
        yield Import("service", CORE, subjects.ask(namespace, verb))
        yield Import("service", CORE, subjects.ask(namespace, verb).replace(".ask.", ".tasks."))
    yield Import("service", CORE, subjects.read(namespace, "*"))
    for account in (CORE, *map(account_of, SERVICES)):
        yield Import("stream", account, f"{subjects.PREFIX}.live.{namespace}.*")
    for party in SERVICES:
        for subject in _answered_by(party):
            yield Import("service", account_of(party), subject.replace(".*.*", f".{namespace}.*"))


def _service_imports(party: Party, partitions: int) -> Iterator[Import]:
    for made in stream_plans(Settings(partitions=partitions)):
        yield _api(f"STREAM.INFO.{made.name}")
    for stream in _streams_read(party, partitions):
        for question in (f"STREAM.MSG.GET.{stream}", f"DIRECT.GET.{stream}", f"DIRECT.GET.{stream}.>"):
            yield _api(question)
    for plan in _consumers(party, partitions):
        yield _api(f"CONSUMER.INFO.{plan.stream}.{plan.name}")
        yield _api(f"CONSUMER.MSG.NEXT.{plan.stream}.{plan.name}")
        yield Import("service", CORE, f"$JS.ACK.{plan.stream}.{plan.name}.>")
    for stream in sorted({channel.stream for channel in CHANNELS if party in channel.published_by}):
        if stream in subjects.TIMER_STREAMS:  # whoever sets timers cancels them
            yield _api(f"STREAM.PURGE.{stream}")
    for subject in sorted(set(_written_by(party, partitions))):
        yield Import("service", CORE, subject)
    for subject in _asked_by(party):
        yield Import("service", CORE, subject)
    yield Import("stream", CORE, f"{subjects.RESOURCE_NEWS}>")
    for channel in CHANNELS:
        if party in channel.consumed_by and "planner" in channel.published_by and _is_signal(channel):
            yield Import("stream", CORE, _pattern(channel.address))


def _consumers(party: Party, partitions: int) -> list[ConsumerPlan]:
    """The consumers that a party takes from: they are called like it."""
    plans = consumer_plans(Settings(partitions=partitions))
    return [plan for plan in plans if plan.name == party or plan.name.startswith(f"{party}-")]


def _streams_read(party: Party, partitions: int) -> list[str]:
    """The streams that a party reads by subject or sequence: those of what it hears of, and the payloads of that."""
    found = {payloads_stream()}
    for channel in CHANNELS:
        if channel.stream not in ("", *subjects.TIMER_STREAMS) and {party, "every-service"} & set(channel.consumed_by):
            found |= {channel.stream.replace("{partition}", str(partition)) for partition in range(partitions)}
    return sorted(found)


def _written_by(party: Party, partitions: int) -> Iterator[str]:
    """What a party stores, with `*` for the parts of a subject that vary."""
    own = {plan.stream for plan in _consumers(party, partitions)}
    for channel in CHANNELS:
        if not channel.stream or not {party, "every-service"} & set(channel.published_by):
            continue
        for address in _addresses(channel, party, own):
            yield _pattern(address)
            if channel.bytes_max > catalog.MESSAGE_BYTES_MAX and ".timer." not in address:
                yield f"$O.{subjects.PAYLOADS_BUCKET}.C.*.*.{_pattern(address)}"


def _addresses(channel: Channel, party: Party, own: Iterable[str]) -> Iterator[str]:
    """A channel's address, with what a party may not choose filled in."""
    match channel.name:
        case "resource-statuses":
            yield from (channel.address.replace("{kind}", kind) for kind in catalog.STATUSES_OF.get(party, ()))
        case "resource-specs":
            yield from (channel.address.replace("{kind}", kind) for kind in catalog.SPECS_OF.get(party, ()))
        case "dead-letters" | "failed-attempts":
            yield from (channel.address.replace("{stream}", stream) for stream in sorted(own))
        case _:
            yield channel.address


def _asked_by(party: Party) -> Iterator[str]:
    """What a party asks a planner."""
    for channel in CHANNELS:
        if _is_signal(channel) and channel.reply and party in channel.published_by and "planner" in channel.consumed_by:
            yield _pattern(channel.address)


def _heard_of(party: Party) -> Iterator[str]:
    """What a party says to whoever listens."""
    for channel in CHANNELS:
        if _is_signal(channel) and not channel.reply and party in channel.published_by and "cli" in channel.consumed_by:
            yield _pattern(channel.address)


def _answered_by(party: Party) -> Iterator[str]:
    """What a party answers to those who watch."""
    for channel in CHANNELS:
        if _is_signal(channel) and channel.reply and party in channel.consumed_by and "cli" in channel.published_by:
            yield _pattern(channel.address)


def _is_signal(channel: Channel) -> bool:
    return bool(channel.address) and not channel.stream


def _pattern(address: str) -> str:
    """An address as a filter. The last part of a key may have dots."""
    pattern = _PLACEHOLDER.sub("*", address)
    return f"{pattern[:-1]}>" if address.startswith("$KV.holdfast_") and pattern.endswith("*") else pattern


def _api(question: str) -> Import:
    return Import("service", CORE, f"{API}.{question}", f"{API_PREFIX}.{question}")


def _has_many_answers(subject: str) -> bool:
    """Whether the API answers with several messages: those that were asked for, and how that ended."""
    return subject.startswith((f"{API}.CONSUMER.MSG.NEXT.", f"{API}.DIRECT.GET."))


# --- the server's configuration ---------------------------------------------------------


def rendered(all_: Sequence[Account], keys: Mapping[str, Sequence[str]]) -> str:
    """The accounts as a NATS server's configuration. `keys`: the public nkeys of each user."""
    blocks = [_rendered(account, all_, keys) for account in all_]
    return "\n".join(["accounts {", *blocks, f"  {SYSTEM} {{}}", "}", f"system_account: {SYSTEM}", ""])


def _rendered(account: Account, all_: Sequence[Account], keys: Mapping[str, Sequence[str]]) -> str:
    users = [f"      {{ nkey: {key} }}  # {user}" for user in account.users for key in keys[user]]
    lines = [f"  {account.name} {{"]
    if account.name == CORE:
        lines.append("    jetstream: enabled")
    lines += ["    users: [", *users, "    ]"]
    if given := exports(account.name, all_):
        lines += ["    exports: [", *map(_rendered_export, given), "    ]"]
    if account.imports:
        lines += ["    imports: [", *map(_rendered_import, account.imports), "    ]"]
    return "\n".join([*lines, "  }"])


def _rendered_export(export: Export) -> str:
    many = ", response_type: stream" if export.many else ""
    return f'      {{ {export.kind}: "{export.subject}"{many}, accounts: [{", ".join(export.accounts)}] }}'


def _rendered_import(wanted: Import) -> str:
    local = f', to: "{wanted.local}"' if wanted.local else ""
    return f'      {{ {wanted.kind}: {{ account: {wanted.account}, subject: "{wanted.subject}" }}{local} }}'
