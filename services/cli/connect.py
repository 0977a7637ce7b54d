"""From the options of a command to a bus, and the errors of that way in words that say what to do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import msgspec

from services.cli.client import Client
from services.cli.exits import ExitCode, Stop
from services.cli.statedir import running_dev
from services.runtime.errors import Unavailable
from services.runtime.settings import BadSettings, Settings

if TYPE_CHECKING:
    from services.cli.tenant import TenantBus
    from services.runtime.nats.bus import NatsBus
    from services.runtime.ports import Bus

KNOCK_S = 2.0
DEFAULT_PORT = 4222


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a command was told about the bus. Empty: not told."""

    nats_url: str = ""
    nats_creds: str = ""
    nats_nkey_seed_file: str = ""
    nats_user: str = ""
    nats_password: str = ""
    nats_token: str = ""
    nats_tls_ca: str = ""
    nats_tls_cert: str = ""
    nats_tls_key: str = ""


def settings_for(options: ServerOptions, environ: Mapping[str, str]) -> Settings:
    """The settings of this command: the options, or else the environment, or else a running `holdfast dev`."""
    try:
        settings = Settings.from_env(environ)
        given = {name: value for name, value in msgspec.structs.asdict(options).items() if value}
        if not given.get("nats_url") and not has_address(environ) and (dev := running_dev(environ)) is not None:
            given["nats_url"] = dev.url
        return msgspec.convert({**msgspec.structs.asdict(settings), **given}, Settings)
    except (BadSettings, msgspec.ValidationError) as error:
        raise Stop(str(error), ExitCode.USAGE) from error


def has_address(environ: Mapping[str, str]) -> bool:
    """Whether the environment says where the bus is."""
    return bool(environ.get("NATS_URL") or environ.get("HOLDFAST_NATS_URL"))


@asynccontextmanager
async def connected(options: ServerOptions, environ: Mapping[str, str] = os.environ) -> AsyncGenerator[Client]:
    """A client on the bus for as long as the block lasts; the command ends when the bus cannot be reached."""
    settings = settings_for(options, environ)
    await knock(settings.nats_url)
    # Imported only now: a command that fails earlier, or only prints help, must not pay for it.
    from services.runtime.nats.attach import NothingThere, attach  # noqa: PLC0415
    from services.runtime.nats.topology import Incompatible  # noqa: PLC0415

    try:
        if settings.nats_namespace:
            from services.cli.tenant import attached  # noqa: PLC0415 - as above

            bus: NatsBus | TenantBus = await attached(settings)
        else:
            bus = await attach(settings, service="cli")
    except Unavailable as error:
        raise Stop(f"{error}: check the address and the credentials", ExitCode.UNREACHABLE) from error
    except NothingThere as error:
        fix = "start the services on it with `holdfast serve all`, or a server of your own with `holdfast dev`"
        raise Stop(f"{error}: {fix}", ExitCode.UNREACHABLE) from error
    except Incompatible as error:
        raise Stop(str(error), ExitCode.REFUSED) from error
    try:
        yield Client(cast("Bus", bus))
    finally:
        await bus.close()


async def knock(urls: str) -> None:
    """End the command at once when nobody listens at any of these addresses; the client itself would keep trying."""
    failures: list[str] = []
    for url in filter(None, (part.strip() for part in urls.split(","))):
        try:
            parts = urlsplit(url if "://" in url else f"nats://{url}")
            host, port = parts.hostname or "127.0.0.1", parts.port or DEFAULT_PORT
        except ValueError as error:
            raise Stop(f"--nats {url!r} is not an address: {error}", ExitCode.USAGE) from error
        try:
            async with asyncio.timeout(KNOCK_S):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
        except (OSError, TimeoutError) as error:
            failures.append(str(error) or "no answer")
        else:
            return
    fix = "start one with `holdfast dev`, or give --nats URL"
    raise Stop(f"no server at {urls}: {fix} ({'; '.join(failures)})", ExitCode.UNREACHABLE)
