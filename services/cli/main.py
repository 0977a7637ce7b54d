"""The `holdfast` command: its parts put together, and how every command ends."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from schemas.wire import Malformed
from services.cli.commands import approvals, backups, deadletters, inbox, nats, resources, send, serving, tasks, usage
from services.cli.completion import VARIABLE, completion
from services.cli.exits import MEANINGS, ExitCode, Stop
from services.cli.options import add, reflowed
from services.runtime.errors import Refused, RetryLater

HELP = """\
Run LLM agents that do not lose their place.

A task is a conversation of an agent with its model and its tools. Every step of it is stored on NATS JetStream before
it counts, so any process can be killed at any moment and another one goes on.

[bold]Start here[/bold]

  holdfast demo                             see a task survive SIGKILL
  holdfast dev                              a server and all services here
  holdfast apply -f agents.yaml             declare models, tools, agents
  holdfast run helper "What time is it?"    ask an agent
"""
EPILOG = "[bold]Exit codes[/bold]\n" + "\n".join(f"{code.value:>3}  {text}" for code, text in MEANINGS.items())

app = typer.Typer(
    name="holdfast",
    help=reflowed(HELP),
    epilog=EPILOG,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
SETUP, DECLARE, TASKS, PEOPLE = "Run it", "Declare and look", "Tasks", "When a task asks you"
REPAIR = "When something is wrong"

for command in (serving.dev, serving.demo, serving.serve, completion):
    add(app, command, panel=SETUP)
for command in (resources.apply, resources.get, resources.describe, resources.delete):
    add(app, command, panel=DECLARE)
for command in (tasks.run, tasks.submit, send.send, tasks.watch, tasks.cancel, tasks.events, usage.usage):
    add(app, command, panel=TASKS)
for command in (inbox.inbox, approvals.approve, approvals.reject, inbox.answer):
    add(app, command, panel=PEOPLE)
app.add_typer(nats.app, name="nats", rich_help_panel=SETUP)
app.add_typer(deadletters.app, name="dlq", rich_help_panel=REPAIR)
for command in (backups.backup, backups.restore):
    add(app, command, panel=REPAIR)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - only here

        typer.echo(f"holdfast {version('holdfast')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False,
) -> None:
    pass


def run(arguments: list[str] | None = None) -> int:
    """Run a command line; its exit code."""
    if VARIABLE in os.environ:
        from typer._completion_classes import completion_init  # noqa: PLC0415 - only when a shell asks

        completion_init()
    # What libraries log is for services; a command says itself what goes wrong.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    return code


def _run(arguments: list[str] | None) -> int:
    output = sys.stdout
    try:
        app(args=arguments, prog_name="holdfast")
    except SystemExit as end:
        if sys.stdout is not output:
            raise BrokenPipeError from end  # typer puts another in its place when the reader has left
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except Stop as stop:
        return _say(str(stop), stop.code)
    except RetryLater as error:
        return _say(f"the bus does not answer: {error}", ExitCode.UNREACHABLE)
    except Refused as error:
        return _say(str(error), ExitCode.REFUSED)
    except Malformed as error:
        return _say(f"what is stored cannot be read, a newer version may have written it: {error}", ExitCode.INTERNAL)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception:  # noqa: BLE001 - the outermost frame: a defect must not look like a failed task, which is 1
        traceback.print_exc()
        return _say("this is a defect of holdfast; please report it with the lines above", ExitCode.INTERNAL)
    return ExitCode.OK


def _say(text: str, code: ExitCode) -> int:
    sys.stderr.write(f"error: {text}\n")
    return code


def main() -> NoReturn:
    """The console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
