"""What people do in Slack: buttons and modals (`/slack/interactivity`), replies in threads (`/slack/events`).

Nothing in a request is believed before its signature is found to be that of a channel's secret; then it may speak for
the channels with that secret only. Doing it again changes nothing, so Slack's retries and double clicks are harmless.
"""

from __future__ import annotations

import asyncio
import hmac
import html
import logging
from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from schemas.ids import digest
from schemas.interactions import AnswerInteraction, InteractionRequested
from schemas.requests import Accepted
from schemas.slack_messages import SlackMessageKind, SlackRef, slack_mac, slack_ref_of
from services.human_contact.channels.base import ChannelFailed
from services.human_contact.channels.registry import ChannelKey
from services.human_contact.channels.slack import SlackChannel, posted_at
from services.human_contact.core.elicitations import Misfit
from services.human_contact.core.forms import Answerer, BadForm, answer, edited
from services.human_contact.core.questions import asking
from services.human_contact.core.slack_forms import block_names, filled_in, has_window
from services.human_contact.core.slack_signing import is_fresh, is_signed
from services.human_contact.core.slack_words import INPUT, fits, is_later, was_said_to
from services.human_contact.door import sentence
from services.human_contact.threads import Reply as Said
from services.human_contact.threads import Threads
from services.human_contact.web.base import Handler, Received, Reply, Unfit, json_reply, said
from services.human_contact.web.reception import Reception

logger = logging.getLogger(__name__)

ANSWER_S = 1.8
"""How long the planner has; Slack waits for three seconds."""
WHISPER_S = 0.9
BUTTONS_DECIDE = "The agent is told of it. What is asked in this thread is decided by its buttons only."
SCOPES = {"accept": "once", "accept_task": "task", "accept_arguments": "arguments"}


class _Id(msgspec.Struct):
    id: str = ""


class _Action(msgspec.Struct):
    action_id: str = ""
    value: str = ""


class _Container(msgspec.Struct):
    channel_id: str = ""
    thread_ts: str = ""


class _Option(msgspec.Struct):
    value: str = ""


class _Input(msgspec.Struct):
    value: str | None = None
    selected_date: str | None = None
    selected_option: _Option | None = None
    selected_options: list[_Option] = []

    @property
    def text(self) -> str:
        return self.value or self.selected_date or ""

    @property
    def options(self) -> list[str]:
        one = [self.selected_option] if self.selected_option is not None else []
        return [option.value for option in (*one, *self.selected_options)]


class _Values(msgspec.Struct):
    values: dict[str, dict[str, _Input]] = {}


class _View(msgspec.Struct):
    callback_id: str = ""
    private_metadata: str = ""
    state: _Values = msgspec.field(default_factory=_Values)


class _Payload(msgspec.Struct):
    """What we look at of an interaction."""

    type: str
    user: _Id = msgspec.field(default_factory=_Id)
    trigger_id: str = ""
    actions: list[_Action] = []
    container: _Container = msgspec.field(default_factory=_Container)
    view: _View = msgspec.field(default_factory=_View)


class _Message(msgspec.Struct):
    type: str = ""
    subtype: str = ""
    bot_id: str = ""
    channel: str = ""
    user: str = ""
    text: str = ""
    ts: str = ""
    thread_ts: str = ""
    parent_user_id: str = ""


class _Event(msgspec.Struct):
    type: str
    challenge: str = ""
    event: _Message = msgspec.field(default_factory=_Message)


class SlackRequests:
    """Answers what is below `/slack/`."""

    def __init__(self, reception: Reception) -> None:
        self._door = reception.door
        self._channels = reception.channels
        self._clock = reception.clock
        self._threads = Threads(reception.door, reception.channels, reception.clock)

    async def handle(self, received: Received) -> Reply:
        """Take a request that Slack has signed."""
        if received.method != "POST":
            raise Unfit(405, "Slack posts here.")
        signers = self._signers(received)
        try:
            match received.path.rstrip("/"):
                case "/slack/interactivity":
                    return await self._interaction(received, signers)
                case "/slack/events":
                    return await self._event(received, signers)
                case _:
                    raise Unfit(404, "There are /slack/interactivity and /slack/events.")
        except msgspec.ValidationError as error:
            # Something else of Slack's: told that it was taken, it does not come again.
            logger.warning("a request of Slack's was not understood: %s", error, extra={"action": "slack.unknown"})
            return Reply(200)

    def _signers(self, received: Received) -> dict[ChannelKey, SlackChannel]:
        """The channels whose secret signed a request; raises `Unfit` if there is none."""
        if not is_fresh(received.headers, self._clock.now()):
            raise Unfit(401, "The request is not of the last five minutes.")
        judged: dict[str, bool] = {}
        found: dict[ChannelKey, SlackChannel] = {}
        for key in self._channels.of_family("slack"):
            try:
                channel = self._channels.get(key)
            except ChannelFailed:
                continue
            if not isinstance(channel, SlackChannel):
                continue
            secret = channel.signing_secret
            if secret not in judged:
                judged[secret] = is_signed(secret, received.headers, received.body)
            if judged[secret]:
                found[key] = channel
        if not found:
            raise Unfit(401, "The signature is that of no channel.")
        return found

    # --- buttons and modals ---

    async def _interaction(self, received: Received, signers: dict[ChannelKey, SlackChannel]) -> Reply:
        payload = _read(received.form().get("payload", "").encode(), _Payload)
        if payload.type == "view_submission":
            return await self._submitted(payload, signers)
        if payload.type == "block_actions" and payload.actions:
            return await self._pressed(payload, signers)
        return Reply(200)

    async def _pressed(self, payload: _Payload, signers: dict[ChannelKey, SlackChannel]) -> Reply:
        pressed = payload.actions[0]
        ref = slack_ref_of(pressed.value)
        if ref is None or not pressed.action_id.startswith("holdfast_"):
            return Reply(200)
        channel = _channel(ref, signers)
        asked = await self._asked(ref)
        action = pressed.action_id.removeprefix("holdfast_")
        if asked is None:
            text = "The task of this question is not there any more."
        elif action in ("answer", "edit") or (action == "decline" and asked.kind != "elicitation"):
            try:
                await channel.open_modal(payload.trigger_id, asked, action)
            except ChannelFailed as failed:
                text = f"The window could not be opened: {failed}"
            else:
                return Reply(200)
        else:
            try:
                text = await self._answer(ref, _pressed_answer(asked, ref, action, payload.user.id))
            except BadForm as error:
                text = str(error)
        await _whisper(channel, payload.container, payload.user.id, text)
        return Reply(200)

    async def _submitted(self, payload: _Payload, signers: dict[ChannelKey, SlackChannel]) -> Reply:
        view = payload.view
        ref = slack_ref_of(view.private_metadata)
        if ref is None:
            return Reply(200)
        _channel(ref, signers)
        asked = await self._asked(ref)
        if asked is None:
            return _refused("The task of this question is not there any more.")
        text = (view.state.values.get(INPUT, {}).get(INPUT, _Input()).value or "").strip()
        action = view.callback_id.removeprefix("holdfast_")
        who = _who(asked, payload.user.id)
        try:
            if asked.kind == "elicitation" and action == "answer":
                inputs = {name: inside[name] for name, inside in view.state.values.items() if name in inside}
                wanted = answer(asked, who, "accept", content=filled_in(asked, inputs))
            else:
                wanted = _submitted_answer(asked, action, text, who)
        except Misfit as misfit:
            names = block_names(asked)
            return _refusal({names[n]: said for n, said in misfit.wrong.items()})
        except BadForm as error:
            return _refused(str(error))
        refusal = await self._answer(ref, wanted)
        if not refusal:
            return Reply(200)
        return _refusal({block_names(asked)[0]: refusal}) if asked.kind == "elicitation" else _refused(refusal)

    async def _asked(self, ref: SlackRef) -> InteractionRequested | None:
        found = await self._door.find(ref.namespace, ref.task, ref.interaction)
        if found is None or ref.channel not in found.channels or ref.asking != asking(found.asked):
            return None
        return found.asked

    async def _answer(self, ref: SlackRef, request: AnswerInteraction) -> str:
        """Hand an answer in; what the person is to be told, if anything."""
        reply = await self._door.answer(ref.namespace, request, ref.channel, timeout_s=ANSWER_S)
        return "" if isinstance(reply, Accepted) and not reply.note else sentence(reply)

    # --- replies in threads ---

    async def _event(self, received: Received, signers: dict[ChannelKey, SlackChannel]) -> Reply:
        event = _read(received.body, _Event)
        if event.type == "url_verification":
            return said(200, event.challenge[:1000])
        message = event.event
        by_a_person = message.user and not message.bot_id and message.subtype in ("", "thread_broadcast")
        if event.type != "event_callback" or message.type != "message" or not by_a_person:
            return Reply(200)
        if message.thread_ts and message.thread_ts != message.ts:
            await self._replied(message, signers)
        return Reply(200)

    async def _replied(self, message: _Message, signers: dict[ChannelKey, SlackChannel]) -> None:
        ref = await self._thread(message, signers) or await self._named(message, signers)
        if ref is None:
            return
        key = ChannelKey(ref.namespace, ref.channel)
        words = html.unescape(message.text).strip()
        tasks = await self._door.thread_from(ref.namespace, ref.task)
        shown = [one for task in tasks for one in await self._door.questions(ref.namespace, task, ref.channel)]
        # What was said before a question was asked, and comes again, does not answer it.
        questions = [
            one for one in shown if one.asked.kind == "question" and is_later(message.ts, posted_at(one.place))
        ]
        open_ = [one.asked for one in questions if one.answered is None]
        if len(open_) > 1:
            text = "Several questions are open in this thread: answer each with its buttons."
        elif open_:
            (asked,) = open_
            request = answer(asked, _who(asked, message.user), "accept", content={"answer": _in_words(asked, words)})
            text = await self._answer(ref, request)
        elif any(was_said_to(one.answered, message.ts, message.user, words) for one in questions if one.answered):
            return
        else:
            id_ = digest("slack", *key, message.channel, message.ts)
            told = await self._threads.say(Said(channel=key, task=ref.task, by=message.user, text=words, id=id_))
            undecided = any(one.asked.kind != "question" and one.answered is None for one in shown)
            text = BUTTONS_DECIDE if told == "" and undecided else told or ""
        await _whisper(signers[key], _Container(message.channel, message.thread_ts), message.user, text)

    async def _named(self, message: _Message, signers: dict[ChannelKey, SlackChannel]) -> SlackRef | None:
        """The task of a thread that a person began: its caller has given the thread the name that Slack has for it."""
        for key, channel in signers.items():
            if channel.posts_to == message.channel and self._threads.wants(key):
                begun = await self._door.begun(key.namespace, message.thread_ts)
                if begun is not None and begun.spec.contact_channel == key.name:
                    return SlackRef(key.namespace, key.name, begun.task)
        return None

    async def _thread(self, message: _Message, signers: dict[ChannelKey, SlackChannel]) -> SlackRef | None:
        """What the message is about that a thread began with, if it is one of ours and its task is still there."""
        bots: set[str] = set()
        for key, channel in signers.items():
            try:
                bot = await channel.bot_user()
                if bot in bots or (message.parent_user_id and message.parent_user_id != bot):
                    continue
                bots.add(bot)
                along = await channel.parent(message.channel, message.thread_ts)
            except ChannelFailed as failed:
                if failed.transient:
                    raise Unfit(503, "Slack could not be asked which thread this is.") from failed
                logger.warning("a thread of %s cannot be read: %s", key.name, failed, extra={"action": "slack.thread"})
                continue
            if (ref := _signed_ref(along, signers)) is not None:
                return ref if await self._is_current(ref) else None
        return None

    async def _is_current(self, ref: SlackRef) -> bool:
        """Whether a message is about what is there now: names of tasks come again."""
        if ref.interaction:
            return await self._asked(ref) is not None
        return await self._door.is_told(ref.namespace, ref.task, ref.asking)


def inbound(reception: Reception) -> Handler:
    """The handler of Slack's requests."""
    return SlackRequests(reception).handle


def _read(data: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unfit(400, "This is no request of Slack's.") from error


def _channel(ref: SlackRef, signers: dict[ChannelKey, SlackChannel]) -> SlackChannel:
    channel = signers.get(ChannelKey(ref.namespace, ref.channel))
    if channel is None:
        raise Unfit(401, "The signature is not that of this question's channel.")
    return channel


def _signed_ref(along: dict[str, Any], signers: dict[ChannelKey, SlackChannel]) -> SlackRef | None:
    payload: Any = along.get("event_payload")
    if along.get("event_type") not in get_args(SlackMessageKind) or not isinstance(payload, dict):
        return None
    ref, mac = slack_ref_of(str(payload.get("ref", ""))), str(payload.get("mac", ""))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - any JSON
    channel = signers.get(ChannelKey(ref.namespace, ref.channel)) if ref is not None else None
    if ref is None or channel is None:
        return None
    expected = slack_mac(channel.signing_secret, ref)
    return ref if hmac.compare_digest(expected.encode(), mac.encode("utf-8", "replace")) else None


def _who(asked: InteractionRequested, user: str) -> Answerer:
    return Answerer(by=user, via="slack", digest=asked.digest)


def _pressed_answer(asked: InteractionRequested, ref: SlackRef, action: str, user: str) -> AnswerInteraction:
    who = _who(asked, user)
    if action.startswith("choice_") and 0 <= ref.choice < len(asked.choices):
        return answer(asked, who, "accept", content={"answer": asked.choices[ref.choice]})
    if asked.kind == "elicitation" and action == "decline":
        return answer(asked, who, "decline")
    if asked.kind == "elicitation" and action == "accept" and not has_window(asked):
        return answer(asked, who, "accept", content=None if asked.schema is None else {})
    if asked.kind == "uncertain" and action == "accept" and fits(asked):
        return answer(asked, who, "accept")
    if action in SCOPES and asked.kind == "approval" and fits(asked):
        return answer(asked, who, "accept", scope=SCOPES[action])  # type: ignore[arg-type]  # one of the three
    raise BadForm("This button does not answer the question.")


def _submitted_answer(asked: InteractionRequested, action: str, text: str, who: Answerer) -> AnswerInteraction:
    match action:
        case "decline":
            return answer(asked, who, "decline", comment=text)
        case "answer" if asked.kind == "question":
            return answer(asked, who, "accept", content={"answer": text})
        case "edit" if asked.kind == "approval":
            return answer(asked, who, "accept", arguments=edited(asked, text))
        case _:
            raise BadForm("This window does not answer the question.")


def _in_words(asked: InteractionRequested, text: str) -> str:
    """A reply as one of the choices, if it says one in other letters."""
    return next((choice for choice in asked.choices if choice.casefold() == text.casefold()), text)


def _refused(text: str) -> Reply:
    return _refusal({INPUT: text})


def _refusal(wrong: Mapping[str, str]) -> Reply:
    """What is wrong with what was filled in, by the names of the inputs."""
    errors = {name: text[:2_000] for name, text in wrong.items()}
    return json_reply({"response_action": "errors", "errors": errors})


async def _whisper(channel: SlackChannel, where: _Container, user: str, text: str) -> None:
    """Tell the person something; it is all the same to the answer whether they hear it."""
    if not text or not where.channel_id:
        return
    try:
        async with asyncio.timeout(WHISPER_S):
            await channel.whisper(where.channel_id, user, text, where.thread_ts)
    except (ChannelFailed, TimeoutError) as error:
        logger.warning("somebody in Slack was not told %r: %s", text, error, extra={"action": "slack.whisper"})
