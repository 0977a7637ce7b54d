"""nats init, nats rotate, nats show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.ids import InvalidId, check_token
from services.cli.exits import ExitCode, Stop
from services.cli.options import add, note
from services.cli.render import write

if TYPE_CHECKING:
    from services.cli.nats.setup import Folder, Server

app = typer.Typer(no_args_is_help=True, help="Set up a NATS server with an account for each service and tenant.")

DAYS = 397
FOLDER = typer.Argument(metavar="FOLDER", help="Where the keys and certificates are kept.")
DAYS_OPTION = typer.Option("--days", min=1, max=3650, help="How long new certificates count.")


def init(
    folder: Annotated[Path, FOLDER],
    *,
    servers: Annotated[
        list[str],
        typer.Option(
            "--server",
            metavar="NAME=HOST[,HOST...]",
            help="A NATS server, and the names and addresses it is reached by. Three of them make a cluster.",
        ),
    ] = [],  # noqa: B006 - how typer declares an option that may be repeated
    tenants: Annotated[
        list[str], typer.Option("--tenant", metavar="NAMESPACE", help="Make credentials for this namespace only.")
    ] = [],  # noqa: B006
    partitions: Annotated[int, typer.Option("--partitions", min=0, max=1024, help="Task streams.")] = 0,
    server_path: Annotated[
        str, typer.Option("--server-path", help="Where a server finds its folder, if not where it is made.")
    ] = "",
    user_path: Annotated[
        str, typer.Option("--user-path", help="Where a service finds its folder, if not where it is made.")
    ] = "",
    listen: Annotated[str, typer.Option("--listen", help="Address that the servers listen on.")] = "",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port for clients.")] = 0,
    store_dir: Annotated[str, typer.Option("--store-dir", help="Where a server keeps its streams.")] = "",
    days: Annotated[int, DAYS_OPTION] = DAYS,
) -> None:
    """Make keys, certificates and server configurations.

    Each service that talks to the world outside, and each tenant, gets a NATS account of its own, in which there is
    nothing but what it needs; all connections are TLS with certificates on both sides, and everybody proves who they
    are by an nkey. Run it again to add servers or tenants: what is there is kept.

    Start a server with `nats-server -c FOLDER/servers/NAME/nats.conf`; give a service the settings in
    `FOLDER/users/SERVICE/holdfast.env`.

    [bold]Examples[/bold]

      holdfast nats init secrets --server nats=127.0.0.1,localhost
      holdfast nats init secrets --server n1=n1 --server n2=n2 --server n3=n3 --listen 0.0.0.0
      holdfast nats init secrets --tenant team-a --tenant team-b
      set -a; . secrets/users/tenant-team-a/holdfast.env; holdfast run helper "Hello"
    """
    from services.cli.nats.setup import Wanted  # noqa: PLC0415 - loads the server's side

    place = _folder(folder)
    known = place.load()
    before = known.wanted if known is not None else Wanted(servers=())
    wanted = Wanted(
        servers=_merged(before.servers, [_server(text) for text in servers]),
        partitions=partitions or before.partitions,
        tenants=tuple(dict.fromkeys((*before.tenants, *map(_tenant, tenants)))),
        server_path=server_path or before.server_path,
        user_path=user_path or before.user_path,
        listen=listen or before.listen,
        port=port or before.port,
        store_dir=store_dir or before.store_dir,
    )
    if not wanted.servers:
        raise Stop("name at least one server: --server NAME=HOST", ExitCode.USAGE)
    made = place.make(wanted, days=days)
    for name in made:
        write(f"{name} made")
    if not made:
        write("nothing new")
    note("keep the authority's key offline; servers take a new configuration by `nats-server --signal reload=PID`")


def rotate(
    folder: Annotated[Path, FOLDER],
    *,
    names: Annotated[
        list[str],
        typer.Argument(metavar="[NAME...]", help="Users and servers, or `authority`; none: all users and servers."),
    ] = [],  # noqa: B006
    finish: Annotated[bool, typer.Option("--finish", help="Forget what counted before.")] = False,
    days: Annotated[int, DAYS_OPTION] = DAYS,
) -> None:
    """Replace keys and certificates while everything runs.

    First the new key counts beside the old one: reload the servers, hand out the files, restart who uses them. Then
    `--finish` makes the old one count no more: reload the servers once more.

    The authority goes in three steps: `rotate FOLDER authority` and hand out every ca.crt; `rotate FOLDER` and hand out
    the rest; `rotate FOLDER --finish`.

    [bold]Examples[/bold]

      holdfast nats rotate secrets llm-gateway
      holdfast nats rotate secrets --finish
    """
    place = _folder(folder)
    if finish:
        if names:
            raise Stop("--finish is about everything: name nobody", ExitCode.USAGE)
        done = place.finish()
        write("\n".join(f"{name}: what counted before is forgotten" for name in done) or "nothing was being rotated")
        return
    if names == ["authority"]:
        place.rotate_authority()
        write("authority: a new one signs; both are believed")
        return
    for name in place.rotate(names, days=days):
        write(f"{name}: new key and certificate")


def show(folder: Annotated[Path, FOLDER]) -> None:
    """List who has keys and certificates, and until when.

    [bold]Examples[/bold]

      holdfast nats show secrets
    """
    for name, until in _folder(folder).expiries():
        write(f"{name:<24} {until}")


def _folder(path: Path) -> Folder:
    from services.cli.nats.setup import Folder  # noqa: PLC0415 - loads the server's side

    return Folder(path.absolute())


def _server(text: str) -> Server:
    name, _, hosts = text.partition("=")
    try:
        check_token("server", name)
    except InvalidId as error:
        raise Stop(f"--server {text!r}: {error}", ExitCode.USAGE) from error
    found = tuple(host.strip() for host in hosts.split(",") if host.strip())
    if not found or any(not host.isascii() or set(host) & set(" \"'{}\\/#") for host in found):
        raise Stop(f"--server {text!r}: give NAME=HOST, or NAME=HOST,HOST", ExitCode.USAGE)
    from services.cli.nats.setup import Server  # noqa: PLC0415 - loads the server's side

    return Server(name=name, hosts=found)


def _tenant(namespace: str) -> str:
    try:
        return check_token("namespace", namespace)
    except InvalidId as error:
        raise Stop(f"--tenant: {error}", ExitCode.USAGE) from error


def _merged(before: tuple[Server, ...], wanted: list[Server]) -> tuple[Server, ...]:
    by_name = {server.name: server for server in before}
    for server in wanted:
        known = by_name.setdefault(server.name, server)
        if known.hosts != server.hosts:
            raise Stop(
                f"server {server.name!r} has a certificate for {', '.join(known.hosts)}; to change that, remove its"
                " folder and name it in identities.json anew",
                ExitCode.REFUSED,
            )
    return tuple(by_name.values())


for _command in (init, rotate, show):
    add(app, _command)
