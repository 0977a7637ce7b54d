"""apply, get, describe, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import typer

from services.cli.client import Client
from services.cli.completion import complete_kinds, complete_names
from services.cli.connect import connected
from services.cli.describe import describe as described
from services.cli.documents import status_text
from services.cli.exits import ExitCode, Stop, not_found
from services.cli.kinds import KindInfo, kind_named, kinds_named
from services.cli.listing import Shown, find, list_kind, whole_output
from services.cli.manifests import BadManifests, Parsed, parse
from services.cli.options import Files, Output, Target, note, on_bus
from services.cli.render import show_documents, show_tables, write
from services.cli.sources import read_sources

READY_POLL_S = 0.1


def parsed_files(files: Sequence[str], namespace: str | None) -> Parsed:
    """The manifests of these files; the command ends, with every problem told, when something is wrong in them."""
    if not files:
        raise Stop("nothing to read: give -f FILE, -f FOLDER or -f - (standard input)", ExitCode.USAGE)
    try:
        parsed = parse(read_sources(files), namespace=namespace)
    except BadManifests as bad:
        count = len(bad.problems)
        several = f"{count} problems" if count > 1 else "a problem"
        raise Stop(f"{several} in the manifests; nothing was done\n{bad}", ExitCode.REFUSED) from bad
    if not parsed.resources and not parsed.submissions:
        raise Stop(f"no manifest in {', '.join(files)}", ExitCode.REFUSED)
    for text in parsed.notes:
        note(f"note: {text}")
    return parsed


@on_bus
async def apply(
    target: Target,
    *,
    filename: Files,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until everything applied is ready.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="How long --wait waits, in seconds.")] = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the manifests; needs no server.")] = False,
    output: Annotated[
        Literal["table", "name"], typer.Option("--output", "-o", help="`name` prints the names only.")
    ] = "table",
) -> None:
    """Declare resources, and submit tasks, from manifests.

    Everything is checked before anything is written: unknown fields, wrong types and contradictions are told with
    file and line. Manifests of `holdfast.dev/v1` and of `acp.humanlayer.dev/v1alpha1` are read.

    [bold]Examples[/bold]

      holdfast apply -f agents.yaml --wait
      holdfast apply -f manifests/ -n staging
      holdfast get agent helper -o yaml | sed s/Help/Assist/ | holdfast apply -f -
    """
    parsed = parsed_files(filename, target.given_namespace)
    if dry_run:
        for resource in parsed.resources:
            write(f"{type(resource).__name__.lower()}/{resource.metadata.name} checked")
        for submission in parsed.submissions:
            write(f"task/{submission.request.name} checked")
        return
    async with connected(target.server) as client:
        for resource in parsed.resources:
            done = await client.apply(resource)
            _say(output, f"{type(resource).__name__.lower()}/{resource.metadata.name}", done)
        for submission in parsed.submissions:
            accepted = await client.submit(submission.namespace, submission.request)
            _say(output, f"task/{accepted.task}", "submitted" if accepted.created else "unchanged")
        if wait:
            names = [
                (kind_named(type(resource).__name__), resource.metadata.namespace, resource.metadata.name)
                for resource in parsed.resources
            ]
            await wait_until_ready(client, names, timeout_s)


def _say(output: str, name: str, done: str) -> None:
    write(name if output == "name" else f"{name} {done}")


async def wait_until_ready(client: Client, names: Iterable[tuple[KindInfo, str, str]], timeout_s: float) -> None:
    """Wait until resources are ready; the command ends, with what they say, when they are not in time."""
    waiting = [entry for entry in names if entry[0].owner]
    told: dict[str, str] = {}
    try:
        async with asyncio.timeout(timeout_s):
            while waiting:
                for entry in list(waiting):
                    info, namespace, name = entry
                    declared = await client.resource(info.kind, namespace, name)
                    if declared is None:
                        raise not_found(info.kind, namespace, name)
                    ready, status, detail = status_text(declared, info)
                    told[f"{info.kind.lower()}/{name}"] = f"{status}: {detail}"
                    if ready:
                        waiting.remove(entry)
                        del told[f"{info.kind.lower()}/{name}"]
                if waiting:
                    await asyncio.sleep(READY_POLL_S)
    except TimeoutError:
        lines = "\n".join(f"  {name} is {how}" for name, how in told.items())
        raise Stop(f"not everything was ready within {timeout_s:g} s:\n{lines}", ExitCode.TIMED_OUT) from None


@on_bus
async def get(
    target: Target,
    *,
    kinds: Annotated[
        str,
        typer.Argument(
            metavar="KINDS",
            help="`agents`, `llms,tasks`, `agent/helper`, or `all`.",
            autocompletion=complete_kinds,
        ),
    ] = "all",
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Only these.", autocompletion=complete_names)
    ] = None,
    output: Output = "table",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of every namespace.")] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Print the result of one tool call, all of it, and nothing else.")
    ] = False,
    thread: Annotated[
        str, typer.Option("--thread", metavar="ID", help="Tasks of this thread only: its id, or its first task.")
    ] = "",
) -> None:
    """Show resources, tasks and tool calls.

    Kinds: llm, mcpserver, toolset, quota, contactchannel, agent, task, toolcall. READY, STATUS and, with `-o wide`,
    DETAIL say of each whether it can be used and what is wrong if not.

    [bold]Examples[/bold]

      holdfast get                                    all of them
      holdfast get agents,mcpservers -o wide
      holdfast get task helper-task-x7 -o yaml
      holdfast get tasks --thread TICKET-17
      holdfast get toolcalls -A
      holdfast get toolcall helper-task-x7-r1-tc-01 --whole
      holdfast get tasks -o json | jq '.items[].status.output'
    """
    infos, wanted = _kinds_and_names(kinds, names or [])
    if whole and (len(wanted) != 1 or infos[0].kind != "ToolCall"):
        raise Stop("--whole is for one tool call: `holdfast get toolcall NAME --whole`", ExitCode.USAGE)
    if thread and (wanted or [info.kind for info in infos] != ["Task"]):
        raise Stop("--thread is for the list of tasks: `holdfast get tasks --thread ID`", ExitCode.USAGE)
    async with connected(target.server) as client:
        if whole:
            write(await whole_output(client, target.namespace, wanted[0]))
            return
        now = client.bus.clock.now()
        groups: list[tuple[KindInfo, Sequence[Shown]]] = []
        for info in infos:
            if wanted:
                found = [await find(client, info, target.namespace, name, now) for name in wanted]
            else:
                found = await list_kind(client, info, None if all_namespaces else target.namespace, now, thread=thread)
            groups.append((info, found))
    _show(groups, output, single=len(wanted) == 1, all_namespaces=all_namespaces)
    if not wanted and not any(items for _, items in groups) and output in ("table", "wide"):
        where = "any namespace" if all_namespaces else f"namespace {target.namespace!r}"
        note(f"nothing found in {where}")


def _kinds_and_names(kinds: str, names: Sequence[str]) -> tuple[list[KindInfo], list[str]]:
    kind, slash, name = kinds.partition("/")
    infos = kinds_named(kind)
    wanted = [*([name] if slash else []), *names]
    if wanted and len(infos) != 1:
        raise Stop("names go with one kind: `holdfast get agent NAME`", ExitCode.USAGE)
    return infos, wanted


def _show(
    groups: Sequence[tuple[KindInfo, Sequence[Shown]]], output: str, *, single: bool, all_namespaces: bool
) -> None:
    items = [item for _, found in groups for item in found]
    match output:
        case "json" | "yaml":
            show_documents([item.document for item in items], output, single=single)
        case "name":
            for item in items:
                write(f"{item.kind.lower()}/{item.name}")
        case _:
            show_tables(groups, wide=output == "wide", all_namespaces=all_namespaces)


@on_bus
async def describe(
    target: Target,
    *,
    kind: Annotated[
        str,
        typer.Argument(metavar="KIND", help="`task`, `agent`, ... or `task/NAME`.", autocompletion=complete_kinds),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_names)] = "",
) -> None:
    """Tell everything about one resource, task or tool call: how it is, why, and what happened to it.

    [bold]Examples[/bold]

      holdfast describe task helper-task-x7
      holdfast describe mcpserver git
      holdfast describe toolcall helper-task-x7-r1-tc-01
    """
    infos, wanted = _kinds_and_names(kind, [name] if name else [])
    if len(wanted) != 1:
        raise Stop("describe one thing: `holdfast describe KIND NAME`", ExitCode.USAGE)
    async with connected(target.server) as client:
        write(await described(client, infos[0], target.namespace, wanted[0], client.bus.clock.now()))


@on_bus
async def delete(
    target: Target,
    *,
    kind: Annotated[str, typer.Argument(metavar="KIND", autocompletion=complete_kinds)] = "",
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", autocompletion=complete_names)] = None,
    filename: Files = [],  # noqa: B006 - typer copies it
    ignore_not_found: Annotated[
        bool, typer.Option("--ignore-not-found", help="What is not there counts as deleted.")
    ] = False,
) -> None:
    """Remove resources, or ended tasks with everything stored about them.

    A task that has not ended is refused: `holdfast cancel` ends one.

    [bold]Examples[/bold]

      holdfast delete agent helper
      holdfast delete task helper-task-x7
      holdfast delete -f agents.yaml
    """
    if filename:
        if kind or names:
            raise Stop("give either -f or KIND NAME, not both", ExitCode.USAGE)
        parsed = parsed_files(filename, target.given_namespace)
        wanted = [
            (kind_named(type(resource).__name__), resource.metadata.namespace, resource.metadata.name)
            for resource in reversed(parsed.resources)
        ]
        wanted += [(kind_named("Task"), one.namespace, one.request.name) for one in parsed.submissions]
    else:
        infos, listed = _kinds_and_names(kind or "all", names or [])
        if not listed:
            raise Stop("say what to delete: `holdfast delete KIND NAME`, or -f FILE", ExitCode.USAGE)
        wanted = [(infos[0], target.namespace, name) for name in listed]
    async with connected(target.server) as client:
        for info, namespace, name in wanted:
            if await _delete(client, info, namespace, name):
                write(f"{info.kind.lower()}/{name} deleted")
            elif not ignore_not_found:
                raise not_found(info.kind, namespace, name)


async def _delete(client: Client, info: KindInfo, namespace: str, name: str) -> bool:
    """Remove one; False if it was not there."""
    match info.kind:
        case "ToolCall":
            raise Stop("a tool call is part of its task and goes with it: delete the task", ExitCode.USAGE)
        case "Task":
            if await client.task(namespace, name) is None:
                return False
            await client.delete_task(namespace, name)
            return True
        case _:
            return await client.delete_resource(info.kind, namespace, name)
