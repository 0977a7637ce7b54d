"""A child that does not outlive its parent, even when the parent is killed.

`leashed(command)` is a command that asks the kernel for a signal at its parent's death and then becomes `command`. It
must be started from the parent's main thread, because what the kernel watches is the thread. Run as a script, with
nothing imported but the standard library, so that it costs some ten milliseconds.

Only Linux has this; elsewhere the command is run as it is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def leashed(command: Sequence[str], *, ends_by: signal.Signals = signal.SIGKILL) -> list[str]:
    """`command`, ending by `ends_by` when this process is gone."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(ends_by)), *command]


def main(arguments: Sequence[str]) -> None:
    """Put the leash on and become the command."""
    parent, number, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):
        sys.exit("the parent is gone already")
    os.execvp(command[0], command)  # noqa: S606 - becoming the command is what this is for


if __name__ == "__main__":
    main(sys.argv[1:])
