"""From a manifest to what is started: checked, and with its secrets resolved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from schemas.resources import EnvVar, MCPServerSpec, OAuthClient, SecretSource
from services.runtime.secrets import SecretMissing, Secrets

REDACTED = "[secret]"
REDACTED_LENGTH_MIN = 4
"""Values shorter than this are not looked for in a server's words about itself."""
REDACTED_IN_RESULTS_LENGTH_MIN = 12
"""Values shorter than this are left in tools' results: they may be ordinary words."""

ASK_TIMEOUT_S_MAX = 7 * 24 * 3600.0
"""Longest wait for a person: a call holds its place, its server and its message all the time."""


class Invalid(Exception):
    """The manifest, or a secret that it names, does not let the server start. The text goes into its status."""


class SignIn(msgspec.Struct, frozen=True, kw_only=True):
    """How to get a token by the client credentials grant."""

    client_id: str
    client_secret: str
    scopes: tuple[str, ...] = ()
    token_url: str = ""
    method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"


class Redactor:
    """Knows the values that must not be repeated, also those that a server is given while it runs."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted(set(secrets), key=len, reverse=True)

    def add(self, secret: str) -> None:
        """One more."""
        if secret not in self._secrets:
            self._secrets = sorted((*self._secrets, secret), key=len, reverse=True)

    def words(self, text: str) -> str:
        """What a server says of itself, without secrets."""
        return self._without(text, REDACTED_LENGTH_MIN)

    def result(self, text: str) -> str:
        """What a tool returned, without secrets: a model may ask for its server's environment."""
        return self._without(text, REDACTED_IN_RESULTS_LENGTH_MIN)

    def _without(self, text: str, length_min: int) -> str:
        for value in self._secrets:
            if len(value) >= length_min:
                text = text.replace(value, REDACTED)
        return text


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
    """The values that must not be repeated."""
    sse: bool = False
    """The URL is of the older transport."""
    sign_in: SignIn | None = None
    asks: bool = True
    """It may ask people while a call runs."""
    ask_timeout_s: float = 300.0
    """How long they may take."""

    def __repr__(self) -> str:
        return f"Launch({self.url or self.command[0]})"


def launch_of(spec: MCPServerSpec, secrets: Secrets) -> Launch:
    """What a manifest starts; raises `Invalid`."""
    _check(spec)
    hidden: list[str] = []
    env = _values(spec.env, secrets, hidden) if spec.transport == "stdio" else {}
    longest_s = max((spec.timeout_s, *(policy.timeout_s or 0.0 for policy in spec.policies)))
    read_timeout_s = max(300.0, 2 * longest_s + 60, longest_s + spec.elicitation_timeout_s + 60)
    if spec.transport == "stdio":
        return Launch(
            command=(spec.command, *spec.args),
            env=env,
            concurrency=spec.concurrency,
            secrets=tuple(hidden),
            asks=spec.elicitation,
            ask_timeout_s=spec.elicitation_timeout_s,
        )
    headers = _values(spec.headers, secrets, hidden)
    if spec.bearer_from is not None:
        headers["Authorization"] = f"Bearer {_secret(spec.bearer_from, secrets, hidden)}"
    sign_in = _sign_in(spec.oauth, secrets, hidden) if spec.oauth is not None else None
    return Launch(
        url=spec.url,
        headers=headers,
        sse=spec.transport == "sse",
        sign_in=sign_in,
        read_timeout_s=read_timeout_s,
        concurrency=spec.concurrency,
        secrets=tuple(hidden),
        asks=spec.elicitation,
        ask_timeout_s=spec.elicitation_timeout_s,
    )


def _sign_in(client: OAuthClient, secrets: Secrets, hidden: list[str]) -> SignIn:
    return SignIn(
        client_id=client.client_id,
        client_secret=_secret(client.client_secret_from, secrets, hidden),
        scopes=client.scopes,
        token_url=client.token_url,
        method=client.token_endpoint_auth,
    )


def _check(spec: MCPServerSpec) -> None:
    if spec.transport == "stdio":
        _check_command(spec)
    else:
        _check_url(spec)
    if spec.concurrency < 1:
        raise Invalid(f"concurrency must be at least 1, got {spec.concurrency}")
    if spec.timeout_s <= 0 or any(policy.timeout_s is not None and policy.timeout_s <= 0 for policy in spec.policies):
        raise Invalid("timeoutSeconds must be greater than 0")
    if not 0 < spec.elicitation_timeout_s <= ASK_TIMEOUT_S_MAX:
        raise Invalid(f"elicitationTimeoutSeconds must be greater than 0 and {ASK_TIMEOUT_S_MAX:.0f} at most")


def _check_command(spec: MCPServerSpec) -> None:
    if not spec.command:
        raise Invalid("command is required for stdio transport")
    if any("\0" in word for word in (spec.command, *spec.args)):
        raise Invalid("command and args must not hold NUL characters")
    if spec.bearer_from is not None or spec.oauth is not None:
        raise Invalid("bearerFrom and oauth are for servers that are reached by url; give a process its secrets in env")


def _check_url(spec: MCPServerSpec) -> None:
    if not spec.url:
        raise Invalid(f"url is required for {spec.transport} transport")
    if not spec.url.startswith(("http://", "https://")):
        raise Invalid(f"url must begin with http:// or https://, got {spec.url[:80]!r}")
    named = any(header.name.lower() == "authorization" for header in spec.headers)
    if (spec.bearer_from is not None) + (spec.oauth is not None) + named > 1:
        raise Invalid("bearerFrom, oauth and an Authorization header say the same thing; give one of them")
    if spec.oauth is not None and not spec.oauth.client_id:
        raise Invalid("oauth.clientId is required")
    if spec.oauth is not None and spec.oauth.token_url and not spec.oauth.token_url.startswith(("http://", "https://")):
        raise Invalid(f"oauth.tokenUrl must begin with http:// or https://, got {spec.oauth.token_url[:80]!r}")


def _values(variables: tuple[EnvVar, ...], secrets: Secrets, hidden: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for variable in variables:
        value = variable.value
        if variable.value_from is not None:
            value = _secret(variable.value_from, secrets, hidden)
        if "\0" in variable.name + value or "=" in variable.name or not variable.name:
            raise Invalid(f"{variable.name!r} cannot be the name of a variable or header, or its value is not text")
        values[variable.name] = value
    return values


def _secret(source: SecretSource, secrets: Secrets, hidden: list[str]) -> str:
    try:
        value = secrets.get(source.secret_key_ref)
    except SecretMissing as error:
        raise Invalid(str(error)) from error
    hidden.append(value)
    return value
