"""What a server asks its user while a call runs (MCP's elicitation): which call it is about, and what may be asked.

A question belongs to the call in whose context it comes: the newer protocol asks in the answer to a call, streamable
HTTP on the answer's own stream. Over standard input and output, and by the old transport, nothing says which call
is meant; there it is the only one that runs, or the oldest if all are of one task. Of several tasks' calls none is
chosen: the server is told that nobody answers. Where that matters, `concurrency: 1` makes it plain.

The time that a person takes does not count as the call's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

import msgspec
from mcp.client import ClientRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitationRequiredErrorData, ElicitRequestFormParams, ElicitRequestParams, ElicitResult
from pydantic import ValidationError

from schemas.interactions import MESSAGE_LENGTH_MAX, SCHEMA_BYTES_MAX, URL_LENGTH_MAX
from services.runtime.errors import Unavailable
from services.tool_executor.asking import Asker, Question, asking

logger = logging.getLogger(__name__)

NOBODY = ElicitResult(action="cancel")
WEB = ("https://", "http://")
PAGES_MAX = 4
PAGE_WORDS_MAX = 500


class Patience:
    """The time that one call may take; it stands still while a person is asked."""

    def __init__(self, asker: Asker | None, timeout_s: float) -> None:
        self.asker = asker
        self.limit = asyncio.timeout(timeout_s)
        self._questions = 0
        self._left_s = 0.0

    @contextmanager
    def waiting(self) -> Generator[None]:
        """A person is asked inside."""
        now = asyncio.get_running_loop().time
        if not self._questions:
            self._left_s = (self.limit.when() or now()) - now()
            self.limit.reschedule(None)
        self._questions += 1
        try:
            yield
        finally:
            self._questions -= 1
            if not self._questions:
                with contextlib.suppress(RuntimeError):  # the call has ended meanwhile
                    self.limit.reschedule(now() + self._left_s)

    @property
    def asks(self) -> bool:
        """Whether it is asking now."""
        return self._questions > 0


_current: ContextVar[Patience | None] = ContextVar("holdfast_mcp_call", default=None)


class Questions:
    """The questions of one session."""

    def __init__(self, name: str, timeout_s: float, redact: Callable[[str], str]) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._redact = redact
        self._calls: list[Patience] = []
        """Those that run, the oldest first."""

    @asynccontextmanager
    async def during(self, timeout_s: float) -> AsyncGenerator[None]:
        """A call is made inside; raises `TimeoutError` when it has taken too long."""
        asker = asking.get()
        if asker is not None:
            asker.start()
        call = Patience(asker, timeout_s)
        token = _current.set(call)
        self._calls.append(call)
        try:
            async with call.limit:
                yield
        finally:
            self._calls.remove(call)
            _current.reset(token)

    async def answer(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:  # noqa: ARG002
        """Have a person answer; called by the SDK."""
        call = self._meant()
        question = self._question(params)
        if call is None or call.asker is None or question is None:
            logger.warning("%s asks what nobody can be asked", self._name, extra={"action": "interaction.refused"})
            return NOBODY
        with call.waiting():
            try:
                answer = await call.asker.ask(question)
            except Unavailable as error:
                logger.warning("%s asks: %s", self._name, error, extra={"action": "interaction.refused"})
                return NOBODY
        return ElicitResult(action=answer.action, content=answer.content)

    def _meant(self) -> Patience | None:
        call = _current.get()
        if call in self._calls:
            return call
        able = [call for call in self._calls if call.asker is not None]
        if len({call.asker.task for call in able if call.asker is not None}) != 1:
            return None
        return next((call for call in able if not call.asks), able[0])

    def _question(self, params: ElicitRequestParams) -> Question | None:
        """What is asked, in bounds; None for what no person could answer."""
        server = self._name.rsplit("/", 1)[-1]
        message = self._redact(params.message)[:MESSAGE_LENGTH_MAX]
        if isinstance(params, ElicitRequestFormParams):
            schema = params.requested_schema
            if schema.get("type") != "object" or len(msgspec.json.encode(schema)) > SCHEMA_BYTES_MAX:
                return None
            return Question(server=server, message=message, schema=schema, timeout_s=self._timeout_s)
        if len(params.url) > URL_LENGTH_MAX or not params.url.startswith(WEB):
            return None
        return Question(server=server, message=message, url=params.url, timeout_s=self._timeout_s)


def pages_of(error: MCPError) -> list[str]:
    """The pages that somebody has to go to before a server takes the call again."""
    try:
        wanted = ElicitationRequiredErrorData.model_validate(error.data).elicitations
    except ValidationError:
        return []
    shown = [one for one in wanted[:PAGES_MAX] if one.url.startswith(WEB) and len(one.url) <= URL_LENGTH_MAX]
    return [f"A person must go to {one.url} first: {one.message[:PAGE_WORDS_MAX]}" for one in shown]
