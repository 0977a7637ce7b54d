"""send."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from schemas.requests import SendMessage
from services.cli.commands.inbox import user
from services.cli.completion import complete_tasks
from services.cli.connect import connected
from services.cli.exits import ExitCode, Stop
from services.cli.options import Target, on_bus
from services.cli.render import write


@on_bus
async def send(
    target: Target,
    *,
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK", help="Any task of the thread, unless --thread names it.", autocompletion=complete_tasks
        ),
    ] = "",
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="What to say; `-` reads standard input.")] = "",
    thread: Annotated[
        str, typer.Option("--thread", metavar="ID", help="The thread: its id, or the name of its first task.")
    ] = "",
    message_id: Annotated[
        str, typer.Option("--id", help="Message id: the same id again is said once, however often it is sent.")
    ] = "",
) -> None:
    """Say something more to a task, or in a thread.

    A running task hears it before its next turn. After one that has ended, a new task goes on in the same thread, with
    the conversation so far. Prints the task that hears it.

    [bold]Examples[/bold]

      holdfast send helper-task-x7 "and keep it short"
      holdfast send --thread TICKET-17 "any news?"
      holdfast watch "$(holdfast send helper-task-x7 'What about tomorrow?')"
    """
    if thread and message:
        raise Stop("give either TASK or --thread ID, and then the message", ExitCode.USAGE)
    if not (task or thread):
        raise Stop("TASK is missing; or give --thread ID", ExitCode.USAGE)
    if thread:
        task, message = "", task
    text = sys.stdin.read() if message == "-" else message
    if not text.strip():
        raise Stop("the message is empty", ExitCode.USAGE)
    async with connected(target.server) as client:
        request = SendMessage(task=task, thread=thread, message=text, by=user())
        accepted = await client.send(target.namespace, request, message_id=message_id)
    write(accepted.task)
