"""Requests to real servers, through the guard: redirects, names that change their mind, answers without end."""

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import re
import ssl
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from schemas.resources import EnvVar, HTTPOptions, SecretKeyRef, SecretSource, ToolPolicy, ToolsetSpec
from services.runtime.egress import Egress, EgressRefused, Resolve, Rules
from services.runtime.egress_http import GuardedTransport
from services.tool_executor.core.results import Attachment
from services.tool_executor.mcp.errors import Lost, TimedOut
from tests.support.raw_http import Asked, raw_server, redirect, response
from tests.support.toolset_bench import ToolsetBench, toolset_bench, words_of

SECRET = "correct-horse-battery-staple"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)


def http(allow: Sequence[str] = ("*.test", "api.test"), **options: object) -> ToolsetSpec:
    return ToolsetSpec(http=HTTPOptions(allow=tuple(allow), **options))  # type: ignore[arg-type]  # what a test needs


async def ours(_host: str, _port: int) -> Sequence[str]:
    """Every name is this machine."""
    return ["127.0.0.1"]


async def ask(bench: ToolsetBench, url: str, **arguments: object) -> str:
    return words_of(await bench.call("web", "request", {"url": url, **arguments}))


# --- what comes back ---------------------------------------------------------------------


async def test_a_page_is_read_with_what_is_worth_knowing_of_it(tmp_path: Path) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http())
        server.paths["/page"] = response(
            "grüß".encode("latin-1"), kind="text/html; charset=iso-8859-1", ETag='"x"', Set_Cookie="a=b", Server="s"
        )
        url = f"http://api.test:{server.port}/page"
        assert await ask(bench, url, headers={"X-Mine": "1"}) == (
            f"HTTP 200 OK\nurl: {url}\ncontent-type: text/html; charset=iso-8859-1\ncontent-length: 4\n"
            'etag: "x"\n\ngrüß'
        )
        (asked,) = server.asked
        assert (asked.method, asked.headers["host"], asked.headers["x-mine"]) == ("GET", f"api.test:{server.port}", "1")
        assert asked.headers["accept-encoding"] == "identity"
        reply = await bench.call("web", "request", {"url": f"http://api.test:{server.port}/none"})
        assert reply.is_error
        assert words_of(reply).startswith("HTTP 404 Not Found")


async def test_images_are_images_and_other_bytes_are_counted(tmp_path: Path) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http())
        server.paths |= {"/image": response(PNG, kind="image/png"), "/bytes": response(b"\0\1\2", kind="x/y")}
        reply = await bench.call("web", "request", {"url": f"http://api.test:{server.port}/image"})
        shown = reply.parts[1]
        assert isinstance(shown, Attachment)
        assert (shown.kind, shown.mime_type, shown.size) == ("image", "image/png", len(PNG))
        assert (await ask(bench, f"http://api.test:{server.port}/bytes")).endswith("\n\n[not text: 3 bytes]")


async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def drip(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nx")
    await writer.drain()
    await asyncio.Event().wait()


async def test_an_answer_without_end_is_cut(tmp_path: Path) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http(response_bytes=1000))
        server.paths["/"] = endless
        said = await ask(bench, f"http://api.test:{server.port}/")
        assert "x" * 1000 in said
        assert "x" * 1001 not in said
        assert said.endswith("[... the answer is longer than the 1000 bytes that are read ...]")
        async with asyncio.timeout(5):
            await server.gone.wait()


async def test_a_bomb_is_unpacked_no_further_than_it_is_read(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(200 << 20), 9)
    assert len(bomb) < 300_000
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http(response_bytes=10_000))
        server.paths["/"] = response(bomb, Content_Encoding="gzip")
        before = forget_peak()
        said = await ask(bench, f"http://api.test:{server.port}/")
        assert "[not text: 10000 bytes and more]" in said
        assert peak_kib() - before < 30_000


def forget_peak() -> int:
    """Have the peak begin anew; where it is now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kib()


def peak_kib() -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"nonsense\r\n\r\n", b""])
async def test_an_answer_that_is_cut_off_leaves_the_outcome_open(tmp_path: Path, answer: bytes) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http())
        server.paths["/"] = answer
        with pytest.raises(Lost, match="cut off"):
            await ask(bench, f"http://api.test:{server.port}/")


async def test_an_answer_that_cannot_be_unpacked_is_said_to_be_so(tmp_path: Path) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http())
        server.paths["/"] = response(b"no gzip", Content_Encoding="gzip")
        assert "cannot be unpacked" in await ask(bench, f"http://api.test:{server.port}/")


async def test_an_answer_that_takes_for_ever_is_left(tmp_path: Path) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http())
        server.paths["/"] = drip
        with pytest.raises(TimedOut, match=r"no answer within 0\.3 s"):
            await bench.call("web", "request", {"url": f"http://api.test:{server.port}/"}, timeout_s=0.3)


# --- the guard ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://127.1:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f000001:{port}/",
        "http://0177.0.0.1:{port}/",
        "http://0.0.0.0:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[::ffff:7f00:1]:{port}/",
        "http://[64:ff9b::7f00:1]:{port}/",
        "http://[2002:7f00:1::]:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
        "http://user:password@127.0.0.1:{port}/",
        "http://api.test@127.0.0.1:{port}/",
        "http://\uff11\uff12\uff17.0.0.1:{port}/",
        "http://127。0。0。1:{port}/",
    ],
)
async def test_no_way_to_write_it_leads_to_this_machine(tmp_path: Path, url: str) -> None:
    async with raw_server() as server, toolset_bench(tmp_path) as bench:
        await bench.use("web", http())
        reply = await bench.call("web", "request", {"url": url.format(port=server.port)})
        assert reply.is_error
        assert re.match("The request (was refused|cannot be made)|No connection came about", words_of(reply))
        assert server.asked == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://api.test/", "api.test", "http://", "//api.test/", "http:// /"]
)
async def test_what_is_no_web_address_is_refused(tmp_path: Path, url: str) -> None:
    async with toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http())
        assert (await bench.call("web", "request", {"url": url})).is_error


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/secret", "http://169.254.169.254/", "//10.0.0.1/", "file:///etc/passwd"]
)
async def test_a_redirect_to_where_nobody_may_go_is_not_followed(tmp_path: Path, target: str) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=named({"api.test": "127.0.0.1"})) as bench:
        await bench.use("web", http())
        server.paths |= {"/": redirect(target.format(port=server.port)), "/secret": response(b"secret")}
        reply = await bench.call("web", "request", {"url": f"http://api.test:{server.port}/"})
        assert reply.is_error
        assert "The request was refused" in words_of(reply)
        assert len(server.asked) == 1


def named(names: dict[str, str]) -> Resolve:
    async def resolve(host: str, _port: int) -> Sequence[str]:
        return [names.get(host, host)]

    return resolve


async def test_a_name_that_changes_its_mind_between_check_and_connection_gains_nothing(tmp_path: Path) -> None:
    """DNS rebinding: were the name looked up a second time, it would lead to this machine."""
    answers = ["127.0.0.2"]
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return [answers.pop(0)] if answers else ["127.0.0.1"]

    async with raw_server() as server, toolset_bench(tmp_path, resolve=resolve) as bench:
        await bench.use("web", http(allow=("127.0.0.2",)))
        reply = await bench.call("web", "request", {"url": f"http://rebind.test:{server.port}/"})
        assert words_of(reply).startswith("No connection came about")
        assert asked == ["rebind.test"]
        assert server.asked == []
        second = await bench.call("web", "request", {"url": f"http://rebind.test:{server.port}/"})
        assert "rebind.test may not be reached: it is at 127.0.0.1, a loopback address" in words_of(second)
        assert server.asked == []


async def test_only_the_hosts_that_are_listed_are_asked(tmp_path: Path) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http(only=("api.test",)))
        server.paths |= {"/": response(b"yes"), "/on": redirect(f"http://www.test:{server.port}/")}
        assert (await ask(bench, f"http://api.test:{server.port}/")).endswith("yes")
        for url in (f"http://www.test:{server.port}/", f"http://api.test:{server.port}/on"):
            assert "it is not among the hosts that this tool may ask" in await ask(bench, url)


# --- redirects ---------------------------------------------------------------------------


async def test_redirects_are_followed_a_few_times(tmp_path: Path) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http())
        server.paths |= {f"/{n}": redirect(f"/{n + 1}") for n in range(7)} | {"/7": response(b"there")}
        said = await ask(bench, f"http://api.test:{server.port}/2")
        assert f"url: http://api.test:{server.port}/7\n" in said
        assert said.endswith("there")
        assert "sent on more than 5 times" in await ask(bench, f"http://api.test:{server.port}/1")


async def test_secrets_stay_with_the_host_they_are_for(tmp_path: Path) -> None:
    source = SecretSource(secret_key_ref=SecretKeyRef(name="api", key="key"))
    spec = http(only=("*.test",), headers=(EnvVar(name="X-Key", value_from=source),))
    environ = {"HOLDFAST_SECRET_API_KEY": SECRET}
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours, environ=environ) as bench:
        await bench.use("web", spec)
        server.paths |= {
            "/same": redirect("/end"),
            "/other": redirect(f"http://www.test:{server.port}/end"),
            "/end": response(f"your key is {SECRET}".encode()),
        }
        mine = {"Authorization": "Bearer mine", "Cookie": "a=b", "X-Note": "n"}
        said = await ask(bench, f"http://api.test:{server.port}/same", headers=mine)
        assert said.endswith("your key is [secret]")
        await ask(bench, f"http://api.test:{server.port}/other", headers=mine)
        same, same_end, other, other_end = (asked.headers for asked in server.asked)
        for headers in (same, same_end, other):
            assert (headers["x-key"], headers["authorization"]) == (SECRET, "Bearer mine")
        assert other_end["x-note"] == "n"
        assert not {"x-key", "authorization", "cookie"} & other_end.keys()


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        ("301 Moved", "POST", ("GET", b"")),
        ("302 Found", "POST", ("GET", b"")),
        ("303 See Other", "PUT", ("GET", b"")),
        ("307 Temporary Redirect", "POST", ("POST", b"data")),
        ("308 Permanent Redirect", "PUT", ("PUT", b"data")),
    ],
)
async def test_a_redirect_changes_the_method_as_the_standard_says(
    tmp_path: Path, status: str, method: str, then: tuple[str, bytes]
) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http(methods=("GET", "POST", "PUT")))
        server.paths |= {"/": redirect("/end", status), "/end": response(b"end")}
        assert (await ask(bench, f"http://api.test:{server.port}/", method=method, body="data")).endswith("end")
        assert (server.asked[1].method, server.asked[1].body) == then


async def test_a_redirect_to_a_method_that_is_not_allowed_is_shown_and_not_followed(tmp_path: Path) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http(methods=("POST",)))
        server.paths["/"] = redirect("/end")
        assert (await ask(bench, f"http://api.test:{server.port}/", body="x")).startswith("HTTP 302 Found")
        assert len(server.asked) == 1


# --- what is sent ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["Host", "host", "Content-Length", "Transfer-Encoding", "Connection", "Proxy-Authorization"]
)
async def test_headers_that_steer_the_connection_are_refused(tmp_path: Path, name: str) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http())
        said = await ask(bench, f"http://api.test:{server.port}/", headers={name: "x"})
        assert f"The header {name!r} cannot be set" in said
        assert server.asked == []


@pytest.mark.parametrize("headers", [{"X": "a\r\nInjected: b"}, {"X\r\nInjected": "b"}, {"X y": "b"}, {"Ü": "b"}])
async def test_a_header_cannot_carry_another(tmp_path: Path, headers: dict[str, str]) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http())
        reply = await bench.call("web", "request", {"url": f"http://api.test:{server.port}/", "headers": headers})
        assert reply.is_error
        assert not any("injected" in asked.headers for asked in server.asked)


async def test_a_method_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        await bench.use("web", http())
        said = await ask(bench, f"http://api.test:{server.port}/", method="DELETE")
        assert said == "The method 'DELETE' is not allowed; these are: GET, HEAD."
        assert server.asked == []


async def test_a_request_that_may_be_repeated_can_be_recognized(tmp_path: Path) -> None:
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        url, dares = f"http://api.test:{server.port}/", (ToolPolicy(tool="*", on_uncertain="retry"),)
        for policies, methods in ((dares, ("POST", "GET")), (dares, ("GET", "POST")), ((), ("POST", "GET"))):
            await bench.use("web", ToolsetSpec(http=http(methods=methods).http, policies=policies))
            await bench.call("web", "request", {"url": url}, key="ns/call-1")
        keys = [asked.headers.get("idempotency-key") for asked in server.asked]
        assert keys == ['"ns/call-1"', None, None]


# --- certificates ------------------------------------------------------------------------


def authority(name: str, tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's certificate for a name, and who trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "both.pem").write_bytes(pem + secret)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "both.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


@pytest.mark.parametrize(("host", "right"), [("api.test", True), ("www.test", False)])
async def test_a_certificate_is_checked_for_the_name_and_not_for_the_address(
    tmp_path: Path, host: str, *, right: bool
) -> None:
    tls, trust = authority("api.test", tmp_path)
    egress = Egress(Rules.of(["*.test", "api.test"]), resolve=ours)
    async with raw_server(tls=tls) as server:
        server.paths["/"] = response(b"safe")
        async with httpx2.AsyncClient(transport=GuardedTransport(egress, trust=trust), trust_env=False) as client:
            url = f"https://{host}:{server.port}/"
            if right:
                assert (await client.get(url)).text == "safe"
                assert server.asked[0].headers["host"] == f"api.test:{server.port}"
            else:
                with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await client.get(url)


async def test_the_next_address_is_tried_when_one_does_not_answer(tmp_path: Path) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with raw_server() as server:
        server.paths["/"] = response(b"here")
        egress = Egress(Rules.of(["api.test"]), resolve=resolve)
        async with httpx2.AsyncClient(transport=GuardedTransport(egress), trust_env=False) as client:
            assert (await client.get(f"http://api.test:{server.port}/")).text == "here"
            with pytest.raises(EgressRefused):
                await client.get(f"http://other.test:{server.port}/")


async def test_secrets_are_not_sent_in_the_clear_unless_the_host_is_one_of_ours(tmp_path: Path) -> None:
    """`only` says whom they are for; by http they go to a host that `allow` names, too."""
    async with raw_server() as server, toolset_bench(tmp_path, resolve=ours) as bench:
        headers = (EnvVar(name="X-Key", value="v"),)
        for allow in (("127.0.0.1",), ("api.test",)):
            await bench.use("web", http(allow=allow, only=("api.test",), headers=headers))
            await ask(bench, f"http://api.test:{server.port}/")
        assert [asked.headers.get("x-key") for asked in server.asked] == [None, "v"]
