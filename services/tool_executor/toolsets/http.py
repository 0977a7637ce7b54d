"""Requests to the network, through the guard (`services/runtime/egress.py`), which judges each redirect anew.

What comes back is bounded, also when it is compressed; what the tool sends along by configuration goes to the hosts it
was meant for, and never along with a redirect to another place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import msgspec

from schemas.messages import image_type
from schemas.resources import HTTPOptions
from services.runtime.egress import BadRule, Egress, EgressRefused, Resolve, Rules, look_up
from services.runtime.egress_http import GuardedTransport
from services.runtime.redaction import redact
from services.tool_executor.core.content import text_of
from services.tool_executor.core.results import Reply
from services.tool_executor.mcp.errors import Lost
from services.tool_executor.toolsets.job import CannotRun, Job, image, words

CONNECT_S = 10.0
"""How long one address is tried. The whole call is bounded by whoever makes it."""
REDIRECTS_MAX = 5
URL_LENGTH_MAX = 8000
HEADER_LENGTH_MAX = 1000
SAFE = ("GET", "HEAD", "OPTIONS")
REFUSED_HEADERS = frozenset(
    {
        *("accept-encoding", "connection", "content-length", "expect", "host", "idempotency-key", "keep-alive"),
        *("proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)
"""What a model may not say for itself: they steer the connection, not the request."""
PRIVATE_HEADERS = frozenset({"authorization", "cookie", "x-api-key", "api-key"})
"""What a model said to one host, and another must not hear."""
SHOWN_HEADERS = frozenset(
    {
        *("allow", "cache-control", "content-language", "content-length", "content-type", "date", "etag", "expires"),
        *("last-modified", "link", "location", "retry-after", "www-authenticate", "x-request-id"),
    }
)


class Requester(msgspec.Struct, frozen=True, kw_only=True):
    """How the requests of one toolset are made."""

    options: HTTPOptions
    headers: Mapping[str, str]
    """Sent to hosts in `only`: by https, or by http if the host is in `allow`, too."""
    secrets: tuple[str, ...]
    egress: Egress


def egress_of(options: HTTPOptions, resolve: Resolve = look_up) -> Egress:
    """The guard that a manifest describes. Raises `CannotRun`."""
    try:
        return Egress(Rules.of(options.allow), Rules.of(options.only), resolve=resolve)
    except BadRule as error:
        raise CannotRun(f"http: {error}") from error


async def run_request(requester: Requester, job: Job) -> Reply:
    """The tool `request`. Raises `CannotRun` and `Lost`."""
    method = str(job.arguments.get("method", requester.options.methods[0]))
    try:
        request = _request(requester, method, job)
        async with httpx2.AsyncClient(
            transport=GuardedTransport(requester.egress),
            timeout=httpx2.Timeout(None, connect=CONNECT_S),
            trust_env=False,
            follow_redirects=False,
        ) as client:
            return await _answer(client, requester, request)
    except EgressRefused as error:
        raise CannotRun(f"The request was refused: {error}.") from error
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise CannotRun(f"No connection came about: {_say(error)}") from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, UnicodeError) as error:
        raise CannotRun(f"The request cannot be made: {_say(error)}") from error
    except httpx2.DecodingError as error:
        raise CannotRun(f"The answer cannot be unpacked: {_say(error)}") from error
    except httpx2.HTTPError as error:
        raise Lost(f"the exchange was cut off: {_say(error)}") from error


def _request(requester: Requester, method: str, job: Job) -> httpx2.Request:
    url = str(job.arguments["url"])
    if len(url) > URL_LENGTH_MAX:
        raise CannotRun(f"The address has {len(url)} characters; {URL_LENGTH_MAX} at most.")
    if method not in requester.options.methods:
        raise CannotRun(f"The method {method!r} is not allowed; these are: {', '.join(requester.options.methods)}.")
    asked: dict[str, str] = {str(name): str(value) for name, value in job.arguments.get("headers", {}).items()}
    for name in asked:
        if name.lower() in REFUSED_HEADERS:
            raise CannotRun(f"The header {name!r} cannot be set; it is set where that is needed.")
    parsed = httpx2.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise CannotRun(f"{url[:200]!r} is not an http or https address.")
    headers = httpx2.Headers({"User-Agent": "holdfast", "Accept": "*/*", **asked, "Accept-Encoding": "identity"})
    if job.key and method not in SAFE:
        headers["Idempotency-Key"] = f'"{job.key}"'
    host = _host(parsed)
    if requester.egress.is_only(host) and (parsed.scheme == "https" or requester.egress.is_allowed(host)):
        headers.update(requester.headers)
    content: Any = job.arguments.get("body")
    return httpx2.Request(method, parsed, headers=headers, content=None if content is None else str(content))


async def _answer(client: httpx2.AsyncClient, requester: Requester, request: httpx2.Request) -> Reply:
    """Send a request and follow where it is sent on, a bounded number of times."""
    for _ in range(REDIRECTS_MAX + 1):
        response = await client.send(request, stream=True)
        try:
            onward = _onward(requester, request, response)
            if onward is None:
                data, more = await _body(response, requester.options.response_bytes)
                return _reply(requester, response, data, more=more)
        finally:
            await response.aclose()
        request = onward
    raise CannotRun(f"The request was sent on more than {REDIRECTS_MAX} times; the last time to {request.url}.")


def _onward(requester: Requester, request: httpx2.Request, response: httpx2.Response) -> httpx2.Request | None:
    """The request that a redirect asks for; None if the answer is no redirect that can be followed."""
    if not response.has_redirect_location:
        return None
    target = request.url.join(response.headers["location"])
    method, content = request.method, request.content
    if (response.status_code == 303 and method != "HEAD") or (response.status_code in (301, 302) and method == "POST"):
        method, content = "GET", b""
    if method not in requester.options.methods:
        return None
    gone = {"host", "content-length"}
    if not content:
        gone |= {"content-type", "idempotency-key"}
    if _origin(target) != _origin(request.url):
        gone |= PRIVATE_HEADERS | {name.lower() for name in requester.headers}
    headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() not in gone]
    return httpx2.Request(method, target, headers=headers, content=content or None)


async def _body(response: httpx2.Response, limit: int) -> tuple[bytes, bool]:
    """As much of the answer as is wanted, unpacked piece by piece, and whether there is more."""
    data = bytearray()
    async for piece in response.aiter_bytes(65536):
        data += piece
        if len(data) > limit:
            return bytes(data[:limit]), True
    return bytes(data), False


def _reply(requester: Requester, response: httpx2.Response, data: bytes, *, more: bool) -> Reply:
    lines = [f"HTTP {response.status_code} {response.reason_phrase}".rstrip(), f"url: {response.request.url}"]
    for name, value in response.headers.multi_items():
        if name.lower() in SHOWN_HEADERS or name.lower().startswith(("x-ratelimit-", "ratelimit")):
            lines.append(f"{name.lower()}: {value[:HEADER_LENGTH_MAX]}")
    about = redact("\n".join(lines), requester.secrets)
    bad = response.status_code >= 400
    if (kind := image_type(data)) and not more:
        return image(data, kind, about=about, is_error=bad)
    text = text_of(data, response.charset_encoding or "")
    if text is None:
        body = f"[not text: {len(data)} bytes{' and more' if more else ''}]"
    else:
        body = redact(text, requester.secrets)
    if more:
        body += f"\n[... the answer is longer than the {requester.options.response_bytes} bytes that are read ...]"
    return words(f"{about}\n\n{body}", is_error=bad)


def _host(url: httpx2.URL) -> str:
    return url.raw_host.decode("ascii").lower().rstrip(".")


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, _host(url), url.port


def _say(error: Exception) -> str:
    return f"{error or type(error).__name__}"[:500]
