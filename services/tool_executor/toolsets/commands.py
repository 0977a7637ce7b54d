"""Programs as tools: an operator declares them, a model gives arguments. No shell, unless the manifest says so."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import msgspec

from schemas.resources import CommandTool
from services.tool_executor.core.command_line import NoArguments, fill, split, with_prefix
from services.tool_executor.core.results import Reply
from services.tool_executor.toolsets.job import CannotRun, Job
from services.tool_executor.toolsets.shell import Runner


def program_of(tool: CommandTool) -> tuple[str, ...]:
    """The program and its first arguments. Raises `CannotRun`."""
    if not isinstance(tool.command, str):
        return tool.command
    try:
        return tuple(shlex.split(tool.command))
    except ValueError as error:
        raise CannotRun(f"command {tool.name!r} cannot be split into words: {error}") from error


async def run_command(tool: CommandTool, runner: Runner, job: Job) -> Reply:
    """Run a command tool with a model's arguments. Raises what `Runner.run` does."""
    program = program_of(tool)
    try:
        if tool.input_schema is not None:
            return await runner.run(
                fill(program, job.arguments), job, stdin=msgspec.json.encode(dict(job.arguments)) + b"\n"
            )
        given = str(job.arguments["command"])
        if tool.shell:
            return await runner.run(("bash", "-c", _with_prefix(program, given)), job)
        return await runner.run(with_prefix(program, split(given)), job)
    except NoArguments as error:
        raise CannotRun(str(error)) from error


def _with_prefix(program: Sequence[str], line: str) -> str:
    """A line for bash that begins with the program, whether or not the model has repeated it."""
    prefix = shlex.join(program)
    return line if f"{line.strip()} ".startswith(f"{prefix} ") else f"{prefix} {line}"
