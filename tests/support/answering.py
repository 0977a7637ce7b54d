"""Planner and human-contact over the memory bus, with real channels and a real port: nothing is patched."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2

from schemas.resources import SecretKeyRef, SecretSource
from services.human_contact.entrance import Entrance
from services.human_contact.main import build as build_human_contact
from services.human_contact.web.server import WebServer
from services.planner.main import build as build_planner
from services.runtime.replica import Build
from services.runtime.settings import Settings
from tests.support.people import People
from tests.support.slack_server import SIGNING_SECRET, TOKEN
from tests.support.stage import on_stage

WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LINK_KEY = "0123456789abcdef" * 4
SECRETS = {"slack-token": TOKEN, "slack-signing": SIGNING_SECRET, "mail": "right", "webhook": WEBHOOK_SECRET}


class Answering(People):
    """What a test of answers does."""

    url: str
    entrance: Entrance

    async def get(self, path: str, method: str = "GET") -> httpx2.Response:
        """Open something."""
        return await self.send(method, path)

    async def send(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """Send a request to the port."""
        url = path if path.startswith("http") else f"{self.url}{path}"
        async with httpx2.AsyncClient(trust_env=False) as client:
            return await client.request(method, url, **more)


def secret(name: str) -> SecretSource:
    """A secret that is there in these tests."""
    return SecretSource(secret_key_ref=SecretKeyRef(name=name, key="value"))


def write_secrets(directory: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The files of secrets, and of the key of links; the settings that name them."""
    for name, value in {**SECRETS, **(more or {})}.items():
        (directory / "secrets" / name).mkdir(parents=True, exist_ok=True)
        (directory / "secrets" / name / "value").write_text(value)
    (directory / "link-key").write_text(f"{LINK_KEY}\n")
    return {"secrets_dir": str(directory / "secrets"), "people_link_key_file": str(directory / "link-key")}


@asynccontextmanager
async def answering(directory: Path, **settings: Any) -> AsyncGenerator[Answering]:
    """Both services, running; the port is a free one."""
    fields: dict[str, Any] = {"egress_allow": "127.0.0.1", **write_secrets(directory), **settings}
    own = Settings(**fields)
    entrances: list[Entrance] = []
    begin = Entrance.start

    async def start(entrance: Entrance) -> None:
        entrances.append(entrance)
        await begin(entrance)

    builds: dict[str, Build] = {"planner": build_planner, "human-contact": build_human_contact}
    with patch.object(Entrance, "start", start):
        async with on_stage(builds, settings=own) as (stage, _):
            people = Answering(stage, {})
            people.entrance = entrances[0]
            server = entrances[0]._server
            assert isinstance(server, WebServer)
            people.url = f"http://127.0.0.1:{server.port}"
            yield people
