"""One trace for a task, through real processes and the OTLP protocol, across a crash too."""

from __future__ import annotations

import gzip
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
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
from schemas.task import FinalAnswer
from tests.support.stack import Stack, stack
from tests.support.stage import until


class Span(NamedTuple):
    service: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, str]


class Receiver:
    """Speaks OTLP over HTTP, and remembers the spans."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.spans: list[Span] = []

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    assert span.end_time_unix_nano >= span.start_time_unix_nano
                    attributes = {a.key: a.value.string_value or str(a.value.int_value) for a in span.attributes}
                    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                    self.spans.append(Span(service.removeprefix("holdfast-"), span.name, *ids, attributes))


@contextmanager
def receiver() -> Generator[Receiver]:
    """An OTLP receiver on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received = Receiver(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()


async def apply_all(running: Stack) -> None:
    stage = running.stage
    replies = (
        ScriptedReply(calls=(ScriptedCall(tool="clock__get_current_time", arguments={"timezone": "UTC"}),)),
        ScriptedReply(text="It is late."),
    )
    script = ScriptedOptions(transcript=replies)
    await stage.apply(LLM(metadata=Metadata(name="model"), spec=LLMSpec(provider="scripted", scripted=script)))
    clock = MCPServerSpec(transport="stdio", command=sys.executable, args=("-m", "mcp_server_time"))
    await stage.apply(MCPServer(metadata=Metadata(name="clock"), spec=clock))
    spec = AgentSpec(llm_ref=Ref(name="model"), system="You tell the time.", mcp_servers=(ServerRef(name="clock"),))
    await stage.apply(Agent(metadata=Metadata(name="helper"), spec=spec))


async def test_a_task_is_one_trace_through_all_services_and_a_crash(tmp_path: Path) -> None:
    with receiver() as received:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        async with stack(tmp_path, environ=environ) as running:
            await apply_all(running)
            running.kill("llm-gateway")
            task = await running.stage.submit()
            running.start("llm-gateway")
            await running.stage.until_state(task, FinalAnswer, wait_s=30)

            async def ended() -> bool:
                return any(span.name == "invoke_agent helper" for span in received.spans)

            await until(ended, "the task's own span", wait_s=10)
            assert [running.stop(service) for service in ("planner", "llm-gateway", "tool-executor")] == [0, 0, 0]
        spans = [span for span in received.spans if span.trace == root_of(received).trace]

    by_id = {span.id: span for span in spans}
    orphans = [span for span in spans if span.parent and span.parent not in by_id]
    assert orphans == []
    assert [span.name for span in spans if not span.parent] == ["invoke_agent helper"]
    edges = {(by_id[span.parent].service, span.service) for span in spans if span.parent}
    assert edges >= {
        ("planner", "llm-gateway"),
        ("llm-gateway", "planner"),
        ("planner", "tool-executor"),
        ("tool-executor", "planner"),
    }
    chats = [span for span in spans if span.attributes.get("gen_ai.operation.name") == "chat"]
    tools = [span for span in spans if span.attributes.get("gen_ai.operation.name") == "execute_tool"]
    assert len(chats) == 2
    assert [span.attributes["gen_ai.tool.name"] for span in tools] == ["clock__get_current_time"]


def root_of(received: Receiver) -> Span:
    return next(span for span in received.spans if span.name == "invoke_agent helper")
