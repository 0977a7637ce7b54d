"""Where manifests are read from: files, folders, standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from services.cli.exits import ExitCode, Stop

SUFFIXES = (".yaml", ".yml", ".json")
FILE_BYTES_MAX = 4 << 20


def read_sources(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each file's name and text. A folder gives its manifests in order of name, `-` is standard input."""
    for path in paths:
        if path == "-":
            yield "standard input", _decoded("standard input", sys.stdin.buffer.read(FILE_BYTES_MAX + 1))
            continue
        place = Path(path)
        if place.is_dir():
            files = sorted(file for file in place.iterdir() if file.suffix in SUFFIXES and file.is_file())
            if not files:
                raise Stop(f"no manifests ({', '.join(SUFFIXES)}) in folder {path}", ExitCode.NOT_FOUND)
            for file in files:
                yield str(file), _read(file)
        else:
            yield path, _read(place)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return _decoded(str(file), stream.read(FILE_BYTES_MAX + 1))
    except OSError as error:
        raise Stop(f"cannot read {file}: {error.strerror or error}", ExitCode.NOT_FOUND) from error


def _decoded(name: str, data: bytes) -> str:
    if len(data) > FILE_BYTES_MAX:
        raise Stop(f"{name} has more than {FILE_BYTES_MAX >> 20} MiB, too much for manifests", ExitCode.REFUSED)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Stop(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}", ExitCode.REFUSED) from error
