"""The tools of a toolset, as its specification alone makes them: whoever offers them and whoever runs them agree."""

from __future__ import annotations

from typing import Any

from schemas.resources import (
    BUILTIN_TOOLSETS,
    CommandTool,
    FilesOptions,
    HTTPOptions,
    ShellOptions,
    ToolAnnotations,
    ToolInfo,
    ToolsetSpec,
)

READ = ToolAnnotations(read_only=True, idempotent=True, destructive=False, open_world=False)
WRITE = ToolAnnotations(read_only=False, idempotent=True, destructive=True, open_world=False)


def builtin_toolset(name: str) -> ToolsetSpec | None:
    """The toolset that an agent may name without anybody having declared it, or None."""
    match name:
        case "shell":
            return ToolsetSpec(shell=ShellOptions())
        case "http":
            return ToolsetSpec(http=HTTPOptions())
        case "files":
            return ToolsetSpec(files=FilesOptions())
        case _:
            assert name not in BUILTIN_TOOLSETS
            return None


def toolset_tools(spec: ToolsetSpec) -> tuple[ToolInfo, ...]:
    """The tools of a toolset, sorted by name."""
    tools: list[ToolInfo] = []
    if spec.shell is not None:
        tools.append(_shell(spec.shell))
    if spec.http is not None:
        tools.append(_http(spec.http))
    if spec.files is not None:
        tools += _files(spec.files)
    tools += (_command(command) for command in spec.commands)
    return tuple(sorted(tools, key=lambda tool: tool.name))


def _shell(options: ShellOptions) -> ToolInfo:
    return ToolInfo(
        name="run",
        description=(
            "Run a command with bash in the task's working directory, which is kept between calls."
            f" It is killed after {options.timeout_s:g} s. Gives its output and exit code."
        ),
        input_schema=_object({"command": _string("The command line.")}, "command"),
        annotations=ToolAnnotations(read_only=False, idempotent=False, destructive=True, open_world=options.network),
    )


def _http(options: HTTPOptions) -> ToolInfo:
    properties = {
        "url": _string("An http or https address."),
        "method": {"type": "string", "enum": list(options.methods), "default": options.methods[0]},
        "headers": {"type": "object", "additionalProperties": {"type": "string"}},
        "body": _string("What is sent."),
    }
    safe = set(options.methods) <= {"GET", "HEAD", "OPTIONS"}
    return ToolInfo(
        name="request",
        description="Make an HTTP request. Gives the status, the headers and the text of the answer.",
        input_schema=_object(properties, "url"),
        annotations=ToolAnnotations(read_only=safe, idempotent=safe, destructive=not safe, open_world=True),
    )


def _files(options: FilesOptions) -> list[ToolInfo]:
    path = _string("A path inside the task's working directory.")
    tools = [
        ToolInfo(
            name="read",
            description="Read a text file of the task's working directory, or some of its lines.",
            input_schema=_object(
                {"path": path, "first_line": {"type": "integer", "minimum": 1}, "lines": {"type": "integer"}}, "path"
            ),
            annotations=READ,
        ),
        ToolInfo(
            name="list",
            description="List a directory of the task's working directory.",
            input_schema=_object({"path": path}),
            annotations=READ,
        ),
    ]
    if not options.read_only:
        tools.append(
            ToolInfo(
                name="write",
                description="Write a text file in the task's working directory; what was there is replaced.",
                input_schema=_object({"path": path, "content": _string("The whole new content.")}, "path", "content"),
                annotations=WRITE,
            )
        )
    return tools


def _command(command: CommandTool) -> ToolInfo:
    schema = command.input_schema
    if schema is None:
        schema = _object(
            {"command": _string(command.command_desc or "The arguments, as on a command line.")}, "command"
        )
    return ToolInfo(
        name=command.name,
        description=command.description,
        input_schema=schema,
        annotations=ToolAnnotations(read_only=command.read_only, idempotent=command.idempotent),
    )


def _string(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
