"""A server that speaks the HumanLayer API, and is strict about it: what the real one would refuse, it refuses.

async with humanlayer_server() as server:
    ... HOLDFAST_HUMANLAYER_URL=server.url ...
    call = await server.asked("function_calls")
    server.decide(call, approved=True)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

from tests.support.raw_http import Asked, RawServer, raw_server, response
from tests.support.waiting import until

ROOT = "/humanlayer/v1"
PROJECT_KEY = "hl_project"
CHANNEL_KEY = "hl_channel"
CHANNEL_ID = "ch_1"
FAMILIES = {"function_calls": ("fn", "kwargs"), "contact_requests": ("msg",)}
OPTIONAL = {
    "function_calls": {"channel", "reject_options", "state"},
    "contact_requests": {"channel", "subject", "response_options", "state"},
}
IDS_BYTES_MAX = 64


class Refused(Exception):
    """A request that the API does not take."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Kept(msgspec.Struct):
    """An approval or a contact request, as it was posted."""

    family: str
    run_id: str
    call_id: str
    spec: dict[str, Any]
    key: str
    status: dict[str, Any] = {}
    posted: int = 1
    polled: int = 0


class HumanLayerServer:
    """What it was asked, and what people say."""

    def __init__(self, raw: RawServer) -> None:
        self.raw = raw
        self.kept: dict[str, Kept] = {}
        self.refusals: list[str] = []
        """What was not taken, and why."""
        self.fails: list[tuple[int, str]] = []
        """What the next requests to ask somebody fail with."""
        self.lost = 0
        """How many of the next requests are taken and never answered."""
        self.answers = asyncio.Event()
        """Cleared: what is posted is taken, and waits for its answer."""
        self.answers.set()
        self.says_409 = True
        """Whether an id that it has is refused."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.raw.port}"

    def decide(self, kept: Kept, **status: Any) -> None:
        """Say what a person has: `approved`, `comment`, `response`, `user_info`."""
        kept.status |= {"responded_at": datetime.now(UTC).isoformat(), **status}

    async def asked(self, family: str, count: int = 1) -> list[Kept]:
        """Wait until so many were asked, in their order."""
        found: list[Kept] = []

        async def there() -> bool:
            found[:] = [kept for kept in self.kept.values() if kept.family == family]
            return len(found) >= count

        try:
            await until(there, f"{count} {family}", within_s=15)
        except AssertionError as error:
            raise AssertionError(f"{error}; refused: {self.refusals}") from None
        return found

    async def answer(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        """Answer a request."""
        try:
            status, body = self._answer(asked)
        except Refused as error:
            self.refusals.append(f"{asked.method} {asked.target}: {error}")
            status, body = error.status, {"detail": str(error)}
        if asked.method == "POST" and status < 300 and self.lost:
            self.lost -= 1
            return
        if asked.method == "POST":
            await self.answers.wait()
        writer.write(response(json.dumps(body).encode(), status=f"{status} X", kind="application/json"))
        with contextlib.suppress(OSError):
            await writer.drain()

    def _answer(self, asked: Asked) -> tuple[int, dict[str, Any]]:
        family, _, id_ = asked.target.removeprefix(f"{ROOT}/").partition("/")
        key = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if key not in (PROJECT_KEY, CHANNEL_KEY):
            raise Refused(401, "invalid API key")
        match asked.method, family:
            case "GET", "project" if not id_:
                if key != PROJECT_KEY:
                    raise Refused(401, "not the key of a project")
                return 200, {"project_slug": "tests", "org_slug": "holdfast"}
            case "GET", "contact_channel":
                if key != CHANNEL_KEY:
                    raise Refused(401, "not the key of a channel")
                if id_ != CHANNEL_ID:
                    raise Refused(404, "no such channel")
                return 200, {"id": id_, "project_slug": "tests", "org_slug": "holdfast"}
            case "GET", "function_calls" | "contact_requests":
                kept = self.kept.get(id_)
                if kept is None or kept.family != family or kept.key != key:
                    raise Refused(404, "no such call")
                kept.polled += 1
                return 200, _shown(kept)
            case "POST", "function_calls" | "contact_requests" if not id_:
                return self._post(family, key, asked)
            case _:
                raise Refused(404, "nothing here")

    def _post(self, family: str, key: str, asked: Asked) -> tuple[int, dict[str, Any]]:
        if self.fails:
            raise Refused(*self.fails.pop(0))
        if asked.headers.get("content-type") != "application/json":
            raise Refused(415, "not JSON")
        kept = _read(family, key, json.loads(asked.body))
        before = self.kept.get(kept.call_id)
        if before is not None:
            before.posted += 1
            if self.says_409:
                raise Refused(409, "this call_id exists")
            return 200, _shown(before)
        self.kept[kept.call_id] = kept
        return 201, _shown(kept)


def _shown(kept: Kept) -> dict[str, Any]:
    return {"run_id": kept.run_id, "call_id": kept.call_id, "spec": kept.spec, "status": kept.status}


def _read(family: str, key: str, body: Any) -> Kept:
    """A request to ask somebody, as strictly as it is written down."""
    if set(body) != {"run_id", "call_id", "spec"} or not body["run_id"] or not body["call_id"]:
        raise Refused(422, "run_id, call_id and spec are required, and nothing else")
    if len(f"{body['run_id']}{body['call_id']}".encode()) > IDS_BYTES_MAX:
        raise Refused(400, "run_id and call_id are longer than 64 bytes")
    spec: dict[str, Any] = body["spec"]
    required = set(FAMILIES[family])
    if not required <= spec.keys() <= required | OPTIONAL[family]:
        raise Refused(422, f"spec has {sorted(spec)}")
    if not isinstance(spec.get("kwargs", {}), dict) or not isinstance(spec.get("msg", ""), str):
        raise Refused(422, "kwargs is an object, msg is a text")
    options: list[dict[str, Any]] = spec.get("response_options", [])
    if not all(isinstance(option["name"], str) for option in options):
        raise Refused(422, "a response option has a name")
    channel: dict[str, Any] | None = spec.get("channel")
    if key == PROJECT_KEY and len((channel or {}).keys() & {"slack", "email"}) != 1:
        raise Refused(422, "a project's key needs a channel")
    if key == CHANNEL_KEY and channel is not None:
        raise Refused(422, "a channel's key is a channel")
    return Kept(family, body["run_id"], body["call_id"], spec, key)


class _Routes(dict[str, Any]):
    """Everything goes to one function."""

    def __init__(self, server: HumanLayerServer) -> None:
        super().__init__()
        self._server = server

    def get(self, _key: str, _default: Any = None) -> Any:
        """The function."""
        return self._server.answer


@asynccontextmanager
async def humanlayer_server() -> AsyncGenerator[HumanLayerServer]:
    """A running server."""
    async with raw_server() as raw:
        server = HumanLayerServer(raw)
        raw.paths = _Routes(server)
        yield server
