"""Webhook channels: questions posted, signed, and answers that are posted back."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from schemas.events import ApprovalGranted
from schemas.interactions import InteractionAnswered
from schemas.resources import (
    ContactChannel,
    ContactChannelSpec,
    EnvVar,
    Metadata,
    Ref,
    ResourceStatus,
    WebhookOptions,
)
from schemas.subjects import TaskSubjects, status_key
from schemas.wire import decode
from services.human_contact.core import moves
from services.runtime.signing import check, key_of, signed_headers
from tests.support.answering import WEBHOOK_SECRET, Answering, answering, secret
from tests.support.raw_http import RawServer, raw_server, redirect, response
from tests.support.stage import until
from tests.unit.planner.test_delegation import calls

PATH = "/ask"
KEY = key_of(WEBHOOK_SECRET)
WRITE = ("box__write", {"path": "a"})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "AGAIN_MIN_S", 0.05)
    monkeypatch.setattr(moves, "AGAIN_MAX_S", 0.05)


def hook(url: str, name: str = "oncall", **fields: Any) -> ContactChannel:
    options = WebhookOptions(
        url=url,
        signing_secret_from=secret("webhook"),
        headers=(
            EnvVar(name="X-Team", value="ops"),
            EnvVar(name="X-Key", value_from=secret("mail")),
        ),
    )
    return ContactChannel(
        metadata=Metadata(name=name), spec=ContactChannelSpec(type="webhook", webhook=options, **fields)
    )


@asynccontextmanager
async def by_webhook(directory: Path, **fields: Any) -> AsyncGenerator[tuple[Answering, RawServer]]:
    async with raw_server() as server, answering(directory) as people:
        server.paths[PATH] = response(b"thanks")
        channel = hook(f"http://127.0.0.1:{server.port}{PATH}", **fields)
        await people.agent(channel, human_contact_channels=(Ref(name="oncall"),))
        yield people, server


async def begin(people: Answering, *wanted: tuple[str, object]) -> TaskSubjects:
    task = await people.stage.submit()
    await calls(people.stage, task, 1, *(wanted or (WRITE,)))
    return task


async def posted(server: RawServer, event: str, count: int = 1) -> list[tuple[str, dict[str, Any]]]:
    """What was posted as this event: ids and data. Every signature is checked."""
    found: list[tuple[str, dict[str, Any]]] = []

    async def there() -> bool:
        found.clear()
        for asked in server.asked:
            id_ = check([KEY], asked.headers, asked.body, datetime.now(UTC))
            body = json.loads(asked.body)
            if body["type"] == event:
                found.append((id_, body["data"]))
        return len(found) >= count

    await until(there, f"{count} {event}")
    return found


async def answer(
    people: Answering,
    data: dict[str, Any],
    *,
    key: bytes = KEY,
    age_s: float = 0,
    channel: str = "oncall",
    **fields: Any,
) -> httpx2.Response:
    """Post an answer as the receiver."""
    shown = {"digest": data["question"]["digest"]} if "digest" in data["question"] else {}
    body = json.dumps({"task": data["task"], "interaction": data["interaction"], **shown, **fields}).encode()
    headers = signed_headers([key], "msg_answer", datetime.now(UTC) - timedelta(seconds=age_s), body)
    return await people.send("POST", f"/webhook/default/{channel}", content=body, headers=headers)


async def test_a_question_is_posted_and_its_answer_is_posted_back(tmp_path: Path) -> None:
    async with by_webhook(tmp_path) as (people, server):
        task = await begin(people)
        ((id_, data),) = await posted(server, "interaction.asked")
        assert (data["task"], data["interaction"], data["channel"]) == (task.task, "r1.1.0", "oncall")
        question = data["question"]
        assert (question["kind"], question["tool"], json.loads(question["arguments"])) == (
            "approval",
            "box__write",
            {"path": "a"},
        )
        headers = server.asked[0].headers
        assert (headers["x-team"], headers["x-key"]) == ("ops", "right")
        taken = await answer(people, data, by="ann", digest=question["digest"], scope="task", comment="go")
        assert (taken.status_code, taken.text) == (200, "Thank you, your answer was taken.\n")
        granted = decode(await people.stage.stored(task, task.approval_event("r1", 1)), ApprovalGranted)
        assert (granted.by, granted.via, granted.scope) == ("ann", "webhook", "task")
        ((over, told),) = await posted(server, "interaction.over")
        assert over != id_
        assert (told["about"], told["answered"]["action"], told["answered"]["by"]) == (id_, "accept", "ann")


async def test_an_answer_that_is_posted_again_is_harmless_and_another_is_refused(tmp_path: Path) -> None:
    async with by_webhook(tmp_path) as (people, server):
        await begin(people)
        ((_, data),) = await posted(server, "interaction.asked")
        texts = [(await answer(people, data, by="ann")).text for _ in range(3)]
        assert texts == ["Thank you, your answer was taken.\n", *["Your answer was taken before.\n"] * 2]
        other = await answer(people, data, by="bob", action="decline")
        assert other.status_code == 409
        assert "by ann: accept" in other.text


async def test_a_models_question_is_answered_with_content(tmp_path: Path) -> None:
    async with by_webhook(tmp_path) as (people, server):
        task = await begin(people, ("oncall__human_contact_webhook", {"message": "Now?", "choices": ["yes", "no"]}))
        ((_, data),) = await posted(server, "interaction.asked")
        assert (data["question"]["message"], data["question"]["choices"]) == ("Now?", ["yes", "no"])
        assert (await answer(people, data, content={"answer": "maybe"})).status_code == 422
        assert (await answer(people, data, content={"answer": "no"})).status_code == 200
        assert (await people.result(task)).content == "no"


async def test_arguments_may_be_edited_and_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    async with by_webhook(tmp_path) as (people, server):
        task = await begin(people)
        ((_, data),) = await posted(server, "interaction.asked")
        assert (await answer(people, data, digest="other")).status_code == 409
        unseen = await answer(people, data, digest="")
        assert (unseen.status_code, "digest is required" in unseen.text) == (422, True)
        assert (await answer(people, data, arguments="[1]")).status_code == 422
        assert (await answer(people, data, arguments='{"path": "b"}')).status_code == 200
        granted = decode(await people.stage.stored(task, task.approval_event("r1", 1)), ApprovalGranted)
        assert granted.arguments == '{"path": "b"}'


async def test_what_is_not_signed_with_the_channels_secret_just_now_decides_nothing(tmp_path: Path) -> None:
    async with by_webhook(tmp_path) as (people, server):
        task = await begin(people)
        ((_, data),) = await posted(server, "interaction.asked")
        for refused in (
            await answer(people, data, key=bytes(32)),
            await answer(people, data, age_s=400),
            await answer(people, data, age_s=-400),
            await answer(people, data, channel="nobody"),
            await people.send("POST", "/webhook/default/oncall", content=b"{}"),
            await people.send("POST", "/webhook/../default/..%2f/oncall", content=b"{}"),
        ):
            assert refused.status_code in (401, 404)
        assert (await people.send("GET", "/webhook/default/oncall")).status_code == 405
        assert await people.stage.bus.log(task.partition).get(task.interaction_answered("r1", 1, 0)) is None


async def test_a_question_that_is_sent_back_to_us_is_no_answer(tmp_path: Path) -> None:
    async with by_webhook(tmp_path) as (people, server):
        await begin(people)
        await posted(server, "interaction.asked")
        (asked,) = server.asked
        headers = {name: value for name, value in asked.headers.items() if name.startswith("webhook-")}
        back = await people.send("POST", "/webhook/default/oncall", content=asked.body, headers=headers)
        assert back.status_code == 400
        assert "This is no answer" in back.text


async def test_whoever_has_a_channels_secret_answers_for_that_channel_only(tmp_path: Path) -> None:
    async with by_webhook(tmp_path) as (people, server):
        await people.stage.apply(hook(f"http://127.0.0.1:{server.port}{PATH}", "other"))
        await begin(people)
        ((_, data),) = await posted(server, "interaction.asked")

        async def refused() -> bool:
            return (await answer(people, data, channel="other")).status_code == 404

        await until(refused, "the other channel is known, and was not asked")
        assert (await answer(people, data)).status_code == 200


async def test_a_receiver_that_is_away_gets_the_same_message_later(tmp_path: Path) -> None:
    async with by_webhook(tmp_path) as (people, server):
        server.paths[PATH] = response(b"down", status="503 Unavailable")
        await begin(people)
        await posted(server, "interaction.asked", 2)
        server.paths[PATH] = response(b"up")
        found = await posted(server, "interaction.asked", 3)
        assert len({id_ for id_, _ in found}) == 1


async def test_a_receiver_that_refuses_ends_the_call_with_its_words(tmp_path: Path) -> None:
    async with by_webhook(tmp_path) as (people, server):
        server.paths[PATH] = response(b"no such team", status="410 Gone")
        finished = await people.result(await begin(people))
        assert finished.content == ("failed to request approval: the webhook answered with status 410: no such team")


async def test_people_are_reminded_and_told_when_nobody_waits_any_more(tmp_path: Path) -> None:
    async with by_webhook(tmp_path, remind_s=1) as (people, server):
        task = await begin(people)
        ((id_, _),) = await posted(server, "interaction.asked")
        reminders = await posted(server, "interaction.reminder", 2)
        assert {data["about"] for _, data in reminders} == {id_}
        assert len({one for one, _ in reminders}) == len(reminders)
        server.paths[PATH] = response(b"down", status="503 Unavailable")
        await people.stage.ask("cancel", {"task": task.task})
        await posted(server, "interaction.over", 2)
        server.paths[PATH] = response(b"up")
        over = await posted(server, "interaction.over", 3)
        assert len({one for one, _ in over}) == 1
        assert over[0][1]["answered"]["via"] == "withdrawn"
        answered = decode(await people.stage.stored(task, task.interaction_answered("r1", 1, 0)), InteractionAnswered)
        assert answered.via == "withdrawn"


async def test_private_addresses_are_refused_unless_they_are_let_through(tmp_path: Path) -> None:
    async with by_webhook(tmp_path) as (people, server):
        server.paths[PATH] = redirect("http://169.254.169.254/latest", "307 Temporary Redirect")
        finished = await people.result(await begin(people))
        assert finished.content.startswith("failed to request approval: refused: 169.254.169.254 may not be reached")
        await people.stage.apply(hook("http://10.0.0.1/ask", "inside"))

        async def said() -> bool:
            entry = await people.stage.bus.resources.get(status_key("ContactChannel", "default", "inside"))
            status = decode(entry.data, ResourceStatus) if entry is not None and entry.data else None
            return status is not None and "HOLDFAST_EGRESS_ALLOW opens it" in status.status_detail

        await until(said, "the private address is refused")
