"""Full examples of notifications, and of what has fields for them."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.events import TaskSubmitted
from schemas.notifications import (
    NotificationAttempt,
    NotificationDelivered,
    NotificationDue,
    NotificationFailed,
    NotificationPending,
    Notify,
)
from schemas.requests import SubmitTask
from schemas.resources import (
    EmailSink,
    EnvVar,
    Metadata,
    SecretKeyRef,
    SecretSource,
    SlackSink,
    SMTPServer,
    Subscription,
    SubscriptionSpec,
    WebhookSink,
)
from schemas.task import Ended, TaskHeader
from tests.support.wire_first import AT, TASK
from tests.support.wire_second import SECOND

_KEY = SecretSource(secret_key_ref=SecretKeyRef(name="ops", key="signing"))
_URL = "https://example.com/hooks/holdfast"
_ASKED: dict[str, Any] = {"response_url": "https://example.com/answers", "contact_channel": "oncall"}
_NOTIFICATION: dict[str, Any] = {
    "id": "mfrggzdfmztwq2lkmnwg",
    "namespace": "default",
    "task": "helper-task-1",
    "event": "task.failed",
    "receiver": "Subscription",
    "name": "ops",
    "place": 2,
    "lane": "nfxgg3dp",
    "created_at": AT,
    "attempts": 2,
    "tried": (NotificationAttempt(n=2, at=AT, status=503, error="HTTP 503", took_s=0.25),),
    "redriven": 1,
}


def _asked(value: msgspec.Struct) -> msgspec.Struct:
    """The last release's example with the fields of this one."""
    match value:
        case Ended():
            return msgspec.structs.replace(value, **_ASKED, subscriptions=("ops", "sales"))
        case TaskHeader():
            return msgspec.structs.replace(value, **_ASKED)
        case TaskSubmitted():
            spec = msgspec.structs.replace(value.spec, response_url=_ASKED["response_url"])
            return msgspec.structs.replace(value, spec=spec)
        case SubmitTask():
            return msgspec.structs.replace(value, response_url=_ASKED["response_url"])
        case _:
            raise TypeError(value)


NOTIFICATIONS: tuple[msgspec.Struct, ...] = (
    *(_asked(value) for value in SECOND if isinstance(value, TaskHeader | TaskSubmitted | SubmitTask)),
    Notify(**TASK, event="task.finished", at=AT, answer_seq=17, error="out of turns"),
    NotificationPending(**_NOTIFICATION, due=AT, give_up_at=AT, waits_for="example.com answers nobody now"),
    NotificationDelivered(**_NOTIFICATION, at=AT, thread="1700000000.000100"),
    NotificationFailed(**_NOTIFICATION, at=AT, error="HTTP 410", letter_seq=40),
    NotificationDue(due=AT, revision=31),
    Subscription(
        metadata=Metadata(name="room"),
        spec=SubscriptionSpec(
            slack=SlackSink(channel="C0123", token_from=_KEY, api_url="https://slack-gov.com/api", timeout_s=5.0)
        ),
    ),
    Subscription(metadata=Metadata(name="hook"), spec=SubscriptionSpec(slack=SlackSink(webhook_from=_KEY))),
    Subscription(
        metadata=Metadata(name="mail"),
        spec=SubscriptionSpec(
            email=EmailSink(
                to=("ops@example.com",),
                from_="holdfast@example.com",
                smtp=SMTPServer(
                    host="smtp.example.com",
                    port=465,
                    security="tls",
                    username_from=_KEY,
                    password_from=_KEY,
                    timeout_s=5.0,
                ),
            )
        ),
    ),
    Subscription(
        api_version="holdfast.dev/v2",
        metadata=Metadata(name="ops", namespace="team", labels={"a": "b"}, annotations={"c": "d"}),
        spec=SubscriptionSpec(
            events=("task.failed",),
            agents=("helper",),
            labels={"tier": "1"},
            webhook=WebhookSink(
                url=_URL,
                secret_from=(_KEY,),
                headers=(EnvVar(name="X-Team", value="ops"), EnvVar(name="Authorization", value_from=_KEY)),
                timeout_s=5.0,
            ),
        ),
    ),
)
