"""Requests: what anybody may publish. Checked here, recorded once, and answered when an answer is asked for.

There are two front doors and one path: a request published to its stream is handled from there; a request asked with
NATS request-reply is put into that same stream first, with the asker's inbox as the place for the answer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec

from schemas import subjects
from schemas.dead_letters import DeadReason
from schemas.events import CancelRequested, MessageSent, TaskSubmitted
from schemas.ids import (
    MESSAGE_ID_LENGTH_MAX,
    InvalidId,
    check_resource_name,
    check_thread_id,
    check_token,
    derived_task_name,
    is_token,
    partition_of,
)
from schemas.interactions import AnswerInteraction
from schemas.requests import (
    Accepted,
    CancelTask,
    DeleteTask,
    InvalidRequest,
    Limits,
    RefusalCode,
    Rejected,
    Reply,
    ResponseFormat,
    SendMessage,
    SubmitTask,
    TaskSpec,
    check_task_input,
)
from schemas.subjects import TaskSubjects
from schemas.wire import Malformed, decode, encode
from services.planner.anchors import Anchors
from services.planner.interactions import Interactions
from services.planner.steps import ASKED_FOR_AGAIN
from services.planner.threads import message_id
from services.runtime.errors import Refused, RetryLater
from services.runtime.ports import Outgoing, Signal
from services.runtime.telemetry.logs import log_ids
from services.runtime.telemetry.traces import is_traceparent, traced_like

if TYPE_CHECKING:
    from services.planner.steps import Steps
    from services.planner.threads import Threads
    from services.runtime.consumer import Inbound
    from services.runtime.ports import Bus
    from services.runtime.telemetry.traces import Traces

logger = logging.getLogger(__name__)

R = TypeVar("R")
LABELS_MAX = 16
LABEL_LENGTH_MAX = 128
URL_LENGTH_MAX = 2048
_BAD_ROLE = re.compile(r"Invalid value '(.*)' - at `\$\.contextWindow\[[0-9.]+\]\.role`")


class Requests:
    """Handlers of requests."""

    def __init__(self, bus: Bus, steps: Steps, threads: Threads, traces: Traces) -> None:
        self._bus = bus
        self._traces = traces
        self._steps = steps
        self._threads = threads
        self._anchors = Anchors(bus)
        self._interactions = Interactions(bus)

    async def on_request(self, inbound: Inbound) -> None:
        """A stored request: do it, and answer if an answer is wanted.

        An invalid one becomes a dead letter; so does one that contradicts what is there, if nobody was told. What a
        person said is not spread so, if they were told.
        """
        _, _, namespace, verb = inbound.subject.split(".")
        with log_ids(namespace=namespace):
            try:
                check_token("namespace", namespace)
                reply = await self._do(namespace, verb, inbound)
            except (InvalidId, InvalidRequest) as error:
                reply = Rejected(code="invalid", error=str(error))
            except Malformed as error:
                reply = Rejected(code="malformed", error=_readable(error))
        told = await self._answer(inbound.headers.get(subjects.REPLY_TO, ""), reply)
        kept_quiet = verb == "answer" or (isinstance(reply, Rejected) and reply.code in ("conflict", "not_found"))
        if isinstance(reply, Rejected) and not (told and kept_quiet):
            raise Refused(reply.error, code=reply.code)

    async def on_dead_request(self, inbound: Inbound, reason: DeadReason, error: str) -> None:
        """A request that was given up; one that was refused has had its answer."""
        if reason != "invalid_request":
            text = f"the request could not be handled and is dead letter {inbound.seq}: {error}"
            await self._answer(inbound.headers.get(subjects.REPLY_TO, ""), Rejected(code="unavailable", error=text))

    async def on_ask(self, signal: Signal) -> None:
        """A request by request-reply: store it; whoever handles it answers."""
        _, _, namespace, verb = signal.subject.split(".")
        headers = {
            name: value for name, value in signal.headers.items() if name in (subjects.TRACEPARENT, subjects.REQUEST_ID)
        }
        if message_id := signal.headers.get(subjects.MSG_ID):
            headers[subjects.REQUEST_ID] = message_id
        try:
            check_token("namespace", namespace)
            target = _stored_subject(namespace, verb)
            await self._bus.signals.store(target, signal.data, {**headers, subjects.REPLY_TO: signal.reply})
        except (InvalidId, InvalidRequest) as error:
            await self._answer(signal.reply, Rejected(code="invalid", error=str(error)))
        except RetryLater as later:
            text = f"the request could not be stored ({later}); send it again"
            await self._answer(signal.reply, Rejected(code="unavailable", error=text))

    async def _do(self, namespace: str, verb: str, inbound: Inbound) -> Reply:
        match verb:
            case "submit":
                return await self._submit(namespace, inbound)
            case "cancel":
                return await self._cancel(namespace, _parse(inbound.data, CancelTask))
            case "delete":
                return await self._delete(namespace, _parse(inbound.data, DeleteTask))
            case "send":
                return await self._send(namespace, inbound)
            case "answer":
                answer = _parse(inbound.data, AnswerInteraction)
                return await self._interactions.answer(self._task(namespace, check_token("task", answer.task)), answer)
            case _:
                raise InvalidRequest(f"there is no request {verb!r}")

    async def _submit(self, namespace: str, inbound: Inbound) -> Reply:
        request = _parse(inbound.data, SubmitTask)
        spec = _checked(request)
        name = request.name or derived_task_name(namespace, spec.agent, _source(inbound))
        check_token("name", name)
        task = self._task(namespace, name)
        requester = inbound.headers.get(subjects.TRACEPARENT, "")
        traceparent = self._traces.begin(requester, namespace, name)
        event = TaskSubmitted(
            namespace=namespace,
            task=name,
            spec=spec,
            at=inbound.at,
            traceparent=traceparent,
            parent_span=requester if is_traceparent(requester) else "",
        )
        headers = {subjects.TRACEPARENT: traceparent, subjects.REQUEST_SEQ: str(inbound.seq)}
        if not spec.thread_id:
            return await self._accept(task, event, headers)
        if await self._bus.log(task.partition).get(task.submitted) is None:
            first = await self._anchors.begin(event, headers)
            if first.task != name:
                return await self._go_on(first, request, inbound)
        reply = await self._accept(task, event, headers)
        if isinstance(reply, Rejected):
            await self._anchors.first(namespace, spec.thread_id)  # one that does not count is dropped
        return reply

    async def _accept(self, task: TaskSubjects, event: TaskSubmitted, headers: Mapping[str, str]) -> Reply:
        """Record that a task was asked for, unless it was."""
        log = self._bus.log(task.partition)
        if await log.record(Outgoing(task.submitted, encode(event), headers)) is not None:
            logger.info("task %s accepted", task.task, extra={"action": "task.submitted", "task": task.task})
            return Accepted(namespace=task.namespace, task=task.task)
        existing = await log.get(task.submitted)
        if existing is None:
            raise RetryLater(f"task {task.namespace}/{task.task} is being written or removed", after_s=0.2)
        if decode(existing.data, TaskSubmitted).spec != event.spec:
            exists = f"task {task.task!r} exists in namespace {task.namespace!r} and asks for something else"
            return Rejected(code="conflict", error=f"{exists}; choose another name")
        return Accepted(namespace=task.namespace, task=task.task, created=False)

    async def _go_on(self, first: TaskSubmitted, request: SubmitTask, inbound: Inbound) -> Reply:
        """Say what a task is asked in the thread that it belongs to, which another task began."""
        if problem := _cannot_go_on(first, request):
            return Rejected(code="conflict", error=problem)
        said = MessageSent(content=request.user_message or "", at=inbound.at)
        accepted = await self._say(self._task(first.namespace, first.task), said, inbound)
        if isinstance(accepted, Rejected):
            raise RetryLater(f"task {first.namespace}/{first.task} is being written or removed", after_s=0.2)
        kept = _kept(first.spec, _checked(request))
        note = f"the thread keeps the {' and '.join(kept)} that it began with" if kept else ""
        return msgspec.structs.replace(accepted, note=note)

    async def _send(self, namespace: str, inbound: Inbound) -> Reply:
        request = _parse(inbound.data, SendMessage)
        if request.task and request.thread:
            raise InvalidRequest("only one of task or thread can be provided")
        task = None if request.thread else self._task(namespace, check_token("task", request.task))
        if not request.message.strip():
            raise InvalidRequest("message is required")
        if task is None:
            task = await self._first_of(namespace, check_thread_id(request.thread))
        if task is None:
            return _no_thread(namespace, request.thread)
        said = MessageSent(content=request.message, at=inbound.at, by=request.by[:200])
        return await self._say(task, said, inbound)

    async def _say(self, task: TaskSubjects, said: MessageSent, inbound: Inbound) -> Accepted | Rejected:
        headers = {**inbound.headers, subjects.REQUEST_SEQ: str(inbound.seq)}
        accepted = await self._threads.say(task, said, id_=message_id(_source(inbound)), headers=headers)
        return accepted or _not_found(task)

    async def _first_of(self, namespace: str, thread: str) -> TaskSubjects | None:
        """The first task of a thread, by the id that it was given, or else by the task's name."""
        first = await self._anchors.first(namespace, thread)
        if first is not None:
            return self._task(namespace, first.task)
        if not is_token(thread):
            return None
        task = self._task(namespace, thread)
        entry = await self._bus.log(task.partition).get(task.submitted)
        return task if entry is not None and not decode(entry.data, TaskSubmitted).continues else None

    async def _cancel(self, namespace: str, request: CancelTask) -> Reply:
        task = self._task(namespace, check_token("task", request.task))
        log = self._bus.log(task.partition)
        submitted = await log.get(task.submitted)
        if submitted is None and not await log.subjects(task.submitted):
            return _not_found(task)
        event = CancelRequested(at=self._bus.clock.now(), by=request.by[:200], reason=request.reason[:1000])
        await log.record(Outgoing(task.cancel, encode(event), traced_like(submitted)))
        return Accepted(namespace=namespace, task=request.task, created=False)

    async def _delete(self, namespace: str, request: DeleteTask) -> Reply:
        task = self._task(namespace, check_token("task", request.task))
        problem = await self._steps.remove(task)
        if problem == ASKED_FOR_AGAIN:
            raise RetryLater(f"the request that began task {namespace}/{task.task} is not done yet")
        if problem:
            return Rejected(code="not_found" if "there is no" in problem else "conflict", error=problem)
        return Accepted(namespace=namespace, task=request.task, created=False)

    def _task(self, namespace: str, name: str) -> TaskSubjects:
        return TaskSubjects(partition_of(namespace, name, self._bus.partitions), namespace, name)

    async def _answer(self, reply_to: str, reply: Reply) -> bool:
        """Answer if that is wanted; whether somebody was told.

        On inboxes only: a planner that published wherever it is told could be made to overwrite a state.
        """
        if not reply_to:
            return False
        if not subjects.is_inbox(reply_to):
            logger.warning("not answering on %r: not an inbox", reply_to[:80], extra={"action": "request.reply"})
            return False
        try:
            await self._bus.signals.publish(reply_to, encode(reply))
        except RetryLater as later:
            logger.warning("could not answer a request: %s", later, extra={"action": "request.reply"})
            return False
        return True


def _stored_subject(namespace: str, verb: str) -> str:
    match verb:
        case "submit":
            return subjects.submit(namespace)
        case "cancel":
            return subjects.cancel(namespace)
        case "delete":
            return subjects.delete(namespace)
        case "answer":
            return subjects.answer(namespace)
        case "send":
            return subjects.send(namespace)
        case _:
            raise InvalidRequest(f"there is no request {verb!r}; there are submit, send, cancel, delete and answer")


def _not_found(task: TaskSubjects) -> Rejected:
    code: RefusalCode = "not_found"
    return Rejected(code=code, error=f"there is no task {task.task!r} in namespace {task.namespace!r}")


def _no_thread(namespace: str, thread: str) -> Rejected:
    why = "no task was submitted with this threadID, and no thread began with a task of this name"
    return Rejected(code="not_found", error=f"there is no thread {thread!r} in namespace {namespace!r}: {why}")


def _cannot_go_on(first: TaskSubmitted, request: SubmitTask) -> str:
    """Why a task is not something more to say in the thread that another one began; empty if it is."""
    begun = f"thread {first.spec.thread_id!r} was begun by task {first.task!r}"
    if request.name:
        return f"{begun}: leave name out to go on in it, or choose another threadID"
    if request.agent_name != first.spec.agent:
        return f"{begun} with agent {first.spec.agent!r}: agent {request.agent_name!r} needs another threadID"
    if request.context_window is not None:
        return f"{begun} and has a conversation: go on with userMessage, not with contextWindow"
    return ""


def _kept(began: TaskSpec, wanted: TaskSpec) -> list[str]:
    """What a thread keeps as it began, though a later task of it asks for something else."""
    names = {
        "limits": "limits",
        "labels": "labels",
        "contact_channel": "contactChannelRef",
        "priority": "priority",
        "response_format": "responseFormat",
        "response_url": "responseURL",
    }
    plain = TaskSpec(agent=wanted.agent)
    return [
        said
        for name, said in names.items()
        if getattr(wanted, name) not in (getattr(plain, name), getattr(began, name))
    ]


def _source(inbound: Inbound) -> str:
    """What a derived name derives from: the message id, or else the place and time of the request in its stream."""
    message_id = inbound.headers.get(subjects.REQUEST_ID) or inbound.headers.get(subjects.MSG_ID)
    if message_id is None:
        return f"seq:{inbound.seq}:{inbound.at.isoformat()}"
    if len(message_id) > MESSAGE_ID_LENGTH_MAX:
        raise InvalidRequest(f"the message id has {len(message_id)} characters; {MESSAGE_ID_LENGTH_MAX} at most")
    return f"id:{message_id}"


def _parse(data: bytes, kind: type[R]) -> R:
    if not data.strip():
        raise Malformed("the request is empty; it must be a JSON object")
    return decode(data, kind)


def _readable(error: Malformed) -> str:
    text = str(error)
    if match := _BAD_ROLE.fullmatch(text):
        return f"invalid role in contextWindow: {match[1]}"
    return f"Invalid request body: {text}"


def _checked(request: SubmitTask) -> TaskSpec:
    if not request.agent_name:
        raise InvalidRequest("agentName is required")
    check_resource_name("agentName", request.agent_name)
    check_task_input(request.user_message, request.context_window)
    _check_limits(request.limits)
    _check_labels(request.labels)
    _check_response_format(request.response_format)
    if request.response_url:
        _check_url("responseURL", request.response_url)
    if request.contact_channel_ref:
        check_resource_name("contactChannelRef", request.contact_channel_ref)
    if request.thread_id:
        check_thread_id(request.thread_id)
    return TaskSpec(
        agent=request.agent_name,
        user_message=request.user_message,
        context_window=request.context_window,
        limits=request.limits,
        labels=request.labels,
        contact_channel=request.contact_channel_ref,
        priority=request.priority,
        response_format=request.response_format,
        response_url=request.response_url,
        thread_id=request.thread_id,
    )


def _check_response_format(response_format: ResponseFormat | None) -> None:
    if response_format is None:
        return
    from services.runtime.json_schema import flaw_of  # noqa: PLC0415 - some MB that few requests need

    if flaw := flaw_of(response_format.schema):
        raise InvalidRequest(f"responseFormat.schema cannot be used: {flaw}")


def _check_labels(labels: dict[str, str]) -> None:
    if len(labels) > LABELS_MAX:
        raise InvalidRequest(f"labels has {len(labels)} entries; {LABELS_MAX} at most")
    for key, value in labels.items():
        if not 0 < len(key) <= LABEL_LENGTH_MAX or len(value) > LABEL_LENGTH_MAX:
            raise InvalidRequest(f"label {key[:40]!r}: keys and values have {LABEL_LENGTH_MAX} characters at most")


def _check_url(what: str, url: str) -> None:
    if len(url) > URL_LENGTH_MAX:
        raise InvalidRequest(f"{what} has {len(url)} characters; {URL_LENGTH_MAX} at most")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidRequest(f"{what} {url[:80]!r} is not an http or https address")


def _check_limits(limits: Limits) -> None:
    for field in msgspec.structs.fields(limits):
        value = getattr(limits, field.name)
        if value is not None and not value > 0:
            raise InvalidRequest(f"limits.{field.encode_name} is {value}; it must be more than 0")
