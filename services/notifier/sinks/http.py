"""Posting, through the guard: what goes wrong is an outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from services.notifier.core.outcomes import NotTaken, no_answer
from services.runtime.egress import Egress
from services.runtime.outbound import Answer, Call, Client, NoAnswer, NotSent


class Post(NamedTuple):
    """What is to be posted."""

    url: str
    body: bytes
    headers: Mapping[str, str]
    secret_headers: Mapping[str, str]
    timeout_s: float


class Http:
    """Posts to receivers."""

    def __init__(self, egress: Egress) -> None:
        self._client = Client(egress)

    async def post(self, post: Post) -> Answer | NotTaken:
        """Post; what comes back, or why nothing did."""
        try:
            return await self._client.send(Call("POST", *post))
        except NoAnswer as error:
            return no_answer(str(error))
        except NotSent as error:
            return NotTaken(error=str(error), again=False)

    async def close(self) -> None:
        """Close what is open."""
        await self._client.close()
