"""Secret values: resolved here, by the process that uses them, and never sent anywhere.

`secretKeyRef: {name, key}` is the file `<secrets_dir>/<name>/<key>` if there is a secrets directory, or else the
environment variable `HOLDFAST_SECRET_<NAME>_<KEY>`, or else the variable `<KEY>` itself when the key is written as
one (`OPENAI_API_KEY`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from schemas.ids import digest
from schemas.resources import SecretKeyRef

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
SECRET_PREFIX = "HOLDFAST_SECRET_"  # noqa: S105 - the name of variables, not a secret
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*_(KEY|TOKEN|SECRET|PASSWORD)")


class SecretMissing(LookupError):
    """A secret or a key of it is not there. The text says where it was looked for, never a value."""


class Secrets:
    """The secrets that this process can read."""

    def __init__(self, directory: str, environ: Mapping[str, str]) -> None:
        self._directory = Path(directory) if directory else None
        self._environ = environ
        self._given: set[str] = set()

    @property
    def given(self) -> frozenset[str]:
        """All values that were asked for so far: what must not be seen in anything that leaves this process."""
        return frozenset(self._given)

    def get(self, ref: SecretKeyRef) -> str:
        """The value; raises `SecretMissing`. Read anew at every call, so that a rotation is seen."""
        value = self._get(ref)
        self._given.add(value)
        return value

    def _get(self, ref: SecretKeyRef) -> str:
        if not _SAFE.fullmatch(ref.name) or not _SAFE.fullmatch(ref.key):
            raise SecretMissing(f"failed to get secret: {ref.name!r}/{ref.key!r} is not the name of one")
        if self._directory is not None:
            path = self._directory / ref.name / ref.key
            try:
                return path.read_text().strip("\r\n")
            except FileNotFoundError:
                pass
            except (OSError, UnicodeDecodeError) as error:
                raise SecretMissing(
                    f"failed to get secret {ref.name!r}: {path} cannot be read ({type(error).__name__})"
                ) from error
        variable = secret_variable(ref)
        if (value := self._environ.get(variable)) is not None:
            return value
        if _VARIABLE.fullmatch(ref.key) and (value := self._environ.get(ref.key)) is not None:
            return value
        where = (
            f"no file {self._directory / ref.name / ref.key}" if self._directory else "HOLDFAST_SECRETS_DIR is not set"
        )
        raise SecretMissing(
            f"failed to get secret: key {ref.key!r} not found in secret {ref.name!r} ({where}, no variable {variable})"
        )

    def fingerprint(self, ref: SecretKeyRef) -> str:
        """Changes when the value does, and does not tell it; empty when it is missing."""
        try:
            return digest("holdfast-secret", self.get(ref))[:16]
        except SecretMissing:
            return ""


def secret_variable(ref: SecretKeyRef) -> str:
    """The variable that stands for a key of a secret: `HOLDFAST_SECRET_<NAME>_<KEY>`, in upper case."""
    return SECRET_PREFIX + re.sub(r"[^A-Z0-9]", "_", f"{ref.name}_{ref.key}".upper())
