"""Slack and e-mail by the HumanLayer API: what the predecessor's manifests expect.

The API shows a question and keeps its answer, which is asked for again and again (`poll`). It knows no reminders, and
no way to say that a question is over: what people answer then is refused. `place` is the question's id in the API.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from schemas.interactions import AnswerInteraction, InteractionAnswered, InteractionRequested
from services.human_contact.channels.base import ChannelFailed, Question
from services.human_contact.channels.outside import egress_of, excerpt, send
from services.human_contact.channels.registry import Setup
from services.human_contact.core.humanlayer_words import Call as Kept
from services.human_contact.core.humanlayer_words import answer_of, call_id, spec_of
from services.runtime.humanlayer import ROOT, channel_of, run_id
from services.runtime.outbound import Answer, Call, Client, passes, retry_after
from services.runtime.secrets import SecretMissing

TIMEOUT_S = 15.0
POLL_TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""An answer repeats what was asked."""


class HumanLayerChannel:
    """The `Channel` of manifests with `apiKeyFrom` or `channelApiKeyFrom`."""

    def __init__(self, setup: Setup) -> None:
        self._spec = setup.spec
        self._clock = setup.clock
        self._key = _key(setup)
        self._url = setup.settings.humanlayer_url.rstrip("/") + ROOT
        self._client = Client(egress_of(setup.settings, setup.settings.humanlayer_url))

    async def deliver(self, question: Question) -> str:
        """Post it, unless an attempt before has arrived."""
        asked, id_ = question.asked, call_id(question.asked, question.step)
        family = _family(asked)
        if question.again and (await self._call("GET", f"{family}/{id_}")).status == 200:
            return id_
        subject = self._spec.email.subject if self._spec.email is not None else ""
        body = {
            "run_id": run_id(asked.task, id_),
            "call_id": id_,
            "spec": spec_of(asked, channel_of(self._spec, question.thread_id), subject),
        }
        answer = await self._call("POST", family, msgspec.json.encode(body))
        if not (200 <= answer.status < 300 or answer.status == 409):  # 409: it has this id, which nobody else makes
            raise self._refused(answer)
        return id_

    async def remind(self, question: Question, place: str) -> None:
        """The API has no reminders."""

    async def close(self, question: Question, place: str, answered: InteractionAnswered) -> None:
        """The API has no word for it."""

    async def poll(self, question: Question, place: str) -> AnswerInteraction | None:
        """The answer, if somebody has given one. Raises `ChannelFailed`."""
        answer = await self._call("GET", f"{_family(question.asked)}/{place}", timeout_s=POLL_TIMEOUT_S)
        if not 200 <= answer.status < 300:
            raise self._refused(answer)
        try:
            kept = msgspec.json.decode(answer.body, type=Kept)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ChannelFailed(f"HumanLayer's answer cannot be read: {error}", transient=True) from error
        return answer_of(question.asked, kept.status) if kept.status is not None else None

    async def check(self) -> str:
        """Look whether the API takes the key. Raises `ChannelFailed`, with the texts that its users know."""
        id_ = self._spec.channel_id
        if self._spec.channel_api_key_from is not None:
            answer = await self._call("GET", f"contact_channel/{quote(id_, safe='')}")
            said = {404: f"channel {id_} not found", 401: f"invalid channel API key for channel {id_}"}
            other = f"channel verification failed with status {answer.status}"
        else:
            answer = await self._call("GET", "project")
            said = {401: "invalid HumanLayer API key"}
            other = f"HumanLayer API key could not be verified: status {answer.status}{excerpt(answer)}"
        if not 200 <= answer.status < 300:
            raise ChannelFailed(said.get(answer.status, other), transient=True)
        return f"HumanLayer {self._spec.type} channel validated successfully"

    async def end(self) -> None:
        """Close connections."""
        await self._client.close()

    async def _call(self, method: str, path: str, body: bytes = b"", *, timeout_s: float = TIMEOUT_S) -> Answer:
        headers: dict[str, str] = {"Accept": "application/json"}
        if body:
            headers["Content-Type"] = "application/json"
        secret = {"Authorization": f"Bearer {self._key}"}
        call = Call(method, f"{self._url}/{path}", body, headers, secret, timeout_s, ANSWER_BYTES_MAX)
        return await send(self._client, call)

    def _refused(self, answer: Answer) -> ChannelFailed:
        after_s = retry_after(answer.retry_after, self._clock.now()) or 0.0
        text = f"HumanLayer answered with status {answer.status}{excerpt(answer)}"
        return ChannelFailed(text, transient=passes(answer.status), after_s=after_s)


def _family(asked: InteractionRequested) -> str:
    return "function_calls" if asked.kind == "approval" else "contact_requests"


def _key(setup: Setup) -> str:
    """The key; raises `ChannelFailed`."""
    source, what = setup.spec.channel_api_key_from, "channel API key"
    if source is None:
        source, what = setup.spec.api_key_from, "API key"
    if source is None:
        raise ChannelFailed("either apiKeyFrom or channelApiKeyFrom must be provided", transient=False)
    try:
        value = setup.secrets.get(source.secret_key_ref)
    except SecretMissing as error:
        raise ChannelFailed(f"failed to get API key secret: {error}", transient=True) from error
    if not value:
        raise ChannelFailed(f"empty {what} provided", transient=True)
    return value


def make(setup: Setup) -> HumanLayerChannel:
    """The channel of a ContactChannel resource; raises `ChannelFailed`."""
    return HumanLayerChannel(setup)
