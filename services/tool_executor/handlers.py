"""Handles the commands to run tools: one result for each, whatever happens.

    is there a result already?  ->  read the model's answer  ->  resolve and check  ->  make the call  ->  record

What the model did wrong, and what the server says, become results that the model reads. What passes by itself is
handed back a bounded number of times and then becomes a result, too.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Protocol, assert_never

import msgspec

from schemas import ids
from schemas.commands import RunTool
from schemas.dead_letters import DeadReason
from schemas.events import ApprovalGranted, ModelAnswered, ToolFinished, ToolOutput
from schemas.interactions import InteractionAnswered, InteractionRequested
from schemas.messages import ToolCall
from schemas.subjects import STOP_ALL, TOOL_EXECUTOR, TOOL_EXECUTOR_ANSWERS, TRACEPARENT, TaskSubjects, task_of
from schemas.task import AwaitingTools, State, decode_state
from schemas.wire import decode, encode
from services.runtime.consumer import Inbound
from services.runtime.errors import Broken, Refused, RetryLater, Unavailable
from services.runtime.ports import Log, Outgoing
from services.runtime.telemetry.content import Content
from services.runtime.telemetry.logs import log_ids
from services.runtime.telemetry.traces import trace_headers, trace_id
from services.tool_executor.asking import Asker
from services.tool_executor.calls import Call, Caller, NotNow, Outcome
from services.tool_executor.core import arguments
from services.tool_executor.core.arguments import BadArguments
from services.tool_executor.core.doubts import MAYBE
from services.tool_executor.core.ledger import Begin, Unknown
from services.tool_executor.doubts import Doubts, Made, withdraw
from services.tool_executor.holders import Holder
from services.tool_executor.ledger import Answered, Ledger, Place
from services.tool_executor.mcp.pool import ServerKey
from services.tool_executor.people import through
from services.tool_executor.progress import ProgressReport
from services.tool_executor.resolve import Resolver, Target
from services.tool_executor.running import Running, Stopped

if TYPE_CHECKING:
    from schemas.tools import Via
    from services.runtime.ports import Unsubscribe
    from services.runtime.service import Runtime
    from services.tool_executor.calls import ToolServer

logger = logging.getLogger(__name__)

FRESH_S = 1.0
"""A command that is older when it arrives may belong to a task that has ended meanwhile: look before running it."""
HANDED_BACK_MAX = 6
"""How often a call whose server cannot be called now is handed back before that is its result."""
HAND_BACK_S = 2.0
BUSY_S = 0.25
BUSY_MAX_S = 10.0
RECORD_PATIENCE_S = 30.0
"""How long a result in hand is tried to be recorded before the message is handed back."""
RECORD_PAUSE_S = 0.2
UNAPPROVED = (
    "Not done: people have to approve this call, and could not be asked, because the agent was just being changed."
    " Call it again."
)
STOPPED = "The task was stopped before this call had an answer; it may or may not have taken effect."


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A delivered command and where it belongs."""

    run: RunTool
    subjects: TaskSubjects
    log: Log
    inbound: Inbound
    redelivered: bool
    seen: int
    """The place of what is handled, this command or an answer: nothing older decides what becomes of the call."""

    @property
    def result_subject(self) -> str:
        """Where the one result goes."""
        return self.subjects.tool_event(self.run.request, self.run.n)

    @property
    def place(self) -> Place:
        """Where the ledger's entry and the result are."""
        entry = self.subjects.ledger(self.run.request, self.run.n)
        return Place(log=self.log, entry=entry, result=self.result_subject)

    @property
    def name(self) -> str:
        """The call's readable name."""
        return ids.toolcall_name(self.run.task, self.run.request, self.run.n)


class Find(Protocol):
    """Finds what carries out the call of a task that the command at `seq` asks for; None if it cannot now."""

    def __call__(self, via: Via, key: ServerKey, task: TaskSubjects, seq: int) -> ToolServer | None:
        """Look for it."""
        ...


class ToolCommands:
    """The handler of the tool-executor's consumer."""

    def __init__(self, runtime: Runtime, find: Find) -> None:
        self._runtime = runtime
        self._clock = runtime.bus.clock
        self._find = find
        self._content = Content(runtime.secrets) if runtime.traces.captures else None
        self._resolver = Resolver(runtime.resources)
        self.running = Running()
        settings = runtime.settings
        self._ledger = Ledger(runtime.bus, runtime.replica, settings.ack_wait_s, runtime.metrics)
        self._holder = Holder(runtime.bus.signals, self.running, self._ledger)
        self._unsubscribe: list[Unsubscribe] = []
        self._caller = Caller(self._ledger, self._clock)
        self._handed_back_max = min(HANDED_BACK_MAX, settings.deliveries_max - 1)

    async def listen(self) -> None:
        """Hear of tasks that are stopped, and answer other replicas."""
        signals = self._runtime.bus.signals
        self._unsubscribe = [await signals.subscribe(STOP_ALL, self.running.on_stop), await self._holder.listen()]

    async def close(self) -> None:
        """Hear nothing more."""
        for unsubscribe in self._unsubscribe:
            await unsubscribe()

    async def handle(self, inbound: Inbound) -> None:
        """Run the tool that a command asks for, and record its result."""
        await self._run(inbound, inbound.seq, TOOL_EXECUTOR)

    async def on_answered(self, inbound: Inbound) -> None:
        """Carry out a command again whose call people were asked about, and that was left until they had answered."""
        command = await self._asked_about(inbound)
        if command is not None and decode(inbound.data, InteractionAnswered).via != "withdrawn":
            await self._run(command, inbound.seq, TOOL_EXECUTOR_ANSWERS)

    async def on_dead_answer(self, inbound: Inbound, reason: DeadReason, error: str) -> None:
        """Give a call a result whose answer cannot be acted on."""
        command = await self._asked_about(inbound)
        if command is not None:
            await self.on_dead(command, reason, error)

    async def _asked_about(self, inbound: Inbound) -> Inbound | None:
        """The command whose call an answer says something about; None if it is an answer to something else."""
        subjects = task_of(inbound.subject)
        request, n, k = inbound.subject.split(".")[-4:-1]
        if k == "0":
            return None
        log = self._runtime.bus.log(subjects.partition)
        asked = await log.get(subjects.interaction_asked(request, int(n), int(k)), at_least=inbound.seq)
        if asked is None or decode(asked.data, InteractionRequested).kind != "uncertain":
            return None
        entry = await log.get(subjects.tool_command(request, int(n)), at_least=inbound.seq)
        if entry is None:
            return None
        return Inbound(entry.subject, entry.data, entry.headers, entry.seq, inbound.delivered, entry.at, again=True)

    async def _run(self, inbound: Inbound, seen: int, group: str) -> None:
        run = decode(inbound.data, RunTool)
        subjects = _place_of(inbound.subject, run)
        result = subjects.tool_event(run.request, run.n)
        name = ids.toolcall_name(run.task, run.request, run.n)
        trace = inbound.headers.get(TRACEPARENT, "")
        await self._runtime.resources.loaded()
        with (
            log_ids(namespace=run.namespace, task=run.task, toolcall=name, trace=trace_id(trace)),
            self._runtime.traces.process(inbound, subjects, group),
        ):
            async with self.running.in_hand.alone(result) as waited:
                command = Command(
                    run=run,
                    subjects=subjects,
                    log=self._runtime.bus.log(subjects.partition),
                    inbound=inbound,
                    redelivered=waited or inbound.redelivered,
                    seen=seen,
                )
                await self._settle(command)

    async def on_dead(self, inbound: Inbound, reason: DeadReason, error: str) -> None:
        """Give a call whose command is given up a result, so that its task goes on. Harmless if it has one."""
        try:
            subjects = task_of(inbound.subject)
        except ValueError:
            return
        request, n = inbound.subject.split(".")[-2:]
        log = self._runtime.bus.log(subjects.partition)
        state = await self._state(log, subjects, inbound)
        if not isinstance(state, AwaitingTools) or state.request != request:
            return
        for call in state.calls:
            if str(call.n) == n:
                why = f"The call could not be carried out ({reason}): {error[:500]}"
                subject = subjects.tool_event(request, call.n)
                place = Place(log=log, entry=subjects.ledger(request, call.n), result=subject)
                begun = await self._ledger.may_have_run(place)
                finished = ToolFinished(
                    request=request,
                    n=call.n,
                    tool_call_id=call.id,
                    tool=call.tool,
                    outcome="unknown" if begun else "failed",
                    content=f"{why} {MAYBE}" if begun else why,
                    at=self._clock.now(),
                )
                await log.record(Outgoing(subject, encode(finished), trace_headers()))
                await withdraw(self._runtime.bus, subjects, request, call.n)

    async def _settle(self, command: Command) -> None:
        if await self._is_over(command):
            if command.redelivered:
                await withdraw(self._runtime.bus, command.subjects, command.run.request, command.run.n)
            return
        asked = await self._asked(command)
        if asked is None:
            return
        with self._runtime.traces.span(f"execute_tool {asked.name}", attributes=span_of(command.run, asked)) as span:
            if self._content is not None:
                span["gen_ai.tool.call.arguments"] = self._content.text(asked.arguments)
            began = self._clock.now()
            asker = Asker(self._runtime.bus, command.subjects, command.run)
            async with asker.asking():
                outcome = await self._until_stopped(command, asked, asker)
            if outcome is None:
                return
            look = command.redelivered or asker.may_be_doubted
            await asker.end(look=look)
            latency_s = max((self._clock.now() - began).total_seconds(), 0.0)
            span["holdfast.outcome"] = outcome.outcome
            span["holdfast.attempt"] = outcome.attempt
            if outcome.outcome != "succeeded":
                span["error.type"] = outcome.outcome
            if self._content is not None:
                span["gen_ai.tool.call.result"] = self._content.text(outcome.content)
            await self._record(command, asked, outcome, latency_s)
            if look:
                await withdraw(self._runtime.bus, command.subjects, command.run.request, command.run.n)
        self._tell(asked, outcome, latency_s)

    def _tell(self, asked: ToolCall, outcome: Outcome, latency_s: float) -> None:
        self._runtime.metrics.tool_seconds.labels(outcome.outcome).observe(latency_s)
        logger.info(
            "%s %s after %.3f s: %d characters in, %d out",
            asked.name,
            outcome.outcome,
            latency_s,
            len(asked.arguments),
            len(outcome.content),
            extra={"action": "tool.finished", "outcome": outcome.outcome},
        )

    async def _until_stopped(self, command: Command, asked: ToolCall, asker: Asker) -> Outcome | None:
        """How the call ended; None if its task had ended before it could begin, or somebody else has recorded it."""
        try:
            async with self.running.stoppable(command.subjects, partial(self._has_result, command)):
                if self.running.was_stopped(command.subjects) and not await self._is_awaited(command):
                    return None
                return await self._outcome(command, asked, asker)
        except Stopped:
            return Outcome("cancelled", STOPPED)

    async def _is_over(self, command: Command) -> bool:
        """Whether the call has a result: it was run before, or its task ended before its turn came."""
        age_s = (self._clock.now() - command.inbound.at).total_seconds()
        if not command.redelivered and age_s < FRESH_S:
            return False
        return await command.log.get(command.result_subject, at_least=command.seen) is not None

    async def _has_result(self, command: Command) -> bool:
        try:
            return await command.log.get(command.result_subject) is not None
        except Unavailable:
            return False

    async def _is_awaited(self, command: Command) -> bool:
        state = await self._state(command.log, command.subjects, command.inbound)
        return isinstance(state, AwaitingTools) and state.request == command.run.request

    async def _state(self, log: Log, subjects: TaskSubjects, inbound: Inbound) -> State | None:
        entry = await log.get(subjects.state, at_least=inbound.seq)
        return decode_state(entry.data) if entry is not None else None

    async def _asked(self, command: Command) -> ToolCall | None:
        """What the model asked for; None if the task was removed."""
        run = command.run
        try:
            (entry,) = await command.log.read([run.answer_seq])
        except LookupError as error:
            if await command.log.get(command.subjects.state, at_least=command.inbound.seq) is None:
                logger.info("the task was removed", extra={"action": "tool.gone"})
                return None
            raise Broken(f"{command.name}: the model's answer {run.answer_seq} is not there") from error
        calls = decode(entry.data, ModelAnswered).message.tool_calls
        if not 1 <= run.n <= len(calls):
            raise Broken(f"{command.name}: the model's answer {run.answer_seq} has {len(calls)} tool calls")
        call = calls[run.n - 1]
        return call if not run.approved_seq else await self._approved(command, call)

    async def _approved(self, command: Command, call: ToolCall) -> ToolCall:
        """The call as people approved it: that very call, with the arguments that they saw or made."""
        (entry,) = await command.log.read([command.run.approved_seq])
        approval = decode(entry.data, ApprovalGranted)
        where = command.subjects.approval_event(command.run.request, command.run.n)
        bound = ids.call_digest(call.name, approval.arguments)
        if entry.subject != where or approval.tool != call.name or approval.digest != bound:
            raise Broken(f"{command.name}: the approval at {command.run.approved_seq} is for something else")
        return msgspec.structs.replace(call, arguments=approval.arguments)

    async def _is_unapproved(self, command: Command, asked: ToolCall) -> bool:
        """Whether people should have been asked about a call, and were not.

        The planner asks them; it cannot if it does not know the agent or the tool just when the model has answered.
        """
        run = command.run
        if run.approved_seq or not self._resolver.approver(run.namespace, run.agent, asked):
            return False
        state = await self._state(command.log, command.subjects, command.inbound)
        return state is None or asked.name not in state.approved

    async def _outcome(self, command: Command, asked: ToolCall, asker: Asker) -> Outcome | None:
        run, delivered = command.run, command.inbound.delivered
        try:
            target = self._resolver.resolve(run.namespace, run.agent, asked.name)
            asker.through = through(self._runtime.resources, run.namespace, target.contact_channel)
            asker.may_be_doubted = target.policy.asks
            if await self._is_unapproved(command, asked):
                return await self._not_made(command, UNAPPROVED)
            values = arguments.parse(asked.arguments)
            arguments.check(target.info.input_schema, values)
            server = self._server(command, target)
            self._hand_back_if_busy(server, target, delivered)
            call = self._call(command, target, server, values)
            if target.policy.asks:
                made = Made(asked, target.server, command.seen)
                doubts = Doubts(self._runtime.bus, command.subjects, run, asker, made)
                call = msgspec.structs.replace(call, doubts=doubts)
            return await self._caller.make(call)
        except BadArguments as wrong:
            return await self._not_made(command, str(wrong))
        except NotNow as reason:
            if delivered <= self._handed_back_max:
                raise RetryLater(str(reason), after_s=HAND_BACK_S) from reason
            return await self._not_made(command, f"{asked.name!r} could not be called. {reason}")

    async def _not_made(self, command: Command, why: str) -> Outcome | None:
        """The outcome of a call that this delivery does not make; an earlier one may have begun it all the same."""
        judged = await self._ledger.judge(command.place, "fail", look_first=command.redelivered)
        match judged:
            case Answered():
                return None
            case Unknown():
                return Outcome("unknown", f"Whoever ran this call was interrupted, and now: {why} {MAYBE}")
            case Begin():
                return Outcome("failed", why)
            case _:
                assert_never(judged)

    def _server(self, command: Command, target: Target) -> ToolServer:
        key = ServerKey(command.run.namespace, target.server)
        server = self._find(target.via, key, command.subjects, command.inbound.seq)
        if server is None:
            raise NotNow(f"{target.where} is not connected")
        return server

    def _hand_back_if_busy(self, server: ToolServer, target: Target, delivered: int) -> None:
        """Leave slots of this process to other servers when one has more calls than it can take."""
        settings = self._runtime.settings
        if server.calls >= max(target.concurrency, settings.slots // 2) and delivered < settings.deliveries_max - 1:
            raise RetryLater(f"{target.where} is busy", after_s=min(BUSY_S * 2**delivered, BUSY_MAX_S))

    def _call(self, command: Command, target: Target, server: ToolServer, values: dict[str, object]) -> Call:
        run = command.run
        return Call(
            place=command.place,
            redelivered=command.redelivered,
            server_name=target.server,
            server=server,
            tool=target.info.name,
            arguments=values,
            policy=target.policy,
            meta={"holdfast.dev/idempotency-key": f"{run.namespace}/{command.name}", **trace_headers()},
            progress=ProgressReport(self._runtime.bus.signals, command.subjects, run),
        )

    async def _record(self, command: Command, asked: ToolCall, outcome: Outcome, latency_s: float) -> None:
        """Record the result, after the whole of it where the model sees only a part."""
        finished = ToolFinished(
            request=command.run.request,
            n=command.run.n,
            tool_call_id=asked.id,
            tool=asked.name,
            outcome=outcome.outcome,
            content=outcome.content,
            at=self._clock.now(),
            latency_s=round(latency_s, 6),
            attempt=outcome.attempt,
            images=outcome.images,
            whole=await self._keep(command, outcome.whole) if outcome.whole else "",
        )
        if not await self._write(command.log, command.result_subject, finished):
            logger.info("the call had a result already", extra={"action": "tool.late"})

    async def _keep(self, command: Command, whole: str) -> str:
        """Where the whole of a result is; nowhere, if it was kept of another attempt and is something else."""
        subject = command.subjects.tool_output(command.run.request, command.run.n)
        output = ToolOutput(content=whole)
        if not await self._write(command.log, subject, output):
            entry = await command.log.get(subject)
            if entry is None or decode(entry.data, ToolOutput) != output:
                return ""
        return subject

    async def _write(self, log: Log, subject: str, said: msgspec.Struct) -> bool:
        """Record something, for which the bus is given some time; False if it was there."""
        message = Outgoing(subject, encode(said), trace_headers())
        give_up = self._clock.now() + timedelta(seconds=RECORD_PATIENCE_S)
        while True:
            try:
                return await log.record(message) is not None
            except Unavailable:
                if self._clock.now() > give_up:
                    raise
                await self._clock.sleep(RECORD_PAUSE_S)


def span_of(run: RunTool, asked: ToolCall) -> dict[str, str]:
    """The attributes of a call's span."""
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": asked.name,
        "gen_ai.tool.call.id": asked.id,
        "gen_ai.tool.type": "function",
        "gen_ai.agent.name": run.agent,
        "holdfast.namespace": run.namespace,
        "holdfast.task": run.task,
    }


def _place_of(subject: str, run: RunTool) -> TaskSubjects:
    """Where a command belongs; raises `Refused` if it came from elsewhere."""
    try:
        subjects = task_of(subject)
    except ValueError as error:
        raise Refused(f"{subject!r} is no place for a command") from error
    where = TaskSubjects(subjects.partition, run.namespace, run.task).tool_command(run.request, run.n)
    if where != subject:
        raise Refused(f"the command on {subject!r} belongs on {where!r}")
    return subjects
