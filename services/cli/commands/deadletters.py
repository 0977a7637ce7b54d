"""dlq list, show, redrive."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import typer

from services.cli.connect import connected
from services.cli.exits import ExitCode, Stop
from services.cli.letters import COLUMNS, letter, letter_id, letters, redrive, row, text_of
from services.cli.options import Target, add, note, on_bus
from services.cli.render import show_documents, show_rows, write

app = typer.Typer(
    no_args_is_help=True,
    help="Dead letters: messages that could not be processed, why, and sending them again.",
)

Form = Annotated[Literal["table", "json", "yaml", "name"], typer.Option("--output", "-o", help="Form of the output.")]
LetterArgument = Annotated[str, typer.Argument(metavar="ID", help="`<stream>/<number>`, as in the list.")]


@on_bus
async def list_(target: Target, output: Form = "table") -> None:
    """List the dead letters."""
    async with connected(target.server) as client:
        found = await letters(client)
        now = client.bus.clock.now()
    match output:
        case "json" | "yaml":
            show_documents([msgspec.to_builtins(one) for one in found], output, single=False)
        case "name":
            for one in found:
                write(letter_id(one))
        case "table":
            if found:
                show_rows(COLUMNS, [row(one, now) for one in found])
            else:
                note("no dead letters")


@on_bus
async def show(target: Target, id_: LetterArgument, output: Form = "table") -> None:
    """Show a dead letter: the message, the reason, and every attempt that is known."""
    async with connected(target.server) as client:
        found = await letter(client, id_)
        now = client.bus.clock.now()
    match output:
        case "json" | "yaml":
            show_documents([msgspec.to_builtins(found)], output, single=True)
        case "name":
            write(letter_id(found))
        case "table":
            write(text_of(found, now))


@on_bus
async def redrive_(
    target: Target,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="`<stream>/<number>`.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Send dead letters again, as they were, and take them out of the list.

    Do it when the cause is gone: a letter that fails again comes back as a new one.

    [bold]Examples[/bold]

      holdfast dlq redrive HOLDFAST_REQUESTS/17
      holdfast dlq redrive --all
    """
    if bool(ids) == all_:
        raise Stop("say which: `holdfast dlq redrive ID...`, or --all", ExitCode.USAGE)
    async with connected(target.server) as client:
        found = await letters(client) if all_ else [await letter(client, name) for name in ids or []]
        for one in found:
            await redrive(client, one)
            write(f"{letter_id(one)} sent again to {one.subject}")


add(app, list_, name="list")
add(app, show)
add(app, redrive_, name="redrive")
