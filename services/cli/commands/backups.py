"""backup, restore."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import Target, note, on_bus
from services.cli.render import write

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The backup: a folder.")]


@on_bus
async def backup(target: Target, folder: Folder) -> None:
    """Save all streams into a folder, while everything runs.

    Tasks stand still while they are saved: what is in hand is gone on with, nothing new is begun, requests wait. What
    is saved holds prompts and results as they are stored; keys and secrets are not in it.

    [bold]Examples[/bold]

      holdfast backup backups/monday
    """
    from services.cli.backups import make  # noqa: PLC0415 - loads the server's side

    manifest = await make(target.server, os.environ, folder, note)
    messages = sum(saved.state.messages for saved in manifest.streams)
    write(
        f"{folder}: {messages} messages of {len(manifest.streams)} streams; stood still for {manifest.stood_still_s} s"
    )


@on_bus
async def restore(
    target: Target,
    folder: Folder,
    replace: Annotated[bool, typer.Option("--replace", help="Remove the streams that are there.")] = False,
    replicas: Annotated[
        int, typer.Option("--replicas", min=0, max=5, help="Copies of each stream.", show_default="as they were")
    ] = 0,
) -> None:
    """Bring back what `holdfast backup` has saved, to a server that no service works on.

    What was under way goes on from the time of the backup: calls that were made since then are made again.

    [bold]Examples[/bold]

      holdfast restore backups/monday
      holdfast restore backups/monday --replicas 3
    """
    from services.cli.backups import bring_back  # noqa: PLC0415 - loads the server's side

    manifest = await bring_back(target.server, os.environ, folder, note, replace=replace, replicas=replicas)
    messages = sum(saved.state.messages for saved in manifest.streams)
    write(f"{messages} messages of {len(manifest.streams)} streams, as of {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC")
    note("start the planner, then the others; each message is delivered anew, and what is done is not done again")
