"""Commands in the task's working directory: what `shell` runs, and the programs of command toolsets."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

import msgspec

from schemas.resources import ShellOptions
from services.runtime.redaction import redact, redact_cut
from services.tool_executor.core.results import Reply
from services.tool_executor.mcp.errors import Lost, TimedOut
from services.tool_executor.toolsets.job import CannotRun, Job, words
from services.tool_executor.toolsets.process import Ended, Order, SupervisorLost, run
from services.tool_executor.toolsets.sandbox import HELPERS, Sandbox, bwrap_command, places_of

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIB = 1 << 20
FILES_MAX = 1024
"""Open files of one process."""
SIGNALS = {
    9: "SIGKILL: its memory or processor time may have been used up",
    24: "SIGXCPU: it used up its processor time",
    25: "SIGXFSZ: a file became larger than it may be",
}


class Runner(msgspec.Struct, frozen=True, kw_only=True):
    """How the commands of one toolset are run."""

    options: ShellOptions
    env: Mapping[str, str]
    """The declared variables."""
    secrets: tuple[str, ...]
    """Those of their values that must not be repeated."""
    sandbox: Sandbox
    hidden: tuple[str, ...] = ()
    """Directories that no command may see: the secrets', other tasks'."""
    blank: tuple[str, ...] = ()
    """The same of files."""

    @property
    def path(self) -> str:
        """Where programs are looked for."""
        return self.env.get("PATH", PATH)

    def find(self, program: str) -> str:
        """Where a program is, by its name or its whole path; empty: nowhere."""
        if "/" in program and not program.startswith("/"):
            return ""
        return shutil.which(program, path=self.path) or ""

    async def run(self, command: Sequence[str], job: Job, *, stdin: bytes = b"") -> Reply:
        """Run a command to its end. Raises `CannotRun`, `TimedOut` and `Lost`."""
        program = self.find(command[0])
        if not program:
            raise CannotRun(f"The program {command[0]!r} was not found on this machine (PATH is {self.path}).")
        if self.options.sandbox == "required" and not self.sandbox.program:
            raise CannotRun(f"This tool runs in a sandbox only, and there is none: {self.sandbox.why_not}.")
        directory, new = await job.place()
        order = self._order((program, *command[1:]), str(directory), job.timeout_s, stdin)
        try:
            ended = await run(order)
        except SupervisorLost as error:
            raise Lost(str(error)) from error
        text = self._text(ended)
        if ended.ended == "failed":
            raise CannotRun(f"{command[0]!r} could not be started: {ended.words}.")
        if ended.ended == "timeout":
            raise TimedOut(f"no end within {job.timeout_s:g} s", so_far=text)
        notes = [_ending(ended, self.options), *self._notes(new=new)]
        return words("\n".join(filter(None, (text, *notes))), is_error=ended.code != 0)

    def _order(self, command: tuple[str, ...], directory: str, timeout_s: float, stdin: bytes) -> Order:
        options = self.options
        boxed = options.sandbox != "none" and bool(self.sandbox.program)
        if boxed:
            command = bwrap_command(
                self.sandbox,
                directory=directory,
                network=options.network,
                shown=places_of(command[0]),
                hidden=self.hidden,
                blank=self.blank,
                command=command,
            )
        return Order(
            command=command,
            directory="/" if boxed else directory,
            env={"PATH": PATH, "HOME": directory, "LANG": "C.UTF-8", **self.env},
            timeout_s=timeout_s,
            limits={
                "RLIMIT_AS": options.memory_mib * MIB,
                "RLIMIT_CORE": 0,
                "RLIMIT_CPU": options.cpu_s,
                "RLIMIT_FSIZE": options.file_mib * MIB,
                "RLIMIT_NOFILE": FILES_MAX,
            },
            processes=options.processes,
            helpers=HELPERS if boxed else 0,
            output_bytes=options.output_bytes,
            stdin=stdin,
        )

    def _text(self, ended: Ended) -> str:
        """What the command said, without secrets, and with a notice where something is missing."""
        head, tail = (part.decode(errors="replace") for part in ended.output)
        left_out = ended.seen - ended.head - ended.tail
        if not left_out:
            return redact(head + tail, self.secrets).rstrip("\n")
        head, tail = redact_cut(head, tail, self.secrets)
        return f"{head}\n[... {left_out} of {ended.seen} bytes of output were left out here ...]\n{tail}".rstrip("\n")

    def _notes(self, *, new: bool) -> list[str]:
        notes = ["[the working directory is new and was empty]"] if new else []
        if self.options.sandbox == "auto" and not self.sandbox.program:
            notes.append(f"[not in a sandbox: {self.sandbox.why_not}]")
        return notes


async def run_line(runner: Runner, job: Job) -> Reply:
    """The tool `run`: a line for bash."""
    return await runner.run(("bash", "-c", _line(job)), job)


def _line(job: Job) -> str:
    line = str(job.arguments["command"])
    if "\0" in line:
        raise CannotRun("The command holds a NUL character.")
    if len(line.encode(errors="replace")) > 100_000:  # one argument of a program has 128 KiB at most
        raise CannotRun("The command is longer than 100000 bytes. Write a file and run that.")
    return line


def _ending(ended: Ended, options: ShellOptions) -> str:
    if ended.ended == "processes":
        return f"[it was ended because it had more than {options.processes} processes at once]"
    if ended.ended or ended.code is None:
        return "[it was ended from outside]"
    if ended.code < 0:
        return f"[it was ended by {SIGNALS.get(-ended.code, f'signal {-ended.code}')}]"
    inner = SIGNALS.get(ended.code - 128, "")  # what a shell, or the sandbox, says of a process that a signal ended
    return f"[exit code {ended.code}{f': perhaps {inner}' if inner else ''}]"
