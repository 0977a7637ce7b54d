"""Every name on the bus: subjects, streams, consumers, buckets and headers. Nowhere else.

One stream per partition, `KV_holdfast_<p>`, holds the bucket of task states and everything
that is said about the tasks of that partition:

    $KV.holdfast_<p>.<ns>.<task>                     the state, one revision after another
    hf.<p>.<ns>.cmd.llm.<task>.<turn>.<attempt>      call the model
    hf.<p>.<ns>.cmd.tool.<task>.<request>.<n>        run a tool
    hf.<p>.<ns>.cmd.notify.<task>.ended              tell those who want to know that the task has ended
    hf.<p>.<ns>.evt.<task>.<what...>                 a fact about a task
    hf.<p>.<ns>.msg.<task>.<what>                    a transcript entry that no event carries
    hf.<p>.<ns>.led.<task>.<request>.<n>             the effects ledger: a call was started
    hf.<p>.<ns>.int.<task>.<request>.<n>.<k>.<what>  a person was asked (question k of a call), or has answered
    hf.<p>.<ns>.ntf.<task>.<notification>            one notification: somebody is told, or could not be
    hf.<p>.<ns>.thr.<key>                            the task that began a thread which has a name of its caller's

Requests, timers, dead letters and resources have streams of their own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

PREFIX = "hf"

# --- streams and buckets ---------------------------------------------------------------

REQUESTS_STREAM = "HOLDFAST_REQUESTS"
REQUESTS_SUBJECTS = (
    f"{PREFIX}.tasks.*.submit",
    f"{PREFIX}.tasks.*.cancel",
    f"{PREFIX}.tasks.*.delete",
    f"{PREFIX}.tasks.*.answer",
    f"{PREFIX}.tasks.*.send",
)
TIMERS_STREAM = "HOLDFAST_TIMERS"
PEOPLE_TIMERS_STREAM = "HOLDFAST_PEOPLE_TIMERS"
NOTIFY_TIMERS_STREAM = "HOLDFAST_NOTIFY_TIMERS"
TIMER_STREAMS = {
    TIMERS_STREAM: (f"{PREFIX}.timer.set.>", f"{PREFIX}.timer.fire.>"),
    PEOPLE_TIMERS_STREAM: (f"{PREFIX}.timer.people.>",),
    NOTIFY_TIMERS_STREAM: (f"{PREFIX}.timer.notify.>",),
}
"""The streams of timers and what they capture. A service that may set timers can empty its stream, because the server
takes rollups where it takes schedules: so each has a stream of its own."""
DEAD_LETTERS_STREAM = "HOLDFAST_DEAD_LETTERS"
DEAD_LETTERS_SUBJECTS = (f"{PREFIX}.dlq.>",)
RESOURCES_BUCKET = "holdfast_resources"
FLOW_BUCKET = "holdfast_flow"
RESOURCE_NEWS = f"{PREFIX}.resources."
FLOW_NEWS = f"{PREFIX}.flow."
"""What the subjects begin with on which the server republishes what was stored in these buckets, by their keys."""
PAYLOADS_BUCKET = "holdfast_payloads"


def state_bucket(partition: int) -> str:
    """The key-value bucket of a partition's task states."""
    return f"holdfast_{partition}"


def task_stream(partition: int) -> str:
    """The stream of a partition: its state bucket's own stream, which also carries commands and events."""
    return f"KV_{state_bucket(partition)}"


def task_stream_subjects(partition: int) -> tuple[str, str]:
    """What the stream of a partition captures."""
    return (f"$KV.{state_bucket(partition)}.>", f"{PREFIX}.{partition}.>")


# --- consumers (durable, pull, explicit acknowledgement) --------------------------------

PLANNER = "planner"
PLANNER_REQUESTS = "planner-requests"
PLANNER_TIMERS = "planner-timers"
LLM_GATEWAY = "llm-gateway"
TOOL_EXECUTOR = "tool-executor"
TOOL_EXECUTOR_ANSWERS = "tool-executor-answers"
HUMAN_CONTACT = "human-contact"
HUMAN_CONTACT_ANSWERS = "human-contact-answers"
HUMAN_CONTACT_TIMERS = "human-contact-timers"
PLANNER_TIMERS_FIRED = f"{PREFIX}.timer.fire.>"
"""What the planner's timers fire on (a filter)."""
PEOPLE_TIMERS_FIRED = f"{PREFIX}.timer.people.fire.>"
"""What the timers about people fire on (a filter)."""
NOTIFIER = "notifier"
NOTIFIER_TIMERS = "notifier-timers"
NOTIFIER_TIMERS_FILTER = f"{PREFIX}.timer.notify.fire.>"
"""The wake-ups of notifications. The planner's are on subjects of their own."""


def timer_stream(subject: str) -> str:
    """The stream of a timer, or of what it fires on; the subject may be a filter."""
    kind = subject.removeprefix(f"{PREFIX}.timer.").partition(".")[0]
    return {"people": PEOPLE_TIMERS_STREAM, "notify": NOTIFY_TIMERS_STREAM}.get(kind, TIMERS_STREAM)


def planner_filter(partition: int) -> str:
    """The events that may move a task."""
    return f"{PREFIX}.{partition}.*.evt.>"


def llm_filter(partition: int) -> str:
    """The commands to call a model."""
    return f"{PREFIX}.{partition}.*.cmd.llm.>"


def tool_filter(partition: int) -> str:
    """The commands to run a tool."""
    return f"{PREFIX}.{partition}.*.cmd.tool.>"


def notify_filter(partition: int) -> str:
    """The commands to tell that a task has ended."""
    return f"{PREFIX}.{partition}.*.cmd.notify.>"


def ask_filter(partition: int) -> str:
    """The commands to ask people."""
    return f"{PREFIX}.{partition}.*.cmd.ask.>"


def answered_filter(partition: int) -> str:
    """The answers to what people were asked."""
    return f"{PREFIX}.{partition}.*.int.*.*.*.*.answered"


_INBOX = re.compile(r"(_INBOX|_R_\.)[A-Za-z0-9_.-]*")


def is_inbox(subject: str) -> bool:
    """Whether a subject is somebody's own, for answers, or what the server calls one of another account's.

    Whoever answers wherever it is told could be made to overwrite what only it may write.
    """
    return _INBOX.fullmatch(subject) is not None


# --- headers ----------------------------------------------------------------------------

MSG_ID = "Nats-Msg-Id"
EXPECTED_LAST_SUBJECT_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
TRACEPARENT = "traceparent"
REPLY_TO = "Holdfast-Reply-To"
"""On a request that is published to the stream: where the answer is wanted."""
REQUEST_ID = "Holdfast-Request-Id"
"""On a request: the message id that makes it idempotent, where `Nats-Msg-Id` cannot be used."""
REQUEST_SEQ = "Holdfast-Request-Seq"
"""On the first event of a task: the sequence of the request that it came of, in the stream of requests."""
SEALED = "Holdfast-Sealed"
"""The payload is encrypted; the value is the wrapped key that it was sealed with."""
NAMESPACE = "Holdfast-Namespace"
"""On a dead letter: whose it is."""
PAYLOAD_REF = "Holdfast-Payload"
"""The payload is in the object store under this name; the body is empty."""
REDRIVE = "Holdfast-Redrive"
"""How many times a dead letter was sent again."""


# --- subjects of one task ---------------------------------------------------------------


class TaskSubjects(NamedTuple):
    """The subjects of one task. The ids must have been checked (`ids.check_token`)."""

    partition: int
    namespace: str
    task: str

    @property
    def state(self) -> str:
        """The state, as a key of the bucket."""
        return f"$KV.{state_bucket(self.partition)}.{self.namespace}.{self.task}"

    @property
    def root(self) -> str:
        """What all the other subjects of the task's namespace begin with."""
        return f"{PREFIX}.{self.partition}.{self.namespace}"

    def model_command(self, turn: int, attempt: int) -> str:
        """Call the model: attempt `attempt` (from 1) of turn `turn` (from 1)."""
        return f"{self.root}.cmd.llm.{self.task}.{turn}.{attempt}"

    def tool_command(self, request: str, n: int) -> str:
        """Run call `n` (from 1) of a request."""
        return f"{self.root}.cmd.tool.{self.task}.{request}.{n}"

    def ask_command(self, request: str, n: int) -> str:
        """Ask people about call `n` (from 1) of a request."""
        return f"{self.root}.cmd.ask.{self.task}.{request}.{n}"

    def withdraw_command(self, request: str, n: int) -> str:
        """Ask them no more."""
        return f"{self.root}.cmd.ask.{self.task}.{request}.{n}.withdraw"

    def look_command(self, request: str, n: int, k: int) -> str:
        """See to question `k` (from 1) of call `n` of a request, which somebody has recorded."""
        return f"{self.root}.cmd.ask.{self.task}.{request}.{n}.{k}.look"

    def approval_event(self, request: str, n: int) -> str:
        """People approved a call."""
        return f"{self.root}.evt.{self.task}.approval.{request}.{n}"

    def message_event(self, id_: str) -> str:
        """Somebody said something more to the task."""
        return f"{self.root}.evt.{self.task}.said.{id_}"

    @property
    def followed(self) -> str:
        """The task that its thread goes on with."""
        return f"{self.root}.msg.{self.task}.next"

    @property
    def submitted(self) -> str:
        """The task was asked for."""
        return f"{self.root}.evt.{self.task}.submitted"

    def model_event(self, turn: int, attempt: int) -> str:
        """The outcome of a model call."""
        return f"{self.root}.evt.{self.task}.llm.{turn}.{attempt}"

    def tool_event(self, request: str, n: int) -> str:
        """The one result of a tool call."""
        return f"{self.root}.evt.{self.task}.tool.{request}.{n}"

    def tool_events(self, request: str) -> str:
        """The results of a request (a filter)."""
        return f"{self.root}.evt.{self.task}.tool.{request}.*"

    @property
    def cancel(self) -> str:
        """Somebody asked to cancel the task."""
        return f"{self.root}.evt.{self.task}.cancel"

    @property
    def context(self) -> str:
        """The messages that the conversation starts with, pinned."""
        return f"{self.root}.msg.{self.task}.context"

    def tool_output(self, request: str, n: int) -> str:
        """The whole output of a tool call whose result was shortened."""
        return f"{self.root}.msg.{self.task}.output.{request}.{n}"

    def ledger(self, request: str, n: int) -> str:
        """The effects ledger's entry for a tool call."""
        return f"{self.root}.led.{self.task}.{request}.{n}"

    def interaction_asked(self, request: str, n: int, k: int) -> str:
        """Question `k` (from 1) that call `n` of a request has for a person."""
        return f"{self.root}.int.{self.task}.{request}.{n}.{k}.asked"

    def interaction_answered(self, request: str, n: int, k: int) -> str:
        """The one answer to it."""
        return f"{self.root}.int.{self.task}.{request}.{n}.{k}.answered"

    def interaction_step(self, request: str, n: int, k: int, step: int) -> str:
        """A channel was asked question `k`; `step` from 0."""
        return f"{self.root}.int.{self.task}.{request}.{n}.{k}.step.{step}"

    @property
    def interaction_steps(self) -> str:
        """All channels that were asked anything for the task (a filter)."""
        return f"{self.root}.int.{self.task}.*.*.*.step.*"

    def interaction_vote(self, request: str, n: int, k: int, who: str) -> str:
        """One of several people who have to accept did; `who` is a token that stands for them."""
        return f"{self.root}.int.{self.task}.{request}.{n}.{k}.vote.{who}"

    def interactions(self, request: str, n: int) -> str:
        """The questions of a call and their answers (a filter)."""
        return f"{self.root}.int.{self.task}.{request}.{n}.>"

    def timer(self, timer: str) -> str:
        """Where a timer is set; setting it again replaces it."""
        return f"{PREFIX}.timer.set.{self.partition}.{self.namespace}.{self.task}.{timer}"

    def timer_fired(self, timer: str) -> str:
        """Where it fires."""
        return f"{PREFIX}.timer.fire.{self.partition}.{self.namespace}.{self.task}.{timer}"

    @property
    def timers(self) -> str:
        """All timers of the task (a filter)."""
        return f"{PREFIX}.timer.set.{self.partition}.{self.namespace}.{self.task}.*"

    @property
    def notify_command(self) -> str:
        """Tell those who want to know that the task has ended."""
        return f"{self.root}.cmd.notify.{self.task}.ended"

    def notification(self, id_: str) -> str:
        """What became of one notification so far."""
        return f"{self.root}.ntf.{self.task}.{id_}"

    @property
    def notifications(self) -> str:
        """All of the task's notifications (a filter)."""
        return f"{self.root}.ntf.{self.task}.*"

    def notify_timer(self, id_: str) -> str:
        """Where the wake-up of a notification is set; setting it again replaces it."""
        return f"{PREFIX}.timer.notify.set.{self.partition}.{self.namespace}.{self.task}.{id_}"

    def notify_timer_fired(self, id_: str) -> str:
        """Where it fires; publishing there is a wake-up at once."""
        return f"{PREFIX}.timer.notify.fire.{self.partition}.{self.namespace}.{self.task}.{id_}"

    @property
    def notify_timers(self) -> str:
        """All wake-ups of the task's notifications that are set (a filter)."""
        return f"{PREFIX}.timer.notify.set.{self.partition}.{self.namespace}.{self.task}.*"

    def people_timer(self, timer: str) -> str:
        """Where a timer about people is set."""
        return f"{PREFIX}.timer.people.set.{self.partition}.{self.namespace}.{self.task}.{timer}"

    def people_timer_fired(self, timer: str) -> str:
        """Where it fires."""
        return f"{PREFIX}.timer.people.fire.{self.partition}.{self.namespace}.{self.task}.{timer}"

    @property
    def people_timers(self) -> str:
        """All timers about people the task asked that are set (a filter)."""
        return f"{PREFIX}.timer.people.set.{self.partition}.{self.namespace}.{self.task}.*"

    @property
    def everything(self) -> tuple[str, ...]:
        """All that is stored about the task, in the order in which it is safe to purge it."""
        kinds = ("cmd.llm", "cmd.tool", "cmd.ask", "cmd.notify", "led", "int", "ntf", "evt", "msg")
        return (*(f"{self.root}.{kind}.{self.task}.>" for kind in kinds), self.state)

    @property
    def live(self) -> str:
        """Ephemeral: streamed tokens and progress, for whoever watches."""
        return f"{PREFIX}.live.{self.namespace}.{self.task}"

    @property
    def text(self) -> str:
        """Request and reply: the streamed text so far, of whoever makes the task's model call."""
        return f"{PREFIX}.text.{self.namespace}.{self.task}"

    @property
    def stop(self) -> str:
        """Ephemeral: whoever works for this task should stop."""
        return f"{PREFIX}.stop.{self.namespace}.{self.task}"


def namespace_of(subject: str) -> str:
    """The namespace that a state, request, or anything else of a task's stream is about; empty for other subjects."""
    match subject.split("."):
        case ["$KV", bucket, namespace, _] if bucket.removeprefix("holdfast_").isdecimal():
            return namespace
        case ["hf", "tasks", namespace, _]:
            return namespace
        case ["hf", partition, namespace, _, *_] if partition.isdecimal():
            return namespace
        case _:
            return ""


def all_interactions(partition: int, namespace: str) -> str:
    """The questions and answers of all tasks of a namespace in a partition (a filter)."""
    return f"{PREFIX}.{partition}.{namespace}.int.>"


def thread_anchor(partition: int, namespace: str, key: str) -> str:
    """The task that began a thread, by the key of its id (`ids.thread_key`), in the partition of that key."""
    return f"{PREFIX}.{partition}.{namespace}.thr.{key}"


def people_timer_name(request: str, n: int, k: int) -> str:
    """The name of the timer about question `k` of a call."""
    return f"ask-{request}-{n}-{k}" if k else f"ask-{request}-{n}"


STOP_ALL = f"{PREFIX}.stop.*.*"
TEXT_ALL = f"{PREFIX}.text.*.*"


def holder(token: str) -> str:
    """Request and reply: whether the process of this token is still at a call that it has begun."""
    return f"{PREFIX}.holder.{token}"


def task_of(subject: str) -> TaskSubjects:
    """The task that a state, command, event, ledger, message, notification or timer subject belongs to.

    Raises `ValueError` for any other subject.
    """
    tokens = subject.split(".")
    match tokens:
        case ["$KV", bucket, namespace, task] if bucket.startswith("holdfast_"):
            return TaskSubjects(int(bucket.removeprefix("holdfast_")), namespace, task)
        case ["hf", "timer", "set" | "fire", partition, namespace, task, _] | [
            "hf",
            "timer",
            "notify" | "people",
            "set" | "fire",
            partition,
            namespace,
            task,
            _,
        ]:
            return TaskSubjects(int(partition), namespace, task)
        case ["hf", partition, namespace, "cmd", _, task, *_]:
            return TaskSubjects(int(partition), namespace, task)
        case ["hf", partition, namespace, "evt" | "msg" | "led" | "int" | "ntf", task, *_]:
            return TaskSubjects(int(partition), namespace, task)
        case _:
            raise ValueError(f"{subject!r} is not a subject of a task")


# --- requests ---------------------------------------------------------------------------


def submit(namespace: str) -> str:
    """Publish a task request here: it is stored, and answered on `Holdfast-Reply-To` if that is given."""
    return f"{PREFIX}.tasks.{namespace}.submit"


def cancel(namespace: str) -> str:
    """Publish a cancel request here."""
    return f"{PREFIX}.tasks.{namespace}.cancel"


def delete(namespace: str) -> str:
    """Publish a request to remove an ended task here."""
    return f"{PREFIX}.tasks.{namespace}.delete"


def answer(namespace: str) -> str:
    """Publish the answer to an interaction here."""
    return f"{PREFIX}.tasks.{namespace}.answer"


def send(namespace: str) -> str:
    """Publish a request to say something more in a task's thread here."""
    return f"{PREFIX}.tasks.{namespace}.send"


def ask(namespace: str, verb: str) -> str:
    """Request-reply form of `submit`, `cancel`, `delete` and `answer`: stored first, then answered."""
    return f"{PREFIX}.ask.{namespace}.{verb}"


def read(namespace: str, what: str) -> str:
    """Request and reply: what is stored of a namespace (`schemas.reading`), for those who may read nothing else."""
    return f"{PREFIX}.read.{namespace}.{what}"


READ_ALL = f"{PREFIX}.read.*.*"
ASK_ALL = f"{PREFIX}.ask.*.*"
ASK_QUEUE = "planner"


# --- dead letters -----------------------------------------------------------------------


def dead_letter(stream: str, seq: int) -> str:
    """The dead letter of a message, by where it was stored."""
    return f"{PREFIX}.dlq.letter.{stream}.{seq}"


def failed_attempt(stream: str, seq: int, delivery: int) -> str:
    """What went wrong at one delivery of a message."""
    return f"{PREFIX}.dlq.attempt.{stream}.{seq}.{delivery}"


# --- resources --------------------------------------------------------------------------


def spec_key(kind: str, namespace: str, name: str) -> str:
    """The key of what was applied."""
    return f"spec.{kind}.{namespace}.{name}"


def status_key(kind: str, namespace: str, name: str) -> str:
    """The key of what its owner says of it."""
    return f"status.{kind}.{namespace}.{name}"


# --- flow control -----------------------------------------------------------------------


def flow_pool(account: str) -> str:
    """The key of what is known of a provider's account and model: who used how much of its limits."""
    return f"pool.{account}"


def flow_namespace(namespace: str) -> str:
    """The key of what a namespace has used of its quota."""
    return f"namespace.{namespace}"


def flow_mailbox(namespace: str, channel: str) -> str:
    """The key of who looks into a contact channel's mailbox."""
    return f"mailbox.{namespace}.{channel}"


class ResourceKey(NamedTuple):
    """A key of the resources bucket, taken apart."""

    part: str
    kind: str
    namespace: str
    name: str


def parse_resource_key(key: str) -> ResourceKey:
    """The parts of a key of the resources bucket; raises `ValueError` for another key."""
    tokens = key.split(".", 3)
    if len(tokens) != 4 or tokens[0] not in ("spec", "status"):
        raise ValueError(f"{key!r} is not a key of a resource")
    return ResourceKey(*tokens)
