"""Receivers: what a notification's receiver is now, with its secrets resolved, as something that can be sent to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, assert_never
from urllib.parse import urlsplit

from schemas.notifications import NotificationPending, Receiver, contradictions, sink_of
from schemas.resources import (
    ContactChannel,
    ContactChannelSpec,
    EmailOptions,
    EmailSink,
    EnvVar,
    SecretKeyRef,
    SecretSource,
    SlackOptions,
    SlackSink,
    SMTPOptions,
    SMTPServer,
    Subscription,
    SubscriptionSpec,
    WebhookOptions,
    WebhookSink,
)
from schemas.task import Cancelled, Failed, FinalAnswer
from schemas.wire import encode
from services.notifier.core import words
from services.notifier.core.outcomes import NotTaken, Unwanted
from services.notifier.sinks.base import Sink
from services.notifier.sinks.email import Email, Postman
from services.notifier.sinks.http import Http
from services.notifier.sinks.humanlayer import HumanLayer
from services.notifier.sinks.slack import Signer, SlackHook, SlackMessage
from services.notifier.sinks.webhook import Webhook, event_body
from services.runtime.egress import BadRule, Egress, Rules
from services.runtime.errors import Broken
from services.runtime.outbound import declared_headers
from services.runtime.secrets import SecretMissing
from services.runtime.signing import BadKey, key_of

if TYPE_CHECKING:
    from services.runtime.service import Runtime

UNKNOWN_S = 30.0
"""How long a receiver that is not known here may be one that this replica has not heard of yet."""
RESPONSE_TIMEOUT_S = 10.0


class BadSink(ValueError):
    """A receiver cannot be used as it is declared. The text says why."""


class Receivers:
    """The receivers of notifications, as they are declared now."""

    def __init__(self, runtime: Runtime) -> None:
        settings = runtime.settings
        self._resources = runtime.resources
        self._secrets = runtime.secrets
        self._humanlayer_url = settings.humanlayer_url
        self._slack_url = settings.slack_url
        allowed = [entry for entry in settings.egress_allow.split(",") if entry.strip()]
        own = [urlsplit(url).hostname for url in (settings.humanlayer_url, settings.slack_url)]
        try:
            self.egress = Egress(Rules.of(allowed))
            # The operator's own settings: they may be in the operator's own network.
            self._trusted = Http(Egress(Rules.of([*allowed, *(host for host in own if host)])))
        except BadRule as error:
            raise Broken(f"HOLDFAST_EGRESS_ALLOW: {error}") from error
        self._http = Http(self.egress)
        self._postman = Postman(self.egress)
        self._response_keys = tuple(_ref(entry) for entry in settings.response_url_secret.split(",") if entry.strip())

    async def close(self) -> None:
        """Close what is open."""
        await self._http.close()
        await self._trusted.close()
        self._postman.close()

    def lane(self, namespace: str, url: str, receiver: Receiver, name: str) -> str:
        """Where a receiver is reached and with which secrets: what differs in neither fails alike."""
        match receiver:
            case "responseURL":
                return f"responseURL {url}"
            case "ContactChannel":
                return f"ContactChannel {name}"
            case "Subscription":
                subscription = self._resources.get(Subscription, namespace, name)
                sink = sink_of(subscription.spec) if subscription is not None else None
                return encode(sink).decode() if sink is not None else f"Subscription {name}"
            case _:
                assert_never(receiver)

    def sink(
        self, pending: NotificationPending, state: FinalAnswer | Failed | Cancelled, now: datetime
    ) -> Sink | NotTaken | Unwanted:
        """What to send to, or why there is nothing."""
        try:
            match pending.receiver:
                case "responseURL":
                    return self._response(state.response_url)
                case "ContactChannel":
                    channel = self._resources.get(ContactChannel, pending.namespace, pending.name)
                    return self._channel(channel) if channel is not None else _unknown(pending, now)
                case "Subscription":
                    known = self._resources.get(Subscription, pending.namespace, pending.name)
                    return self.of(pending.name, known.spec) if known is not None else _unknown(pending, now)
                case _:
                    assert_never(pending.receiver)
        except (SecretMissing, BadSink) as error:
            # Somebody may mend the declaration or bring the secret meanwhile.
            return NotTaken(error=str(error), again=True)

    def of(self, name: str, spec: SubscriptionSpec) -> Sink:
        """The sink of a Subscription; raises `BadSink` and `SecretMissing`."""
        for field, problem in contradictions(spec):
            raise BadSink(f"{field}: {problem}".removeprefix(": "))
        match sink_of(spec):
            case WebhookSink() as hook:
                return Webhook(
                    self._http,
                    hook.url,
                    kind="webhook",
                    body=event_body,
                    keys=self._keys(tuple(source.secret_key_ref for source in hook.secret_from)),
                    headers=self._headers(hook.headers),
                    timeout_s=hook.timeout_s,
                )
            case SlackSink(webhook_from=None, token_from=token, timeout_s=timeout_s) as slack if token is not None:
                value = self._secrets.get(token.secret_key_ref)
                return SlackMessage(self._http, slack.api_url, slack.channel, value, timeout_s=timeout_s)
            case SlackSink(webhook_from=hook, timeout_s=timeout_s) if hook is not None:
                return SlackHook(self._http, self._secrets.get(hook.secret_key_ref), name, timeout_s=timeout_s)
            case EmailSink(smtp=smtp) as email:
                login = None
                if smtp.username_from is not None and smtp.password_from is not None:
                    refs = (smtp.username_from.secret_key_ref, smtp.password_from.secret_key_ref)
                    login = (self._secrets.get(refs[0]), self._secrets.get(refs[1]))
                return Email(self._postman, email, login)
            case _:
                raise BadSink("it says no way to tell anybody")

    def _response(self, url: str) -> Sink:
        return Webhook(
            self._http,
            url,
            kind="responseURL",
            body=words.human_contact,
            keys=self._keys(self._response_keys),
            headers={},
            timeout_s=RESPONSE_TIMEOUT_S,
        )

    def _channel(self, channel: ContactChannel) -> Sink | Unwanted:
        """A channel that Holdfast talks to itself, or by the API that the predecessor's manifests expect."""
        match channel.spec:
            case ContactChannelSpec(type="console"):
                return Unwanted("a console is not told: `holdfast get tasks` shows what became of a task")
            case ContactChannelSpec(
                type="webhook", webhook=WebhookOptions(url=url, signing_secret_from=key, timeout_s=timeout_s) as hook
            ):
                return Webhook(
                    self._http,
                    url,
                    kind="contactChannel",
                    body=event_body,
                    keys=self._keys((key.secret_key_ref,)),
                    headers=self._headers(hook.headers),
                    timeout_s=timeout_s,
                )
            case ContactChannelSpec() as spec if spec.api_key_from is not None or spec.channel_api_key_from is not None:
                return self._humanlayer(channel.metadata.name, spec)
            case ContactChannelSpec(type="slack", slack=SlackOptions(bot_token_from=SecretSource() as token) as slack):
                value, to = self._secrets.get(token.secret_key_ref), slack.channel_or_user_id
                signer = None
                if channel.spec.continue_threads and slack.signing_secret_from is not None:
                    secret = self._secrets.get(slack.signing_secret_from.secret_key_ref)
                    signer = Signer(secret, channel.metadata.name)
                return SlackMessage(
                    self._trusted, self._slack_url, to, value, timeout_s=RESPONSE_TIMEOUT_S, signer=signer
                )
            case ContactChannelSpec(type="email", email=EmailOptions(smtp=SMTPOptions() as smtp) as email):
                login = None
                if smtp.password_from is not None:
                    login = (smtp.username, self._secrets.get(smtp.password_from.secret_key_ref))
                server = SMTPServer(host=smtp.host, port=smtp.port, security=smtp.security)
                sink = EmailSink(to=(email.address,), from_=smtp.sender, smtp=server)
                return Email(self._postman, sink, login, subject=email.subject)
            case spec:
                return self._humanlayer(channel.metadata.name, spec)

    def _humanlayer(self, name: str, spec: ContactChannelSpec) -> Sink:
        source = spec.channel_api_key_from or spec.api_key_from
        if source is None:
            raise BadSink(f"ContactChannel {name!r} names no API key")
        return HumanLayer(self._trusted, self._humanlayer_url, spec, self._secrets.get(source.secret_key_ref))

    def _keys(self, refs: tuple[SecretKeyRef, ...]) -> tuple[bytes, ...]:
        keys: list[bytes] = []
        for ref in refs:
            try:
                keys.append(key_of(self._secrets.get(ref)))
            except BadKey as error:
                raise BadSink(f"secret {ref.name!r}, key {ref.key!r}: {error}") from None
        return tuple(keys)

    def _headers(self, declared: tuple[EnvVar, ...]) -> dict[str, str]:
        try:
            return declared_headers(declared, self._secrets)
        except ValueError as error:
            raise BadSink(str(error)) from error


def _unknown(pending: NotificationPending, now: datetime) -> NotTaken | Unwanted:
    """A receiver that is not declared: not heard of yet, or removed since."""
    what = f"{pending.receiver} {pending.name!r}"
    if pending.receiver == "Subscription" and now - pending.created_at > timedelta(seconds=UNKNOWN_S):
        return Unwanted(f"{what} was removed")
    return NotTaken(error=f"there is no {what} in namespace {pending.namespace!r}", again=True)


def _ref(entry: str) -> SecretKeyRef:
    name, _, key = entry.strip().partition("/")
    if not name or not key:
        raise Broken(f"HOLDFAST_RESPONSE_URL_SECRET: {entry!r} is not <secret>/<key>")
    return SecretKeyRef(name=name, key=key)
