"""From a toolset's manifest to what carries out its tools: checked, with its secrets resolved, and loaded only now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from schemas.resources import EnvVar, ShellOptions, ToolsetSpec
from schemas.toolsets import toolset_problems
from services.runtime.egress import Resolve, look_up
from services.runtime.secrets import SecretMissing, Secrets
from services.tool_executor.core.results import Reply
from services.tool_executor.toolsets.job import CannotRun, Job
from services.tool_executor.toolsets.sandbox import Sandbox

if TYPE_CHECKING:
    from services.runtime.settings import Settings
    from services.tool_executor.toolsets.shell import Runner

Run = Callable[[Job], Awaitable[Reply]]
"""Carries out a tool. Raises `CannotRun`, and what a server's call raises."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What commands find here, and must not find."""

    sandbox: Sandbox
    hidden: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()
    resolve: Resolve = look_up


def kept_from_commands(settings: Settings, work_root: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The directories and the files that hold this process's own secrets, and the other tasks' files."""
    files = (settings.nats_creds, settings.nats_nkey_seed_file, settings.nats_tls_key)
    folders = (settings.secrets_dir, work_root)
    hidden, blank = (tuple(str(Path(one).absolute()) for one in some if one) for some in (folders, files))
    return hidden, blank


def equip(spec: ToolsetSpec, secrets: Secrets, machine: Machine) -> Run:
    """What carries out a toolset's tools. Raises `CannotRun` with everything that is wrong with its manifest."""
    if problems := "; ".join(toolset_problems(spec)):
        raise CannotRun(problems)
    if spec.shell is not None:
        from services.tool_executor.toolsets.shell import run_line  # noqa: PLC0415 - loaded where it is used

        return partial(run_line, _runner(spec.shell, secrets, machine))
    if spec.http is not None:
        from services.tool_executor.toolsets import http  # noqa: PLC0415 - loaded where it is used

        headers, hidden = _values(spec.http.headers, secrets)
        requester = http.Requester(
            options=spec.http, headers=headers, secrets=hidden, egress=http.egress_of(spec.http, machine.resolve)
        )
        return partial(http.run_request, requester)
    if spec.files is not None:
        from services.tool_executor.toolsets.files import run_files  # noqa: PLC0415 - loaded where it is used

        return partial(run_files, spec.files)
    return _commands(spec, _runner(spec.command_options, secrets, machine))


def missing_programs(spec: ToolsetSpec, secrets: Secrets, machine: Machine) -> Iterable[str]:
    """What a toolset needs of this machine and does not find. The manifest must be in order."""
    from services.tool_executor.toolsets.commands import program_of  # noqa: PLC0415 - loaded where it is used

    options = spec.shell or (spec.command_options if spec.commands else None)
    if options is None:
        return
    runner = _runner(options, secrets, machine)
    if options.sandbox == "required" and not machine.sandbox.program:
        yield f"a sandbox is required: {machine.sandbox.why_not}"
    wanted = {program_of(tool)[0] for tool in spec.commands}
    if spec.shell is not None or any(tool.shell for tool in spec.commands):
        wanted.add("bash")
    for program in sorted(wanted):
        if not runner.find(program):
            yield f"the program {program!r} was not found (PATH is {runner.path})"


def _runner(options: ShellOptions, secrets: Secrets, machine: Machine) -> Runner:
    from services.tool_executor.toolsets.shell import Runner  # noqa: PLC0415 - loaded where it is used

    env, hidden = _values(options.env, secrets)
    return Runner(
        options=options,
        env=env,
        secrets=hidden,
        sandbox=machine.sandbox,
        hidden=machine.hidden,
        blank=machine.blank,
    )


def _commands(spec: ToolsetSpec, runner: Runner) -> Run:
    from services.tool_executor.toolsets.commands import program_of, run_command  # noqa: PLC0415 - as above

    tools = {tool.name: tool for tool in spec.commands}
    for tool in spec.commands:
        program_of(tool)

    async def run(job: Job) -> Reply:
        return await run_command(tools[job.tool], runner, job)

    return run


def _values(variables: tuple[EnvVar, ...], secrets: Secrets) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Variables or headers with their values, and those of the values that are secrets."""
    values: dict[str, str] = {}
    hidden: list[str] = []
    for variable in variables:
        values[variable.name] = variable.value
        if variable.value_from is not None:
            try:
                value = values[variable.name] = secrets.get(variable.value_from.secret_key_ref)
            except SecretMissing as error:
                raise CannotRun(str(error)) from error
            if "\0" in value:
                raise CannotRun(f"the secret for {variable.name!r} is not text")
            hidden.append(value)
    return values, tuple(hidden)
