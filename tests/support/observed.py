"""A stack that Prometheus watches while tasks run that meet everything a dashboard shows.

    async with observed(tmp_path) as running:
        await running.round()          tasks that succeed, fail, wait, ask people, and tell others
        running.prometheus.query(...)

Prometheus looks once a second, with the rules of `deploy/observability/alerts`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Generator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from schemas.requests import Accepted, Reply
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    ApprovalRule,
    ContactChannel,
    ContactChannelSpec,
    LLMLimits,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Pricing,
    Ref,
    ScriptedCall,
    ScriptedFailure,
    ScriptedOptions,
    ScriptedReply,
    ScriptedRule,
    ServerRef,
)
from schemas.subjects import TaskSubjects
from schemas.task import Failed, FinalAnswer
from services.runtime.errors import Unavailable
from services.runtime.ports import Outgoing
from tests.support.alerts import FOLDER
from tests.support.prometheus import Prometheus, prometheus
from tests.support.stack import Stack, stack
from tests.support.stage import until

SERVICES = ("planner", "llm-gateway", "tool-executor", "human-contact", "notifier")
QUICK = {
    "HOLDFAST_HTTP_PORT": "0",
    "HOLDFAST_SURVEY_S": "0.5",
    "HOLDFAST_RECONCILE_S": "1",
    "HOLDFAST_EGRESS_ALLOW": "127.0.0.1",
}
WAIT_S = 60.0
AGAIN_S = 0.2
APPROVED = "r1.1.0"
"""The question about the first call of a task."""
CLOCK = "clock__get_current_time"
RULES_OF_THE_MODEL = (
    ScriptedRule(
        user_contains="be refused", reply=ScriptedReply(text="never", fail=ScriptedFailure(status=401, times=99))
    ),
    ScriptedRule(
        user_contains="stumble",
        reply=ScriptedReply(text="done after all", fail=ScriptedFailure(status=503, retry_after_s=0.1)),
    ),
    ScriptedRule(
        user_contains="the time",
        turn=1,
        reply=ScriptedReply(calls=(ScriptedCall(tool=CLOCK, arguments={"timezone": "UTC"}),)),
    ),
    ScriptedRule(
        user_contains="on Mars",
        turn=1,
        reply=ScriptedReply(calls=(ScriptedCall(tool=CLOCK, arguments={"timezone": "Mars/Base"}),)),
    ),
)
SAID = ScriptedReply(text="This is said in several pieces, one after the other.", delay_s=0.3)


class Observed:
    """What runs."""

    def __init__(self, running: Stack, watching: Prometheus, ports: dict[str, int], receiver: str) -> None:
        self.stage = running.stage
        self.stack = running
        self.prometheus = watching
        self._ports = ports
        self._receiver = receiver
        self._rounds = 0
        self._ids = itertools.count()

    def kill(self, service: str) -> None:
        """SIGKILL."""
        self.stack.kill(service)

    def start(self, service: str) -> None:
        """Start a service again where it was."""
        self.stack._environ["HOLDFAST_HTTP_PORT"] = str(self._ports[service])
        self.stack.start(service)

    async def declare(self) -> None:
        """The resources: a model, one with a limit, a clock, somebody on call, three agents."""
        stage = self.stage
        price = Pricing(input=Decimal(3), output=Decimal(15))
        script = ScriptedOptions(rules=RULES_OF_THE_MODEL, transcript=(SAID,))
        spec = LLMSpec(provider="scripted", scripted=script, pricing=price)
        await stage.apply(LLM(metadata=Metadata(name="model"), spec=spec))
        slow = ScriptedOptions(transcript=(SAID,))
        spec = LLMSpec(provider="scripted", scripted=slow, pricing=price, limits=LLMLimits(concurrency=1))
        await stage.apply(LLM(metadata=Metadata(name="narrow"), spec=spec))
        clock = MCPServerSpec(transport="stdio", command=sys.executable, args=("-m", "mcp_server_time"))
        await stage.apply(MCPServer(metadata=Metadata(name="clock"), spec=clock))
        channel = ContactChannelSpec(type="console")
        await stage.apply(ContactChannel(metadata=Metadata(name="oncall"), spec=channel))
        asks = (ApprovalRule(contact_channel=Ref(name="oncall")),)
        await self._agent("helper", "model", tools=True)
        await self._agent("careful", "model", tools=True, approvals=asks)
        await self._agent("narrow", "narrow")

    async def _agent(
        self, name: str, llm: str, *, tools: bool = False, approvals: tuple[ApprovalRule, ...] = ()
    ) -> None:
        servers = (ServerRef(name="clock"),) if tools else ()
        spec = AgentSpec(llm_ref=Ref(name=llm), system="You help.", mcp_servers=servers, approvals=approvals)
        await self.stage.apply(Agent(metadata=Metadata(name=name), spec=spec))

    async def round(self) -> None:
        """Tasks that meet everything, each to its end."""
        self._rounds += 1
        approved = await self._submit("careful", "What is the time?")
        ends: list[Awaitable[object]] = [
            self._end("helper", "What is the time?", url="/taken"),
            self._end("helper", "And what is it on Mars?"),
            self._end("helper", "Please stumble."),
            self._end("helper", "You will be refused.", failed=True),
            *(self._end("narrow", f"Say something, {n}.") for n in range(3)),
            self._approve(approved),
        ]
        await asyncio.gather(*ends)

    async def leave_open(self) -> None:
        """A question that nobody answers, somebody who is not told, and a message that nobody can read."""
        await self._asked(await self._submit("careful", "What is the time?"))
        await self._end("helper", "Say something.", url="/refused")
        event = TaskSubjects(0, "default", f"nobody-{self._rounds}").submitted
        await self.stage.bus.log(0).record(Outgoing(event, b"{"))

    async def _submit(self, agent: str, text: str, url: str = "") -> TaskSubjects:
        request = {"agentName": agent, "userMessage": text, **({"responseURL": self._receiver + url} if url else {})}
        reply = await self._ask("submit", request)
        assert isinstance(reply, Accepted), reply
        return self.stage.task(reply.task)

    async def _ask(self, verb: str, request: dict[str, str]) -> Reply:
        """Ask, and again under the same id while there is no planner."""
        message_id = f"observed-{next(self._ids)}"
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    return await self.stage.ask(verb, request, message_id=message_id)
                except Unavailable:
                    await asyncio.sleep(AGAIN_S)

    async def _end(self, agent: str, text: str, *, url: str = "", failed: bool = False) -> None:
        task = await self._submit(agent, text, url)
        await self.stage.until_state(task, Failed if failed else FinalAnswer, wait_s=WAIT_S)

    async def _asked(self, task: TaskSubjects) -> None:
        async def there() -> bool:
            return await self.stage.bus.log(task.partition).get(task.interaction_asked("r1", 1, 0)) is not None

        await until(there, f"a question of {task.task}", wait_s=WAIT_S)

    async def _approve(self, task: TaskSubjects) -> None:
        await self._asked(task)
        await self._ask("answer", {"task": task.task, "interaction": APPROVED, "action": "accept", "by": "ann"})
        await self.stage.until_state(task, FinalAnswer, wait_s=WAIT_S)


@contextmanager
def _receiver() -> Generator[str]:
    """Takes what is posted to `/taken`, and nothing else; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204 if self.path == "/taken" else 400)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _port(log: str) -> int:
    """Where a service serves its metrics, by what it has logged."""
    lines = (json.loads(line) for line in log.splitlines() if '"process.ready"' in line)
    return next(int(line["port"]) for line in lines)


def _config(ports: dict[str, int]) -> str:
    """As `deploy/observability/prometheus/prometheus.yml`, with addresses in place of names, and quicker."""
    targets = [{"targets": [f"127.0.0.1:{port}"], "labels": {"service": service}} for service, port in ports.items()]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FOLDER / "*.yaml")],
        "scrape_configs": [{"job_name": "holdfast", "static_configs": targets}],
    }
    return yaml.safe_dump(config)


@asynccontextmanager
async def observed(directory: Path) -> AsyncGenerator[Observed]:
    """All services, and a Prometheus that has seen each of them once."""
    with _receiver() as receiver:
        async with stack(directory, services=SERVICES, environ=QUICK) as running:
            ports = {service: _port(running.log(service)) for service in SERVICES}
            with prometheus(directory, _config(ports)) as watching:
                here = Observed(running, watching, ports, receiver)
                await here.declare()
                await asyncio.to_thread(
                    watching.until, f"count(up == 1) == {len(SERVICES)}", "every service was scraped"
                )
                yield here
