"""The user's state directory: the data of `holdfast dev`, and where a running one is to be found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from schemas.wire import Malformed, Wire, decode, encode

RUNNING_FILE = "dev.json"


class RunningDev(Wire, frozen=True, kw_only=True):
    """A `holdfast dev` that is running, as other commands find it."""

    url: str
    pid: int
    data_dir: str


def state_dir(environ: Mapping[str, str]) -> Path:
    """`$HOLDFAST_STATE_DIR`, or `$XDG_STATE_HOME/holdfast`, or `~/.local/state/holdfast`."""
    if own := environ.get("HOLDFAST_STATE_DIR"):
        return Path(own)
    base = environ.get("XDG_STATE_HOME", "")
    # The specification has relative paths ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state") / "holdfast"


def running_dev(environ: Mapping[str, str]) -> RunningDev | None:
    """The development server that runs now, if one does."""
    try:
        found = decode((state_dir(environ) / RUNNING_FILE).read_bytes(), RunningDev)
        os.kill(found.pid, 0)
    except (OSError, Malformed, OverflowError):
        return None
    return found


def announce(environ: Mapping[str, str], dev: RunningDev) -> None:
    """Let other commands find this server."""
    directory = state_dir(environ)
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / RUNNING_FILE
    draft = file.with_suffix(f".{dev.pid}")
    draft.write_bytes(encode(dev))
    draft.replace(file)


def withdraw(environ: Mapping[str, str], pid: int) -> None:
    """Take the announcement back, unless another server has replaced it."""
    file = state_dir(environ) / RUNNING_FILE
    try:
        if decode(file.read_bytes(), RunningDev).pid == pid:
            file.unlink()
    except (OSError, Malformed):
        return
