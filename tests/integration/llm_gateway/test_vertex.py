"""A Vertex secret: a service account's key, or a token that somebody else keeps fresh."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from schemas.resources import LLMParameters, LLMSpec, SecretKeyRef, SecretSource, VertexOptions
from tests.support.gateway import GatewayRig, apply_agent, apply_llm
from tests.support.provider_server import ProviderServer, Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


def key_file(server: ProviderServer, private_key: str = PEM) -> str:
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "key-1",
            "private_key": private_key,
            "client_email": "agent@project.iam.gserviceaccount.com",
            "token_uri": f"{server.url}/token",
        }
    )


async def apply(gateway: GatewayRig, server: ProviderServer) -> None:
    spec = LLMSpec(
        provider="vertex",
        api_key_from=SecretSource(secret_key_ref=SecretKeyRef(name="llm", key="key")),
        parameters=LLMParameters(model="gpt-test", base_url=server.openai_url),
        vertex=VertexOptions(cloud_project="project", cloud_location="europe-west1"),
    )
    await apply_llm(gateway.store, spec)
    await apply_agent(gateway.store)


async def test_a_service_account_is_exchanged_for_a_token_once(
    gateway: GatewayRig, server: ProviderServer, secrets_dir: Path
) -> None:
    (secrets_dir / "llm" / "key").write_text(key_file(server))
    server.keys = {"ya29.token"}
    await apply(gateway, server)
    await gateway.llm_status(status="Ready")
    task = await gateway.task()
    await task.ask()
    assert (await task.answered()).message.content == "ok"
    (asked,) = [request for request in server.requests if request.path == "/token"]
    form = parse_qs(asked.raw.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    assertion = form["assertion"][0]
    claims = jwt.decode(assertion, KEY.public_key(), algorithms=["RS256"], audience=f"{server.url}/token")
    assert claims["iss"] == "agent@project.iam.gserviceaccount.com"
    assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    assert jwt.get_unverified_header(assertion)["kid"] == "key-1"


async def test_a_token_in_the_secret_is_used_as_it_is(
    gateway: GatewayRig, server: ProviderServer, secrets_dir: Path
) -> None:
    (secrets_dir / "llm" / "key").write_text("ya29.mounted")
    server.keys = {"ya29.mounted"}
    await apply(gateway, server)
    await gateway.llm_status(status="Ready")
    assert not [request for request in server.requests if request.path == "/token"]


@pytest.mark.parametrize(
    "trouble",
    [
        ("{}", None, "no key file of a service account"),
        ("broken", None, "the key in the secret cannot sign"),
        (
            "",
            Reply(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}),
            "google refused the call (HTTP 400): invalid_grant",
        ),
        ("", Reply(503, "busy"), "google failed (HTTP 503): busy"),
        ("", Reply(200, "nonsense"), "no token from"),
    ],
    ids=["no-key-file", "no-key", "refused", "busy", "nonsense"],
)
async def test_a_token_that_cannot_be_had_is_said(
    gateway: GatewayRig, server: ProviderServer, secrets_dir: Path, trouble: tuple[str, Reply | None, str]
) -> None:
    secret, token, text = trouble
    written = key_file(server, "not a key") if secret == "broken" else secret or key_file(server)
    (secrets_dir / "llm" / "key").write_text(written)
    if token is not None:
        server.token = token
    await apply(gateway, server)
    status = await gateway.llm_status(status="Error")
    assert text in status.status_detail
    assert "BEGIN" not in status.status_detail
