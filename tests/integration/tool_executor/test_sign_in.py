"""Signing in: bearer tokens from secrets, and OAuth 2's client credentials, against an authorization server."""

from __future__ import annotations

import logging

import pytest

from schemas.resources import OAuthClient, SecretKeyRef, SecretSource
from services.tool_executor.mcp import connection, oauth
from tests.support.mcp_servers.bench import HttpKitchen, http_server, on_bench, until
from tests.support.mcp_servers.protected import CLIENT, SECRET, Protected, protected

TOKEN = "a-token-of-some-length"
BEARER = SecretSource(secret_key_ref=SecretKeyRef(name="box", key="token"))
CLIENT_SECRET = SecretSource(secret_key_ref=SecretKeyRef(name="box", key="client-secret"))
NOBODY = OAuthClient(client_id="", client_secret_from=CLIENT_SECRET)
URL = "http://127.0.0.1:9/mcp"
ENVIRON = {"HOLDFAST_SECRET_BOX_TOKEN": TOKEN, "HOLDFAST_SECRET_BOX_CLIENT_SECRET": SECRET}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect again at once."""
    monkeypatch.setattr(connection, "RECONNECT_S", 0.05)
    monkeypatch.setattr(connection, "RECONNECT_MAX_S", 0.2)


def client(**fields: object) -> OAuthClient:
    """The credentials of these tests."""
    return OAuthClient(client_id=CLIENT, client_secret_from=CLIENT_SECRET, **fields)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize("sse", [False, True])
async def test_the_token_endpoint_is_found_from_the_servers_refusal(sse: bool) -> None:
    async with protected(sse=sse) as server, on_bench(environ=ENVIRON) as bench:
        await bench.declare(http_server("locked", server.url, oauth=client()))
        await bench.until_ready("locked")
        assert (await bench.call("locked__whoami")).content == "Bearer [secret]", "a token reached the transcript"
        asked = {"grant_type": "client_credentials", "resource": server.url, "scope": "tools:call", "by": "basic"}
        assert server.authority.asked == [asked], "one token for all requests"
        assert server.refused == 1


async def test_the_manifest_says_where_and_for_what_tokens_are_given() -> None:
    async with protected() as server, on_bench(environ=ENVIRON) as bench:
        said = client(
            token_url=f"{server.authority.url}/token", scopes=("a", "b"), token_endpoint_auth="client_secret_post"
        )
        await bench.declare(http_server("locked", server.url, oauth=said))
        await bench.until_ready("locked")
        assert [(asked["scope"], asked["by"]) for asked in server.authority.asked] == [("a b", "post")]
        assert server.refused == 0, "the token was there before the first request"


async def test_a_token_is_fetched_anew_before_it_expires() -> None:
    async with protected() as server, on_bench(environ=ENVIRON) as bench:
        server.authority.life_s = 0.0
        await bench.declare(http_server("locked", server.url, oauth=client()))
        await bench.until_ready("locked")
        before = len(server.authority.asked)
        assert (await bench.call("locked__whoami")).outcome == "succeeded"
        assert len(server.authority.asked) > before
        assert server.refused == 1, "a token that had expired was sent"


async def test_a_token_that_is_refused_is_replaced_once_for_all_calls() -> None:
    async with protected() as server, on_bench(environ=ENVIRON) as bench:
        await bench.declare(http_server("locked", server.url, oauth=client()))
        await bench.until_ready("locked")
        server.authority.valid.clear()
        server.authority.hold.clear()
        tasks = [await bench.ask("locked__whoami") for _ in range(5)]
        await until(lambda: server.refused > 1, "a call is refused")
        server.authority.hold.set()
        assert [(await bench.until_result(task)).outcome for task in tasks] == ["succeeded"] * 5
        assert len(server.authority.asked) == 2


async def test_a_slow_call_does_not_hold_up_the_others() -> None:
    async with protected() as server, on_bench(environ=ENVIRON) as bench:
        await bench.declare(http_server("locked", server.url, oauth=client()))
        await bench.until_ready("locked")
        slow = await bench.ask("locked__slow")
        await server.started.wait()
        assert (await bench.call("locked__whoami")).outcome == "succeeded"
        server.hold.set()
        assert (await bench.until_result(slow)).content == "at last"


async def test_why_nobody_was_signed_in_is_said_without_the_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "services")
    wrong = {**ENVIRON, "HOLDFAST_SECRET_BOX_CLIENT_SECRET": SECRET + "!"}
    async with protected() as server, on_bench(environ=wrong) as bench:
        await bench.declare(http_server("locked", server.url, oauth=client()))
        status = await bench.until_status("locked", "Error", detail="signing in failed")
        assert "answered HTTP 401 (invalid_client: unknown client" in status.status_detail
        for text in (status.status_detail, caplog.text):
            assert SECRET + "!" not in text
            assert "aG9sZGZhc3QtdGVzdHM6" not in text, "the credentials in base 64"


async def test_a_call_whose_token_cannot_be_had_was_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "MARGIN_S", 0.0)
    async with protected() as server, on_bench(environ=ENVIRON) as bench:
        await bench.declare(http_server("locked", server.url, oauth=client()))
        await bench.until_ready("locked")
        server.authority.valid.clear()
        server.authority.fail = 503
        task = await bench.ask("locked__whoami")
        await until(lambda: len(server.authority.asked) > 1, "a token is asked for")
        server.authority.fail = 0
        assert (await bench.until_result(task)).outcome == "succeeded"


async def _wrong_issuer(server: Protected) -> str:
    server.authority.issuer = "https://elsewhere.example"
    return "is of issuer 'https://elsewhere.example'"


async def _wrong_resource(server: Protected) -> str:
    server.resource = "https://elsewhere.example/mcp"
    return "is about 'https://elsewhere.example/mcp'"


async def _odd_endpoint(server: Protected) -> str:
    server.authority.endpoint = "https://["
    return "Invalid"


async def _open_endpoint(server: Protected) -> str:
    server.authority.endpoint = "ftp://elsewhere.example/token"
    return "is not an https address"


async def _no_metadata(server: Protected) -> str:
    server.authority.issuer = "nobody"
    server.authority.gone = True
    return "no authorization server was found"


@pytest.mark.parametrize("lie", [_wrong_issuer, _wrong_resource, _odd_endpoint, _open_endpoint, _no_metadata])
async def test_metadata_that_is_of_something_else_gets_no_secret(lie: object) -> None:
    async with protected() as server, on_bench(environ=ENVIRON) as bench:
        words = await lie(server)  # type: ignore[operator]  # one of the two above
        await bench.declare(http_server("locked", server.url, oauth=client()))
        status = await bench.until_status("locked", "Error", detail="signing in failed")
        assert words in status.status_detail
        assert server.authority.asked == []


@pytest.mark.parametrize("flag", ["--json", "--sse"])
async def test_a_bearer_token_comes_from_a_secret(record: object, flag: str) -> None:
    with HttpKitchen(record, flag, token=TOKEN) as server:  # type: ignore[arg-type]  # a path
        async with on_bench(environ=ENVIRON) as bench:
            await bench.declare(http_server("locked", server.url, bearer_from=BEARER))
            await bench.until_ready("locked")
            assert (await bench.call("locked__pair")).outcome == "succeeded"


async def test_credentials_that_contradict_each_other_are_refused() -> None:
    async with on_bench(environ=ENVIRON) as bench:
        for server, words in (
            (http_server("odd", URL, bearer_from=BEARER, oauth=client()), "say the same thing; give one of them"),
            (http_server("odd", URL, oauth=client(token_url="ftp://x")), "oauth.tokenUrl must begin with"),
            (http_server("odd", URL, oauth=NOBODY), "oauth.clientId is required"),
        ):
            await bench.declare(server)
            status = await bench.until_status("odd", "Error", detail=words)
            assert status.status_detail.startswith("Validation failed: ")
