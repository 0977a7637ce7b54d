"""approve, reject."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import typer

from schemas.interactions import AnswerInteraction, InteractionRequested
from schemas.visible import visible
from services.cli.commands.inbox import user
from services.cli.connect import connected
from services.cli.exits import ExitCode, Stop
from services.cli.inbox import interaction
from services.cli.options import Target, on_bus
from services.cli.question_words import FORMS, commands_of, words_of
from services.cli.render import write

TASK = typer.Argument(metavar="TASK", help="The task that asks.")
INTERACTION = typer.Argument(metavar="INTERACTION", help="Which question, as `holdfast inbox` lists it.")
BY = typer.Option("--by", help="Who answers; by default your user name.")
Scope = Literal["once", "task", "tool", "arguments"]
FOR = typer.Option(
    "--for",
    help="once: this call; task: this tool for the rest of the task; tool: this tool of this agent until somebody "
    "deletes the grant; arguments: the same with these arguments only.",
    show_choices=True,
)


@on_bus
async def approve(
    target: Target,
    *,
    task: Annotated[str, TASK],
    id_: Annotated[str, INTERACTION],
    scope: Annotated[Scope, FOR] = "once",
    arguments: Annotated[
        str, typer.Option("--arguments", metavar="JSON", help="Approve the call with these arguments instead.")
    ] = "",
    comment: Annotated[str, typer.Option("--comment", help="Words that are recorded with the approval.")] = "",
    by: Annotated[str, BY] = "",
) -> None:
    """Approve a call that an agent wants to make, or have one made again whose outcome nobody knows.

    What is approved is what `holdfast inbox TASK` shows now: if the question is another one meanwhile, nothing happens.

    [bold]Examples[/bold]

      holdfast approve helper-task-x7 r2.1.0
      holdfast approve helper-task-x7 r2.1.0 --for task
      holdfast approve helper-task-x7 r2.1.0 --arguments '{"path": "notes.txt"}'
    """
    if arguments:
        try:
            msgspec.json.decode(arguments, type=dict[str, object])
        except msgspec.DecodeError as error:
            raise Stop(f"--arguments must be a JSON object: {error}", ExitCode.USAGE) from error
    async with connected(target.server) as client:
        asked = judged(await interaction(client, target.namespace, task, id_))
        request = AnswerInteraction(
            task=task,
            interaction=id_,
            action="accept",
            by=by or user(),
            scope=scope,
            arguments=arguments,
            comment=comment,
            digest=asked.digest,
        )
        await client.answer(target.namespace, request)
    write(f"task/{task} {id_} {words_of(asked).accepted}: {visible(asked.tool)}")


@on_bus
async def reject(
    target: Target,
    *,
    task: Annotated[str, TASK],
    id_: Annotated[str, INTERACTION],
    comment: Annotated[str, typer.Option("--comment", "-m", help="Why; the model reads it.")] = "",
    by: Annotated[str, BY] = "",
) -> None:
    """Reject a call that an agent wants to make, or leave one as it is whose outcome nobody knows.

    [bold]Examples[/bold]

      holdfast reject helper-task-x7 r2.1.0 -m "not on a Friday"
    """
    async with connected(target.server) as client:
        asked = judged(await interaction(client, target.namespace, task, id_))
        request = AnswerInteraction(
            task=task, interaction=id_, action="decline", by=by or user(), comment=comment, digest=asked.digest
        )
        await client.answer(target.namespace, request)
    write(f"task/{task} {id_} {words_of(asked).declined}: {visible(asked.tool)}")


def judged(asked: InteractionRequested) -> InteractionRequested:
    """The question, if its answer is yes or no; the command ends otherwise."""
    if asked.kind in FORMS:
        raise Stop(
            f"{asked.interaction} of task {asked.task!r} is no approval; answer it with `{commands_of(asked)[0]}`",
            ExitCode.USAGE,
        )
    return asked
