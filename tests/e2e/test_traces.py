"""OTLP from real processes: one trace for a task and its children through all services, whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from schemas.requests import Accepted
from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    ApprovalRule,
    ContactChannel,
    ContactChannelSpec,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    ScriptedCall,
    ScriptedOptions,
    ScriptedReply,
    ServerRef,
)
from schemas.subjects import TaskSubjects
from schemas.task import AwaitingTools, FinalAnswer
from services.runtime.telemetry.conventions import FORMS, flaws, form_of
from tests.support.otlp_receiver import Receiver, Span, orphans, otlp_receiver
from tests.support.raw_http import RawServer, raw_server, response
from tests.support.stack import SERVICES, Stack, stack
from tests.support.stage import until

ALL = (*SERVICES, "human-contact", "notifier")
QUESTION = "a question that nobody else is to read"
SYSTEM = "instructions that nobody else is to read"
ARGUMENT = "Europe/Zurich"
ANSWER = "an answer that nobody else is to read"
TOKEN = "a-token-in-a-url"
PLANTED = (QUESTION, SYSTEM, ARGUMENT, ANSWER, TOKEN)
QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_BLRP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "500"}
WAIT_S = 40.0


class Watched:
    """A stack, where it exports to, and who is told what became of its tasks."""

    def __init__(self, running: Stack, received: Receiver, hook: RawServer) -> None:
        self.running = running
        self.stage = running.stage
        self.received = received
        self.hook = hook

    async def apply(self) -> None:
        """An agent that delegates to one that asks people before it looks at the clock."""
        stage = self.stage
        clock = MCPServerSpec(transport="stdio", command=sys.executable, args=("-m", "mcp_server_time"))
        await stage.apply(MCPServer(metadata=Metadata(name="clock"), spec=clock))
        console = ContactChannelSpec(type="console")
        await stage.apply(ContactChannel(metadata=Metadata(name="oncall"), spec=console))
        look = ScriptedCall(tool="clock__get_current_time", arguments={"timezone": ARGUMENT})
        rule = ApprovalRule(contact_channel=Ref(name="oncall"))
        await self._agent("reader", look, mcp_servers=(ServerRef(name="clock"),), approvals=(rule,))
        delegated = ScriptedCall(tool="delegate_to_agent__reader", arguments={"message": QUESTION})
        await self._agent("helper", delegated, sub_agents=(Ref(name="reader"),))

    async def _agent(self, name: str, call: ScriptedCall, **fields: object) -> None:
        turns = (ScriptedReply(calls=(call,)), ScriptedReply(text=ANSWER))
        script = LLMSpec(provider="scripted", scripted=ScriptedOptions(transcript=turns))
        await self.stage.apply(LLM(metadata=Metadata(name=name), spec=script))
        spec = AgentSpec(llm_ref=Ref(name=name), system=SYSTEM, **fields)  # type: ignore[arg-type]
        await self.stage.apply(Agent(metadata=Metadata(name=name), spec=spec))

    async def submit(self) -> TaskSubjects:
        """A task that somebody wants to hear of."""
        url = f"http://127.0.0.1:{self.hook.port}/hook?token={TOKEN}"
        return await self.stage.submit(userMessage=QUESTION, responseURL=url)

    async def child(self, task: TaskSubjects) -> TaskSubjects:
        """The task that it delegates to, once people are asked there."""
        state = await self.stage.until_state(task, AwaitingTools, wait_s=WAIT_S)
        child = self.stage.task(state.calls[0].child)
        log = self.stage.bus.log(child.partition)

        async def asked() -> bool:
            return await log.get(child.interaction_asked("r1", 1, 0)) is not None

        await until(asked, "people are asked", wait_s=WAIT_S)
        return child

    async def approve(self, child: TaskSubjects) -> None:
        """Somebody says yes."""
        reply = await self.stage.ask("answer", {"task": child.task, "interaction": "r1.1.0", "by": "ann"})
        assert isinstance(reply, Accepted), reply

    async def told(self) -> None:
        """Wait until the notification has come."""

        async def there() -> bool:
            return bool(self.hook.asked)

        await until(there, "the notification", wait_s=WAIT_S)

    async def trace(self, task: TaskSubjects, *names: str) -> list[Span]:
        """The spans of a task's trace, once it has spans of these names."""
        state = await self.stage.until_state(task, FinalAnswer, wait_s=WAIT_S)
        trace = state.traceparent.split("-")[1]

        async def there() -> bool:
            return set(names) <= {span.name for span in self.received.of_trace(trace)}

        await until(there, f"spans {names}", wait_s=WAIT_S)
        return self.received.of_trace(trace)

    async def restart(self, *services: str) -> None:
        """SIGKILL, and start them again."""
        before = {service: self._readied(service) for service in services}
        for service in services:
            self.running.kill(service)
        for service in services:
            self.running.start(service)

        async def ready() -> bool:
            return all(self._readied(service) > count for service, count in before.items())

        await until(ready, f"{services} are back", wait_s=WAIT_S)

    def _readied(self, service: str) -> int:
        return self.running.log(service).count("process.ready")


@asynccontextmanager
async def watched(directory: Path, **environ: str) -> AsyncGenerator[Watched]:
    with otlp_receiver() as received:
        async with raw_server() as hook:
            hook.paths["/hook"] = response()
            env = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint,
                "HOLDFAST_PEOPLE_HTTP_PORT": "-1",
                "HOLDFAST_EGRESS_ALLOW": "127.0.0.1",
                "HOLDFAST_RECONCILE_S": "2",
                **QUICKLY,
                **environ,
            }
            async with stack(directory, services=ALL, environ=env) as running:
                here = Watched(running, received, hook)
                await here.apply()
                yield here


def named(spans: Iterable[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


def edges(spans: list[Span]) -> set[tuple[str, str]]:
    """Which service's messages which service has handled."""
    by_id = {span.id: span for span in spans}
    processed = [span for span in spans if span.kind == "consumer"]
    return {(by_id[link].service, span.service) for span in processed for link in span.links if link in by_id}


async def test_a_task_and_its_child_are_one_trace_through_all_services(tmp_path: Path) -> None:
    async with watched(tmp_path) as here:
        task = await here.submit()
        child = await here.child(task)
        await asyncio.sleep(1.0)  # people take their time
        await here.approve(child)
        await here.told()
        await here.trace(task, "invoke_agent helper", "notification responseURL")
        assert [here.running.stop(service) for service in ALL] == [0] * len(ALL)
        spans = await here.trace(task, "notification responseURL")

    assert orphans(spans) == []
    root, inner = named(spans, "invoke_agent helper"), named(spans, "invoke_agent reader")
    assert [span for span in spans if not span.parent] == [root]
    # Who handles whose messages.
    assert edges(spans) >= {
        ("planner", "llm-gateway"),
        ("llm-gateway", "planner"),
        ("planner", "tool-executor"),
        ("tool-executor", "planner"),
        ("planner", "human-contact"),
        ("human-contact", "planner"),
        ("planner", "planner"),
        ("planner", "notifier"),
        ("notifier", "notifier"),
    }
    # A delegated call is inside its task, its answer is inside of it, and it is linked to that.
    call = named(spans, "execute_tool delegate_to_agent__reader")
    assert (call.parent, inner.parent, call.links) == (root.id, call.id, (inner.id,))
    for span in spans:
        if span.kind == "consumer":
            assert span.parent == (root.id if span.attributes["holdfast.task"] == task.task else inner.id), span
    by_id = {span.id: span for span in spans}
    chats = [span for span in spans if span.attributes.get("gen_ai.operation.name") == "chat"]
    assert len(chats) == 4
    assert {by_id[span.parent].service for span in chats} == {"llm-gateway"}
    tool = named(spans, "execute_tool clock__get_current_time")
    assert (tool.service, by_id[tool.parent].kind) == ("tool-executor", "consumer")
    # A wait for people lasted as long as they took, and nothing held it open.
    wait = named(spans, "wait_for_person approval")
    assert (wait.parent, wait.attributes["holdfast.answer"]) == (inner.id, "accept")
    assert 1.0 <= wait.end_s - wait.start_s < WAIT_S
    assert root.start_s <= inner.start_s <= wait.start_s <= wait.end_s <= tool.start_s <= inner.end_s <= root.end_s
    told = named(spans, "notification responseURL")
    attempt = named(spans, "notify responseURL")
    assert told.start_s <= attempt.start_s <= attempt.end_s
    assert (told.parent, by_id[attempt.parent].service) == (root.id, "notifier")
    check_words(spans)
    check_metrics_and_logs(here.received, root)


def check_words(spans: list[Span]) -> None:
    """Every span is one that its convention knows, all kinds of spans occur, and none tells what was said."""
    assert [flaw for span in spans for flaw in flaws(span.service, span.name, span.kind, span.attributes)] == []
    assert {form_of(span.service, span.name, span.attributes) for span in spans} == set(FORMS)
    assert not any(span.failed for span in spans)
    told = json.dumps([[span.name, span.attributes] for span in spans])
    assert [words for words in PLANTED if words in told] == []


def check_metrics_and_logs(received: Receiver, root: Span) -> None:
    """What is counted and logged has come, too."""
    points, lines = received.points, received.lines
    assert {service for service, _ in points} == set(ALL)
    calls = points["llm-gateway", "holdfast_model_call_seconds"]
    answered = [
        point for point in calls if {"scripted", "answered"} <= {a.value.string_value for a in point.attributes}
    ]
    assert [point.count for point in answered] == [4]
    assert ("planner", "holdfast_task_transitions") in points
    steps = [line for line in lines if line.attributes.get("holdfast.action") == "task.step"]
    ours = [line for line in steps if line.trace == root.trace]
    by_id = {span.id: span for span in received.spans}
    assert {by_id[line.span].service for line in ours} == {"planner"}
    assert {line.attributes["holdfast.task"] for line in ours} == {
        span.attributes["holdfast.task"] for span in received.spans if span.name.startswith("invoke_agent")
    }
    assert {line.service for line in lines} == set(ALL)
    told = json.dumps([[line.body, line.attributes] for line in lines])
    assert [words for words in PLANTED if words in told] == []


async def test_no_span_is_orphaned_whoever_is_killed(tmp_path: Path) -> None:
    # Slowly: what a process was killed with, it had not exported.
    async with watched(tmp_path, OTEL_BSP_SCHEDULE_DELAY="1500") as here:
        here.running.kill("llm-gateway")
        task = await here.submit()
        here.running.start("llm-gateway")
        child = await here.child(task)

        async def exported() -> bool:
            return any(span.service == "planner" for span in here.received.spans)

        await until(exported, "a span of the planner that is killed now", wait_s=WAIT_S)
        await here.restart("planner", "llm-gateway", "human-contact", "tool-executor")
        await here.approve(child)
        await here.stage.until_state(child, FinalAnswer, wait_s=WAIT_S)
        await here.restart("tool-executor", "notifier")
        await here.told()
        await here.restart("notifier", "planner")
        await here.trace(task, "invoke_agent helper", "invoke_agent reader", "execute_tool delegate_to_agent__reader")
        assert [here.running.stop(service) for service in ALL] == [0] * len(ALL)
        spans = await here.trace(task)
    assert orphans(spans) == []
    assert [span.name for span in spans if not span.parent] == ["invoke_agent helper"]
    assert [flaw for span in spans for flaw in flaws(span.service, span.name, span.kind, span.attributes)] == []
    assert len({span.replica for span in spans if span.service == "planner"}) > 1


async def test_a_planner_that_dies_with_the_span_of_a_task_is_spoken_for_by_the_next(tmp_path: Path) -> None:
    async with watched(tmp_path, OTEL_BSP_SCHEDULE_DELAY="60000") as here:
        task = await here.submit()
        await here.approve(await here.child(task))
        await here.stage.until_state(task, FinalAnswer, wait_s=WAIT_S)
        assert here.received.spans == []
        here.running._environ["OTEL_BSP_SCHEDULE_DELAY"] = "100"
        await here.restart("planner")
        spans = await here.trace(task, "invoke_agent helper", "invoke_agent reader")
        assert orphans(spans) == []
        assert [here.running.stop(service) for service in ALL] == [0] * len(ALL)
        assert orphans(await here.trace(task)) == []


async def test_an_exporter_that_takes_everything_and_answers_nothing_holds_nobody_up(tmp_path: Path) -> None:
    silent = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    try:
        # Without a scheme and a path, as people write it.
        async with watched(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=f"127.0.0.1:{port}") as here:
            task = await here.submit()
            child = await here.child(task)
            began = time.monotonic()
            await here.approve(child)
            await here.stage.until_state(task, FinalAnswer, wait_s=10)
            await here.told()
            assert time.monotonic() - began < 10
            began = time.monotonic()
            assert [here.running.stop(service) for service in ALL] == [0] * len(ALL)
            assert time.monotonic() - began < 8 * len(ALL)
    finally:
        silent.close()
