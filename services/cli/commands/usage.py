"""usage."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

import msgspec
import typer

from schemas.resources import Quota
from services.cli.client import Client
from services.cli.connect import connected
from services.cli.exits import ExitCode, Stop
from services.cli.flow import namespace_flow
from services.cli.options import Target, note, on_bus
from services.cli.render import show_rows, write
from services.cli.usage import QUOTA_HEADER, USAGE_HEADER, By, Line, QuotaLine, quota_line, total
from services.cli.usage import usage as account

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(r"(\d+)([smhd])")


@on_bus
async def usage(
    target: Target,
    *,
    by: Annotated[By, typer.Option("--by", help="One line for each of these.", show_choices=True)] = "llm",
    since: Annotated[
        str, typer.Option("--since", metavar="SPAN", help="Only tasks that moved lately: `90m`, `24h`, `7d`.")
    ] = "",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of every namespace.")] = False,
    output: Annotated[
        Literal["table", "json"], typer.Option("--output", "-o", help="Form of the output.", show_choices=True)
    ] = "table",
) -> None:
    """Add up what tasks have used: model calls, tokens and cost.

    Counted are the tasks that are still stored, each with all that it has used since it began. Cached tokens are part
    of IN, reasoning tokens of OUT. Cost is known for LLMs with a `pricing`. Below are the quotas of today (UTC).

    [bold]Examples[/bold]

      holdfast usage
      holdfast usage --by agent -n staging --since 24h
      holdfast usage --by namespace -A -o json | jq .total.costUsd
    """
    namespace = None if all_namespaces else target.namespace
    span = span_of(since) if since else None
    async with connected(target.server) as client:
        now = client.bus.clock.now()
        states = [stored.state for stored in await client.tasks(namespace)]
        lines = account([one for one in states if span is None or now - one.updated_at <= span], by)
        quotas = await _quotas(client, namespace)
    if output == "json":
        whole = {"by": by, "items": lines, "total": total(lines), "quotas": quotas}
        write(msgspec.json.format(msgspec.json.encode(whole), indent=2).decode())
    else:
        _show(by, lines, quotas)


def span_of(text: str) -> timedelta:
    """A span of time like `1h30m`; the command ends if it is none."""
    parts = _SPAN.findall(text)
    if not parts or "".join(f"{count}{unit}" for count, unit in parts) != text:
        raise Stop(f"--since {text!r} is no span of time: write it like 90m, 24h or 7d", ExitCode.USAGE)
    try:
        return timedelta(seconds=sum(int(count) * _UNITS[unit] for count, unit in parts))
    except OverflowError:
        raise Stop(f"--since {text!r} is longer than anything", ExitCode.USAGE) from None


async def _quotas(client: Client, namespace: str | None) -> list[QuotaLine]:
    now = client.bus.clock.now()
    found: list[QuotaLine] = []
    for declared in await client.resources("Quota", namespace):
        if isinstance(declared.resource, Quota):
            name = declared.resource.metadata.namespace
            found.append(quota_line(name, declared.resource.spec, await namespace_flow(client, name), now))
    return found


def _show(by: By, lines: list[Line], quotas: list[QuotaLine]) -> None:
    if not lines:
        note("no task has used anything")
    else:
        rows = [(line.name, *line.cells) for line in [*lines, total(lines)]]
        show_rows((by.upper(), *USAGE_HEADER), rows, whole=True)
    if quotas:
        write("")
        show_rows(QUOTA_HEADER, [line.cells for line in quotas], whole=True)
