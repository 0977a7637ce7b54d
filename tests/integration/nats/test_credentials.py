"""Every way of proving who one is, on servers that ask for it; and refusals that say so."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from services.runtime.errors import Unavailable
from services.runtime.nats.bus import connect
from services.runtime.settings import Settings
from tests.support.nats_server import Connect, NatsServer, nats_server
from tests.support.waiting import until

nkeys: Any = importlib.import_module("nkeys")  # it has no types
Start = Callable[[str], NatsServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(extra)`: a server with more configuration."""
    with ExitStack() as stack:
        yield lambda extra: stack.enter_context(nats_server(tmp_path, extra=extra))


def new_key(prefix: int) -> tuple[str, str]:
    """A seed and its public key."""
    seed = bytes(nkeys.encode_seed(os.urandom(32), prefix))
    return seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode()


async def works(connected: Connect, url: str, **settings: object) -> None:
    bus = await connected(url, **settings)
    assert await bus.resources.put("a", b"1") > 0


async def refused(url: str, **settings: object) -> None:
    wanted = Settings(nats_url=url, **settings)  # type: ignore[arg-type]  # the test names real settings
    with pytest.raises(Unavailable, match=r"(?i)authorization violation"):
        await connect(wanted, service="test")


async def test_user_and_password(start: Start, connected: Connect) -> None:
    server = start("authorization { user: me, password: secret }")
    await works(connected, server.url, nats_user="me", nats_password="secret")
    await works(connected, f"nats://me:secret@127.0.0.1:{server.port}")
    await refused(server.url, nats_user="me", nats_password="wrong")
    await refused(server.url)


async def test_a_token(start: Start, connected: Connect) -> None:
    server = start("authorization { token: secret }")
    await works(connected, server.url, nats_token="secret")
    await refused(server.url, nats_token="wrong")


async def test_an_nkey(start: Start, connected: Connect, tmp_path: Path) -> None:
    seed, public = new_key(nkeys.PREFIX_BYTE_USER)
    server = start(f"authorization {{ users: [ {{ nkey: {public} }} ] }}")
    (tmp_path / "seed").write_text(seed + "\n")
    await works(connected, server.url, nats_nkey_seed_file=str(tmp_path / "seed"))
    (tmp_path / "other").write_text(new_key(nkeys.PREFIX_BYTE_USER)[0])
    await refused(server.url, nats_nkey_seed_file=str(tmp_path / "other"))


def token(claims: dict[str, Any], issuer_seed: str) -> str:
    """A JWT as NATS wants it."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    def packed(value: dict[str, Any]) -> bytes:
        return json.dumps(value, separators=(",", ":")).encode()

    issuer = nkeys.from_seed(bytearray(issuer_seed.encode()))
    claims = {**claims, "iss": issuer.public_key.decode(), "iat": 1_700_000_000, "jti": ""}
    digest = hashlib.new("sha512_256", packed(claims)).digest()
    claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
    body = f"{encoded(packed({'typ': 'JWT', 'alg': 'ed25519-nkey'}))}.{encoded(packed(claims))}"
    return f"{body}.{encoded(issuer.sign(body.encode()))}"


async def test_a_credentials_file(start: Start, connected: Connect, tmp_path: Path) -> None:
    operator_seed, operator = new_key(nkeys.PREFIX_BYTE_OPERATOR)
    account_seed, account = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
    system = new_key(nkeys.PREFIX_BYTE_ACCOUNT)[1]
    user_seed, user = new_key(nkeys.PREFIX_BYTE_USER)
    unlimited = {"subs": -1, "data": -1, "payload": -1}
    limits = {"conn": -1, "leaf": -1, "imports": -1, "exports": -1, "wildcards": True, **unlimited}
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    operator_token = token({"sub": operator, "name": "op", "nats": {"type": "operator", "version": 2}}, operator_seed)
    tokens = {
        public: token(
            {"sub": public, "name": name, "nats": {"type": "account", "version": 2, "limits": allowed}}, operator_seed
        )
        for public, name, allowed in ((account, "ac", {**limits, **storage}), (system, "sys", limits))
    }
    user_token = token({"sub": user, "name": "us", "nats": {"type": "user", "version": 2, **unlimited}}, account_seed)
    preload = "\n".join(f"{public}: {token_}" for public, token_ in tokens.items())
    server = start(
        f"operator: {operator_token}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload {{\n{preload}\n}}"
    )
    creds = tmp_path / "user.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user_seed}\n------END USER NKEY SEED------\n"
    )
    await works(connected, server.url, nats_creds=str(creds))
    await refused(server.url)


def certificates(folder: Path) -> None:
    """An authority, a server's certificate and a client's."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=ca")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        ca = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
        openssl("x509", "-req", "-in", f"{name}.csr", *ca, "-out", f"{name}.crt", "-days", "2", "-extfile", "ext")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here to make certificates with")
async def test_tls_with_a_certificate_of_ours(
    start: Start, connected: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates(tmp_path)
    server = start(
        f'tls {{ cert_file: "{tmp_path}/server.crt", key_file: "{tmp_path}/server.key",'
        f' ca_file: "{tmp_path}/ca.crt", verify: true }}'
    )
    ca, cert, key = (str(tmp_path / name) for name in ("ca.crt", "client.crt", "client.key"))
    await works(connected, server.url, nats_tls_ca=ca, nats_tls_cert=cert, nats_tls_key=key)
    monkeypatch.setattr("services.runtime.nats.connection.CONNECT_S", 1.0)
    with pytest.raises(Unavailable, match=r"(?i)certificate"):
        await connect(Settings(nats_url=server.url), service="test")
    with pytest.raises(Unavailable, match="cannot connect"):
        await connect(Settings(nats_url=server.url, nats_tls_ca=ca), service="test")


@pytest.mark.parametrize("setting", ["nats_creds", "nats_nkey_seed_file", "nats_tls_ca"])
async def test_a_missing_file_is_named_even_where_the_server_asks_for_nothing(
    server: NatsServer, tmp_path: Path, setting: str
) -> None:
    missing = Settings(nats_url=server.url, **{setting: str(tmp_path / "none.there")})  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match=rf"HOLDFAST_{setting.upper()}: .*none\.there"):
        await connect(missing, service="test")


async def test_no_server_is_said_with_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.runtime.nats.connection.CONNECT_S", 0.5)
    with pytest.raises(Unavailable, match=r"cannot connect to NATS at nats://127\.0\.0\.1:1: .*failed"):
        await connect(Settings(nats_url="nats://127.0.0.1:1"), service="test")


async def test_a_connection_that_the_server_ends_for_good_is_told(start: Start) -> None:
    """As when credentials expire: nothing works any more, and the process has to know."""
    closed: list[bool] = []
    server = start("authorization { user: me, password: secret }")
    settings = Settings(nats_url=server.url, nats_user="me", nats_password="secret")
    bus = await connect(settings, service="test", on_closed=lambda: closed.append(True))
    await bus._connection._client._process_err("'user authentication expired'")
    await until(lambda: closed == [True], "that it is told")
    with pytest.raises(Unavailable):
        await bus.resources.put("a", b"1")
    await bus.close()
    assert closed == [True]


async def test_credentials_that_are_withdrawn_end_the_connection(start: Start) -> None:
    """The client would go on asking five times a second, for ever."""
    closed: list[bool] = []
    server = start("authorization { user: me, password: secret }")
    settings = Settings(nats_url=server.url, nats_user="me", nats_password="secret")
    bus = await connect(settings, service="test", on_closed=lambda: closed.append(True))
    server.kill()
    server._config.write_text(server._config.read_text().replace("secret", "changed"))
    server.start()
    await until(lambda: closed == [True], "that it is told")
    await bus.close()


async def test_a_forbidden_subject_is_named_in_the_failure(start: Start, connected: Connect) -> None:
    server = start(
        "authorization { users: ["
        ' { user: all, password: x }, { user: few, password: x, permissions: { publish: { deny: ["hf.0.>"] } } } ] }'
    )
    bus = await connected(server.url, nats_user="all", nats_password="x")
    few = await connected(server.url, nats_user="few", nats_password="x")
    assert await bus.resources.put("a", b"1") > 0
    with pytest.raises(Unavailable, match=r'(?i)permissions violation for publish to "hf\.0\.x"'):
        await few._connection.request("hf.0.x", b"", timeout_s=0.3)
