"""send."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from schemas.requests import SendMessage
from services.cli.commands.inbox import user
from services.cli.commands.tasks import TaskArgument
from services.cli.connect import connected
from services.cli.exits import ExitCode, Stop
from services.cli.options import Target, on_bus
from services.cli.render import write


@on_bus
async def send(
    target: Target,
    *,
    task: TaskArgument,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="What to say; `-` reads standard input.")],
    message_id: Annotated[
        str, typer.Option("--id", help="Message id: the same id again is said once, however often it is sent.")
    ] = "",
) -> None:
    """Say something more to a task.

    A running task hears it before its next turn. After one that has ended, a new task goes on in the same thread, with
    the conversation so far. Prints the task that hears it.

    [bold]Examples[/bold]

      holdfast send helper-task-x7 "and keep it short"
      holdfast watch "$(holdfast send helper-task-x7 'What about tomorrow?')"
    """
    text = sys.stdin.read() if message == "-" else message
    if not text.strip():
        raise Stop("the message is empty", ExitCode.USAGE)
    async with connected(target.server) as client:
        request = SendMessage(task=task, message=text, by=user())
        accepted = await client.send(target.namespace, request, message_id=message_id)
    write(accepted.task)
