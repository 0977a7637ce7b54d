"""Completion in the shell: kinds, and the names of what is there when the bus answers quickly."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer

from services.cli.connect import ServerOptions, connected
from services.cli.exits import Stop
from services.cli.kinds import KINDS, kind_named
from services.cli.render import write
from services.runtime.errors import RetryLater

VARIABLE = "_HOLDFAST_COMPLETE"
"""Set by the shell's script when it asks for completions."""
ANSWER_S = 1.0
"""Nobody waits longer than this for a name."""


def complete_kinds(incomplete: str) -> list[str]:
    """The kinds that begin like this."""
    return [name for info in KINDS for name in info.names[:2] if name.startswith(incomplete)]


def complete_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of the kind that was given before."""
    kind = ctx.params.get("kind") or ctx.params.get("kinds") or ""
    return _names(ctx, str(kind), incomplete)


def complete_agents(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of agents."""
    return _names(ctx, "agent", incomplete)


def complete_tasks(ctx: typer.Context, incomplete: str) -> list[str]:
    """The names of tasks."""
    return _names(ctx, "task", incomplete)


def _names(ctx: typer.Context, kind: str, incomplete: str) -> list[str]:
    try:
        return asyncio.run(_ask(ctx, kind, incomplete))
    except (Stop, RetryLater, TimeoutError, OSError, ValueError):
        return []  # a shell that completes must not be disturbed by errors


async def _ask(ctx: typer.Context, kind: str, incomplete: str) -> list[str]:
    info = kind_named(kind)
    namespace = ctx.params.get("namespace") or "default"
    async with asyncio.timeout(ANSWER_S), connected(ServerOptions(nats_url=ctx.params.get("nats") or "")) as client:
        if info.kind == "Task":
            names = [stored.state.task for stored in await client.tasks(namespace)]
        else:
            names = [declared.resource.metadata.name for declared in await client.resources(info.kind, namespace)]
    return [name for name in names if name.startswith(incomplete)]


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Your shell.")],
) -> None:
    """Print the completion script for a shell.

    [bold]Examples[/bold]

      eval "$(holdfast completion bash)"                                   in ~/.bashrc
      eval "$(holdfast completion zsh)"                                    in ~/.zshrc
      holdfast completion fish > ~/.config/fish/completions/holdfast.fish
    """
    from typer._completion_shared import get_completion_script  # noqa: PLC0415 - only here; typer has no public name for it

    write(get_completion_script(prog_name="holdfast", complete_var=VARIABLE, shell=shell).strip())
