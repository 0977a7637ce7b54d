"""Output: tables for people, documents for programs.

On a terminal a table fits the width and has colours; in a pipe it has neither, and nothing is cut.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import yaml

from schemas.resources import API_VERSION
from services.cli.kinds import KindInfo

if TYPE_CHECKING:
    from rich.text import Text

    from services.cli.documents import Document
    from services.cli.listing import Shown

Form = Literal["table", "wide", "json", "yaml", "name"]

GAP = "   "
FREE_TEXT = frozenset({"PREVIEW", "OUTPUT", "ERROR", "MESSAGE", "DETAIL"})
FREE_TEXT_MIN = 12
_GOOD = frozenset({"true", "Ready", "FinalAnswer", "Succeeded"})
_BAD = frozenset({"Error", "Failed", "TimedOut", "Unknown", "Rejected"})
_WAITING = frozenset(
    (
        *("false", "Pending", "Initializing", "Running", "ToolCallsPending", "ReadyForLLM", "Cancelled"),
        *("AwaitingHumanApproval", "ReadyToExecuteApprovedTool", "AwaitingHumanInput", "AwaitingSubAgent"),
    )
)


def write(text: str) -> None:
    """Print a text, with one line end behind it."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def is_terminal() -> bool:
    """Whether people look at the output."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def show_documents(documents: Sequence[Document], form: Literal["json", "yaml"], *, single: bool) -> None:
    """Print one document, or a list of them."""
    whole: Any = documents[0] if single else {"apiVersion": API_VERSION, "kind": "List", "items": list(documents)}
    if form == "json":
        write(msgspec.json.format(msgspec.json.encode(whole), indent=2).decode())
    else:
        write(as_yaml(whole))


def as_yaml(document: Any) -> str:
    """A document as YAML; a text of several lines as a block."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks."""


def _represent_text(_: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text and not any(line.endswith((" ", "\t")) for line in text.split("\n")) else None
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def show_tables(groups: Sequence[tuple[KindInfo, Sequence[Shown]]], *, wide: bool, all_namespaces: bool) -> None:
    """Print one table for each kind that has something, with the kind before the name if there are several."""
    several = len(groups) > 1
    filled = [(info, items) for info, items in groups if items]
    for place, (info, items) in enumerate(filled):
        if place:
            write("")
        chosen = [n for n, column in enumerate(info.columns) if wide or not column.wide]
        header = ["NAME", *(info.columns[n].header for n in chosen)]
        rows = [[f"{info.kind.lower()}/{i.name}" if several else i.name, *(i.cells[n] for n in chosen)] for i in items]
        if all_namespaces:
            header.insert(0, "NAMESPACE")
            for row, item in zip(rows, items, strict=True):
                row.insert(0, item.namespace)
        show_rows(header, rows, whole=wide)


def show_rows(header: Sequence[str], rows: Iterable[Sequence[str]], *, whole: bool = False) -> None:
    """Print a table. On a terminal, free text is cut to make the lines fit, unless the whole of it is wanted."""
    listed = list(rows)
    if is_terminal():
        _show_coloured(header, listed, whole=whole)
    else:
        write("\n".join(plain_rows(header, listed)))


def plain_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table as lines of aligned columns, nothing cut."""
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[n]) for row in table) for n in range(len(header))]
    return [GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def fitted(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The widths of columns on lines of `width`: names and states are never cut, free text shares what is left."""
    widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
    free = [n for n, name in enumerate(header) if name in FREE_TEXT]
    left = width - len(GAP) * (len(header) - 1) - sum(widths[n] for n in range(len(header)) if n not in free)
    while free and sum(widths[n] for n in free) > left:
        widest = max(free, key=lambda n: widths[n])
        if widths[widest] <= FREE_TEXT_MIN:
            break
        widths[widest] -= 1
    return widths


def _show_coloured(header: Sequence[str], rows: Sequence[Sequence[str]], *, whole: bool) -> None:
    from rich.console import Console  # noqa: PLC0415 - only for a terminal
    from rich.text import Text  # noqa: PLC0415 - only for a terminal

    console = Console(highlight=False)
    widths = fitted(header, rows, sys.maxsize if whole else console.width)
    lines = [[Text(name, style="bold") for name in header], *([coloured(cell) for cell in row] for row in rows)]
    for line in lines:
        for cell, width in zip(line, widths, strict=True):
            cell.truncate(width, overflow="ellipsis", pad=True)
        console.print(Text(GAP).join(line), soft_wrap=True)


def coloured(cell: str) -> Text:
    """A cell in the colour of what it says."""
    from rich.text import Text  # noqa: PLC0415 - only for a terminal

    style = "green" if cell in _GOOD else "red" if cell in _BAD else "yellow" if cell in _WAITING else ""
    return Text(cell, style=style)
