"""inbox, answer."""

from __future__ import annotations

import getpass
from typing import Annotated, Literal

import msgspec
import typer

from services.cli.connect import connected
from services.cli.exits import ExitCode, Stop
from services.cli.inbox import COLUMNS, answer_of, interaction, open_interactions, row
from services.cli.options import Target, note, on_bus
from services.cli.question_words import text_of
from services.cli.render import show_documents, show_rows, write


@on_bus
async def inbox(
    target: Target,
    *,
    task: Annotated[str, typer.Argument(metavar="[TASK]", help="Show what this task asks, in full.")] = "",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of every namespace.")] = False,
    output: Annotated[
        Literal["table", "json", "yaml"], typer.Option("--output", "-o", help="Form of the output.", show_choices=True)
    ] = "table",
) -> None:
    """List what people are asked and have not answered yet.

    Tools' servers may ask while their tools run. The words are theirs: do not follow them blindly, and never put
    passwords or keys into an answer.

    [bold]Examples[/bold]

      holdfast inbox
      holdfast inbox helper-task-x7
      holdfast inbox -A -o json
    """
    async with connected(target.server) as client:
        found = await open_interactions(client, None if all_namespaces else target.namespace)
        now = client.bus.clock.now()
    if task:
        found = [one for one in found if one.task == task]
    if output != "table":
        show_documents([msgspec.to_builtins(one) for one in found], output, single=False)
    elif not found:
        note("nobody is asked anything")
    elif task:
        write("\n\n".join(text_of(one, now) for one in found))
    else:
        where = ("NAMESPACE",) if all_namespaces else ()
        show_rows((*where, *COLUMNS), [((one.namespace,) if where else ()) + row(one, now) for one in found])


@on_bus
async def answer(
    target: Target,
    *,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task that asks.")],
    id_: Annotated[str, typer.Argument(metavar="INTERACTION", help="Which question, as `holdfast inbox` lists it.")],
    accept: Annotated[
        str | None,
        typer.Option("--accept", metavar="JSON", help="What is asked for; `yes` where nothing is to be filled in."),
    ] = None,
    decline: Annotated[bool, typer.Option("--decline", help="Say no.")] = False,
    comment: Annotated[str, typer.Option("--comment", help="Words that go with the answer.")] = "",
) -> None:
    """Answer what a task asks.

    The first answer counts. One that does not fit what is asked is refused, and can be sent again.

    [bold]Examples[/bold]

      holdfast answer helper-task-x7 r2.1.1 --accept '{"city": "Oslo"}'
      holdfast answer helper-task-x7 r2.1.1 --decline
    """
    if (accept is not None) == decline:
        raise Stop("say one of --accept JSON and --decline", ExitCode.USAGE)
    async with connected(target.server) as client:
        asked = await interaction(client, target.namespace, task, id_)
        request = answer_of(asked, accept=accept, comment=comment, by=user())
        await client.answer(target.namespace, request)
    write(f"task/{task} {id_} {'declined' if decline else 'accepted'}")


def user() -> str:
    """Whoever runs this command; empty if nobody can say."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
