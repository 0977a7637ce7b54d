"""The gate: what every request passes before a handler sees it, and every answer before it leaves.

Sizes, rates and times are limited here, for all handlers alike. An answer tells nothing about how we are made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

from services.human_contact.core.rates import Rate, Rates
from services.human_contact.web.base import Handler, Received, Reply, Unfit, said
from services.runtime.egress import BadRule, Rules
from services.runtime.errors import Broken, RetryLater

if TYPE_CHECKING:
    from services.runtime.ports import Clock

logger = logging.getLogger(__name__)

BODY_BYTES_MAX = 512 * 1024
HEADERS_MAX = 64
PATH_LENGTH_MAX = 4_000
HANDLE_S = 10.0
"""How long a handler may take."""
EACH = Rate(per_s=50, burst=200)
"""One address: Slack's few servers speak for all of their users."""
EVERYBODY = Rate(per_s=500, burst=1000)
HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
"""On every answer."""


class Gate:
    """Passes requests on to the handler of the first part of their path."""

    def __init__(self, handlers: Mapping[str, Handler], clock: Clock, *, proxies: str = "") -> None:
        self._handlers = handlers
        self._clock = clock
        self._started = clock.now()
        self._rates = Rates(EACH, EVERYBODY, 0.0)
        try:
            self._proxies = Rules.of(entry for entry in proxies.split(",") if entry.strip())
        except BadRule as error:
            raise Broken(f"HOLDFAST_PEOPLE_PROXIES: {error}") from error

    def admit(self, peer: str, path: str, headers: Mapping[str, str], count: int) -> str:
        """Look at a request before its body is read: the address that it is counted for. Raises `Unfit`."""
        remote = self._remote(peer, headers.get("x-forwarded-for", ""))
        wait_s = self._rates.wait_s(remote, (self._clock.now() - self._started).total_seconds())
        if wait_s:
            raise Unfit(429, f"Too many requests; try again in {wait_s:.0f} s.")
        if count > HEADERS_MAX:
            raise Unfit(431, f"There are more than {HEADERS_MAX} header fields.")
        if len(path) > PATH_LENGTH_MAX:
            raise Unfit(414, "The address is too long.")
        return remote

    def holder(self, peer: str) -> str:
        """Whose a connection is counted as; empty: a proxy's of ours, which holds those of many."""
        return "" if self._trusted(peer) else _counted(peer)

    async def answer(self, received: Received) -> Reply:
        """The answer to a request that was admitted. Raises only what is a mistake of ours."""
        name = received.path.strip("/").split("/", 1)[0]
        handler = self._handlers.get(name)
        if handler is None:
            return said(404, "There is nothing here.")
        try:
            async with asyncio.timeout(HANDLE_S):
                return await handler(received)
        except Unfit as unfit:
            return said(unfit.status, str(unfit))
        except TimeoutError:
            logger.warning("a request below /%s took too long", name, extra={"action": "inbound.timeout"})
        except RetryLater as error:
            logger.warning("a request below /%s was not done: %s", name, error, extra={"action": "inbound.unavailable"})
        return said(503, "This cannot be done just now. Try again in a moment.")

    def _remote(self, peer: str, forwarded: str) -> str:
        """Who asks: the peer, or whom a proxy of ours speaks for."""
        if self._trusted(peer):
            for address in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
                if not self._trusted(address):
                    return _counted(address)
        return _counted(peer)

    def _trusted(self, address: str) -> bool:
        try:
            return self._proxies.hold(ip_address(address))
        except ValueError:
            return False


def _counted(address: str) -> str:
    """What an address is counted as: one customer has a whole IPv6 network."""
    try:
        one = ip_address(address)
    except ValueError:
        return address[:64]
    if not isinstance(one, IPv6Address):
        return str(one)
    return str(one.ipv4_mapped or ip_network((one.packed[:8] + bytes(8), 64)))
