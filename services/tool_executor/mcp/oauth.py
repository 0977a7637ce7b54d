"""Signing in to an HTTP server by OAuth 2's client credentials grant.

Where the token comes from is found as MCP's authorization specification has it: the server's refusal names its
metadata, that names its authorization server, and the metadata of that names the token endpoint; or the manifest says.
The token is kept, fetched anew before it expires, and once more when the server refuses it.

The SDK has a provider of this grant. It holds a lock from a request's first byte to its answer's, so that a slow tool
would hold up every other call of its server; it takes the scopes from the server and not from the manifest; and it
cannot be told a token endpoint. Its parts, which find and judge the metadata, are used here.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
import msgspec
from mcp.client.auth.utils import (
    build_oauth_authorization_server_metadata_discovery_urls,
    build_protected_resource_metadata_discovery_urls,
    extract_field_from_www_auth,
    extract_resource_metadata_from_www_auth,
    extract_scope_from_www_auth,
    union_scopes,
)
from mcp.shared.auth_utils import check_resource_allowed, resource_url_from_server_url

from services.tool_executor.mcp.http import answered, bound
from services.tool_executor.mcp.launch import Redactor, SignIn

logger = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT_S = 10.0
"""Of one request to an authorization server."""
DOCUMENT_BYTES_MAX = 256 * 1024
MARGIN_S = 60.0
"""A token is fetched anew this long before it expires, or after nine tenths of its life if that is later."""
LIFE_S = 3600.0
"""Of a token that does not say when it expires."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SignInFailed(httpx2.TransportError):
    """There is no token. The text says why, and holds no secret."""


class _Resource(msgspec.Struct):
    resource: str = ""
    authorization_servers: list[str] = []
    scopes_supported: list[str] | None = None


class _Issuer(msgspec.Struct):
    issuer: str
    token_endpoint: str = ""


class _Granted(msgspec.Struct):
    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - a kind of token
    expires_in: float | None = None


class _Refused(msgspec.Struct):
    error: str = ""
    error_description: str = ""


class _Token(msgspec.Struct, frozen=True):
    value: str
    fresh_until: float


class ClientCredentials(httpx2.Auth):
    """Adds a token to the requests to one server."""

    def __init__(self, server_url: str, sign_in: SignIn, redactor: Redactor) -> None:
        self._server_url = server_url
        self._sign_in = sign_in
        self._redactor = redactor
        self._token: _Token | None = None
        self._endpoint = sign_in.token_url
        self._resource = resource_url_from_server_url(server_url)
        self._scope = " ".join(sign_in.scopes)
        self._lock = asyncio.Lock()

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Send a request with a token; if it is refused, once more with a new one."""
        sent = await self._fresh()
        if sent:
            request.headers["Authorization"] = f"Bearer {sent.value}"
        response = yield request
        lacks_scope = response.status_code == 403 and _lacks_scope(response)
        if response.status_code != 401 and not (lacks_scope and not self._sign_in.scopes):
            return
        token = await self._renewed(sent, response)
        request.headers["Authorization"] = f"Bearer {token.value}"
        yield request

    async def _fresh(self) -> _Token | None:
        """A token that is not about to expire; None if nobody has said yet where one is to be had."""
        if not self._endpoint:
            return None
        async with self._lock:
            if self._token is None or _now() >= self._token.fresh_until:
                self._token = await self._said(self._fetch())
            return self._token

    async def _renewed(self, refused: _Token | None, response: httpx2.Response) -> _Token:
        """Another token than the one that was refused."""
        async with self._lock:
            if self._token is None or self._token == refused:
                self._token = None
                self._token = await self._said(self._start_over(response))
            return self._token

    async def _start_over(self, response: httpx2.Response) -> _Token:
        if not self._sign_in.token_url:
            await self._discover(response)
        return await self._fetch()

    async def _said(self, fetching: Coroutine[Any, Any, _Token]) -> _Token:
        """A new token; if there is none, that is noted for the call that it was for."""
        try:
            return await fetching
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, ValueError) as error:  # addresses may be none
            why = self._redactor.words(f"signing in failed: {str(error) or type(error).__name__}")
            if (note := answered.get()) is not None:
                note.not_signed_in = why
            raise SignInFailed(why) from error

    # --- where tokens come from ---

    async def _discover(self, refusal: httpx2.Response) -> None:
        """Find the token endpoint from the server's refusal on."""
        async with _client() as client:
            resource = await self._find_resource(client, refusal)
            server = resource.authorization_servers[0] if resource.authorization_servers else None
            endpoint = await self._find_endpoint(client, server)
        if resource.resource:
            self._resource = resource.resource
        if not self._sign_in.scopes:
            asked = extract_scope_from_www_auth(refusal)
            if refusal.status_code == 403:
                asked = union_scopes(self._scope, asked)
            self._scope = asked if asked is not None else " ".join(resource.scopes_supported or ())
        self._endpoint = endpoint

    async def _find_resource(self, client: httpx2.AsyncClient, refusal: httpx2.Response) -> _Resource:
        named = extract_resource_metadata_from_www_auth(refusal)
        for url in build_protected_resource_metadata_discovery_urls(named, self._server_url):
            found = _decoded(await _get(client, url), _Resource)
            if found is None:
                continue
            if found.resource and not check_resource_allowed(self._resource, found.resource):
                raise SignInFailed(f"{url} is about {found.resource[:200]!r} and not about {self._resource!r}")
            return found
        return _Resource()

    async def _find_endpoint(self, client: httpx2.AsyncClient, server: str | None) -> str:
        urls = build_oauth_authorization_server_metadata_discovery_urls(server, self._server_url)
        for url in urls:
            found = _decoded(await _get(client, url), _Issuer)
            if found is None:
                continue
            if server is not None and found.issuer.rstrip("/") != server.rstrip("/"):
                raise SignInFailed(f"{url} is of issuer {found.issuer[:200]!r} and not of {server[:200]!r}")
            self._check_endpoint(found.token_endpoint)
            return found.token_endpoint
        raise SignInFailed(
            f"no authorization server was found at {urls[0]}; oauth.tokenUrl can name its token endpoint"
        )

    def _check_endpoint(self, url: str) -> None:
        """The client's secret goes nowhere in the clear, unless the server itself is spoken to so."""
        place = urlsplit(url)
        secure = place.scheme == "https" or place.hostname in LOOPBACK
        if not place.hostname or not (secure or (place.scheme == "http" and self._server_url.startswith("http:"))):
            raise SignInFailed(f"the token endpoint {url[:200]!r} is not an https address")

    async def _fetch(self) -> _Token:
        form = {"grant_type": "client_credentials", "resource": self._resource}
        if self._scope:
            form["scope"] = self._scope
        headers = {"Accept": "application/json"}
        sign_in = self._sign_in
        if sign_in.method == "client_secret_post":
            form |= {"client_id": sign_in.client_id, "client_secret": sign_in.client_secret}
        else:
            pair = f"{quote(sign_in.client_id, safe='')}:{quote(sign_in.client_secret, safe='')}"
            basic = b64encode(pair.encode()).decode()
            self._redactor.add(basic)
            headers["Authorization"] = f"Basic {basic}"
        async with _client() as client:
            response = await client.post(self._endpoint, data=form, headers=headers)
        granted = _decoded(response, _Granted)
        if granted is None or not granted.access_token:
            raise SignInFailed(_refusal(response))
        if granted.token_type.lower() != "bearer":
            raise SignInFailed(f"the token is of type {granted.token_type[:40]!r}; only Bearer is known")
        if not granted.access_token.isascii() or not granted.access_token.isprintable():
            raise SignInFailed("the token is not one that a header can hold")
        self._redactor.add(granted.access_token)
        life_s = max(granted.expires_in if granted.expires_in is not None else LIFE_S, 0.0)
        logger.info("signed in to %s for %.0f s", self._server_url, life_s, extra={"action": "mcp.signed-in"})
        return _Token(granted.access_token, _now() + life_s - min(MARGIN_S, life_s / 10))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _client() -> httpx2.AsyncClient:
    async def note(response: httpx2.Response) -> None:
        bound(response, DOCUMENT_BYTES_MAX)

    return httpx2.AsyncClient(
        headers={"Accept-Encoding": "identity"},
        timeout=TIMEOUT_S,
        event_hooks={"response": [note]},
        follow_redirects=False,
    )


async def _get(client: httpx2.AsyncClient, url: str) -> httpx2.Response:
    response = await client.get(url, headers={"Accept": "application/json"})
    if response.status_code >= 500 or response.status_code == 429:
        raise SignInFailed(f"{url} answered HTTP {response.status_code}")
    return response


def _decoded(response: httpx2.Response, kind: type[T]) -> T | None:
    if response.status_code != 200:
        return None
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.DecodeError:
        return None


def _refusal(response: httpx2.Response) -> str:
    try:
        said = msgspec.json.decode(response.content, type=_Refused)
    except msgspec.DecodeError:
        said = _Refused()
    words = ": ".join(filter(None, (said.error[:100], said.error_description[:300])))
    return f"the token endpoint {response.url} answered HTTP {response.status_code}{f' ({words})' if words else ''}"


def _lacks_scope(response: httpx2.Response) -> bool:
    return extract_field_from_www_auth(response, "error") == "insufficient_scope"
