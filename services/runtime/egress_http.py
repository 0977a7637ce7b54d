"""HTTP through the guard: each request is connected to an address that was judged for it, and to no other."""

from __future__ import annotations

import ssl
from functools import cache

import httpx2

from services.runtime.egress import Egress, EgressRefused


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Sends requests to hosts that the guard lets through. Certificates are checked for the name that was asked for.

    It keeps no connection: the next request is judged anew. Raises `EgressRefused` beside what httpx2 raises.
    """

    def __init__(self, egress: Egress, *, trust: ssl.SSLContext | None = None) -> None:
        self._egress = egress
        limits = httpx2.Limits(max_keepalive_connections=0)
        self._inner = httpx2.AsyncHTTPTransport(verify=trust or default_trust(), trust_env=False, limits=limits)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request."""
        url = request.url
        if url.scheme not in ("http", "https"):
            raise EgressRefused(f"{url.scheme!r} is not http or https")
        host = url.raw_host.decode("ascii")
        try:
            addresses = await self._egress.addresses(host, url.port or (443 if url.scheme == "https" else 80))
        except OSError as error:
            raise httpx2.ConnectError(f"{host} was not found: {error}", request=request) from error
        failure: httpx2.TransportError | None = None
        for address in addresses:
            try:
                return await self._inner.handle_async_request(_pinned(request, host, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failure = error  # nothing was sent: the next address may answer
        assert failure is not None
        raise failure

    async def aclose(self) -> None:
        """Close what is open."""
        await self._inner.aclose()


def _pinned(request: httpx2.Request, host: str, address: str) -> httpx2.Request:
    """The same request, to an address. It keeps the header `Host`, and the name that the certificate must have."""
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )


@cache
def default_trust() -> ssl.SSLContext:
    """The authorities that are trusted; read once, which takes a moment."""
    return httpx2.create_ssl_context(trust_env=False)
