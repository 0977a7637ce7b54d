"""The tools of a toolset, as its specification alone makes them: whoever offers them and whoever runs them agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
EDIT = ToolAnnotations(read_only=False, idempotent=False, destructive=True, open_world=False)
FILES_TIMEOUT_S = 60.0
OUTPUT_BYTES_MAX = 16 << 20
"""Most that is kept of a command's output: it is in memory once."""

_METHOD = re.compile(r"[A-Z]{3,20}")


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


def toolset_timeout_s(spec: ToolsetSpec, tool: str) -> float:
    """How long a call of a tool may take, if no policy says otherwise."""
    if spec.shell is not None:
        return spec.shell.timeout_s
    if spec.http is not None:
        return spec.http.timeout_s
    for command in spec.commands:
        if command.name == tool:
            return spec.command_options.timeout_s if command.timeout_s is None else command.timeout_s
    return FILES_TIMEOUT_S


def toolset_problems(spec: ToolsetSpec) -> Iterator[str]:
    """What contradicts itself in a toolset."""
    given = [
        name for name, value in (("shell", spec.shell), ("http", spec.http), ("files", spec.files)) if value is not None
    ]
    given += ["commands"] if spec.commands else []
    if len(given) != 1:
        yield f"exactly one of shell, http, files and commands is needed, not {' and '.join(given) or 'none'}"
    if spec.concurrency < 1:
        yield f"concurrency is {spec.concurrency}; it must be at least 1"
    if any(policy.timeout_s is not None and policy.timeout_s <= 0 for policy in spec.policies):
        yield "timeoutSeconds of a policy must be more than 0"
    if spec.shell is not None:
        yield from _process_problems("shell", spec.shell)
    if spec.http is not None:
        yield from _http_problems(spec.http)
    if spec.files is not None and spec.files.file_bytes < 1:
        yield f"files: fileBytes is {spec.files.file_bytes}; it must be more than 0"
    if spec.commands:
        yield from _process_problems("commandOptions", spec.command_options)
    names = [command.name for command in spec.commands]
    yield from (
        f"two commands have the name {name!r}" for name in sorted({name for name in names if names.count(name) > 1})
    )
    for command in spec.commands:
        yield from _command_problems(command)


def _process_problems(where: str, options: ShellOptions) -> Iterator[str]:
    numbers = {
        "timeoutSeconds": options.timeout_s,
        "cpuSeconds": options.cpu_s,
        "memoryMib": options.memory_mib,
        "fileMib": options.file_mib,
        "processes": options.processes,
        "outputBytes": options.output_bytes,
    }
    for name, value in numbers.items():
        if value <= 0:
            yield f"{where}: {name} is {value}; it must be more than 0"
    if options.output_bytes > OUTPUT_BYTES_MAX:
        yield f"{where}: outputBytes is {options.output_bytes}; {OUTPUT_BYTES_MAX} at most"
    for variable in options.env:
        if not variable.name or "=" in variable.name or "\0" in variable.name + variable.value:
            yield f"{where}: {variable.name!r} cannot be the name of a variable, or its value is not text"


def _http_problems(options: HTTPOptions) -> Iterator[str]:
    if options.timeout_s <= 0 or options.response_bytes <= 0:
        yield "http: timeoutSeconds and responseBytes must be more than 0"
    if not options.methods:
        yield "http: methods is empty; name at least one"
    yield from (
        f"http: {one!r} is no method (write it in capitals)" for one in options.methods if not _METHOD.fullmatch(one)
    )
    if options.headers and not options.only:
        yield "http: headers are sent to hosts in `only`, and there are none: any host could have them otherwise"


def _command_problems(command: CommandTool) -> Iterator[str]:
    where = f"command {command.name!r}"
    if not command.name:
        yield "a command has no name"
    if not (command.command if isinstance(command.command, tuple) else command.command.strip()):
        yield f"{where}: command is empty"
    if command.is_interactive:
        yield f"{where}: is_interactive: a program that wants a terminal cannot be a tool"
    if command.timeout_s is not None and command.timeout_s <= 0:
        yield f"{where}: timeoutSeconds is {command.timeout_s:g}; it must be more than 0"
    if command.shell and command.input_schema is not None:
        yield f"{where}: shell and inputSchema exclude each other: values from a model do not go into a line for bash"
    if command.input_schema is not None and command.input_schema.get("type") != "object":
        yield f"{where}: inputSchema must be of type object"


def _shell(options: ShellOptions) -> ToolInfo:
    return ToolInfo(
        name="run",
        description=(
            "Run a command with bash in the task's working directory, which is kept between calls."
            f" It is killed after {options.timeout_s:g} s, and what it left running when it ends."
            " Gives its output and exit code."
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
            description="Read a text file or image of the task's working directory, or some lines of a text.",
            input_schema=_object(
                {
                    "path": path,
                    "first_line": {"type": "integer", "minimum": 1, "description": "Where to begin, from 1."},
                    "lines": {"type": "integer", "minimum": 1, "description": "How many lines; absent: all."},
                },
                "path",
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
                name="edit",
                description=(
                    "Replace a piece of a text file of the task's working directory. What is replaced must be there"
                    " exactly once, so give enough of what is around it."
                ),
                input_schema=_object(
                    {"path": path, "old": _string("The text to replace."), "new": _string("What comes in its place.")},
                    "path",
                    "old",
                    "new",
                ),
                annotations=EDIT,
            )
        )
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
        about = command.command_desc or "The arguments, as on a command line."
        if not command.shell:
            about += " They are not read by a shell: no pipes, redirects, variables or wildcards."
        schema = _object({"command": _string(about)}, "command")
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
