"""Notifications: telling others what became of a task.

When a task ends and somebody wants to know, the planner asks for it by one command, `Notify`. The notifier makes one
notification of it for each receiver. Each has an id that derives from the task and the receiver, for receivers to know
a repetition by, and is recorded in the task's own stream: `NotificationPending` until it is `NotificationDelivered` or
`NotificationFailed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, assert_never

from schemas.resources import EmailSink, Ending, SlackSink, SubscriptionSpec, WebhookSink
from schemas.task import Cancelled, Failed, FinalAnswer
from schemas.wire import Instant, Wire, decoder_of

TIMEOUT_MAX_S = 60.0
"""The longest that one attempt may take."""

Receiver = Literal["responseURL", "ContactChannel", "Subscription"]


class Notify(Wire, frozen=True, kw_only=True, tag="task.notify.v1"):
    """A task has ended, and somebody wants to know. Who it is, is in the task's state."""

    namespace: str
    task: str
    agent: str
    event: Ending
    at: Instant
    answer_seq: int = 0
    """Where the answer is recorded; 0: there is none."""
    error: str = ""


class NotificationAttempt(Wire, frozen=True, kw_only=True):
    """One try at telling somebody."""

    n: int
    at: Instant
    status: int | None = None
    """The receiver's HTTP or SMTP status, if it gave one."""
    error: str = ""
    """Empty: it was taken."""
    took_s: float = 0.0


class NotificationHeader(Wire, frozen=True, kw_only=True):
    """What is true of every notification."""

    id: str
    """The receiver sees it, and may get the same notification more than once: then it is the same id."""
    namespace: str
    task: str
    event: Ending
    receiver: Receiver
    name: str = ""
    """The ContactChannel's or Subscription's."""
    place: int
    """Among the task's notifications: those of one lane are made in this order."""
    lane: str
    """A digest of where it goes, and with which keys."""
    created_at: Instant
    attempts: int = 0
    tried: tuple[NotificationAttempt, ...] = ()
    """The newest attempts."""
    redriven: int = 0
    """How often it was begun again after it had failed."""


class NotificationPending(NotificationHeader, frozen=True, kw_only=True, tag="notification.pending.v1"):
    """To be made at `due`, or by whoever wakes later."""

    due: Instant
    give_up_at: Instant
    waits_for: str = ""
    """Why it is not tried now, if it is not for its own failures."""


class NotificationDelivered(NotificationHeader, frozen=True, kw_only=True, tag="notification.delivered.v1"):
    """The receiver has taken it."""

    at: Instant
    thread: str = ""
    """What the receiver calls the message, if others of the task may be put under it."""


class NotificationFailed(NotificationHeader, frozen=True, kw_only=True, tag="notification.failed.v1"):
    """Given up."""

    at: Instant
    error: str
    letter_seq: int = 0
    """Of the wake-up that became its dead letter; 0: there is none, because nobody wants it any more."""


Notification = NotificationPending | NotificationDelivered | NotificationFailed

decode_notification: Callable[[bytes], Notification] = decoder_of(Notification)
"""The notification in these bytes; raises `Malformed`."""


class NotificationDue(Wire, frozen=True, kw_only=True, tag="notification.due.v1"):
    """A wake-up. It decides nothing by itself: the notification says when it is due."""

    due: Instant
    revision: int
    """Of the notification when the wake-up was set: an older one must not be believed."""


def ending_of(state: FinalAnswer | Failed | Cancelled) -> Ending:
    """How a task has ended."""
    match state:
        case FinalAnswer():
            return "task.finished"
        case Failed():
            return "task.failed"
        case Cancelled():
            return "task.cancelled"
        case _:
            assert_never(state)


def wants(spec: SubscriptionSpec, event: Ending, agent: str, labels: Mapping[str, str]) -> bool:
    """Whether a subscription is about a task that has ended so."""
    return (
        event in spec.events
        and (not spec.agents or agent in spec.agents)
        and all(labels.get(key) == value for key, value in spec.labels.items())
    )


def sink_of(spec: SubscriptionSpec) -> WebhookSink | SlackSink | EmailSink | None:
    """How a subscription tells somebody; None if it does not say."""
    return spec.webhook or spec.slack or spec.email


def contradictions(spec: SubscriptionSpec) -> Iterator[tuple[str, str]]:
    """What no field of a subscription alone can say to be wrong: the field, and why."""
    if sum(sink is not None for sink in (spec.webhook, spec.slack, spec.email)) != 1:
        yield "", "give exactly one of webhook, slack and email"
        return
    if not spec.events:
        yield "events", "must name at least one; all of them if it is left out"
    match sink_of(spec):
        case WebhookSink(url=url, secret_from=keys, timeout_s=timeout_s):
            if not url.startswith(("http://", "https://")):
                yield "webhook.url", f"must begin with http:// or https://, not {url!r}"
            if not keys:
                yield "webhook.secretFrom", "must name at least one secret: what is posted is signed"
            yield from _positive("webhook.timeoutSeconds", timeout_s)
        case SlackSink() as slack:
            if (slack.webhook_from is None) == (slack.token_from is None) or bool(slack.channel) != bool(
                slack.token_from
            ):
                yield "slack", "give either webhookFrom, or channel and tokenFrom"
            yield from _positive("slack.timeoutSeconds", slack.timeout_s)
        case EmailSink(to=to, smtp=smtp):
            if not to:
                yield "email.to", "must name at least one address"
            if (smtp.username_from is None) != (smtp.password_from is None):
                yield "email.smtp", "usernameFrom and passwordFrom go together"
            if smtp.security == "none" and smtp.password_from is not None:
                yield "email.smtp.security", "a password is sent under starttls or tls only"
            yield from _positive("email.smtp.timeoutSeconds", smtp.timeout_s)
        case None:
            pass


def _positive(field: str, value: float) -> Iterator[tuple[str, str]]:
    if not 0 < value <= TIMEOUT_MAX_S:
        yield field, f"must be more than 0 and {TIMEOUT_MAX_S:g} at most, not {value:g}"
