from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.connect import ServerOptions, knock, settings_for
from services.cli.exits import ExitCode, Stop
from services.cli.statedir import RunningDev, announce, running_dev, state_dir, withdraw

HERE = RunningDev(url="nats://127.0.0.1:5555", pid=os.getpid(), data_dir="/data")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOLDFAST_STATE_DIR": str(tmp_path)}


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_the_address_is_the_options_then_the_environments_then_a_running_devs(environ: dict[str, str]) -> None:
    assert settings_for(ServerOptions(), environ).nats_url == "nats://127.0.0.1:4222"
    announce(environ, HERE)
    assert settings_for(ServerOptions(), environ).nats_url == HERE.url
    environ["NATS_URL"] = "nats://elsewhere:4222"
    assert settings_for(ServerOptions(), environ).nats_url == "nats://elsewhere:4222"
    assert settings_for(ServerOptions(nats_url="nats://given:1"), environ).nats_url == "nats://given:1"


def test_credentials_given_as_options_go_over_the_environments() -> None:
    environ = {"HOLDFAST_NATS_TOKEN": "one", "HOLDFAST_NATS_CREDS": "/creds"}
    settings = settings_for(ServerOptions(nats_token="two", nats_tls_ca="/ca"), environ)
    assert (settings.nats_token, settings.nats_creds, settings.nats_tls_ca) == ("two", "/creds", "/ca")


@pytest.mark.parametrize(
    ("options", "environ", "text"),
    [
        (ServerOptions(nats_tls_cert="/c"), {}, "HOLDFAST_NATS_TLS_KEY"),
        (ServerOptions(), {"HOLDFAST_NATS_TOKN": "x"}, "did you mean HOLDFAST_NATS_TOKEN"),
    ],
)
def test_settings_that_cannot_be_are_an_error_of_usage(
    options: ServerOptions, environ: dict[str, str], text: str
) -> None:
    with pytest.raises(Stop, match=text) as caught:
        settings_for(options, environ)
    assert caught.value.code == ExitCode.USAGE


async def test_where_nobody_listens_the_command_ends_at_once_and_says_how_to_start_a_server(closed_port: int) -> None:
    async with asyncio.timeout(2):
        with pytest.raises(Stop, match=f"no server at nats://127.0.0.1:{closed_port}: start one with") as caught:
            await knock(f"nats://127.0.0.1:{closed_port}")
    assert caught.value.code == ExitCode.UNREACHABLE


async def test_one_server_of_several_is_enough(closed_port: int) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await knock(f"127.0.0.1:{closed_port}, nats://127.0.0.1:{port}")


async def test_what_is_no_address_is_an_error_of_usage() -> None:
    with pytest.raises(Stop, match="is not an address") as caught:
        await knock("nats://host:port")
    assert caught.value.code == ExitCode.USAGE


def test_a_dev_that_is_gone_is_not_found(environ: dict[str, str]) -> None:
    announce(environ, RunningDev(url="nats://x:1", pid=2**22 + 1, data_dir="/data"))
    assert running_dev(environ) is None


def test_only_who_announced_a_server_withdraws_it(environ: dict[str, str]) -> None:
    announce(environ, HERE)
    withdraw(environ, HERE.pid + 1)
    assert running_dev(environ) == HERE
    withdraw(environ, HERE.pid)
    assert running_dev(environ) is None
    withdraw(environ, HERE.pid)


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"HOLDFAST_STATE_DIR": "/own", "XDG_STATE_HOME": "/xdg"}, Path("/own")),
        ({"XDG_STATE_HOME": "/xdg"}, Path("/xdg/holdfast")),
        ({"XDG_STATE_HOME": "relative"}, Path.home() / ".local/state/holdfast"),
        ({}, Path.home() / ".local/state/holdfast"),
    ],
)
def test_the_state_directory_is_the_users(environ: dict[str, str], place: Path) -> None:
    assert state_dir(environ) == place
