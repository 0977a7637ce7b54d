"""How a call can fail to have a reply, by what may be done next."""

from __future__ import annotations


class NotStarted(Exception):
    """The call did not reach the tool: it may be tried again, whatever the tool does."""


class Lost(Exception):
    """The connection ended during the call: nobody knows whether the tool did its work."""


class TimedOut(Exception):
    """The tool did not answer in time. It was told to stop; whether it did its work is not known."""

    def __init__(self, message: str, *, so_far: str = "") -> None:
        super().__init__(message)
        self.so_far = so_far
        """What it had said until then."""


class ConnectFailed(Exception):
    """No connection came about. The text goes into the server's status."""
