"""One open session with a server, by the official SDK: tools listed, calls made, changes noticed.

Both eras of the protocol are spoken: a server of 2026-07-28 is asked by `server/discover`, an older one is greeted by
`initialize`; the SDK finds out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import httpx2
import msgspec
from mcp.client import Client, IncomingMessage
from mcp.client._transport import TransportStreams
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    URL_ELICITATION_REQUIRED,
    CallToolResult,
    Implementation,
    RequestParamsMeta,
    ToolListChangedNotification,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from schemas.resources import ToolInfo
from services.tool_executor.core.results import Reply, Text
from services.tool_executor.mcp.convert import reply_of, tool_info
from services.tool_executor.mcp.errors import ConnectFailed, Lost, NotStarted, TimedOut
from services.tool_executor.mcp.http import Answered, answered, http_streams
from services.tool_executor.mcp.launch import Launch, Redactor
from services.tool_executor.mcp.listing import offered, take_lists_apart
from services.tool_executor.mcp.questions import Questions, pages_of
from services.tool_executor.mcp.stdio import StdioServer

logger = logging.getLogger(__name__)

ASK_TIMEOUT_S = 10.0
"""Longest answer to a ping or to a page of tools."""
PAGES_MAX = 100
TOOLS_BYTES_MAX = 512 * 1024
"""Longest description of a server's tools: the status that holds it is one message."""
WHY_LENGTH_MAX = 600


class Session:
    """An open session. It ends when `closed` is set, or when the block that opened it is left."""

    def __init__(
        self,
        name: str,
        client: Client,
        redactor: Redactor,
        questions: Questions,
        *,
        closed: asyncio.Event,
        doubt: asyncio.Event,
    ) -> None:
        self._name = name
        self._client = client
        self._redactor = redactor
        self._questions = questions
        self.closed = closed
        """Nothing more will come from the server."""
        self.doubt = doubt
        """The tools may be others now, or the server gone: load them."""
        self._known: dict[str, tuple[ToolInfo, ToolInfo]] = {}
        """The tools as the server describes them, and as they are offered."""
        self.tools: tuple[ToolInfo, ...] = ()
        self.left_out = 0
        """Tools that are too many or too long to be offered."""

    async def load_tools(self) -> None:
        """Ask for the tools, page by page."""
        tools: dict[str, ToolInfo] = {}
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            async with asyncio.timeout(ASK_TIMEOUT_S):
                page = await self._client.list_tools(cursor=cursor)
            tools.update((tool.name, tool_info(tool)) for tool in page.tools)
            cursor = page.next_cursor
            if not cursor:
                break
        known: dict[str, tuple[ToolInfo, ToolInfo]] = {}
        for tool in sorted(tools.values(), key=lambda tool: tool.name):
            before = self._known.get(tool.name)
            known[tool.name] = before if before is not None and before[0] == tool else (tool, self._offered(tool))
            await asyncio.sleep(0)  # to look at a schema takes some milliseconds, and there may be hundreds
        self._known = known
        self.tools, self.left_out = _that_fit([shown for _, shown in known.values()])

    def _offered(self, tool: ToolInfo) -> ToolInfo:
        shown, wrong = offered(tool)
        if wrong:
            words = self._redactor.words(wrong)
            extra = {"action": "mcp.schema"}
            logger.warning("%s: arguments of %r are not checked: %s", self._name, tool.name, words, extra=extra)
        return shown

    async def check(self, *, reload: bool) -> None:
        """See whether the server still answers, and with `reload`, which tools it has now. Raises `ConnectFailed`."""
        try:
            if reload or self._modern:  # the newer protocol has no ping
                await self.load_tools()
            else:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    await self._client.session.send_ping()
        except (MCPError, TimeoutError, RuntimeError, ValidationError) as error:
            raise ConnectFailed(f"the server does not answer as it should: {_text(error)}") from error

    async def follow_changes(self) -> None:
        """Set `doubt` when the tools change, on a connection where that has to be asked for; otherwise return."""
        if not self._modern:
            return
        try:
            async with self._client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self.doubt.set()
        except (MCPError, SubscriptionLost) as error:
            logger.debug("no news of changed tools: %s", error)

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        timeout_s: float,
        meta: Mapping[str, Any],
        progress: ProgressFnT | None = None,
    ) -> Reply:
        """Call a tool. Raises `NotStarted`, `Lost` or `TimedOut`; when it is cancelled, the server is told so."""
        sent = cast("RequestParamsMeta", dict(meta))

        async def call() -> Reply:
            result = await self._client.call_tool(tool, dict(arguments), progress_callback=progress, meta=sent)
            return reply_of(result, self._redactor.result)

        return await self._reply(call, timeout_s)

    async def ask(
        self, extra: str, arguments: Mapping[str, Any], *, timeout_s: float, meta: Mapping[str, Any]
    ) -> Reply:
        """Ask for resources or prompts, by the name of a tool of ours. Raises what `call` raises."""
        from services.tool_executor.mcp.extras import ask_extra  # noqa: PLC0415 - few agents ask

        sent = cast("RequestParamsMeta", dict(meta))
        return await self._reply(
            lambda: ask_extra(self._client, extra, arguments, sent, self._redactor.result), timeout_s
        )

    async def _reply(self, exchange: Callable[[], Awaitable[Reply]], timeout_s: float) -> Reply:
        note = Answered()
        token = answered.set(note)
        try:
            async with self._questions.during(timeout_s):
                return await exchange()
        except TimeoutError as error:
            raise TimedOut(f"no answer within {timeout_s:g} s") from error
        except MCPError as error:
            return self._failure(error, note)
        except (RuntimeError, ValidationError) as error:
            return self._error(f"The tool answered, but not as it declares: {error}")
        finally:
            answered.reset(token)

    def _failure(self, error: MCPError, note: Answered) -> Reply:
        """The server's words, or the end of the connection."""
        text = self._redactor.words(note.said or error.message)
        if note.not_signed_in and not note.taken:
            raise NotStarted(note.not_signed_in) from error
        if error.code == CONNECTION_CLOSED and text.startswith(("Connection closed", "SSE stream")):
            self.doubt.set()
            raise Lost("the connection to the server ended") from error
        if note.status >= 400:
            forgotten = self._is_forgotten(note, text)
            if forgotten:
                self.closed.set()
            if note.taken:  # it was the rest of the answer that could not be had
                self.doubt.set()
                raise Lost(f"the server answered {note.text} when it was asked for the rest of its answer") from error
            if forgotten:
                raise NotStarted("the server has forgotten the session") from error
            if note.status == HTTPStatus.TOO_MANY_REQUESTS:
                raise NotStarted(f"the server answered {note.text}") from error
            if note.status >= 500:
                self.doubt.set()
                raise Lost(f"the server answered {note.text}") from error
            text = f"{note.text}: {text}"
        if error.code == URL_ELICITATION_REQUIRED:
            text = "\n".join((text, *pages_of(error)))
        return self._error(text)

    def _is_forgotten(self, note: Answered, text: str) -> bool:
        """Servers of the older protocol say 404 to a session that they do not know; many say 400, and why."""
        return not self._modern and (note.status == 404 or (note.status == 400 and "session" in text.lower()))

    def _error(self, text: str) -> Reply:
        return Reply(parts=(Text(self._redactor.result(text)),), is_error=True)

    @property
    def _modern(self) -> bool:
        return self._client.protocol_version in MODERN_PROTOCOL_VERSIONS


def _that_fit(tools: Sequence[ToolInfo]) -> tuple[tuple[ToolInfo, ...], int]:
    """As many of the tools as a status can hold, and how many more there are."""
    size = 0
    for place, tool in enumerate(tools):
        size += len(msgspec.json.encode(tool))
        if size > TOOLS_BYTES_MAX:
            return tuple(tools[:place]), len(tools) - place
    return tuple(tools), 0


@asynccontextmanager
async def open_session(launch: Launch, name: str, limit: asyncio.Timeout) -> AsyncGenerator[Session]:
    """Connect and learn the tools within `limit`; leaving the block ends the session.

    Raises `ConnectFailed`, with a text for the server's status, when it does not come about and when it is lost.
    """
    _quiet()
    redactor = Redactor(launch.secrets)
    stdio = StdioServer(launch, name, redactor) if launch.command else None
    closed = stdio.closed if stdio else asyncio.Event()
    questions = Questions(name, launch.ask_timeout_s, redactor.words)
    doubt = asyncio.Event()
    note = Answered()
    token = answered.set(note)

    async def hear(message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            doubt.set()

    try:
        async with AsyncExitStack() as stack:
            async with limit:
                client = await stack.enter_async_context(
                    Client(
                        stdio.streams() if stdio else _by_url(launch, redactor, closed),
                        client_info=Implementation(name="holdfast", version=_version()),
                        message_handler=hear,
                        cache=None,
                        elicitation_callback=questions.answer if launch.asks else None,
                        mode="legacy" if launch.sse else "auto",
                    )
                )
                _trust_results(client)
                take_lists_apart(client, name)
                session = Session(name, client, redactor, questions, closed=closed, doubt=doubt)
                await session.load_tools()
            yield session
            lost = session.closed.is_set()
    except Exception as error:  # whatever a server, its transport or the SDK does wrong ends as this server's status
        raise ConnectFailed(redactor.words(_why(error, stdio, note))) from error
    else:
        if lost:
            raise ConnectFailed(redactor.words(_why(ConnectFailed("the connection ended"), stdio, note)))
    finally:
        answered.reset(token)


def _by_url(launch: Launch, redactor: Redactor, closed: asyncio.Event) -> AbstractAsyncContextManager[TransportStreams]:
    if not launch.sse:
        return http_streams(launch, redactor)
    from services.tool_executor.mcp.sse import sse_streams  # noqa: PLC0415 - few servers need it

    return sse_streams(launch, redactor, closed)


def _trust_results(client: Client) -> None:
    """Have the SDK not check structured content against the schema that the same server declares.

    It would run the server's regular expressions on the server's values, which can be made to take for ever, and
    would throw away the answer of a tool that has done its work. We only show such content to the model.
    """

    async def accept(_name: str, _result: CallToolResult) -> None:
        """Nothing to check."""

    vars(client.session)["validate_tool_result"] = accept


def _quiet() -> None:
    """Keep the SDK's own logs out: they repeat what servers say, and all that matters is reported here."""
    if not logger.isEnabledFor(logging.DEBUG):
        for name in ("mcp", "client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _why(error: Exception, stdio: StdioServer | None, note: Answered) -> str:
    """What happened, and what the server had to say."""
    texts = list(dict.fromkeys(_text(leaf) for leaf in _leaves(error)))
    if note.not_signed_in:
        texts.insert(0, note.not_signed_in)
    if note.status >= 400:
        texts.append(note.text)
    if stdio is not None and stdio.last_words:
        texts.append(stdio.last_words)
    return "; ".join(texts)[:WHY_LENGTH_MAX]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        for inner in group.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _text(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, MCPError | OSError | ConnectFailed | httpx2.HTTPError):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"


def _version() -> str:
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "0"
