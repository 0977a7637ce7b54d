"""From a manifest to what is started: checked, and with its secrets resolved."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from schemas.resources import EnvVar, MCPServerSpec
from services.runtime.secrets import SecretMissing, Secrets

REDACTED = "[secret]"
REDACTED_LENGTH_MIN = 4
"""Values shorter than this are not looked for in a server's words about itself."""
REDACTED_IN_RESULTS_LENGTH_MIN = 12
"""Values shorter than this are left in tools' results: they may be ordinary words."""


class Invalid(Exception):
    """The manifest, or a secret that it names, does not let the server start. The text goes into its status."""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to start a server and talk to it. It holds secrets; its text form does not show them."""

    command: tuple[str, ...] = ()
    """Program and arguments; empty for a server that is reached by URL."""
    env: Mapping[str, str] = {}
    url: str = ""
    headers: Mapping[str, str] = {}
    read_timeout_s: float = 300.0
    """Longest silence of an HTTP server while it answers."""
    concurrency: int = 16
    secrets: tuple[str, ...] = ()
    """The values that must not be repeated, the longest first."""

    def __repr__(self) -> str:
        return f"Launch({self.url or self.command[0]})"

    def redact(self, text: str) -> str:
        """What a server says of itself, without the secrets it was given."""
        return self._without(text, REDACTED_LENGTH_MIN)

    def redact_result(self, text: str) -> str:
        """What a tool returned, without the secrets its server was given: a model may ask for its environment."""
        return self._without(text, REDACTED_IN_RESULTS_LENGTH_MIN)

    def _without(self, text: str, length_min: int) -> str:
        for value in self.secrets:
            if len(value) >= length_min:
                text = text.replace(value, REDACTED)
        return text


def launch_of(spec: MCPServerSpec, secrets: Secrets) -> Launch:
    """What a manifest starts; raises `Invalid`."""
    _check(spec)
    hidden: list[str] = []
    env = _values(spec.env, secrets, hidden)
    headers = _values(spec.headers, secrets, hidden)
    longest_s = max((spec.timeout_s, *(policy.timeout_s or 0.0 for policy in spec.policies)))
    return Launch(
        command=(spec.command, *spec.args) if spec.transport == "stdio" else (),
        env=env if spec.transport == "stdio" else {},
        url=spec.url if spec.transport == "http" else "",
        headers=headers if spec.transport == "http" else {},
        read_timeout_s=max(300.0, 2 * longest_s + 60),
        concurrency=spec.concurrency,
        secrets=tuple(sorted(hidden, key=len, reverse=True)),
    )


def _check(spec: MCPServerSpec) -> None:
    if spec.transport == "stdio" and not spec.command:
        raise Invalid("command is required for stdio transport")
    if spec.transport == "http" and not spec.url:
        raise Invalid("url is required for http transport")
    if spec.transport == "http" and not spec.url.startswith(("http://", "https://")):
        raise Invalid(f"url must begin with http:// or https://, got {spec.url[:80]!r}")
    if any("\0" in word for word in (spec.command, *spec.args)):
        raise Invalid("command and args must not hold NUL characters")
    if spec.concurrency < 1:
        raise Invalid(f"concurrency must be at least 1, got {spec.concurrency}")
    if spec.timeout_s <= 0 or any(policy.timeout_s is not None and policy.timeout_s <= 0 for policy in spec.policies):
        raise Invalid("timeoutSeconds must be greater than 0")
    if spec.approval_contact_channel is not None:
        raise Invalid(
            "approvalContactChannel is set, and this version cannot ask for approvals; "
            "without it the tools of this server would run unapproved"
        )


def _values(variables: tuple[EnvVar, ...], secrets: Secrets, hidden: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for variable in variables:
        value = variable.value
        if variable.value_from is not None:
            try:
                value = secrets.get(variable.value_from.secret_key_ref)
            except SecretMissing as error:
                raise Invalid(str(error)) from error
            hidden.append(value)
        if "\0" in variable.name + value or "=" in variable.name or not variable.name:
            raise Invalid(f"{variable.name!r} cannot be the name of a variable or header, or its value is not text")
        values[variable.name] = value
    return values
