"""The guard's judgement of addresses, as a table, and its rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.egress import (
    METADATA,
    PRIVATE,
    SPECIAL,
    BadRule,
    Egress,
    EgressRefused,
    Resolve,
    Rules,
    meant,
    objection,
)

PUBLIC = (
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "93.184.216.34", "100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"),
    *("192.0.1.0", "192.0.3.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0", "198.17.255.255"),
    *("198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255"),
    *("2001:200::1", "2001:4860:4860::8888", "2400::1", "2606:4700:4700::1111", "2a00:1450::1", "3ffe::1"),
    *("64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "2002:808:808::1"),
)
REFUSED = (
    *("0.0.0.0", "0.0.0.1", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255"),
    *("127.0.0.0", "127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.255.255", "172.16.0.0", "172.31.255.255"),
    *("192.0.0.0", "192.0.0.255", "192.0.2.1", "192.88.99.1", "192.168.0.0", "192.168.255.255", "198.18.0.0"),
    *("198.19.255.255", "198.51.100.1", "203.0.113.255", "224.0.0.0", "239.255.255.255", "240.0.0.0"),
    *("255.255.255.255", "::", "::1", "::2", "::ffff", "::ffff:0.0.0.0", "::ffff:127.0.0.1", "::ffff:10.1.2.3"),
    *("::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "::127.0.0.1", "::10.0.0.1", "64:ff9b::127.0.0.1"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "100::1", "2001::1"),
    *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:1ff:ffff::1", "2001:db8::1", "2002:7f00:1::"),
    *("2002:a00:1::1", "2002:a9fe:a9fe::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "8000::1", "fc00::1"),
    *("fd12:3456::1", "fe00::1", "fe80::1", "febf::1", "fec0::1", "ff02::1", "ffff::1"),
)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_reached(address: str) -> None:
    assert objection(ip_address(address)) == ("", True)


@pytest.mark.parametrize("address", [*REFUSED, *METADATA])
def test_an_address_that_is_not_public_may_not_be_reached(address: str) -> None:
    words, _ = objection(ip_address(address))
    assert words
    assert Egress().why_not("example.com", ip_address(address)).endswith(words)


@pytest.mark.parametrize("network", [network for network, _ in (*PRIVATE, *SPECIAL) if "." in network])
@pytest.mark.parametrize("form", ["::ffff:{}", "::ffff:0:{}", "64:ff9b::{}"])
def test_an_address_inside_of_another_is_judged_as_what_it_leads_to(network: str, form: str) -> None:
    inner = network.split("/", maxsplit=1)[0]
    assert meant(ip_address(form.format(inner))) == ip_address(inner)
    assert objection(ip_address(form.format(inner))) == objection(ip_address(inner))


@given(st.ip_addresses(v=4))
def test_every_disguise_of_an_ipv4_address_is_judged_alike(address: IPv4Address) -> None:
    number = int(address)
    for disguise in (0xFFFF << 32, 0x64FF9B << 96, 0xFFFF << 48):
        assert objection(IPv6Address(disguise | number)) == objection(address)
    assert objection(IPv6Address((0x2002 << 112) | (number << 80) | 5)) == objection(address)
    assert not (objection(address)[0] == "" and address.is_private)


@given(st.ip_addresses(v=6))
def test_what_is_let_through_is_global_unicast(address: IPv6Address) -> None:
    if not objection(address)[0]:
        assert address in IPv6Network("2000::/3") or meant(address) != address
        assert not any((address.is_multicast, address.is_link_local, address.is_loopback))


# --- rules -------------------------------------------------------------------------------


def answering(*answers: str) -> Resolve:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return answers

    return resolve


def guard(*answers: str, allow: Sequence[str] = (), only: Sequence[str] = ()) -> Egress:
    return Egress(Rules.of(allow), Rules.of(only), resolve=answering(*answers))


@pytest.mark.parametrize(
    ("host", "address", "allow", "only", "permitted"),
    [
        ("example.com", "93.184.216.34", (), (), True),
        ("example.com", "10.0.0.1", (), (), False),
        ("example.com", "10.0.0.1", ("example.com",), (), True),
        ("EXAMPLE.com.", "10.0.0.1", ("Example.COM",), (), True),
        ("api.example.com", "10.0.0.1", ("*.example.com",), (), True),
        ("a.b.example.com", "10.0.0.1", ("*.example.com",), (), True),
        ("example.com", "10.0.0.1", ("*.example.com",), (), False),
        ("evilexample.com", "10.0.0.1", ("*.example.com",), (), False),
        ("example.com.evil.net", "10.0.0.1", ("example.com",), (), False),
        ("example.com", "10.0.0.1", ("10.0.0.0/24",), (), True),
        ("example.com", "10.0.1.1", ("10.0.0.0/24",), (), False),
        ("example.com", "10.0.0.1", ("10.0.0.1",), (), True),
        ("example.com", "::ffff:10.0.0.1", ("10.0.0.1",), (), True),
        ("example.com", "fd00::1", ("fd00::/8",), (), True),
        ("localhost", "127.0.0.1", ("localhost",), (), True),
        ("example.com", "169.254.169.254", ("example.com",), (), False),
        ("example.com", "169.254.169.254", ("169.254.169.254",), (), True),
        ("example.com", "fd00:ec2::254", ("example.com",), (), False),
        ("example.com", "0.0.0.0", ("example.com",), (), False),
        ("example.com", "224.0.0.1", ("*.com", "example.com"), (), False),
        ("other.com", "93.184.216.34", (), ("example.com",), False),
        ("example.com", "93.184.216.34", (), ("example.com",), True),
        ("example.com", "10.0.0.1", (), ("example.com",), False),
        ("example.com", "10.0.0.1", ("10.0.0.0/8",), ("example.com",), True),
        ("other.com", "10.0.0.1", ("10.0.0.0/8",), ("example.com",), False),
        ("other.com", "93.184.216.34", (), ("93.184.0.0/16",), True),
    ],
)
async def test_what_an_operator_opens_and_closes(
    host: str, address: str, allow: Sequence[str], only: Sequence[str], *, permitted: bool
) -> None:
    egress = guard(address, allow=allow, only=only)
    if permitted:
        assert await egress.addresses(host, 443) == [address]
    else:
        with pytest.raises(EgressRefused, match=re.escape(f"{host.lower().rstrip('.')} may not be reached: it is")):
            await egress.addresses(host, 443)


async def test_of_several_addresses_only_the_permitted_are_used() -> None:
    assert await guard("10.0.0.1", "8.8.8.8", "::1").addresses("example.com", 80) == ["8.8.8.8"]


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1", "0", "localhost", "017700000001"]
)
async def test_other_ways_to_write_an_address_are_seen_through(host: str) -> None:
    with pytest.raises(EgressRefused):
        await Egress().addresses(host, 80)


@pytest.mark.parametrize("host", ["", ".", "fe80::1%eth0"])
async def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(EgressRefused, match="is not a host"):
        await guard("8.8.8.8").addresses(host, 80)


async def test_a_name_without_an_address_is_an_error_and_no_permission() -> None:
    with pytest.raises(OSError, match="has no address"):
        await guard().addresses("example.com", 80)


@pytest.mark.parametrize("entry", ["", "http://example.com", "exa mple.com", "*", "*.*.com", "a*.com", "10.0.0.0/33"])
def test_a_rule_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(BadRule):
        Rules.of([entry])
