"""What contradicts itself in a ContactChannel. Most texts are those that the predecessor's users know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.utils import parseaddr

from schemas.resources import ContactChannelSpec

_SLACK_ID = re.compile(r"[CU][A-Z0-9]+")


def problem_of(spec: ContactChannelSpec) -> str:
    """Why a channel cannot be used, or empty."""
    return next((text for _, text in problems_of(spec)), "")


def problems_of(spec: ContactChannelSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    """What contradicts itself in a channel: where in the specification, and what."""
    yield from _keys(spec)
    yield from _kind(spec)
    yield from _times(spec)


def _keys(spec: ContactChannelSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    project, channel = spec.api_key_from, spec.channel_api_key_from
    own = (
        spec.type in ("console", "webhook")
        or (spec.slack is not None and spec.slack.bot_token_from is not None)
        or (spec.email is not None and spec.email.smtp is not None)
    )
    if project is None and channel is None and not own:
        native = {"slack": "slack.botTokenFrom", "email": "email.smtp"}[spec.type]
        yield (), f"either apiKeyFrom or channelApiKeyFrom must be provided, or {native}"
    if project is not None and channel is not None:
        yield ("channelApiKeyFrom",), "apiKeyFrom and channelApiKeyFrom are mutually exclusive"
    if channel is not None and not spec.channel_id:
        yield (), "channelId is required when channelApiKeyFrom is set"
    if spec.channel_id and channel is None:
        yield ("channelId",), "channelId can only be used with channelApiKeyFrom"


def _kind(spec: ContactChannelSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    if spec.type == "slack" and spec.slack is None:
        yield (), "slackConfig is required for slack channel type"
    if spec.type == "email" and spec.email is None:
        yield (), "emailConfig is required for email channel type"
    if spec.type == "webhook" and spec.webhook is None:
        yield (), "webhook is required for webhook channel type"
    if spec.slack is not None:
        if not _SLACK_ID.fullmatch(spec.slack.channel_or_user_id):
            wanted = "must be a Slack id: C (channel) or U (person), then capitals and digits"
            yield ("slack", "channelOrUserID"), f"{wanted}; not {spec.slack.channel_or_user_id!r}"
        if spec.slack.bot_token_from is not None and spec.slack.signing_secret_from is None:
            yield ("slack", "botTokenFrom"), "signingSecretFrom is required with it: Slack signs answers with that"
    if spec.email is not None and not is_address(spec.email.address):
        yield ("email", "address"), f"invalid email address: {spec.email.address!r}"
    if spec.webhook is not None and not spec.webhook.url.startswith(("http://", "https://")):
        yield ("webhook", "url"), f"{spec.webhook.url[:80]!r} is not an http or https address"


def _times(spec: ContactChannelSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    if spec.timeout_s is not None and spec.timeout_s <= 0:
        yield ("timeoutSeconds",), "must be greater than 0"
    if spec.remind_s is not None and spec.remind_s < 1:
        yield ("remindSeconds",), "must be at least 1"
    if spec.quorum < 1:
        yield ("quorum",), "must be at least 1"
    if spec.on_timeout == "escalate" and spec.escalate_to is None:
        yield ("onTimeout",), "escalateTo is required for escalate"
    if spec.on_timeout != "deny" and spec.timeout_s is None:
        yield ("onTimeout",), f"timeoutSeconds is required for {spec.on_timeout}"


def allowed_of(spec: ContactChannelSpec) -> tuple[str, ...]:
    """Who may answer through a channel; empty: whoever is reached."""
    slack = spec.slack.allowed_responder_ids if spec.slack is not None else ()
    return tuple(dict.fromkeys((*spec.allowed_responder_ids, *slack)))


def is_address(text: str) -> bool:
    """Whether a text is an e-mail address."""
    address = parseaddr(text)[1]
    local, at, domain = address.rpartition("@")
    return bool(local and at and "." in domain.strip("."))
