"""The guard of requests to addresses that somebody else chose: a model, or whoever registers a webhook.

A name is resolved once, every address that it resolves to is judged, and the connection goes to an address that was
judged: nothing is looked up a second time. What is judged is the address as the machine will use it, so the many ways
to write one (decimal, octal, hexadecimal, IPv4 inside of IPv6) make no difference. Redirects are requests of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host and port; raises `OSError`."""

ADDRESSES_MAX = 16
"""Addresses of one name that are looked at."""
RESOLVE_S = 10.0

PRIVATE: tuple[tuple[str, str], ...] = (
    ("10.0.0.0/8", "a private address"),
    ("100.64.0.0/10", "an address that providers share among customers"),
    ("127.0.0.0/8", "a loopback address"),
    ("172.16.0.0/12", "a private address"),
    ("192.168.0.0/16", "a private address"),
    ("::1/128", "a loopback address"),
    ("fc00::/7", "a private address"),
)
"""What may be opened by a host's name."""
SPECIAL: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "an address that means this machine"),
    ("169.254.0.0/16", "a link-local address"),
    ("192.0.0.0/24", "a reserved address"),
    ("192.0.2.0/24", "a reserved address"),
    ("192.88.99.0/24", "a reserved address"),
    ("198.18.0.0/15", "a reserved address"),
    ("198.51.100.0/24", "a reserved address"),
    ("203.0.113.0/24", "a reserved address"),
    ("224.0.0.0/4", "a multicast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("::/128", "an address that means this machine"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a site-local address"),
    ("ff00::/8", "a multicast address"),
    ("2001::/23", "a reserved address"),
    ("2001:db8::/32", "a reserved address"),
    ("3fff::/20", "a reserved address"),
)
"""What is opened by address or network only: no name is worth that much trust."""
METADATA = (
    *("100.100.100.200", "168.63.129.16", "169.254.169.254", "169.254.170.2", "169.254.170.23", "192.0.0.192"),
    *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
)
"""Where clouds answer their machines' questions, credentials among them."""
EMBEDDING: tuple[tuple[str, int], ...] = (
    ("::ffff:0:0/96", 0),  # IPv4-mapped
    ("::ffff:0:0:0/96", 0),  # IPv4-translated
    ("64:ff9b::/96", 0),  # NAT64
    ("2002::/16", 80),  # 6to4
    ("::/96", 0),  # IPv4-compatible
)
"""IPv6 networks whose addresses lead to an IPv4 address, and how many bits follow that."""

_GLOBAL_V6 = IPv6Network("2000::/3")
_METADATA = frozenset(map(ip_address, METADATA))
_PRIVATE = tuple((ip_network(network), words) for network, words in PRIVATE)
_SPECIAL = tuple((ip_network(network), words) for network, words in SPECIAL)
_EMBEDDING = tuple((IPv6Network(network), shift) for network, shift in EMBEDDING)
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


class EgressRefused(Exception):
    """The guard does not let a request through. The text says why."""


class BadRule(ValueError):
    """What should allow a host or network is neither."""


def meant(address: Address) -> Address:
    """Where an address really leads: the IPv4 address that an IPv6 address carries, or itself."""
    if isinstance(address, IPv4Address):
        return address
    for network, shift in _EMBEDDING:
        if address in network and address.packed[:15] != bytes(15):
            return IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    return address


def objection(address: Address) -> tuple[str, bool]:
    """What speaks against an address, if anything, and whether a host's name may outweigh it."""
    address = meant(address)
    if address in _METADATA:
        return "where a cloud answers its machines' questions", False
    for network, words in _SPECIAL:
        if address in network:
            return words, False
    for network, words in _PRIVATE:
        if address in network:
            return words, True
    if isinstance(address, IPv6Address) and address not in _GLOBAL_V6:
        return "a reserved address", False
    return "", True


class Rules(msgspec.Struct, frozen=True):
    """Hosts, by name or pattern, and networks."""

    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[str]) -> Rules:
        """The rules in a manifest's words; raises `BadRule`."""
        hosts: list[str] = []
        networks: list[Network] = []
        for entry in entries:
            word = entry.strip().lower().rstrip(".")
            try:
                networks.append(ip_network(word, strict=False))
            except ValueError:
                if not _HOST.fullmatch(word):
                    raise BadRule(
                        f"{entry!r} is no host (api.example.com, *.example.com), address or network (10.0.0.0/8)"
                    ) from None
                hosts.append(word)
        return cls(tuple(hosts), tuple(networks))

    def name(self, host: str) -> bool:
        """Whether a host is named."""
        return any(host == one or (one.startswith("*.") and host.endswith(one[1:])) for one in self.hosts)

    def hold(self, address: Address) -> bool:
        """Whether an address is in one of the networks, as it is written or as it is meant."""
        return any(one in network for network in self.networks for one in (address, meant(address)))

    def __bool__(self) -> bool:
        return bool(self.hosts or self.networks)


async def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, by the machine's resolver."""
    async with asyncio.timeout(RESOLVE_S):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(place[0]) for _, _, _, _, place in found]


class Egress:
    """What may be reached. `allow` opens what is refused otherwise; `only`, if there is any, closes everything else."""

    def __init__(self, allow: Rules = Rules(), only: Rules = Rules(), *, resolve: Resolve = look_up) -> None:  # noqa: B008 - frozen
        self._allow = allow
        self._only = only
        self._resolve = resolve

    def why_not(self, host: str, address: Address) -> str:
        """Why a host may not be reached at an address; nothing if it may."""
        if self._only and not (self._only.name(host) or self._only.hold(address)):
            return "it is not among the hosts that this tool may ask"
        words, by_name = objection(address)
        if not words or self._allow.hold(address) or (by_name and self._allow.name(host)):
            return ""
        return f"it is at {address}, {words}"

    def is_only(self, host: str) -> bool:
        """Whether a host is one of the few that may be reached, by its name or by the address that it is."""
        return _named(self._only, host)

    def is_allowed(self, host: str) -> bool:
        """Whether an operator has named a host, or the address that it is, to be reached though it is private."""
        return _named(self._allow, host)

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses at which a host may be reached. Raises `EgressRefused`, and `OSError` if it has none."""
        host = host.lower().rstrip(".")
        if not host or "%" in host:
            raise EgressRefused(f"{host!r} is not a host")
        try:
            found = list(dict.fromkeys(await self._resolve(host, port)))[:ADDRESSES_MAX]
        except (OverflowError, UnicodeError) as error:
            raise EgressRefused(f"{host[:80]!r} is not a host, or {port} no port") from error
        if not found:
            raise OSError(f"{host} has no address")
        judged = {address: self.why_not(host, _parsed(address)) for address in found}
        permitted = [address for address, why in judged.items() if not why]
        if not permitted:
            raise EgressRefused(f"{host} may not be reached: {next(iter(judged.values()))}")
        return permitted


def dial(addresses: Sequence[str], port: int, timeout_s: float) -> socket.socket:
    """A connection to the first of the addresses that were judged that takes one. It blocks; raises `OSError`."""
    failure: OSError | None = None
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout_s)
        except OSError as error:
            failure = error
        except OverflowError as error:
            raise OSError(f"{port} is no port") from error
    raise failure or OSError("no address")


@contextlib.contextmanager
def dialling(
    addresses: Sequence[str], port: int, timeout_s: float, limit_s: float
) -> Generator[Callable[[], socket.socket]]:
    """Connects like `dial`; after `limit_s` altogether, what was connected is hung up, whoever waits for it.

    A time limit of a socket is for each piece that is read: by itself it never ends a conversation with somebody who
    sends a byte now and then.
    """
    ends: list[socket.socket] = []

    def connect() -> socket.socket:
        connection = dial(addresses, port, timeout_s)
        ends.append(connection.dup())
        return connection

    def hang_up() -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(limit_s, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield connect
    finally:
        timer.cancel()
        for end in ends:
            end.close()


def _named(rules: Rules, host: str) -> bool:
    try:
        return rules.name(host) or rules.hold(ip_address(host))
    except ValueError:
        return False


def _parsed(address: str) -> Address:
    """An address as a resolver gives it, perhaps with the interface it belongs to."""
    return ip_address(address.split("%", 1)[0])
