"""run, submit, watch, cancel, events."""

from __future__ import annotations

import asyncio
import getpass
import sys
from typing import Annotated, Literal

import msgspec
import typer

from schemas.requests import Priority
from schemas.subjects import TaskSubjects
from schemas.task import Cancelled, Failed, FinalAnswer, State
from services.cli.client import Client
from services.cli.commands.resources import parsed_files
from services.cli.completion import complete_agents, complete_tasks
from services.cli.connect import connected
from services.cli.describe import event_rows
from services.cli.events import event_lines
from services.cli.exits import ExitCode, Stop
from services.cli.follow import Follower, StateSeen
from services.cli.jsonlines import JSONNarrator
from services.cli.kinds import kind_named
from services.cli.listing import details, find, output_of
from services.cli.narrator import Narrator, WaitNarrator, narrator
from services.cli.options import Files, Target, note, on_bus
from services.cli.question_words import commands_of, name_of
from services.cli.render import show_documents, write
from services.cli.requests import limits_of, task_request
from services.cli.watching import Asking, Watching

AgentArgument = Annotated[
    str, typer.Argument(metavar="AGENT", help="The agent's name.", autocompletion=complete_agents)
]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="The task's name.", autocompletion=complete_tasks)]
Name = Annotated[str, typer.Option("--name", help="The task's name; the same name and request again is the same task.")]
Thread = Annotated[
    str,
    typer.Option(
        "--thread",
        metavar="ID",
        help="Your own name for a thread: the first task with it begins the thread, later ones go on in it.",
    ),
]
Labels = Annotated[list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label; repeatable.")]
MaxTurns = Annotated[int | None, typer.Option("--max-turns", min=1, help="Model answers.", rich_help_panel="Limits")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=1, help="Tokens, in and out.", rich_help_panel="Limits")
]
MaxCost = Annotated[str, typer.Option("--max-cost", metavar="USD", help="US dollars.", rich_help_panel="Limits")]
Deadline = Annotated[
    float | None,
    typer.Option("--deadline", metavar="SECONDS", help="Wall time of the task.", rich_help_panel="Limits"),
]
PriorityOption = Annotated[
    Priority,
    typer.Option("--priority", help="Among the waiting model calls of its namespace.", show_choices=True),
]
Images = Annotated[
    list[str] | None,
    typer.Option("--image", metavar="FILE_OR_URL", help="PNG, JPEG, GIF or WebP, shown to the model; repeatable."),
]
Format = Annotated[
    str,
    typer.Option(
        "--response-format",
        metavar="FILE",
        help="JSON Schema (JSON or YAML) that the answer has to fit; instead of the agent's own.",
    ),
]
Form = Annotated[
    Literal["text", "json", "yaml", "jsonl", "name"],
    typer.Option(
        "--output",
        "-o",
        help="`json` and `yaml` give the whole task at the end; `jsonl` what happens, an object a line, as it happens.",
        show_choices=True,
    ),
]
NoInput = Annotated[
    bool, typer.Option("--no-input", help="Ask nothing here: questions are only shown. Default: not on a terminal.")
]


@on_bus
async def run(
    target: Target,
    *,
    agent: AgentArgument,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="What to ask; `-` reads standard input.")],
    follow: Annotated[
        bool | None,
        typer.Option("--follow/--no-follow", help="Tell what happens meanwhile. Default: on a terminal."),
    ] = None,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="How long to wait; the task itself goes on.")
    ] = None,
    name: Name = "",
    thread: Thread = "",
    label: Labels = None,
    max_turns: MaxTurns = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = "",
    deadline: Deadline = None,
    image: Images = None,
    response_format: Format = "",
    priority: PriorityOption = "normal",
    no_input: NoInput = False,
    output: Form = "text",
) -> int:
    """Ask an agent something and wait for its answer.

    On a terminal the model's text streams and every tool call is shown. In a pipe only the answer is printed;
    with --follow the rest goes to standard error. The task runs on without its watcher: Ctrl-C leaves it running.

    When people have to approve a call or to answer something, that is shown at once, with the commands that answer it;
    on a terminal you are asked right there. Whoever answers first counts; what you leave stays open for others.

    [bold]Examples[/bold]

      holdfast run helper "What time is it in Tokyo?"
      answer=$(holdfast run helper "Summarise the last commit" --timeout 120)
      git diff | holdfast run reviewer - --max-cost 0.10 -o json
      holdfast run helper "And in Delhi?" --thread TICKET-17
      holdfast run clerk "Read this receipt" --image receipt.jpg --response-format receipt.json
    """
    request = task_request(
        agent=agent,
        message=message,
        images=image or [],
        name=name,
        labels=label or [],
        limits=limits_of(max_turns, max_tokens, max_cost, deadline),
        priority=priority,
        response_format=response_format,
        thread=thread,
    )
    async with connected(target.server) as client:
        accepted = await client.submit(target.namespace, request)
        if accepted.note:
            note(accepted.note)
        task = client.subjects_of(accepted.namespace, accepted.task)
        live = sys.stdout.isatty() and output == "text"
        stream = sys.stdout if live else sys.stderr
        teller = narrator(stream, live=stream.isatty()) if (live if follow is None else follow) else None
        teller = JSONNarrator(sys.stdout) if output == "jsonl" else teller
        asking = asking_here(client) if live and teller is not None and not no_input else None
        state = await watched(client, task, teller, timeout_s, asking)
        return await _finish(client, task, state, output, told=live and teller is not None)


@on_bus
async def submit(
    target: Target,
    *,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="What to ask; `-` reads standard input.")] = "",
    agent: Annotated[str, typer.Option("--agent", "-a", help="The agent.", autocompletion=complete_agents)] = "",
    filename: Files = [],  # noqa: B006 - typer copies it
    message_id: Annotated[
        str, typer.Option("--id", help="Message id: the same id again is the same task, however often it is sent.")
    ] = "",
    name: Name = "",
    thread: Thread = "",
    label: Labels = None,
    max_turns: MaxTurns = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = "",
    deadline: Deadline = None,
    image: Images = None,
    response_format: Format = "",
    priority: PriorityOption = "normal",
    output: Annotated[
        Literal["text", "json", "name"], typer.Option("--output", "-o", help="Form of the output.")
    ] = "text",
) -> None:
    """Start a task and return at once.

    [bold]Examples[/bold]

      holdfast submit --agent helper "Tidy the repository"
      holdfast submit --agent helper "Charge order 17" --id order-17
      holdfast submit -f task.yaml
      task=$(holdfast submit -a helper "..." -o name) && holdfast watch "${task#task/}"
    """
    if bool(filename) == bool(agent):
        raise Stop("give either -f FILE, or --agent AGENT and a message", ExitCode.USAGE)
    if filename:
        parsed = parsed_files(filename, target.given_namespace)
        if parsed.resources:
            raise Stop(
                "submit takes manifests of kind Task only: use `holdfast apply -f` for the others", ExitCode.REFUSED
            )
        wanted = [(one.namespace, one.request) for one in parsed.submissions]
    else:
        request = task_request(
            agent=agent,
            message=message,
            images=image or [],
            name=name,
            labels=label or [],
            limits=limits_of(max_turns, max_tokens, max_cost, deadline),
            priority=priority,
            response_format=response_format,
            thread=thread,
        )
        wanted = [(target.namespace, request)]
    async with connected(target.server) as client:
        for namespace, request in wanted:
            accepted = await client.submit(namespace, request, message_id=message_id)
            match output:
                case "json":
                    write(msgspec.json.encode(accepted).decode())
                case "name":
                    write(f"task/{accepted.task}")
                case "text":
                    write(f"task/{accepted.task} {'submitted' if accepted.created else 'unchanged'}")
            if accepted.note:
                note(accepted.note)


@on_bus
async def watch(
    target: Target,
    *,
    task: TaskArgument,
    timeout_s: Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="How long to watch.")] = None,
    no_input: NoInput = False,
    output: Form = "text",
) -> int:
    """Follow a task to its end: what has happened, what happens, and the model's text as it comes.

    Ends with 0 for an answer, 1 for a failure, 6 for a cancellation. In a pipe there is a line for everything.

    What people are asked, also by the tasks of agents that it delegates to, is shown with the commands that answer it.
    On a terminal you are asked right there: type a number. Ctrl-D leaves the question to others, Ctrl-C stops watching.

    [bold]Examples[/bold]

      holdfast watch helper-task-x7
      holdfast watch helper-task-x7 --no-input
      holdfast watch helper-task-x7 --timeout 60 -o json
      holdfast watch helper-task-x7 -o jsonl | jq -r 'select(.event == "asked") | .commands[0]'
    """
    async with connected(target.server) as client:
        await client.existing_task(target.namespace, task)
        subjects = client.subjects_of(target.namespace, task)
        live = sys.stdout.isatty()
        teller = narrator(sys.stdout, live=live) if output == "text" else None
        teller = JSONNarrator(sys.stdout) if output == "jsonl" else teller
        asking = asking_here(client) if live and output == "text" and not no_input else None
        state = await watched(client, subjects, teller, timeout_s, asking)
        return await _finish(client, subjects, state, output, told=True)


@on_bus
async def cancel(
    target: Target,
    *,
    task: TaskArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is kept with the task.")] = "",
) -> None:
    """Ask for a task to end now.

    Work in flight is stopped, or its result is ignored; open tool calls get a result that says so.

    [bold]Example[/bold]

      holdfast cancel helper-task-x7 --reason "wrong repository"
    """
    async with connected(target.server) as client:
        stored = await client.existing_task(target.namespace, task)
        if isinstance(stored.state, FinalAnswer | Failed | Cancelled):
            write(f"task/{task} had ended already")
            return
        await client.cancel(target.namespace, task, by=_user(), reason=reason)
        write(f"task/{task} cancel requested")


@on_bus
async def events(
    target: Target,
    *,
    task: TaskArgument,
    output: Annotated[
        Literal["table", "json", "yaml"], typer.Option("--output", "-o", help="Form of the output.")
    ] = "table",
) -> None:
    """List what was recorded about a task, in order: commands, answers, results, failures.

    [bold]Example[/bold]

      holdfast events helper-task-x7
    """
    async with connected(target.server) as client:
        known = await details(client, target.namespace, task)
        lines = event_lines(task, known.state, known.records)
        if output == "table":
            write("\n".join(event_rows(lines, client.bus.clock.now())))
        else:
            show_documents([msgspec.to_builtins(line) for line in lines], output, single=False)


# --- waiting ----------------------------------------------------------------------------


async def watched(
    client: Client,
    task: TaskSubjects,
    teller: Narrator | None,
    timeout_s: float | None,
    asking: Asking | None = None,
) -> State:
    """Follow a task to its end and tell it; the command ends when that takes too long.

    Without a teller only what the task waits for is said, beside the output. With `asking` the person is asked here.
    """
    last: State | None = None
    watching = Watching(teller or WaitNarrator(sys.stderr, task.task), asking)
    try:
        async with asyncio.timeout(timeout_s):
            async for happening in Follower(client, task).run():
                if isinstance(happening, StateSeen):
                    last = happening.state
                await watching.take(happening)
    except TimeoutError:
        raise Stop(
            f"task {task.task} has not ended within {timeout_s:g} s and goes on{_hint(task)}", ExitCode.TIMED_OUT
        ) from None
    except asyncio.CancelledError:
        note(f"\ntask {task.task} goes on{_hint(task)}")
        if watching.asked is not None:
            note(f"{name_of(watching.asked)} stays open: `{commands_of(watching.asked)[0]}` answers it")
        raise
    finally:
        await watching.close()
    assert last is not None
    return last


def asking_here(client: Client) -> Asking | None:
    """Whoever can ask at this terminal; None if nobody can type here."""
    if not sys.stdin.isatty():
        return None
    from services.cli.terminal import Terminal  # noqa: PLC0415 - only for a terminal

    return Asking(client, Terminal(sys.stdin.fileno(), sys.stdout), _user())


def _hint(task: TaskSubjects) -> str:
    where = "" if task.namespace == "default" else f" -n {task.namespace}"
    return f": `holdfast watch {task.task}{where}` follows it, `holdfast cancel {task.task}{where}` ends it"


async def _finish(client: Client, task: TaskSubjects, state: State, output: str, *, told: bool) -> int:
    """Print what is asked for at the end; the exit code."""
    match output:
        case "json" | "yaml":
            shown = await find(client, kind_named("Task"), task.namespace, task.task, client.bus.clock.now())
            show_documents([shown.document], output, single=True)
        case "name":
            write(f"task/{task.task}")
        case "jsonl":
            pass
        case _:
            if not told and isinstance(state, FinalAnswer):
                records = await _last(client, task, state)
                write(records or "")
    match state:
        case Failed(error=error, reason=reason):
            note(f"task {task.task} failed ({reason}): {error}\n`holdfast describe task {task.task}` tells more")
            return ExitCode.TASK_FAILED
        case Cancelled(by=by, reason=reason):
            note(f"task {task.task} was cancelled{f' by {by}' if by else ''}{f': {reason}' if reason else ''}")
            return ExitCode.CANCELLED
        case _:
            return ExitCode.OK


async def _last(client: Client, task: TaskSubjects, state: State) -> str | None:
    from services.cli.history import decoded  # noqa: PLC0415

    return output_of(state, decoded(await client.log_of(task).read([state.window[-1]])))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
