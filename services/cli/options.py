"""The options that many commands share, and the wrapper that gives them to a command."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
import typer

from services.cli.connect import ServerOptions

DEFAULT_NAMESPACE = "default"
OWN_NAMESPACE = "HOLDFAST_NATS_NAMESPACE"
"""Set for credentials that are for one namespace only: then it is the default."""
_SERVER = "Server"


class Target(msgspec.Struct, frozen=True):
    """Where a command works: a bus and a namespace."""

    server: ServerOptions
    given_namespace: str | None

    @property
    def namespace(self) -> str:
        """The namespace, `default` if none was given."""
        return self.given_namespace or DEFAULT_NAMESPACE


def _shared(
    *,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace.", show_default=DEFAULT_NAMESPACE)
    ] = None,
    nats: Annotated[
        str,
        typer.Option(
            "--nats",
            metavar="URL",
            help="NATS server, or several separated by commas. Default: $NATS_URL, or the running `holdfast dev`.",
            rich_help_panel=_SERVER,
        ),
    ] = "",
    creds: Annotated[
        str, typer.Option("--creds", metavar="FILE", help="Credentials file.", rich_help_panel=_SERVER)
    ] = "",
    nkey: Annotated[
        str, typer.Option("--nkey", metavar="FILE", help="File with an nkey seed.", rich_help_panel=_SERVER)
    ] = "",
    user: Annotated[str, typer.Option("--user", help="User.", rich_help_panel=_SERVER)] = "",
    password: Annotated[
        str,
        typer.Option(
            "--password",
            help="Password; others on this machine see it: $HOLDFAST_NATS_PASSWORD is better.",
            rich_help_panel=_SERVER,
        ),
    ] = "",
    token: Annotated[
        str,
        typer.Option("--token", help="Token; $HOLDFAST_NATS_TOKEN is better.", rich_help_panel=_SERVER),
    ] = "",
    tls_ca: Annotated[
        str, typer.Option("--tls-ca", metavar="FILE", help="Authority that signed the server.", rich_help_panel=_SERVER)
    ] = "",
    tls_cert: Annotated[
        str, typer.Option("--tls-cert", metavar="FILE", help="Client certificate.", rich_help_panel=_SERVER)
    ] = "",
    tls_key: Annotated[str, typer.Option("--tls-key", metavar="FILE", help="Its key.", rich_help_panel=_SERVER)] = "",
) -> Target:
    server = ServerOptions(
        nats_url=nats,
        nats_creds=creds,
        nats_nkey_seed_file=nkey,
        nats_user=user,
        nats_password=password,
        nats_token=token,
        nats_tls_ca=tls_ca,
        nats_tls_cert=tls_cert,
        nats_tls_key=tls_key,
    )
    return Target(server, namespace or os.environ.get(OWN_NAMESPACE) or None)


_SHARED = inspect.signature(_shared, eval_str=True).parameters


def on_bus(command: Callable[..., Awaitable[int | None]]) -> Callable[..., None]:
    """A command line function from a coroutine: its first parameter, a `Target`, becomes the shared options.

    What the coroutine returns is the exit code; None is 0.
    """
    signature = inspect.signature(command, eval_str=True)
    _, *own = signature.parameters.values()
    taken = {parameter.name for parameter in own}
    shared = [parameter for name, parameter in _SHARED.items() if name not in taken]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        target = _shared(**{name: given.pop(name) for name in _SHARED if name in given and name not in taken})
        code = asyncio.run(_await(command(target, **given)))
        if code:
            raise typer.Exit(code)

    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]  # what typer reads
    hints = get_type_hints(command, include_extras=True)
    run.__annotations__ = {
        **{parameter.name: hints[parameter.name] for parameter in own},
        **{parameter.name: parameter.annotation for parameter in shared},
    }
    return run


async def _await(awaitable: Awaitable[int | None]) -> int | None:
    return await awaitable


Output = Annotated[
    Literal["table", "wide", "json", "yaml", "name"],
    typer.Option("--output", "-o", help="Form of the output.", show_choices=True),
]
Files = Annotated[
    list[str],
    typer.Option("--filename", "-f", metavar="FILE", help="File or folder of manifests; `-` is standard input."),
]


def add(app: typer.Typer, command: Callable[..., None], *, name: str | None = None, panel: str | None = None) -> None:
    """Add a command to an app, with its docstring as help."""
    app.command(name, help=reflowed(inspect.getdoc(command) or ""), rich_help_panel=panel)(command)


def reflowed(text: str) -> str:
    """A text whose paragraphs are one line each; lines that begin with a space stay as they are."""
    paragraphs = [part if part.startswith(" ") else part.replace("\n", " ") for part in text.split("\n\n")]
    return "\n\n".join(paragraphs)


def note(text: str) -> None:
    """Say something beside the output."""
    sys.stderr.write(f"{text}\n")
