"""What contradicts itself in a ContactChannel. Most texts are those that the predecessor's users know."""

from __future__ import annotations

import re
from email.utils import parseaddr

from schemas.resources import ContactChannelSpec

_SLACK_ID = re.compile(r"[CUDG][A-Z0-9]+")


def problem_of(spec: ContactChannelSpec) -> str:
    """Why a channel cannot be used, or empty."""
    return _keys(spec) or _kind(spec) or _times(spec)


def _keys(spec: ContactChannelSpec) -> str:
    project, channel = spec.api_key_from, spec.channel_api_key_from
    if project is not None and channel is not None:
        return "apiKeyFrom and channelApiKeyFrom are mutually exclusive"
    if channel is not None and not spec.channel_id:
        return "channelId is required when channelApiKeyFrom is set"
    if spec.channel_id and channel is None:
        return "channelId can only be used with channelApiKeyFrom"
    own = (
        spec.type in ("console", "webhook")
        or (spec.slack is not None and spec.slack.bot_token_from is not None)
        or (spec.email is not None and spec.email.smtp is not None)
    )
    if project is None and channel is None and not own:
        native = {"slack": "slack.botTokenFrom", "email": "email.smtp"}[spec.type]
        return f"either apiKeyFrom or channelApiKeyFrom must be provided, or {native}"
    return ""


def _kind(spec: ContactChannelSpec) -> str:
    match spec.type:
        case "slack":
            if spec.slack is None:
                return "slackConfig is required for slack channel type"
            if not _SLACK_ID.fullmatch(spec.slack.channel_or_user_id):
                return f"invalid Slack channel or user id: {spec.slack.channel_or_user_id!r}"
            if spec.slack.bot_token_from is not None and spec.slack.signing_secret_from is None:
                return "slack.signingSecretFrom is required with slack.botTokenFrom: answers come with its signature"
        case "email":
            if spec.email is None:
                return "emailConfig is required for email channel type"
            if not _is_address(spec.email.address):
                return f"invalid email address: {spec.email.address!r}"
        case "webhook":
            if spec.webhook is None:
                return "webhook is required for webhook channel type"
            if not spec.webhook.url.startswith(("http://", "https://")):
                return f"webhook.url {spec.webhook.url[:80]!r} is not an http or https address"
        case "console":
            pass
    return ""


def _times(spec: ContactChannelSpec) -> str:
    if spec.timeout_s is not None and spec.timeout_s <= 0:
        return "timeoutSeconds must be greater than 0"
    if spec.remind_s is not None and spec.remind_s < 1:
        return "remindSeconds must be at least 1"
    if spec.quorum < 1:
        return "quorum must be at least 1"
    if spec.on_timeout == "escalate" and spec.escalate_to is None:
        return "escalateTo is required for onTimeout: escalate"
    if spec.on_timeout != "deny" and spec.timeout_s is None:
        return f"timeoutSeconds is required for onTimeout: {spec.on_timeout}"
    return ""


def _is_address(text: str) -> bool:
    address = parseaddr(text)[1]
    local, at, domain = address.rpartition("@")
    return bool(local and at and "." in domain.strip("."))
