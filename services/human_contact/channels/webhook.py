"""A service of somebody's own: questions are posted to it, signed, and it posts answers back, signed alike."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlsplit

from schemas.interactions import InteractionAnswered
from services.human_contact.channels.base import ChannelFailed, Question
from services.human_contact.channels.outside import egress_of, excerpt, send
from services.human_contact.channels.registry import Setup
from services.human_contact.core.webhook_words import Event, body, message_id
from services.runtime.egress import EgressRefused
from services.runtime.outbound import Call, Client, declared_headers, passes, retry_after
from services.runtime.secrets import SecretMissing
from services.runtime.signing import BadKey, key_of, signed_headers


class WebhookChannel:
    """The `Channel` of type `webhook`. A place is the id of the message with the question."""

    def __init__(self, setup: Setup) -> None:
        options = setup.spec.webhook
        if options is None:
            raise ChannelFailed("webhook is required for webhook channel type", transient=False)
        self._url = options.url
        self._timeout_s = options.timeout_s
        self._name = setup.key.name
        self._clock = setup.clock
        try:
            self.key = key_of(setup.secret(options.signing_secret_from, "webhook.signingSecretFrom"))
            self._headers = declared_headers(options.headers, setup.secrets)
        except (BadKey, SecretMissing) as error:
            raise ChannelFailed(f"webhook: {error}", transient=True) from error
        except ValueError as error:
            raise ChannelFailed(f"webhook: {error}", transient=False) from error
        self._egress = egress_of(setup.settings)
        self._client = Client(self._egress)

    async def deliver(self, question: Question) -> str:
        """Post it; the same again has the same id."""
        return await self._post("interaction.asked", question)

    async def remind(self, question: Question, place: str) -> None:
        """Post it as a reminder."""
        await self._post("interaction.reminder", question, place, told_at=self._clock.now())

    async def close(self, question: Question, place: str, answered: InteractionAnswered) -> None:
        """Post that it is over, and what became of it."""
        await self._post("interaction.over", question, place, answered=answered)

    async def check(self) -> str:
        """Look the address up, and at it: nothing is posted."""
        try:
            parts = urlsplit(self._url)
            await self._egress.addresses(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        except EgressRefused as refused:
            text = f"refused: {refused}; HOLDFAST_EGRESS_ALLOW opens it, if it is meant"
            raise ChannelFailed(text, transient=True) from refused
        except (OSError, ValueError) as error:
            raise ChannelFailed(f"webhook.url cannot be used: {error}", transient=True) from error
        return "webhook channel validated successfully"

    async def end(self) -> None:
        """Close connections."""
        await self._client.close()

    async def _post(
        self,
        event: Event,
        question: Question,
        place: str = "",
        *,
        told_at: datetime | None = None,
        answered: InteractionAnswered | None = None,
    ) -> str:
        now = self._clock.now()
        id_ = message_id(event, question.asked, question.step, told_at)
        data = body(event, self._name, question.asked, now, about=place, answered=answered)
        headers = {"Content-Type": "application/json", **signed_headers([self.key], id_, now, data)}
        answer = await send(self._client, Call("POST", self._url, data, headers, self._headers, self._timeout_s))
        if 200 <= answer.status < 300:
            return id_
        after_s = retry_after(answer.retry_after, now) or 0.0
        text = f"the webhook answered with status {answer.status}{excerpt(answer)}"
        raise ChannelFailed(text, transient=passes(answer.status), after_s=after_s)


def make(setup: Setup) -> WebhookChannel:
    """The channel of a ContactChannel resource; raises `ChannelFailed`."""
    return WebhookChannel(setup)
