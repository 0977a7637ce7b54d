"""Three roots, by what the caller does next.

    RetryLater   transient: the consumer hands the message back with a delay
    Refused      permanent and understood: whoever asked is told; becomes an event or a reply
    Broken       an invariant of ours does not hold: dead letter, and somebody looks

Subclasses exist only where somebody catches them.
"""

from __future__ import annotations


class RetryLater(Exception):
    """Something transient is in the way; try again after `after_s` seconds."""

    def __init__(self, message: str, *, after_s: float = 1.0) -> None:
        super().__init__(message)
        self.after_s = after_s


class Refused(Exception):
    """The request cannot be done, and doing it again would not help. `code` is from a closed set of the caller's."""

    def __init__(self, message: str, *, code: str = "invalid") -> None:
        super().__init__(message)
        self.code = code


class Broken(Exception):
    """An invariant of ours does not hold."""


class Conflict(Exception):
    """The subject is not at the expected sequence any more: load it and decide again."""


class Unavailable(RetryLater):
    """The bus does not answer now."""


class KeyMissing(Unavailable):
    """Something is encrypted with a key that this process does not have. The text says which one, and for whom."""


class Unheard(Unavailable):
    """The bus says that nobody listens there: a process that did is not connected any more."""
