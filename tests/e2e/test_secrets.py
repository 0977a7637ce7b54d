"""Planted secrets, used by all services in a run with failures that say them back, are found nowhere afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2

from schemas.resources import (
    LLM,
    Agent,
    AgentSpec,
    ApprovalRule,
    ContactChannel,
    ContactChannelSpec,
    EnvVar,
    LLMParameters,
    LLMSpec,
    MCPServer,
    MCPServerSpec,
    Metadata,
    Ref,
    SecretKeyRef,
    SecretSource,
    ServerRef,
    SlackOptions,
    Subscription,
    SubscriptionSpec,
    WebhookSink,
)
from schemas.subjects import TaskSubjects
from schemas.task import Failed, FinalAnswer
from tests.support.nats_server import NatsServer
from tests.support.otlp_receiver import otlp_receiver
from tests.support.provider_server import ProviderServer, Reply, Stream, provider_server
from tests.support.provider_wire import Call, chat_error, chat_stream
from tests.support.raw_http import Asked, RawServer, raw_server, response
from tests.support.slack_server import CHANNEL, SIGNING_SECRET, TOKEN, slack_server
from tests.support.stack import REPOSITORY, Stack, stack
from tests.support.stage import until

SERVICES = ("planner", "llm-gateway", "tool-executor", "human-contact", "notifier")
PUBLIC = "a-sentence-that-anybody-may-read"
SECRETS = {
    "llm": "sk-planted-llm-key-8f21c0",
    "tool": "planted-tool-secret-91b7d2",
    "hook": "whsec_cGxhbnRlZC13ZWJob29rLXNpZ25pbmcta2V5",
    "hook-header": "planted-webhook-bearer-5d03aa",
    "slack-token": TOKEN,
    "slack-signing": SIGNING_SECRET,
}
LINK_KEY = "planted-link-key-" + "0123456789abcdef" * 3
PLANTED = [*(value for name, value in SECRETS.items() if name != "slack-token"), LINK_KEY]
"""The token of the Slack double is too short a word to look for: `xoxb-1`; it is looked for as a header."""


def secret(name: str) -> SecretSource:
    return SecretSource(secret_key_ref=SecretKeyRef(name=name, key="value"))


def write_secrets(directory: Path) -> None:
    for name, value in SECRETS.items():
        (directory / "secrets" / name).mkdir(parents=True)
        (directory / "secrets" / name / "value").write_text(value)
    (directory / "link-key").write_text(f"{LINK_KEY}\n")


async def apply(running: Stack, provider: ProviderServer, hook: str, directory: Path) -> None:
    stage = running.stage
    parameters = LLMParameters(model="gpt-test", base_url=provider.openai_url)
    model = LLMSpec(provider="openai", api_key_from=secret("llm"), parameters=parameters)
    await stage.apply(LLM(metadata=Metadata(name="model"), spec=model))
    env = (
        EnvVar(name="RECORD", value=str(directory / "effects")),
        EnvVar(name="TOOL_SECRET", value_from=secret("tool")),
    )
    kitchen = MCPServerSpec(
        transport="stdio", command=sys.executable, args=("-m", "tests.support.mcp_servers.kitchen"), env=env
    )
    await stage.apply(MCPServer(metadata=Metadata(name="kitchen"), spec=kitchen))
    slack = SlackOptions(
        channel_or_user_id=CHANNEL, bot_token_from=secret("slack-token"), signing_secret_from=secret("slack-signing")
    )
    await stage.apply(
        ContactChannel(metadata=Metadata(name="oncall"), spec=ContactChannelSpec(type="slack", slack=slack))
    )
    headers = (EnvVar(name="Authorization", value_from=secret("hook-header")),)
    sink = WebhookSink(url=hook, secret_from=(secret("hook"),), headers=headers)
    await stage.apply(Subscription(metadata=Metadata(name="told"), spec=SubscriptionSpec(webhook=sink)))
    spec = AgentSpec(
        llm_ref=Ref(name="model"),
        system="Help.",
        mcp_servers=(ServerRef(name="kitchen"),),
        approvals=(ApprovalRule(contact_channel=Ref(name="oncall"), tools=("kitchen__effect",)),),
    )
    await stage.apply(Agent(metadata=Metadata(name="helper"), spec=spec))


def every_failure_says_it_back(provider: ProviderServer, hook: RawServer) -> None:
    """A tool that prints its environment, a provider that quotes the key, a receiver that quotes what it was sent."""
    calls = (
        Call("c1", "kitchen__environment", "{}"),
        Call("c2", "kitchen__effect", json.dumps({"text": PUBLIC})),
        Call("c3", "kitchen__fail", json.dumps({"message": "no such dish"})),
    )
    quoted = chat_error(f"Incorrect API key provided: {SECRETS['llm']}. See your account.", code="invalid_api_key")
    provider.then(Stream(chat_stream("I look.", calls)), Stream(chat_stream(f"Done: {PUBLIC}")), Reply(401, quoted))

    async def refuse(asked: Asked, writer: asyncio.StreamWriter) -> None:
        said = json.dumps({"you sent": asked.headers, "and": asked.body.decode()}).encode()
        writer.write(response(said, status="400 Bad Request", X_Quoted=asked.headers.get("authorization", "")))
        await writer.drain()

    hook.paths["/hook"] = refuse


async def run(running: Stack, slack_messages: list[dict[str, object]], press: object) -> list[TaskSubjects]:
    """A task that does everything, and one whose model call fails."""
    done = await running.stage.submit(userMessage=PUBLIC)

    async def asked() -> bool:
        return bool(slack_messages)

    await until(asked, "a message in Slack", wait_s=40)
    await press(slack_messages[0], "accept")  # type: ignore[operator]
    await running.stage.until_state(done, FinalAnswer, wait_s=40)
    failed = await running.stage.submit(userMessage="fail")
    await running.stage.until_state(failed, Failed, wait_s=40)
    return [done, failed]


def command_lines(running: Stack, directory: Path, tasks: list[TaskSubjects]) -> Iterator[tuple[str, str]]:
    """What the command line says of everything."""
    kinds = ("llms", "agents", "mcpservers", "contactchannels", "subscriptions", "tasks")
    wanted = [["get", kind, "-o", form] for kind in kinds for form in ("yaml", "wide")]
    for task in tasks:
        wanted += [["describe", "task", task.task], ["events", task.task], ["get", "task", task.task, "-o", "json"]]
        wanted += [["watch", task.task]]
    wanted += [["dlq", "list", "-o", "json"], ["usage"], ["inbox"]]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "NATS_"))}
    for arguments in wanted:
        ended = subprocess.run(
            [sys.executable, "-m", "services.cli.main", *arguments],
            cwd=REPOSITORY,
            env={**environ, **running.client, "HOLDFAST_STATE_DIR": str(directory / "state")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        yield " ".join(arguments), ended.stdout + ended.stderr


async def metrics(running: Stack) -> Iterator[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    async with httpx2.AsyncClient(trust_env=False) as client:
        for service in SERVICES:
            ports = [
                json.loads(line).get("port") for line in running.log(service).splitlines() if "process.ready" in line
            ]
            found.append((service, (await client.get(f"http://127.0.0.1:{ports[-1]}/metrics")).text))
    return iter(found)


def stored(server: NatsServer) -> Iterator[tuple[str, bytes]]:
    """Every file of the server: all streams and buckets."""
    for path in server.directory.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()


async def test_a_secret_is_nowhere_after_a_full_run(tmp_path: Path) -> None:
    write_secrets(tmp_path)
    with otlp_receiver() as received:
        environ = {
            "HOLDFAST_PEOPLE_LINK_KEY_FILE": str(tmp_path / "link-key"),
            "HOLDFAST_EGRESS_ALLOW": "127.0.0.1",
            "HOLDFAST_HTTP_PORT": "0",
            "HOLDFAST_LOG_LEVEL": "DEBUG",
            "OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "PYTHONPATH": str(REPOSITORY),
        }
        async with provider_server() as provider, raw_server() as hook, slack_server() as (slack, api):
            provider.keys = {SECRETS["llm"]}
            every_failure_says_it_back(provider, hook)
            environ |= {"HOLDFAST_SLACK_URL": api}
            async with stack(tmp_path, services=SERVICES, environ=environ) as running:
                ports = re.findall(r"answers come in on (\S+?)\"", running.log("human-contact"))
                slack.url = f"http://{ports[-1]}"
                await apply(running, provider, f"http://127.0.0.1:{hook.port}/hook", tmp_path)
                tasks = await run(running, slack.messages, slack.press)

                async def told() -> bool:
                    return len(hook.asked) >= 2

                await until(told, "the webhook", wait_s=30)
                said = dict(command_lines(running, tmp_path, tasks))
                said |= {f"metrics of {service}": text for service, text in await metrics(running)}
                said |= {f"log of {service}": running.log(service) for service in SERVICES}
                for service in SERVICES:
                    running.stop(service)
                said |= {f"log of {service}": (tmp_path / f"{service}.log").read_text() for service in SERVICES}
            said["traces"] = "\n".join(map(str, received.spans))
            said["logs by OTLP"] = "\n".join(map(str, received.lines))
            files = dict(stored(running.server))

    # They were used, and what anybody may read is there: the search below would find them.
    assert any(request.headers["authorization"] == f"Bearer {SECRETS['llm']}" for request in provider.generations())
    assert any(asked.headers["authorization"] == SECRETS["hook-header"] for asked in hook.asked)
    assert "chat.postMessage" in slack.calls
    assert (tmp_path / "effects").exists()
    assert any(PUBLIC.encode() in data for data in files.values())
    assert PUBLIC in said[f"describe task {tasks[0].task}"]
    assert "[secret]" in said[f"describe task {tasks[0].task}"] or any(b"[secret]" in data for data in files.values())
    assert len(received.spans) > 10

    found = [(where, word) for where, text in said.items() for word in (*PLANTED, f"Bearer {TOKEN}") if word in text]
    found += [(where, word) for where, data in files.items() for word in PLANTED if word.encode() in data]
    assert found == []


async def test_log_lines_cannot_be_forged(tmp_path: Path) -> None:
    """Whatever strangers say, a line of a log is one JSON object that a service wrote."""
    forged = 'x\n{"level":"INFO","msg":"forged"}\r\n\x1b[2J\u2028\x00'
    async with provider_server() as provider:
        provider.then(Reply(400, chat_error(f"bad {forged}")))
        (tmp_path / "secrets" / "llm").mkdir(parents=True)
        (tmp_path / "secrets" / "llm" / "value").write_text("sk-1")
        environ = {"HOLDFAST_LOG_LEVEL": "DEBUG"}
        async with stack(tmp_path, environ=environ) as running:
            parameters = LLMParameters(model="gpt-test", base_url=provider.openai_url)
            model = LLMSpec(provider="openai", api_key_from=secret("llm"), parameters=parameters)
            await running.stage.apply(LLM(metadata=Metadata(name="model"), spec=model))
            spec = AgentSpec(llm_ref=Ref(name="model"), system="Help.")
            await running.stage.apply(Agent(metadata=Metadata(name="helper"), spec=spec))
            task = await running.stage.submit(userMessage=forged, labels={"a": forged[:40]})
            await running.stage.until_state(task, Failed, wait_s=40)
            for name in (forged, "../../etc/passwd", "*", ">"):
                await running.stage.ask("cancel", {"task": name, "by": forged, "reason": forged})
            logs = {service: running.log(service) for service in ("planner", "llm-gateway", "tool-executor")}
    for log in logs.values():
        for line in log.splitlines():
            entry = json.loads(line)
            assert entry.get("msg") != "forged"
            assert "\x1b" not in line
