from __future__ import annotations

import importlib
import pkgutil
import re
from typing import get_args

import msgspec
import pytest

import schemas
from schemas import subjects
from schemas.catalog import CHANNELS, MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX, PLACEHOLDERS, Channel, messages
from schemas.messages import ImagePart, Message, TextPart
from schemas.reading import ReadWhat
from schemas.subjects import TaskSubjects
from services.runtime.nats import payloads, server, topology
from services.runtime.settings import Settings

every_channel = pytest.mark.parametrize("channel", CHANNELS, ids=[channel.name for channel in CHANNELS])
TASK = TaskSubjects(0, "team-a", "my_task-1")


def channels_of(subject: str) -> list[str]:
    """The channels whose address fits a subject."""

    def fits(address: str) -> bool:
        numbered = re.escape(address).replace(r"\{partition\}", r"\d+")
        return re.fullmatch(re.sub(r"\\{[a-z]+\\}", r"[^.]+", numbered), subject) is not None

    return [
        channel.name
        for channel in CHANNELS
        if (channel.address and fits(channel.address))
        # the last placeholder of a resource's key takes the rest
        or (channel.address.endswith("{name}") and subject.startswith(channel.address.split("{", maxsplit=1)[0]))
    ]


def test_every_subject_that_is_published_belongs_to_exactly_one_channel() -> None:
    said = {
        TASK.state: "task-state",
        TASK.model_command(3, 1): "model-commands",
        TASK.tool_command("r3", 2): "tool-commands",
        TASK.submitted: "task-submissions",
        TASK.model_event(3, 1): "model-events",
        TASK.tool_event("r3", 2): "tool-events",
        TASK.cancel: "task-cancellations",
        TASK.context: "task-context",
        TASK.ledger("r3", 2): "tool-ledger",
        TASK.timer("retry-3-1"): "timers-set",
        TASK.timer_fired("deadline"): "timers-fired",
        TASK.notify_command: "notify-commands",
        TASK.notification("abc"): "notifications",
        TASK.notify_timer("abc"): "notification-timers-set",
        TASK.notify_timer_fired("abc"): "notification-timers-fired",
        TASK.live: "task-live",
        TASK.text: "task-text-asks",
        subjects.holder("0123abcd"): "holder-asks",
        TASK.tool_output("r3", 2): "tool-outputs",
        TASK.interaction_asked("r3", 2, 1): "interactions-asked",
        TASK.interaction_answered("r3", 2, 1): "interactions-answered",
        TASK.ask_command("r3", 2): "person-commands",
        TASK.withdraw_command("r3", 2): "person-withdrawals",
        TASK.look_command("r3", 2, 1): "person-looks",
        TASK.approval_event("r3", 2): "approvals",
        TASK.interaction_step("r3", 2, 0, 1): "interaction-steps",
        TASK.interaction_vote("r3", 2, 0, "0a1b"): "interaction-votes",
        TASK.people_timer("r3-2-0"): "people-timers-set",
        TASK.people_timer_fired("r3-2-0"): "people-timers-fired",
        TASK.message_event("0a1b"): "task-messages",
        TASK.followed: "task-follows",
        subjects.thread_anchor(0, "default", "abc"): "thread-anchors",
        subjects.send("team-a"): "send-requests",
        subjects.ask("team-a", "send"): "send-asks",
        TASK.stop: "task-stop",
        subjects.submit("team-a"): "submit-requests",
        subjects.cancel("team-a"): "cancel-requests",
        subjects.delete("team-a"): "delete-requests",
        subjects.answer("team-a"): "answer-requests",
        subjects.ask("team-a", "answer"): "answer-asks",
        subjects.ask("team-a", "submit"): "submit-asks",
        subjects.ask("team-a", "cancel"): "cancel-asks",
        subjects.ask("team-a", "delete"): "delete-asks",
        subjects.dead_letter("KV_holdfast_0", 7): "dead-letters",
        subjects.failed_attempt("KV_holdfast_0", 7, 1): "failed-attempts",
        f"$KV.{subjects.RESOURCES_BUCKET}.{subjects.spec_key('LLM', 'team-a', 'gpt.5')}": "resource-specs",
        f"$KV.{subjects.RESOURCES_BUCKET}.{subjects.status_key('LLM', 'team-a', 'gpt.5')}": "resource-statuses",
        f"$KV.{subjects.FLOW_BUCKET}.{subjects.flow_pool('0123abcd')}": "flow-pools",
        f"$KV.{subjects.FLOW_BUCKET}.{subjects.flow_namespace('team-a')}": "flow-namespaces",
        f"$KV.{subjects.FLOW_BUCKET}.{subjects.flow_mailbox('team-a', 'oncall')}": "mailbox-leases",
        **{subjects.read("team-a", what): f"read-{what}" for what in get_args(ReadWhat)},
    }
    assert {subject: channels_of(subject) for subject in said} == {subject: [name] for subject, name in said.items()}
    assert {*said.values(), "replies", "reads", "task-texts", "holders"} == {channel.name for channel in CHANNELS}


@every_channel
def test_every_placeholder_is_explained(channel: Channel) -> None:
    assert set(re.findall(r"\{([a-z]+)\}", channel.address)) <= PLACEHOLDERS.keys()


@every_channel
def test_what_is_stored_names_its_stream_and_what_is_not_is_kept_nowhere(channel: Channel) -> None:
    assert bool(channel.stream) == (channel.kept != "not at all")
    assert bool(channel.stream) == (channel.delivery != "at-most-once")
    if channel.consumer:
        assert channel.stream


def matches(pattern: str, address: str) -> bool:
    wanted = re.escape(pattern).replace(r"\*", r"[^.]+").replace(">", ".+")
    return re.fullmatch(wanted, address) is not None


@every_channel
def test_an_answer_is_promised_only_on_a_channel_that_exists(channel: Channel) -> None:
    assert channel.reply in {"", *(other.name for other in CHANNELS)}


def test_every_tagged_struct_of_the_contract_is_in_the_catalogue() -> None:
    """What is declared as a message is said by somebody; a conversation's roles and parts are in messages."""
    tagged: set[type[msgspec.Struct]] = set()
    for module in pkgutil.iter_modules(schemas.__path__, "schemas."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__struct_config__.tag:
                tagged.add(value)
    assert tagged - set(messages()) == {*Message.__args__, TextPart, ImagePart}


def test_the_streams_and_consumers_of_the_catalogue_are_those_that_are_made() -> None:
    settings = Settings()
    streams = {plan.name: plan.config for plan in topology.stream_plans(settings)}
    consumers = {(plan.stream, plan.name): plan.config for plan in topology.consumer_plans(settings)}
    used: set[tuple[str, str]] = set()
    for channel in CHANNELS:
        stream = channel.stream.replace("{partition}", "0")
        address = channel.address.replace("{partition}", "0")
        if stream:
            assert any(matches(pattern, address) for pattern in streams[stream]["subjects"]), channel.name
            assert (channel.kept == "until it is handled") <= (streams[stream]["retention"] == "workqueue")
            assert (channel.kept == "30 days") == bool(streams[stream]["max_age"])
        for consumer in filter(None, (channel.consumer, *channel.other_consumers)):
            used.add((stream, consumer))
            assert matches(consumers[stream, consumer]["filter_subject"], address), channel.name
    assert used == consumers.keys()
    assert streams.keys() - {channel.stream.replace("{partition}", "0") for channel in CHANNELS} == {
        f"OBJ_{subjects.PAYLOADS_BUCKET}"
    }


def test_the_limits_of_the_catalogue_are_those_that_are_enforced() -> None:
    assert payloads.PAYLOAD_BYTES_MAX == PAYLOAD_BYTES_MAX
    assert server.MAX_PAYLOAD_BYTES == MESSAGE_BYTES_MAX
    assert topology.DEAD_LETTER_S == 30 * 86_400
