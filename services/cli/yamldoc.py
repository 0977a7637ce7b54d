"""YAML as plain data that still knows its lines.

Read node by node, never through a loader that builds objects: only text, numbers, booleans, null, lists and mappings
come out. A duplicate key is an error, not the last one wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias, Union

import msgspec
import yaml

NODES_MAX = 100_000
"""Values in one document, aliases counted each time they are used."""
DEPTH_MAX = 64
EXCERPT_WIDTH = 120

FieldPath = tuple[str | int, ...]
Plain: TypeAlias = Union[dict[str, "Plain"], list["Plain"], str, int, float, bool, None]  # noqa: UP007 - a quoted name has no | at run time
"""What a document is made of."""
_TAG = "tag:yaml.org,2002:"


class Problem(NamedTuple):
    """What is wrong with a manifest, and where."""

    source: str
    line: int
    field: str
    message: str
    excerpt: tuple[str, ...] = ()


class BadYaml(ValueError):
    """The text is not YAML that a manifest may be written in."""

    def __init__(self, line: int, message: str, field: FieldPath = ()) -> None:
        super().__init__(message)
        self.line = line
        self.field = field


class Document(msgspec.Struct, frozen=True):
    """One document of a file."""

    source: str
    line: int
    data: Plain
    lines: dict[FieldPath, int]
    """Where each field begins."""
    text: tuple[str, ...]
    """All lines of the file."""

    def line_of(self, path: FieldPath) -> int:
        """The line of a field, or of the nearest one around it that is there."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, self.line)

    def problem(self, path: FieldPath, message: str, *, show: bool = True) -> Problem:
        """Something wrong with a field."""
        line = self.line_of(path)
        return Problem(self.source, line, spelled(path), message, tuple(excerpt_of(self.text, line)) if show else ())


def spelled(path: FieldPath) -> str:
    """A path as people write it: `spec.env[0].value`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def excerpt_of(text: tuple[str, ...], line: int) -> Iterator[str]:
    """The lines around `line` (from 1), it marked."""
    first, last = max(1, line - 1), min(len(text), line + 1)
    width = len(str(last))
    for number in range(first, last + 1):
        mark = ">" if number == line else " "
        yield f"{mark} {number:>{width}} | {text[number - 1][:EXCERPT_WIDTH]}".rstrip()


def read_documents(text: str, source: str) -> tuple[list[Document], list[Problem]]:
    """All documents of a text that are not empty; what follows a syntax error is not read."""
    lines = tuple(text.splitlines())
    found: list[Document] = []
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                document = _document(loader, node, source, lines)
                if document.data is not None:
                    found.append(document)
    except BadYaml as error:
        excerpt = tuple(excerpt_of(lines, error.line))
        return found, [Problem(source, error.line, spelled(error.field), str(error), excerpt)]
    except yaml.MarkedYAMLError as error:
        return found, [_syntax_problem(error, source, lines)]
    except yaml.YAMLError as error:
        return found, [Problem(source, 1, "", f"not YAML: {error}")]
    return found, []


def _syntax_problem(error: yaml.MarkedYAMLError, source: str, lines: tuple[str, ...]) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = min(mark.line + 1, len(lines)) if mark else 1
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return Problem(source, line, "", f"not YAML: {said}", tuple(excerpt_of(lines, line)))


def _document(loader: yaml.SafeLoader, node: yaml.Node, source: str, text: tuple[str, ...]) -> Document:
    reader = _Reader(loader)
    data = reader.value(node, ())
    return Document(source, node.start_mark.line + 1, data, reader.lines, text)


class _Reader:
    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.lines: dict[FieldPath, int] = {}
        self._loader = loader
        self._count = 0

    def value(self, node: yaml.Node, path: FieldPath) -> Plain:
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > NODES_MAX or len(path) > DEPTH_MAX:
            raise BadYaml(line, f"more than {NODES_MAX} values or {DEPTH_MAX} levels in one document", path)
        self.lines.setdefault(path, line)
        match node:
            case yaml.MappingNode():
                return self._mapping(node, path)
            case yaml.SequenceNode():
                return [self.value(item, (*path, place)) for place, item in enumerate(node.value)]
            case yaml.ScalarNode():
                return self._scalar(node, path)
            case _:
                raise BadYaml(line, f"unexpected {type(node).__name__}", path)

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Plain]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise BadYaml(line, "a key must be plain text", path)
            if key_node.value in seen and key_node.value != "<<":
                raise BadYaml(line, f"given twice; first on line {seen[key_node.value]}", (*path, key_node.value))
            seen[key_node.value] = line
        if "<<" in seen:
            self._loader.flatten_mapping(node)
        found: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            field = (*path, key_node.value)
            self.lines[field] = key_node.start_mark.line + 1
            found[key_node.value] = self.value(value_node, field)
        return found

    def _scalar(self, node: yaml.ScalarNode, path: FieldPath) -> Plain:
        kind = node.tag.removeprefix(_TAG)
        text = str(node.value)
        if kind in ("int", "float") and ":" in text:
            return text  # 10:30 is not a number in base 60
        match kind:
            case "str" | "timestamp":
                return text
            case "null":
                return None
            case "bool":
                return bool(self._loader.construct_yaml_bool(node))
            case "int":
                return int(self._loader.construct_yaml_int(node))
            case "float":
                return float(self._loader.construct_yaml_float(node))
            case _:
                raise BadYaml(node.start_mark.line + 1, f"{node.tag} has no meaning here", path)
