"""Access tokens of Google Cloud out of a service account's key, which is what a Vertex secret holds.

The key signs a short statement of who asks; Google's token endpoint gives a token for about an hour in return. A secret
that is no key file is taken for a token itself, refreshed by whoever mounts it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import httpx2
import jwt
import msgspec

from services.llm_gateway.core.calls import CallFailed
from services.llm_gateway.core.endpoints import BadSpec
from services.llm_gateway.core.failures import http_failure, network_failure
from services.llm_gateway.providers.words import said
from services.runtime.ports import Clock

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_S = 600
"""How long a statement is good for."""
MARGIN_S = 120.0
"""A token is replaced this long before it ends, so that none ends on its way."""
TIMEOUT_S = 15.0
OK = 200


class ServiceAccountKey(msgspec.Struct, frozen=True):
    """What a key file says."""

    client_email: str
    private_key: str
    token_uri: str
    private_key_id: str = ""


class _Granted(msgspec.Struct):
    access_token: str
    expires_in: float = 3600.0


def service_account_key(secret: str) -> ServiceAccountKey | None:
    """The key in a secret, or None if the secret is no key file; raises `BadSpec` for one that is not whole."""
    if not secret.lstrip().startswith("{"):
        return None
    try:
        return msgspec.json.decode(secret, type=ServiceAccountKey)
    except msgspec.DecodeError as error:
        raise BadSpec(f"the secret is no key file of a service account: {error}") from error


class GoogleToken:
    """A token that is replaced before it ends."""

    def __init__(self, key: ServiceAccountKey, clock: Clock) -> None:
        self._key = key
        self._clock = clock
        self._token = ""
        self._good_until: datetime | None = None

    async def __call__(self) -> str:
        """The token; raises `CallFailed`."""
        if self._good_until is None or self._clock.now() >= self._good_until:
            granted = await self._ask()
            self._token = granted.access_token
            self._good_until = self._clock.now() + timedelta(seconds=granted.expires_in - MARGIN_S)
        return self._token

    async def _ask(self) -> _Granted:
        try:
            form = {"grant_type": GRANT, "assertion": self._assertion()}
            async with httpx2.AsyncClient(timeout=TIMEOUT_S) as client:
                response = await client.post(self._key.token_uri, data=form)
            if response.status_code != OK:
                found = said(_body(response), self._key.private_key)
                raise CallFailed(http_failure("google", response.status_code, found.words, codes=found.codes))
            return msgspec.json.decode(response.content, type=_Granted)
        except (httpx2.HTTPError, httpx2.InvalidURL, msgspec.DecodeError) as error:
            words = f"no token from {self._key.token_uri} ({type(error).__name__}: {error})"
            raise CallFailed(network_failure("google", words)) from error

    def _assertion(self) -> str:
        now = int(self._clock.now().timestamp())
        claims = {
            "iss": self._key.client_email,
            "scope": SCOPE,
            "aud": self._key.token_uri,
            "iat": now,
            "exp": now + ASSERTION_S,
        }
        headers = {"kid": self._key.private_key_id} if self._key.private_key_id else None
        try:
            return jwt.encode(claims, self._key.private_key, algorithm="RS256", headers=headers)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise CallFailed(http_failure("google", 401, "the key in the secret cannot sign")) from error


def _body(response: httpx2.Response) -> object:
    try:
        body: object = msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        return response.text
    return body
