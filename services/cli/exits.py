"""How a command ends: the exit codes that scripts rely on, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process tells whoever started it."""

    OK = 0
    TASK_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNREACHABLE = 5
    CANCELLED = 6
    TIMED_OUT = 7
    INTERNAL = 70
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done; a task that was waited for has its answer",
    ExitCode.TASK_FAILED: "the task failed, or a check did",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.NOT_FOUND: "no such resource, task or dead letter",
    ExitCode.REFUSED: "a manifest or request is invalid, or contradicts what is there",
    ExitCode.UNREACHABLE: "the bus or the service that should answer cannot be reached",
    ExitCode.CANCELLED: "the task was cancelled",
    ExitCode.TIMED_OUT: "what was waited for did not happen in time",
    ExitCode.INTERNAL: "a defect of holdfast; please report it",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C); a task goes on without its watcher",
}


class Stop(Exception):
    """The command ends here. The text says what happened and what to do about it."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


def not_found(kind: str, namespace: str, name: str) -> Stop:
    """Nothing of that name; says how to list what there is."""
    return Stop(
        f"no {kind} {name!r} in namespace {namespace!r}: `holdfast get {kind.lower()} -n {namespace}` lists them",
        ExitCode.NOT_FOUND,
    )
