"""Backups: a folder with a snapshot of every stream, and a manifest that says what they are.

The manifest is written last: a folder without one is no backup.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import msgspec

from services.cli.connect import ServerOptions, knock, settings_for
from services.cli.exits import ExitCode, Stop
from services.runtime.errors import Unavailable
from services.runtime.nats import api, snapshots, topology
from services.runtime.nats.attach import NothingThere, as_there
from services.runtime.nats.connection import Connection
from services.runtime.nats.server import parse_version, version_text
from services.runtime.nats.snapshots import PIECE_BYTES, Snapshot, StreamState
from services.runtime.settings import Settings

FORMAT = "holdfast-backup.v1"
MANIFEST = "manifest.json"
NEW_MANIFEST = "manifest.new"
LOOK_S = 5.0

Say = Callable[[str], None]


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """One stream of a backup."""

    name: str
    file: str
    file_bytes: int
    sha256: str
    config: api.Json
    state: StreamState
    exact: bool = True
    """Nothing was removed from the stream while it was saved."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of. `streams` are in the order in which they were saved."""

    format: str = FORMAT
    holdfast: str
    server: str
    made_at: datetime
    stood_still_s: float
    partitions: int
    streams: tuple[Saved, ...]


# --- making one -------------------------------------------------------------------------


async def make(options: ServerOptions, environ: Mapping[str, str], folder: Path, say: Say) -> Manifest:
    """Save all streams into a folder, which must be empty or not there; the command ends when that cannot be done."""
    _begin(folder)
    complete = False
    try:
        async with _connected(options, environ) as (connection, settings):
            there = await as_there(connection, settings, LOOK_S)
            manifest = await _save_all(connection, there, folder, say)
        _write_manifest(folder, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        complete = True
    finally:
        if not complete:
            _clear(folder)
    return manifest


async def _save_all(connection: Connection, settings: Settings, folder: Path, say: Say) -> Manifest:
    started = time.monotonic()
    made_at = datetime.now(UTC)
    streams: list[Saved] = []
    consumers = topology.consumer_plans(settings)
    async with snapshots.standing_still(connection, consumers, lambda: datetime.now(UTC)):
        for stream in snapshots.streams(settings.partitions):
            saved = await _save(connection, stream, folder)
            streams.append(saved)
            missing = "" if saved.exact else "; changed meanwhile, what may be missing is made again"
            say(f"{stream}: {saved.state.messages} messages, {saved.file_bytes} bytes{missing}")
    return Manifest(
        holdfast=version("holdfast"),
        server=connection.server_version,
        made_at=made_at,
        stood_still_s=round(time.monotonic() - started, 3),
        partitions=settings.partitions,
        streams=tuple(streams),
    )


async def _save(connection: Connection, stream: str, folder: Path) -> Saved:
    path = folder / f"{stream}.tar.s2"
    with _private(path) as file:

        def begin() -> Callable[[bytes], object]:
            file.seek(0)
            file.truncate()
            return file.write

        found = await snapshots.save(connection, stream, begin)
        file.flush()
        os.fsync(file.fileno())
    return Saved(
        name=stream,
        file=path.name,
        file_bytes=path.stat().st_size,
        sha256=_digest(path),
        config=found.config,
        state=found.state,
        exact=found.exact,
    )


def _begin(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise Stop(f"{folder} is not empty: name a new folder for each backup", ExitCode.USAGE)
    except OSError as error:
        raise Stop(f"cannot write to {folder}: {error}", ExitCode.USAGE) from error


def _clear(folder: Path) -> None:
    for path in (*folder.glob("*.tar.s2"), folder / NEW_MANIFEST):
        path.unlink(missing_ok=True)


def _private(path: Path) -> BinaryIO:
    """A new file that nobody else may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _write_manifest(folder: Path, data: bytes) -> None:
    """The manifest is there as a whole, or not at all."""
    with _private(folder / NEW_MANIFEST) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    (folder / NEW_MANIFEST).replace(folder / MANIFEST)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- bringing it back -------------------------------------------------------------------


async def bring_back(
    options: ServerOptions, environ: Mapping[str, str], folder: Path, say: Say, *, replace: bool, replicas: int
) -> Manifest:
    """Make all streams as a backup has them; the command ends when that cannot be done.

    `replace`: what is there is removed. `replicas`: copies of each stream, 0 for as many as there were.
    """
    manifest = read_manifest(folder)
    async with _connected(options, environ) as (connection, _):
        _check_version(manifest, connection.server_version)
        await _make_room(connection, replace=replace)
        # The tasks last: until they are there, no command takes the server for a running system.
        for saved in reversed(manifest.streams):
            config = saved.config | ({"num_replicas": replicas} if replicas else {})
            with (folder / saved.file).open("rb") as file:
                found = await snapshots.bring_back(
                    connection, Snapshot(config, saved.state, saved.exact), _pieces(file)
                )
            _compare(saved, found)
            say(f"{saved.name}: {found.messages} messages")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup, whose files are as they were written; the command ends if they are not."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except OSError as error:
        raise Stop(f"{folder} is not a backup: {error}", ExitCode.USAGE) from error
    except msgspec.DecodeError as error:
        raise Stop(f"{folder / MANIFEST} cannot be read: {error}", ExitCode.REFUSED) from error
    if manifest.format != FORMAT:
        raise Stop(f"{folder} is a backup of the form {manifest.format!r}; this is for {FORMAT}", ExitCode.REFUSED)
    for saved in manifest.streams:
        path = folder / saved.file
        if path.parent != folder or not path.is_file() or _digest(path) != saved.sha256:
            raise Stop(f"{path} is not what was written: the backup is damaged", ExitCode.REFUSED)
    return manifest


def _check_version(manifest: Manifest, server: str) -> None:
    saved_by, there = parse_version(manifest.server), parse_version(server)
    if there[:2] < saved_by[:2]:
        raise Stop(
            f"the backup is of NATS server {version_text(saved_by)}, and this one is {version_text(there)}:"
            " an older server may not read it; upgrade the server",
            ExitCode.REFUSED,
        )


async def _make_room(connection: Connection, *, replace: bool) -> None:
    there = await snapshots.there(connection)
    for stream in there:
        if busy := await snapshots.at_work(connection, stream):
            raise Stop(f"services are at work ({stream}: {', '.join(busy)}): stop all of them first", ExitCode.REFUSED)
    full = [stream for stream, state in there.items() if state.messages]
    if full and not replace:
        raise Stop(
            f"the server has {', '.join(full)}: restore to an empty one, or give --replace to lose what is there",
            ExitCode.REFUSED,
        )
    for stream in there:
        await snapshots.remove(connection, stream)


def _compare(saved: Saved, found: StreamState) -> None:
    wanted = (saved.state.messages, saved.state.last_seq)
    if saved.exact and (found.messages, found.last_seq) != wanted:
        raise Stop(
            f"{saved.name} has {found.messages} messages up to {found.last_seq}, and the backup was of {wanted[0]} up"
            f" to {wanted[1]}: do not start services on it",
            ExitCode.INTERNAL,
        )


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


@asynccontextmanager
async def _connected(options: ServerOptions, environ: Mapping[str, str]) -> AsyncGenerator[tuple[Connection, Settings]]:
    settings = settings_for(options, environ)
    if settings.nats_namespace:
        raise Stop("these credentials are for one namespace: an operator's are needed", ExitCode.USAGE)
    await knock(settings.nats_url)
    connection = Connection(settings, service="cli")
    try:
        await connection.open()
    except Unavailable as error:
        raise Stop(f"{error}: check the address and the credentials", ExitCode.UNREACHABLE) from error
    try:
        topology.check_server(connection)
        yield connection, settings
    except snapshots.Unsettled as error:
        raise Stop(f"{error}: try again when less is removed", ExitCode.TIMED_OUT) from error
    except NothingThere as error:
        raise Stop(f"{error}: there is nothing to save", ExitCode.NOT_FOUND) from error
    except (topology.Incompatible, api.ApiRefused) as error:
        raise Stop(str(error), ExitCode.REFUSED) from error
    finally:
        await connection.close()
