"""Accounts, on a real server with TLS on both sides: what each service needs works, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from schemas import subjects
from schemas.subjects import TaskSubjects
from services.runtime.errors import Unavailable
from services.runtime.nats import api
from services.runtime.nats.accounts import SERVICES
from services.runtime.nats.bus import NatsBus, connect
from services.runtime.nats.connection import Connection, NoResponders
from services.runtime.nats.topology import consumer_plans, stream_plans
from services.runtime.ports import Change, Outgoing, Signal, SignalHandler
from services.runtime.settings import Settings
from tests.support.secured import Secured, secured_server
from tests.support.waiting import until

TASK = TaskSubjects(0, "team-a", "t1")
OTHER = TaskSubjects(0, "team-b", "t1")
STATE = b"the state"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured_server(tmp_path_factory.mktemp("secured"), tenants=("team-a", "team-b")) as running:
        yield running


class Parties:
    """Everybody's bus and connection."""

    def __init__(self, secured: Secured, stack: AsyncExitStack) -> None:
        self._secured = secured
        self._stack = stack

    async def bus(self, user: str) -> NatsBus:
        bus = await connect(self._secured.settings(user), service=user)
        return await self._stack.enter_async_context(bus)

    async def raw(self, user: str) -> Connection:
        connection = Connection(self._secured.settings(user), service=user)
        await connection.open()
        self._stack.push_async_callback(connection.close)
        return connection


@pytest.fixture
async def parties(secured: Secured) -> AsyncIterator[Parties]:
    async with AsyncExitStack() as stack:
        yield Parties(secured, stack)


@pytest.fixture
async def core(parties: Parties) -> NatsBus:
    """The planner's bus; the streams are there and empty."""
    bus = await parties.bus("planner")
    for plan in stream_plans(Settings()):
        await api.ask(bus._connection, f"STREAM.PURGE.{plan.name}")
    return bus


COMMANDS = {
    "llm-gateway": (subjects.LLM_GATEWAY, TASK.model_command(1, 1), TASK.model_event(1, 1)),
    "tool-executor": (subjects.TOOL_EXECUTOR, TASK.tool_command("r1", 1), TASK.tool_event("r1", 1)),
    "human-contact": (subjects.HUMAN_CONTACT, TASK.ask_command("r1", 1), TASK.approval_event("r1", 1)),
    "notifier": (subjects.NOTIFIER, TASK.notify_command, TASK.notification("n1")),
}
"""Of each service: its consumer, what it is told to do, and what it records of that."""


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_takes_its_commands_reads_records_and_acknowledges(
    core: NatsBus, parties: Parties, service: str
) -> None:
    consumer, command, recorded = COMMANDS[service]
    await core.log(0).commit(Change(Outgoing(TASK.state, STATE), 0, (Outgoing(command, b"do it"),)))
    bus = await parties.bus(service)
    (delivery,) = await (await bus.queue(consumer, 0)).take(1)
    assert (delivery.subject, delivery.data) == (command, b"do it")
    log = bus.log(0)
    entry = await log.get(TASK.state, at_least=delivery.seq)
    assert entry is not None
    assert entry.data == STATE
    assert [one.data for one in await log.read([entry.seq])] == [STATE]
    assert [one.seq for one in await log.last([TASK.state, command])] == [entry.seq, delivery.seq]
    seq = await log.record(Outgoing(recorded, b"done"))
    assert await log.record(Outgoing(recorded, b"again")) is None
    await delivery.ack()

    async def acknowledged() -> bool:
        info = await api.ask(core._connection, f"CONSUMER.INFO.{subjects.task_stream(0)}.{consumer}")
        return int(info["num_ack_pending"]) == 0 and int(info["ack_floor"]["stream_seq"]) > 0

    await until(acknowledged, "that it is acknowledged")
    assert [one.seq for one in await core.log(0).last([recorded])] == [seq]


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_sees_resources_change(core: NatsBus, parties: Parties, service: str) -> None:
    await core.resources.put("spec.Agent.team-a.a", b"1")
    watch = (await parties.bus(service)).resources.watch()
    async with asyncio.timeout(10):
        first = await anext(watch)
        assert first is not None
        assert (first.key, first.data) == ("spec.Agent.team-a.a", b"1")
        assert await anext(watch) is None
        await core.resources.put("spec.Agent.team-a.a", b"2")
        changed = await anext(watch)
    assert changed is not None
    assert changed.data == b"2"


@pytest.mark.parametrize(("service", "kind"), [("human-contact", "people"), ("notifier", "notify")])
async def test_a_service_that_waits_sets_is_woken_by_and_cancels_its_own_timers(
    core: NatsBus, parties: Parties, service: str, kind: str
) -> None:
    bus = await parties.bus(service)
    timer, fired, all_ = {
        "people": (TASK.people_timer, TASK.people_timer_fired, TASK.people_timers),
        "notify": (TASK.notify_timer, TASK.notify_timer_fired, TASK.notify_timers),
    }[kind]
    soon, later = datetime.now(UTC), datetime.now(UTC) + timedelta(hours=1)
    await bus.timers.set(timer("x"), fired("x"), soon, b"now", {})
    await bus.timers.set(timer("y"), fired("y"), later, b"later", {})
    consumer = subjects.HUMAN_CONTACT_TIMERS if kind == "people" else subjects.NOTIFIER_TIMERS
    (delivery,) = await (await bus.queue(consumer)).take(1)
    assert delivery.data == b"now"
    await delivery.ack()
    await bus.timers.cancel(all_)

    async def empty() -> bool:
        info = await api.ask(core._connection, f"STREAM.INFO.{subjects.timer_stream(all_)}")
        return int(info["state"]["messages"]) == 0

    await until(empty, "that no timer is left")


async def test_large_payloads_pass_between_accounts(core: NatsBus, parties: Parties) -> None:
    large = bytes(range(256)) * (40 << 10)
    await core.log(0).record(Outgoing(TASK.tool_command("r1", 1), large))
    executor = await parties.bus("tool-executor")
    (delivery,) = await (await executor.queue(subjects.TOOL_EXECUTOR, 0)).take(1)
    assert delivery.data == large
    await executor.log(0).record(Outgoing(TASK.tool_output("r1", 1), large[1:]))
    entry = await core.log(0).get(TASK.tool_output("r1", 1))
    assert entry is not None
    assert entry.data == large[1:]


async def test_signals_go_where_they_are_needed(core: NatsBus, parties: Parties) -> None:
    """A stop from the planner to those who work, streamed text to those who watch, and the answer to who joins late."""
    gateway, executor = await parties.bus("llm-gateway"), await parties.bus("tool-executor")
    tenant = await parties.raw("tenant-team-a")
    heard: list[str] = []

    def hear(name: str) -> SignalHandler:
        async def on(signal: Signal) -> None:
            heard.append(f"{name} {signal.subject}")

        return on

    await gateway.signals.subscribe(subjects.STOP_ALL, hear("gateway"))
    await executor.signals.subscribe(subjects.STOP_ALL, hear("executor"))
    await core.signals.subscribe("hf.live.*.*", hear("core"))
    await tenant.listen("hf.live.>", lambda raw: heard.append(f"tenant {raw.subject}"))
    await tenant.flush()

    async def say(signal: Signal) -> None:
        await gateway.signals.publish(signal.reply, b"so far")

    await gateway.signals.subscribe(subjects.TEXT_ALL, say)
    await core.signals.publish(TASK.stop, b"")
    await gateway.signals.publish(TASK.live, b"text")
    await gateway.signals.publish(OTHER.live, b"another tenant's text")
    await executor.signals.publish(TASK.live, b"progress")
    wanted = {f"gateway {TASK.stop}", f"executor {TASK.stop}", f"core {TASK.live}", f"core {OTHER.live}"}
    await until(lambda: {*wanted, f"tenant {TASK.live}"} <= set(heard), f"{heard}")
    assert f"tenant {OTHER.live}" not in heard
    assert (await core.signals.request(TASK.text, b"")).data == b"so far"
    assert (await tenant.request(TASK.text, b"")).data == b"so far"
    with pytest.raises(NoResponders):
        await tenant.request(OTHER.text, b"")


# --- what must not be done ---------------------------------------------------------------


async def refused(
    connection: Connection, subject: str, data: bytes = b"x", headers: dict[str, str] | None = None
) -> bool:
    """Whether nothing takes a message: nobody is there, or it is an error."""
    try:
        answer = await connection.request(subject, data, headers, timeout_s=1.0)
    except (NoResponders, Unavailable):
        return True
    return b'"error"' in answer.data


FORBIDDEN = [
    TASK.state,
    TASK.submitted,
    TASK.cancel,
    TASK.context,
    TASK.model_command(2, 1),
    TASK.tool_command("r2", 1),
    TASK.timer("deadline"),
    TASK.timer_fired("deadline"),
    "hf.tasks.team-a.submit",
    "$KV.holdfast_resources.spec.Agent.team-a.evil",
    "$KV.holdfast_resources.status.Agent.team-a.a",
    "hf.dlq.letter.HOLDFAST_REQUESTS.1",
    *(f"{prefix}.STREAM.{what}" for prefix in ("$JS.API", "HOLDFAST.API") for what in (
        "PURGE.KV_holdfast_0", "DELETE.KV_holdfast_0", "UPDATE.KV_holdfast_0", "MSG.DELETE.KV_holdfast_0",
        "PURGE.HOLDFAST_TIMERS", "SNAPSHOT.KV_holdfast_0", "CREATE.EVIL",
    )),
    *(f"{prefix}.CONSUMER.{what}" for prefix in ("$JS.API", "HOLDFAST.API") for what in (
        "CREATE.KV_holdfast_0.evil", "DELETE.KV_holdfast_0.planner", "MSG.NEXT.KV_holdfast_0.planner",
        "MSG.NEXT.HOLDFAST_REQUESTS.planner-requests", "PAUSE.KV_holdfast_0.planner",
    )),
    "$JS.ACK.KV_holdfast_0.planner.1.1.1.1.0",
    "$SYS.REQ.SERVER.PING",
]  # fmt: skip


@pytest.mark.parametrize("service", [*SERVICES, "tenant-team-a"])
async def test_what_nobody_but_the_planner_may_do_is_refused(core: NatsBus, parties: Parties, service: str) -> None:
    revision = await core.log(0).commit(Change(Outgoing(TASK.state, STATE), 0))
    await core.resources.put("spec.Agent.team-a.a", b"1")
    connection = await parties.raw(service)
    allowed = ["hf.tasks.team-a.submit"] if service.startswith("tenant") else []
    taken = [subject for subject in FORBIDDEN if not await refused(connection, subject)]
    assert taken == allowed
    entry = await core.log(0).get(TASK.state)
    assert entry is not None
    assert (entry.seq, entry.data) == (revision, STATE)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_does_not_do_what_another_does(core: NatsBus, parties: Parties, service: str) -> None:
    connection = await parties.raw(service)
    own = {COMMANDS[service][2]}
    own |= {COMMANDS["tool-executor"][2]} if service == "human-contact" else set()  # what people answer is a result
    others = [recorded for _, _, recorded in COMMANDS.values() if recorded not in own]
    others += [TASK.ledger("r1", 1)] if service != "tool-executor" else []
    others += [TASK.people_timer("x")] if service != "human-contact" else []
    others += [TASK.notify_timer("x")] if service != "notifier" else []
    assert [subject for subject in others if not await refused(connection, subject)] == []
    for plan in consumer_plans(Settings()):
        if not plan.name.startswith(service):
            question = f"HOLDFAST.API.CONSUMER.MSG.NEXT.{plan.stream}.{plan.name}"
            assert await refused(connection, question, b'{"batch":1,"no_wait":true}')
    _ = core


@pytest.mark.parametrize("service", SERVICES)
async def test_a_forged_reply_subject_writes_nothing(core: NatsBus, parties: Parties, service: str) -> None:
    """The server's answers would be stored where the asker may not write; permissions do not keep them off."""
    consumer, _, recorded = COMMANDS[service]
    revision = await core.log(0).commit(Change(Outgoing(TASK.state, STATE), 0))
    connection = await parties.raw(service)
    stream = subjects.task_stream(0)
    questions = (
        (recorded, b"x"),
        (f"HOLDFAST.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", b'{"batch":1,"no_wait":true}'),
        (f"HOLDFAST.API.CONSUMER.INFO.{stream}.{consumer}", b""),
        (f"HOLDFAST.API.STREAM.INFO.{stream}", b""),
        (f"HOLDFAST.API.DIRECT.GET.{stream}.{TASK.state}", b""),
    )
    for question, data in questions:
        await connection.send(question, data, reply=TASK.state)
        await connection.send(question, data, reply=TASK.submitted)
    for question, data in questions:
        await refused(connection, question, data)  # asked last, so those before have been answered
    entry = await core.log(0).get(TASK.state)
    assert entry is not None
    assert (entry.seq, entry.data) == (revision, STATE)
    assert await core.log(0).get(TASK.submitted) is None


async def test_within_one_account_a_forged_reply_subject_does_write(core: NatsBus, parties: Parties) -> None:
    """What the accounts are for. If this fails, servers do not do that any more, and the test above proves nothing."""
    await core.log(0).commit(Change(Outgoing(TASK.state, STATE), 0))
    operator = await parties.raw("operator")
    await operator.send(TASK.notification("n"), b"x", reply=TASK.state)

    async def overwritten() -> bool:
        entry = await core.log(0).get(TASK.state)
        return entry is not None and entry.data != STATE

    await until(overwritten, "that the state is overwritten")


@pytest.mark.parametrize("service", SERVICES)
async def test_a_rollup_header_empties_no_stream_but_the_services_own_timers(
    core: NatsBus, parties: Parties, service: str
) -> None:
    await core.log(0).commit(Change(Outgoing(TASK.state, STATE), 0))
    later = datetime.now(UTC) + timedelta(hours=1)
    await core.timers.set(TASK.timer("deadline"), TASK.timer_fired("deadline"), later, b"due", {})
    await core.dead_letters.record(Outgoing("hf.dlq.letter.X.1", b"letter"))
    await core.resources.put("spec.Agent.team-a.a", b"1")
    connection = await parties.raw(service)
    kinds = {"llm-gateway": "LLM", "tool-executor": "Toolset", "human-contact": "ContactChannel"}
    status = f"$KV.holdfast_resources.status.{kinds.get(service, 'Subscription')}.team-a.a"
    for subject in (COMMANDS[service][2], status, f"hf.dlq.letter.{subjects.task_stream(0)}.1"):
        for scope in ("all", "sub"):
            await refused(connection, subject, headers={"Nats-Rollup": scope})
    own = {"human-contact": subjects.PEOPLE_TIMERS_STREAM, "notifier": subjects.NOTIFY_TIMERS_STREAM}.get(service)
    await core.timers.set(TASK.people_timer("x"), TASK.people_timer_fired("x"), later, b"due", {})
    await core.timers.set(TASK.notify_timer("x"), TASK.notify_timer_fired("x"), later, b"due", {})
    for subject in (
        TASK.people_timer("x"),
        TASK.people_timer_fired("x"),
        TASK.notify_timer("x"),
        TASK.notify_timer_fired("x"),
    ):
        await refused(connection, subject, headers={"Nats-Rollup": "all"})
    assert await core.log(0).get(TASK.state) is not None
    assert await core.resources.get("spec.Agent.team-a.a") is not None
    assert await core.dead_letters.get("hf.dlq.letter.X.1") is not None
    for stream in subjects.TIMER_STREAMS:
        info = await api.ask(core._connection, f"STREAM.INFO.{stream}")
        assert stream == own or info["state"]["messages"] == 1, stream


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_reads_no_stream_that_it_has_nothing_to_do_with(
    core: NatsBus, parties: Parties, service: str
) -> None:
    await core.flow.put("namespace.team-a", b"used")
    connection = await parties.raw(service)
    own = [subjects.task_stream(0), "KV_holdfast_resources", "OBJ_holdfast_payloads", subjects.DEAD_LETTERS_STREAM]
    own += ["KV_holdfast_flow"] if service in ("llm-gateway", "human-contact") else []
    for plan in stream_plans(Settings()):
        refusals = [
            await refused(connection, f"HOLDFAST.API.{question}.{plan.name}", b'{"seq":1}')
            for question in ("DIRECT.GET", "STREAM.MSG.GET")
        ]
        assert all(refusals) or plan.name in own, plan.name
    answer = await connection.request("HOLDFAST.API.DIRECT.GET.KV_holdfast_resources", b'{"seq":99999999}')
    assert answer.status == 404, "what it may read is answered, if only that there is nothing"


async def test_a_timer_cannot_be_aimed_at_another_stream(core: NatsBus, parties: Parties) -> None:
    await core.log(0).commit(Change(Outgoing(TASK.state, STATE), 0))
    connection = await parties.raw("human-contact")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for target in (TASK.state, TASK.timer_fired("deadline"), TASK.notify_timer_fired("x"), TASK.submitted):
        headers = {"Nats-Schedule": f"@at {now}", "Nats-Schedule-Target": target}
        assert await refused(connection, TASK.people_timer("evil"), headers=headers), target
    entry = await core.log(0).get(TASK.state)
    assert entry is not None
    assert entry.data == STATE


async def test_a_tenant_asks_in_its_own_namespace_only(core: NatsBus, parties: Parties) -> None:
    asked: list[str] = []

    async def answer(signal: Signal) -> None:
        asked.append(signal.subject)
        await core.signals.publish(signal.reply, b"yes")

    await core.signals.subscribe(subjects.ASK_ALL, answer)
    await core.signals.subscribe(subjects.READ_ALL, answer)
    tenant = await parties.raw("tenant-team-a")
    for verb in ("submit", "cancel", "send", "answer", "delete"):
        assert (await tenant.request(subjects.ask("team-a", verb), b"")).data == b"yes"
        assert await refused(tenant, subjects.ask("team-b", verb))
    assert (await tenant.request(subjects.read("team-a", "entries"), b"")).data == b"yes"
    assert await refused(tenant, subjects.read("team-b", "entries"))
    assert all(".team-a." in subject for subject in asked)
    for subject in (
        TASK.state,
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        f"$JS.API.DIRECT.GET.KV_holdfast_0.{TASK.state}",
    ):
        assert await refused(tenant, subject), subject


async def test_a_tenant_hears_nothing_of_the_core(core: NatsBus, parties: Parties) -> None:
    heard: list[str] = []
    tenant = await parties.raw("tenant-team-a")
    await tenant.listen(">", lambda raw: heard.append(raw.subject))
    await tenant.flush()
    await core.log(0).record(Outgoing(TASK.submitted, b"x"))
    await core.resources.put("spec.Agent.team-a.a", b"1")
    await core.signals.publish(OTHER.live, b"x")
    await core.signals.publish(TASK.live, b"x")
    await until(lambda: TASK.live in heard, "that it hears of its own task")
    assert [subject for subject in heard if not subject.startswith("_INBOX")] == [TASK.live]
