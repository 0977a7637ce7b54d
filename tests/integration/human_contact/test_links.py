"""Links in real mail: opened by scanners, pressed by people, forged by others."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path

import msgspec

from schemas.ids import call_digest
from schemas.interactions import InteractionRequested
from schemas.subjects import spec_key
from services.human_contact.core.questions import asking
from services.human_contact.core.tokens import Link, LinkAction, link_token
from tests.support.answering import LINK_KEY
from tests.support.by_mail import (
    ANN,
    QUESTION,
    WRITE,
    approval,
    begin,
    by_mail,
    is_open,
    links,
    mailed,
    part,
)


async def test_a_mail_scanner_that_opens_every_link_changes_nothing(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        task = await begin(people)
        for url in links(await mailed(server)).values():
            for method in ("GET", "HEAD", "GET"):
                response = await people.get(url, method)
                assert response.status_code == 200
                assert bool(response.content) == (method == "GET")
            assert (await people.get(f"{url}?action=accept")).status_code == 200
        assert await is_open(people, task)


async def test_the_page_is_safe_and_needs_no_script(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        await begin(people)
        response = await people.get(links(await mailed(server))["Look, and decide"])
        assert "<script" not in response.text
        assert "alert(1)" in unescape(response.text)
        assert '<form method="post"' in response.text
        assert "http" not in response.text
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert response.headers["referrer-policy"] == "no-referrer"


async def test_a_link_approves_once_and_then_shows_who_did(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        task = await begin(people)
        found = links(await mailed(server))
        response = await people.send("POST", found["Approve"], data={"action": "accept", "scope": "task"})
        assert response.status_code == 200
        assert f"Accepted by {ANN}" in response.text
        granted = await approval(people, task)
        assert (granted.by, granted.via, granted.scope) == (ANN, "email", "task")
        for url in found.values():
            again = await people.get(url)
            assert f"Accepted by {ANN}" in again.text
            assert "<form" not in again.text
        late = await people.send("POST", found["Reject"], data={"action": "decline"})
        assert late.status_code == 409
        assert "cannot be answered" in late.text


async def test_arguments_are_edited_on_the_page(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        task = await begin(people)
        url = links(await mailed(server))["Look, and decide"]
        for bad, why in (("{", "not valid JSON"), ("[1]", "must be a JSON object")):
            response = await people.send("POST", url, data={"action": "edit", "arguments": bad})
            assert response.status_code == 422
            assert why in response.text
            assert f">\n{bad}</textarea>" in response.text
        response = await people.send("POST", url, data={"action": "edit", "arguments": '{"path":\r\n "b"}'})
        assert "with other arguments" in response.text
        assert json.loads((await approval(people, task)).arguments) == {"path": "b"}


async def test_the_text_area_unchanged_approves_what_was_shown(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        task = await begin(people)
        url = links(await mailed(server))["Look, and decide"]
        area = re.search(r"<textarea id=\"arguments\"[^>]*>\n(.*?)</textarea>", (await people.get(url)).text, re.DOTALL)
        assert area
        await people.send("POST", url, data={"action": "edit", "arguments": unescape(area[1])})
        granted = await approval(people, task)
        assert json.loads(granted.arguments) == WRITE[1]
        assert granted.digest == (await people.asked(task)).digest


async def test_a_rejection_takes_its_comment_to_the_model(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        task = await begin(people)
        found = links(await mailed(server))
        wrong = await people.send("POST", found["Approve"], data={"action": "decline", "comment": "no"})
        assert (wrong.status_code, await is_open(people, task)) == (422, True)
        await people.send("POST", found["Reject"], data={"action": "decline", "comment": "not today"})
        assert (await people.result(task)).content == "Rejected: not today"


async def test_choices_and_free_answers(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        asks: list[tuple[str, object]] = [
            (QUESTION, {"message": "Now?", "choices": ["yes", "no <b>"]}),
            (QUESTION, {"message": "What?"}),
        ]
        task = await begin(people, *asks)
        await mailed(server, 2)
        by_text = {"Now?" in part(one, "plain"): links(one)["Answer"] for one in server.messages}
        assert "no &lt;b&gt;" in (await people.get(by_text[True])).text
        assert (await people.send("POST", by_text[True], data={"choice": "7"})).status_code == 422
        await people.send("POST", by_text[True], data={"choice": "1"})
        assert (await people.result(task, 1)).content == "no <b>"
        assert (await people.send("POST", by_text[False], data={"action": "accept", "answer": " "})).status_code == 422
        await people.send("POST", by_text[False], data={"action": "accept", "answer": "this"})
        assert (await people.result(task, 2)).content == "this"


async def test_forged_changed_and_expired_links_are_refused(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        task = await begin(people)
        url = links(await mailed(server))["Approve"]
        base, _, token = url.rpartition("/")
        payload, _, mac = token.partition(".")
        asked = await people.asked(task)
        fields: tuple[str, str, str, str, LinkAction] = (
            "default",
            task.task,
            asked.interaction,
            asking(asked),
            "accept",
        )
        earlier = asking(msgspec.structs.replace(asked, at=asked.at - timedelta(seconds=1)))
        soon = int((datetime.now(UTC) + timedelta(hours=1)).timestamp())
        key = LINK_KEY.encode()
        bad = {
            "cut": token[:-1],
            "swapped": f"{payload[:-2]}xx.{mac}",
            "empty": "",
            "unsigned": payload,
            "no-base64": "%00",
            "other-key": link_token([b"k" * 32], Link(*fields, "oncall", ANN, soon)),
            "expired": link_token([key], Link(*fields, "oncall", ANN, soon - 7200)),
            "other-channel": link_token([key], Link(*fields, "boss", ANN, soon)),
            "other-question": link_token(
                [key], Link("default", task.task, asked.interaction, "x", "", "oncall", ANN, soon)
            ),
            "other-time": link_token(
                [key], msgspec.structs.replace(Link(*fields, "oncall", ANN, soon), asking=earlier)
            ),
            "other-task": link_token([key], Link("default", "nobody", asked.interaction, "", "", "oncall", ANN, soon)),
        }
        for name, one in bad.items():
            for method in ("GET", "POST"):
                response = await people.send(
                    method, f"{base}/{one}", data={"action": "accept"} if method == "POST" else None
                )
                assert response.status_code in (404, 409), name
        assert await is_open(people, task)
        good = link_token([key], Link(*fields, "oncall", ANN, soon))
        assert (await people.get(f"{base}/{good}")).status_code == 200


async def test_an_answer_after_the_timeout_is_refused_in_words(tmp_path: Path) -> None:
    async with by_mail(tmp_path, timeout_s=0.6) as (people, server):
        task = await begin(people)
        url = links(await mailed(server))["Approve"]
        await people.stage.stored(task, task.interaction_answered("r1", 1, 0))
        late = await people.send("POST", url, data={"action": "accept"})
        assert late.status_code == 409
        assert "nobody had answered it by" in late.text
        assert (await people.result(task)).outcome == "rejected"
        assert "Closed at" in (await people.get(url)).text


async def test_an_address_may_answer_however_it_is_written(tmp_path: Path) -> None:
    async with by_mail(tmp_path, allowed_responder_ids=("Ann@Example.com",)) as (people, server):
        task = await begin(people)
        await people.send("POST", links(await mailed(server))["Approve"], data={"action": "accept"})
        assert (await approval(people, task)).by == "Ann@Example.com"


async def test_somebody_else_than_who_may_is_told_so_on_the_page(tmp_path: Path) -> None:
    async with by_mail(tmp_path, allowed_responder_ids=("boss@example.com",)) as (people, server):
        task = await begin(people)
        response = await people.send("POST", links(await mailed(server))["Approve"], data={"action": "accept"})
        assert response.status_code == 403
        assert "may not answer" in response.text
        assert await is_open(people, task)


async def test_one_of_two_who_have_to_accept_is_thanked(tmp_path: Path) -> None:
    async with by_mail(tmp_path, quorum=2) as (people, server):
        task = await begin(people)
        url = links(await mailed(server))["Approve"]
        for _ in range(2):
            response = await people.send("POST", url, data={"action": "accept"})
            assert (response.status_code, "1 of 2 have accepted" in response.text) == (200, True)
        assert await is_open(people, task)


async def test_approved_for_good_is_a_grant(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        task = await begin(people)
        url = links(await mailed(server))["Approve"]
        response = await people.send("POST", url, data={"action": "accept", "scope": "arguments"})
        assert "this tool with these arguments, always" in response.text
        assert (await approval(people, task)).scope == "arguments"
        granted = await people.stage.bus.resources.get(grant_key(await people.asked(task)))
        assert granted is not None
        assert ANN.encode() in (granted.data or b"")


def grant_key(asked: InteractionRequested) -> str:
    name = call_digest(f"{asked.agent}/{asked.tool}", call_digest(asked.tool, asked.arguments))[:12]
    return spec_key("Grant", "default", f"grant-{name}")
