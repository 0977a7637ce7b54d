"""Slack and e-mail by the HumanLayer API, against a server that holds to it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from schemas.events import ApprovalGranted
from schemas.interactions import InteractionAnswered
from schemas.requests import Rejected
from schemas.resources import (
    ContactChannel,
    ContactChannelSpec,
    EmailOptions,
    Metadata,
    Ref,
    ResourceStatus,
    SlackOptions,
)
from schemas.subjects import TaskSubjects, status_key
from schemas.wire import decode
from services.human_contact.channels.outside import egress_of
from services.human_contact.core import moves
from services.runtime.settings import Settings
from tests.support.answering import Answering, answering, secret
from tests.support.humanlayer_server import (
    CHANNEL_ID,
    CHANNEL_KEY,
    PROJECT_KEY,
    HumanLayerServer,
    Kept,
    humanlayer_server,
)
from tests.support.stage import until
from tests.unit.planner.test_delegation import calls

KEYS = {"hl-project": PROJECT_KEY, "hl-channel": CHANNEL_KEY, "hl-wrong": "hl_wrong", "hl-empty": ""}
SLACK = {"slack": SlackOptions(channel_or_user_id="C0123", context_about_channel_or_user="the ops room")}
EMAIL = {"email": EmailOptions(address="ada@example.com", context_about_user="the owner", subject="Holdfast asks")}
WRITE = ("box__write", {"path": "a"})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "POLL_MIN_S", 0.05)
    monkeypatch.setattr(moves, "AGAIN_MIN_S", 0.05)
    monkeypatch.setattr(moves, "AGAIN_MAX_S", 0.05)
    monkeypatch.setattr("services.runtime.readiness.RETRY_MIN_S", 0.1)
    monkeypatch.setattr("services.runtime.readiness.POLL_S", 0.1)


def hl_channel(name: str = "oncall", kind: str = "slack", key: str = "hl-project", **fields: Any) -> ContactChannel:
    options: dict[str, Any] = {**(SLACK if kind == "slack" else EMAIL), "api_key_from": secret(key), **fields}
    return ContactChannel(metadata=Metadata(name=name), spec=ContactChannelSpec(type=kind, **options))  # type: ignore[arg-type]  # one of them


@asynccontextmanager
async def by_api(directory: Path, *channels: ContactChannel) -> AsyncGenerator[tuple[Answering, HumanLayerServer]]:
    for name, value in KEYS.items():
        (directory / "secrets" / name).mkdir(parents=True)
        (directory / "secrets" / name / "value").write_text(value)
    async with humanlayer_server() as server, answering(directory, humanlayer_url=server.url) as people:
        first, *more = channels or (hl_channel(),)
        await people.agent(first, *more, human_contact_channels=(Ref(name="oncall"),))
        yield people, server


async def begin(people: Answering, *wanted: tuple[str, object]) -> TaskSubjects:
    task = await people.stage.submit()
    await calls(people.stage, task, 1, *(wanted or (WRITE,)))
    return task


async def approval(people: Answering, task: TaskSubjects) -> ApprovalGranted:
    return decode(await people.stage.stored(task, task.approval_event("r1", 1)), ApprovalGranted)


async def until_polled(kept: Kept, times: int) -> None:
    async def enough() -> bool:
        return kept.polled >= times

    await until(enough, f"{times} polls", wait_s=10)


async def status(people: Answering, name: str, want: str) -> ResourceStatus:
    found: list[ResourceStatus] = []

    async def said() -> bool:
        entry = await people.stage.bus.resources.get(status_key("ContactChannel", "default", name))
        found[:] = [decode(entry.data, ResourceStatus)] if entry is not None and entry.data else []
        return bool(found) and found[0].status == want

    await until(said, f"{name} is {want}", wait_s=10)
    return found[0]


async def test_c1_c5_a_call_is_asked_about_by_the_api_and_made_when_it_is_approved(tmp_path: Path) -> None:
    async with by_api(tmp_path) as (people, server):
        task = await begin(people)
        (kept,) = await server.asked("function_calls")
        assert kept.spec == {
            "fn": "box__write",
            "kwargs": {"path": "a"},
            "channel": {"slack": {"channel_or_user_id": "C0123", "context_about_channel_or_user": "the ops room"}},
        }
        assert len(kept.run_id + kept.call_id) <= 64
        await until_polled(kept, 2)
        assert await people.stage.bus.log(task.partition).get(task.tool_command("r1", 1)) is None
        server.decide(kept, approved=True, comment="fine", user_info={"id": "U1"})
        granted = await approval(people, task)
        assert (granted.by, granted.via) == ("U1", "humanlayer")
        await people.stage.stored(task, task.tool_command("r1", 1))
        polled = kept.polled
        answered = decode(await people.stage.stored(task, task.interaction_answered("r1", 1, 0)), InteractionAnswered)
        assert (answered.comment, answered.via) == ("fine", "humanlayer")
        assert kept.polled == polled


async def test_c2_the_same_by_email(tmp_path: Path) -> None:
    async with by_api(tmp_path, hl_channel(kind="email")) as (people, server):
        await begin(people)
        (kept,) = await server.asked("function_calls")
        assert kept.spec["channel"] == {
            "email": {
                "address": "ada@example.com",
                "context_about_user": "the owner",
                "experimental_subject_line": "Holdfast asks",
            }
        }


async def test_c6_a_rejection_reaches_the_model_with_its_comment(tmp_path: Path) -> None:
    async with by_api(tmp_path) as (people, server):
        task = await begin(people)
        (kept,) = await server.asked("function_calls")
        server.decide(kept, approved=False, comment="not on a Friday")
        finished = await people.result(task)
        assert (finished.outcome, finished.content) == ("rejected", "Rejected: not on a Friday")


async def test_c3_c14_a_person_answers_a_models_question(tmp_path: Path) -> None:
    async with by_api(tmp_path, hl_channel(kind="email")) as (people, server):
        wanted = {"message": "Test human contact message", "choices": ["yes", "no"]}
        task = await begin(people, ("oncall__human_contact_email", wanted))
        (kept,) = await server.asked("contact_requests")
        channel = kept.spec.pop("channel")
        assert channel["email"]["address"] == "ada@example.com"
        assert kept.spec == {
            "msg": "Test human contact message",
            "subject": "Holdfast asks",
            "response_options": [{"name": "yes"}, {"name": "no"}],
        }
        assert kept.run_id == task.task
        server.decide(kept, response="Yes ")
        finished = await people.result(task)
        assert (finished.outcome, finished.content) == ("succeeded", "yes")


async def test_a_channels_own_key_says_where(tmp_path: Path) -> None:
    own = hl_channel(api_key_from=None, channel_api_key_from=secret("hl-channel"), channel_id=CHANNEL_ID)
    async with by_api(tmp_path, own) as (people, server):
        assert (await status(people, "oncall", "Ready")).ready
        task = await begin(people)
        (kept,) = await server.asked("function_calls")
        assert (kept.key, "channel" in kept.spec) == (CHANNEL_KEY, False)
        server.decide(kept, approved=True)
        await approval(people, task)


async def test_long_names_fit_beside_the_id(tmp_path: Path) -> None:
    async with by_api(tmp_path) as (people, server):
        task = await people.stage.submit(name="t" * 60)
        await calls(people.stage, task, 1, WRITE)
        (kept,) = await server.asked("function_calls")
        assert len(kept.run_id + kept.call_id) == 64


async def test_c4_c8_an_api_that_is_away_is_asked_again_and_one_that_refuses_ends_the_call(tmp_path: Path) -> None:
    async with by_api(tmp_path) as (people, server):
        server.fails = [(500, "service unavailable"), (429, "slow down"), (400, "no such user")]
        task = await begin(people)
        finished = await people.result(task)
        assert finished.outcome == "failed"
        assert finished.content.startswith("failed to request approval: HumanLayer answered with status 400")
        assert "no such user" in finished.content
        assert server.fails == []


async def test_c16_a_refused_question_says_that_nobody_was_asked(tmp_path: Path) -> None:
    async with by_api(tmp_path) as (people, server):
        server.fails = [(403, "not yours")]
        task = await begin(people, ("oncall__human_contact_slack", {"message": "?"}))
        finished = await people.result(task)
        assert finished.content.startswith("failed to request human input: HumanLayer answered with status 403")


@pytest.mark.parametrize("says_409", [True, False])
async def test_a_request_whose_answer_was_lost_is_not_made_twice(tmp_path: Path, says_409: bool) -> None:
    async with by_api(tmp_path) as (people, server):
        server.lost, server.says_409 = 1, says_409
        task = await begin(people)
        (kept,) = await server.asked("function_calls")
        server.decide(kept, approved=True)
        await approval(people, task)
        assert (len(server.kept), kept.posted) == (1, 1)


async def test_x12_an_approver_who_may_not_is_ignored(tmp_path: Path) -> None:
    only = SlackOptions(channel_or_user_id="C0123", allowed_responder_ids=("U1",))
    async with by_api(tmp_path, hl_channel(slack=only)) as (people, server):
        task = await begin(people)
        (kept,) = await server.asked("function_calls")
        assert kept.spec["channel"]["slack"]["allowed_responder_ids"] == ["U1"]
        server.decide(kept, approved=True, user_info={"id": "U2", "name": "U1"})
        await until_polled(kept, 3)
        assert await people.stage.bus.log(task.partition).get(task.approval_event("r1", 1)) is None
        server.decide(kept, approved=True, user_info={"slack": {"user_id": "U1"}})
        assert (await approval(people, task)).by == "U1"


async def test_an_answer_that_was_given_elsewhere_wins_and_the_api_is_asked_no_more(tmp_path: Path) -> None:
    async with by_api(tmp_path) as (people, server):
        task = await begin(people)
        (kept,) = await server.asked("function_calls")
        await people.answer(await people.asked(task), action="decline", comment="by the console")
        finished = await people.result(task)
        assert finished.content == "Rejected: by the console"
        server.decide(kept, approved=True)
        refused = await people.answer(await people.asked(task))
        assert isinstance(refused, Rejected)


async def test_an_answer_just_before_the_time_is_over_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "POLL_MIN_S", 30.0)
    async with by_api(tmp_path, hl_channel(timeout_s=0.5)) as (people, server):
        task = await begin(people)
        (kept,) = await server.asked("function_calls")
        server.decide(kept, approved=True, user_info={"email": "ada@example.com"})
        assert (await approval(people, task)).by == "ada@example.com"


async def test_a_channel_whose_question_was_passed_on_is_still_asked_for_its_answer(tmp_path: Path) -> None:
    boss = ContactChannel(metadata=Metadata(name="boss"), spec=ContactChannelSpec(type="console"))
    escalating = hl_channel(timeout_s=0.2, on_timeout="escalate", escalate_to=Ref(name="boss"))
    async with by_api(tmp_path, escalating, boss) as (people, server):
        task = await begin(people)
        await people.stage.stored(task, task.interaction_step("r1", 1, 0, 1))
        (kept,) = await server.asked("function_calls")
        server.decide(kept, approved=True, user_info={"id": "U1"})
        assert (await approval(people, task)).via == "humanlayer"


async def test_an_api_that_fails_while_it_is_polled_decides_nothing(tmp_path: Path) -> None:
    async with by_api(tmp_path) as (people, server):
        task = await begin(people)
        (kept,) = await server.asked("function_calls")
        del server.kept[kept.call_id]

        async def refused() -> bool:
            return sum("no such call" in refusal for refusal in server.refusals) >= 3

        await until(refused, "polls that were refused")
        server.kept[kept.call_id] = kept
        server.decide(kept, approved=True)
        await approval(people, task)


async def test_what_was_asked_may_be_long(tmp_path: Path) -> None:
    async with by_api(tmp_path) as (people, server):
        task = await begin(people, ("box__write", {"text": "x" * 300_000}))
        (kept,) = await server.asked("function_calls")
        server.decide(kept, approved=True)
        assert len(json.loads((await approval(people, task)).arguments)["text"]) == 300_000


@pytest.mark.parametrize(
    ("channel", "said"),
    [
        (hl_channel(key="hl-wrong"), "invalid HumanLayer API key"),
        (hl_channel(key="hl-empty"), "empty API key provided"),
        (hl_channel(key="hl-gone"), "failed to get API key secret: "),
        (
            hl_channel(api_key_from=None, channel_api_key_from=secret("hl-channel"), channel_id="ch_2"),
            "channel ch_2 not found",
        ),
        (
            hl_channel(api_key_from=None, channel_api_key_from=secret("hl-project"), channel_id=CHANNEL_ID),
            "invalid channel API key for channel ch_1",
        ),
        (
            hl_channel(api_key_from=None, channel_api_key_from=secret("hl-empty"), channel_id=CHANNEL_ID),
            "empty channel API key provided",
        ),
    ],
)
async def test_a_key_that_is_not_taken_is_said(tmp_path: Path, channel: ContactChannel, said: str) -> None:
    async with by_api(tmp_path, channel) as (people, _):
        assert (await status(people, "oncall", "Error")).status_detail.startswith(said)


async def test_a_key_that_comes_later_makes_the_channel_ready(tmp_path: Path) -> None:
    async with by_api(tmp_path, hl_channel(key="hl-wrong")) as (people, _):
        await status(people, "oncall", "Error")
        (tmp_path / "secrets" / "hl-wrong" / "value").write_text(PROJECT_KEY)
        ready = await status(people, "oncall", "Ready")
        assert ready.status_detail == "HumanLayer slack channel validated successfully"


async def test_a_key_that_cannot_be_verified_is_not_ready(tmp_path: Path) -> None:
    async with by_api(tmp_path, hl_channel("oncall")) as (people, server):
        await status(people, "oncall", "Ready")
        base = people.stage
        server.raw.paths = {}
        await base.apply(hl_channel("oncall", kind="email"))
        assert "status 404" in (await status(people, "oncall", "Error")).status_detail


async def test_questions_of_one_turn_are_answered_in_any_order(tmp_path: Path) -> None:
    async with by_api(tmp_path) as (people, server):
        task = await begin(people, WRITE, ("box__look", {}))
        kept = {one.spec["fn"]: one for one in await server.asked("function_calls", 2)}
        server.decide(kept["box__look"], approved=False, comment="no")
        assert (await people.result(task, 2)).content == "Rejected: no"
        server.decide(kept["box__write"], approved=True)
        assert (await approval(people, task)).tool == "box__write"


async def test_the_api_of_an_operator_may_be_in_the_operators_own_network() -> None:
    for own_url, refused in (("http://127.0.0.1:9/x", False), ("https://api.example.com", True)):
        guard = egress_of(Settings(), own_url)
        assert bool(guard.why_not("127.0.0.1", ip_address("127.0.0.1"))) is refused
