"""dev, demo, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.cli.serve import SERVICES


def serve(
    services: Annotated[
        list[str], typer.Argument(metavar="SERVICE...", help=f"`all`, or some of: {', '.join(SERVICES)}.")
    ],
) -> None:
    """Run services in this process, until SIGTERM drains them.

    Settings come from HOLDFAST_* variables (HOLDFAST_NATS_URL or NATS_URL, HOLDFAST_SECRETS_DIR, ...); start as many
    replicas as you like, on as many machines. SIGTERM stops taking work, finishes or hands back what is in hand, and
    ends with 0.

    [bold]Examples[/bold]

      NATS_URL=nats://nats:4222 holdfast serve all
      holdfast serve planner llm-gateway
    """
    from services.cli.serve import run  # noqa: PLC0415 - loads the services

    code = run(services)
    if code:
        raise typer.Exit(code)


def dev(
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Where the data is kept. Default: the user's state directory.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the NATS server; 0: a free one.")] = 0,
    nats_server: Annotated[
        str, typer.Option("--nats-server", metavar="PATH", help="Another nats-server (2.14.6 or newer).")
    ] = "",
    services: Annotated[
        str, typer.Option("--services", help="Which services, separated by commas; `a:2` is two of them.")
    ] = "all",
    once_ready_file: Annotated[
        Path | None, typer.Option("--once-ready-file", help="Write the server's address here when everything runs.")
    ] = None,
) -> None:
    """Run a NATS server and all services on this machine.

    The server listens on 127.0.0.1 only and syncs every write before it acknowledges it. Each service is a process of
    its own; one that dies is started again. Other `holdfast` commands find this server by themselves. Ctrl-C drains
    and ends everything; the data stays.

    [bold]Examples[/bold]

      holdfast dev
      holdfast dev --data-dir ./data --port 4222
      holdfast dev --services planner:2,llm-gateway,tool-executor:2
    """
    from services.cli.dev import DevOptions, run_dev  # noqa: PLC0415 - loads the server's side

    code = run_dev(
        DevOptions(
            data_dir=data_dir, port=port, nats_server=nats_server, services=services, once_ready_file=once_ready_file
        )
    )
    if code:
        raise typer.Exit(code)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the demo's directory, and say where it is.")] = False,
    scripted: Annotated[
        bool, typer.Option("--scripted", help="The scripted model even if there is an API key.")
    ] = False,
    model: Annotated[str, typer.Option("--model", help="Another model of the real provider.")] = "",
) -> None:
    """Show it: services are killed in the middle of a task, and it still ends, once.

    An agent works with real MCP servers while this command kills the processes that work for it with SIGKILL, tells
    what happens line by line, and at the end reads the stream to check that nothing was lost or done twice.

    Needs no key and no Docker. With OPENAI_API_KEY or ANTHROPIC_API_KEY set, the real model answers.
    """
    from services.cli.demo.run import run_demo  # noqa: PLC0415 - loads the server's side

    code = run_demo(keep=keep, scripted=scripted, model=model)
    if code:
        raise typer.Exit(code)
