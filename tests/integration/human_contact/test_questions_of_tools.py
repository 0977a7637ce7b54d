"""Forms, pages to go to, and calls whose outcome nobody knows: by every channel, against servers that are strict."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from services.human_contact.core import moves
from tests.integration.human_contact.test_humanlayer import KEYS, hl_channel
from tests.integration.human_contact.test_slack import in_slack
from tests.integration.human_contact.test_webhook import answer, by_webhook, posted
from tests.support.answering import answering, write_secrets
from tests.support.by_mail import ANN, by_mail, links, looked, mailed, part, reply_to
from tests.support.humanlayer_server import humanlayer_server
from tests.support.imap_server import imap_server
from tests.support.slack_server import Message
from tests.support.wondering import ARGUMENTS, SCHEMA, URL, begin, doubt, said, unanswered, wonder

OSLO: dict[str, Any] = {"city": "Oslo", "nights": 3, "smoking": False, "room": "s", "extras": ["bike"]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "POLL_MIN_S", 0.05)


FILLED: dict[str, Message] = {
    "f0": {"type": "plain_text_input", "value": "Oslo"},
    "f1": {"type": "number_input", "value": "3"},
    "f2": {"type": "email_text_input", "value": None},
    "f3": {"type": "datepicker", "selected_date": None},
    "f4": {"type": "static_select", "selected_option": {"value": "1"}},
    "f5": {"type": "static_select", "selected_option": {"value": "0"}},
    "f6": {"type": "multi_static_select", "selected_options": [{"value": "1"}]},
}
FIELDS = {"action": "accept", "f0": "Oslo", "f1": "3", "f2": "", "f3": "", "f4": "1", "f5": "0", "f6.1": "on"}


# --- Slack ----------------------------------------------------------------------------------


async def test_slack_a_form_is_a_window_with_an_input_for_each_field(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people)
        await wonder(people.stage, task)
        message = await slack.posted()
        shown = json.dumps(message["blocks"])
        assert "box asks: Where to, <i>friend</i>?" in shown
        assert "The MCP server box asks this, while it carries out box__write." in shown
        await slack.press(message, "answer")
        (view,) = slack.views
        inputs = {block["block_id"]: block for block in view["blocks"] if block["type"] == "input"}
        kinds = [block["element"]["type"] for block in inputs.values()]
        assert kinds == [FILLED[name]["type"] for name in inputs]
        assert inputs["f0"]["label"]["text"] == "City <b>"
        assert inputs["f0"]["hint"]["text"] == "Where & when?"
        assert [inputs[name]["optional"] for name in ("f0", "f1")] == [False, True]
        assert inputs["f1"]["element"]["initial_value"] == "2"
        assert inputs["f5"]["element"]["initial_option"]["text"]["text"] == "Double"
        assert "Never put a password" in json.dumps(view["blocks"])
        assert (await slack.fill_in(view, FILLED)).content == b""
        answered = await said(people.stage, task)
        assert (answered.action, answered.content, answered.by, answered.via) == ("accept", OSLO, "UANN", "slack")
        assert "Accepted by UANN" in await slack.closed(message)


async def test_slack_what_is_wrong_is_said_at_its_input_and_by_the_front_door(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people)
        await wonder(people.stage, task)
        await slack.press(await slack.posted(), "answer")
        (view,) = slack.views
        wrong = await slack.fill_in(view, {**FILLED, "f0": {"value": ""}, "f1": {"value": "many"}})
        assert wrong.json() == {
            "response_action": "errors",
            "errors": {"f0": "City <b>: this is required.", "f1": "nights: many is not a whole number."},
        }
        too_many = await slack.fill_in(view, {**FILLED, "f1": {"value": "99"}})
        assert "99 is greater than the maximum of 30" in too_many.json()["errors"]["f0"]
        assert await unanswered(people.stage, task)


async def test_slack_a_form_that_is_none_is_asked_for_as_json(tmp_path: Path) -> None:
    nested = {"type": "object", "properties": {"a": {"type": "object"}}, "required": ["a"]}
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people)
        await wonder(people.stage, task, schema=nested)
        await slack.press(await slack.posted(), "answer")
        (view,) = slack.views
        refused = await slack.submit(view, "[")
        assert "not valid JSON" in refused.json()["errors"]["text"]
        await slack.submit(view, '{"a": {}}')
        assert (await said(people.stage, task)).content == {"a": {}}


async def test_slack_a_page_is_shown_with_its_host_and_declined_at_once(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        for action, button in (("accept", "I go there"), ("decline", "Decline")):
            task = await begin(people)
            await wonder(people.stage, task, url=URL)
            message = await slack.posted(len(slack.messages) + 1)
            shown = json.dumps(message["blocks"])
            assert "a page of evil.example." in shown
            assert URL in shown
            assert slack.button(message, action)["text"]["text"] == button
            await slack.press(message, action)
            assert (await said(people.stage, task)).action == action
        assert slack.views == []


async def test_slack_a_doubtful_call_is_run_again_or_left(tmp_path: Path) -> None:
    async with in_slack(tmp_path) as (people, slack):
        task = await begin(people)
        await doubt(people.stage, task)
        message = await slack.posted()
        shown = json.dumps(message["blocks"])
        assert json.dumps(ARGUMENTS)[1:-1] in shown
        assert "for the 2. time" in shown
        again = slack.button(message, "accept")
        assert (again["text"]["text"], again["confirm"]["confirm"]["text"]) == ("Run it again", "Run it again")
        await slack.press(message, "accept")
        assert (await said(people.stage, task)).action == "accept"
        assert "Run again by UANN" in await slack.closed(message)
        left = await begin(people)
        await doubt(people.stage, left)
        await slack.press(await slack.posted(2), "decline")
        (view,) = slack.views
        assert view["title"]["text"] == "Leave it"
        await slack.submit(view, "the money is there")
        answered = await said(people.stage, left)
        assert (answered.action, answered.comment) == ("decline", "the money is there")


# --- e-mail ---------------------------------------------------------------------------------


async def test_mail_a_form_is_behind_the_link(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        task = await begin(people)
        await wonder(people.stage, task)
        message = await mailed(server)
        for kind in ("plain", "html"):
            assert "The MCP server box asks this" in part(message, kind)
        assert "<i>" not in part(message, "html")
        url = links(message)["Answer"]
        page = (await people.get(url)).text
        assert "<i>" not in page
        assert "City &lt;b&gt; (required)" in page
        assert 'type="email"' in page
        assert 'name="f6.1"' in page
        assert '<option value="1" selected>Double</option>' in page
        assert "Never put a password" in page
        wrong = await people.send("POST", url, data={**FIELDS, "f0": "", "f1": "many"})
        assert wrong.status_code == 422
        assert "nights: many is not a whole number." in wrong.text
        assert 'value="many"' in wrong.text
        assert 'name="f6.1" value="on" checked' in wrong.text
        unfit = await people.send("POST", url, data={**FIELDS, "f1": "99"})
        assert "99 is greater than the maximum of 30" in unfit.text
        assert await unanswered(people.stage, task)
        taken = await people.send("POST", url, data=FIELDS)
        assert f"Accepted by {ANN}" in taken.text
        answered = await said(people.stage, task)
        assert (answered.content, answered.by, answered.via) == (OSLO, ANN, "email")


async def test_mail_a_page_to_go_to_is_shown_and_never_opened(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        task = await begin(people)
        await wonder(people.stage, task, url=URL)
        message = await mailed(server)
        assert "a page of evil.example" in part(message, "plain")
        url = links(message)["Answer"]
        page = (await people.get(url)).text
        assert "<strong>evil.example</strong>" in page
        assert URL in unescape(page)
        assert "href" not in page
        await people.send("POST", url, data={"action": "accept"})
        assert (await said(people.stage, task)).action == "accept"


async def test_mail_a_form_is_answered_by_a_reply_in_json(tmp_path: Path) -> None:
    async with imap_server("agent@holdfast.example") as imap, by_mail(tmp_path, imap=imap.port) as (people, server):
        task = await begin(people)
        await wonder(people.stage, task)
        message = await mailed(server)
        assert '"city": a text, required' in part(message, "plain")
        imap.arrive(reply_to(message, "Oslo, please"))
        await looked(people)
        assert "The page behind the link is easier." in part(await mailed(server, 2), "plain")
        imap.arrive(reply_to(message, '{"city": "Oslo"}'))
        await looked(people)
        assert (await said(people.stage, task)).content == {"city": "Oslo"}


@pytest.mark.parametrize(
    ("reply", "action", "comment"),
    [
        ("Run it again.", "accept", ""),
        ("approve", "accept", ""),
        ("Leave it, the money is there", "decline", "the money is there"),
        ("reject\nit is there", "decline", "it is there"),
    ],
)
async def test_mail_a_doubtful_call_is_decided_by_a_reply(
    tmp_path: Path, reply: str, action: str, comment: str
) -> None:
    async with imap_server("agent@holdfast.example") as imap, by_mail(tmp_path, imap=imap.port) as (people, server):
        task = await begin(people)
        await doubt(people.stage, task)
        message = await mailed(server)
        assert ARGUMENTS in part(message, "plain")
        imap.arrive(reply_to(message, reply))
        await looked(people)
        answered = await said(people.stage, task)
        assert (answered.action, answered.comment) == (action, comment)


async def test_mail_a_doubtful_call_has_a_link_for_each_decision(tmp_path: Path) -> None:
    async with by_mail(tmp_path) as (people, server):
        task = await begin(people)
        await doubt(people.stage, task)
        found = links(await mailed(server))
        assert set(found) == {"Run it again", "Leave it", "Look, and decide"}
        page = unescape((await people.get(found["Run it again"])).text)
        assert ARGUMENTS in page
        assert "Leave it" not in page
        wrong = await people.send("POST", found["Run it again"], data={"action": "decline"})
        assert wrong.status_code == 422
        left = await people.send("POST", found["Leave it"], data={"action": "decline", "comment": "it is there"})
        assert f"Left as it is by {ANN}" in left.text
        assert (await said(people.stage, task)).comment == "it is there"


# --- webhook --------------------------------------------------------------------------------


async def test_webhook_the_schema_is_in_the_body(tmp_path: Path) -> None:
    async with by_webhook(tmp_path) as (people, server):
        task = await begin(people)
        await wonder(people.stage, task)
        ((_, data),) = await posted(server, "interaction.asked")
        question = data["question"]
        assert (question["kind"], question["server"], question["schema"]) == ("elicitation", "box", SCHEMA)
        assert "url" not in question
        wrong = await answer(people, data, content={"city": 1})
        assert (wrong.status_code, "is not of type" in wrong.text) == (422, True)
        assert (await answer(people, data, content=OSLO, by="ann")).status_code == 200
        assert (await said(people.stage, task)).content == OSLO


async def test_webhook_a_page_and_a_doubtful_call(tmp_path: Path) -> None:
    async with by_webhook(tmp_path) as (people, server):
        task, other = await begin(people), await begin(people)
        await wonder(people.stage, task, url=URL)
        ((_, data),) = await posted(server, "interaction.asked")
        assert (data["question"]["url"], data["question"]["host"]) == (URL, "evil.example")
        await answer(people, data, action="decline")
        assert (await said(people.stage, task)).action == "decline"
        await doubt(people.stage, other)
        (_, (_, data)) = await posted(server, "interaction.asked", 2)
        question = data["question"]
        assert (question["arguments"], question["attempt"], question["server"]) == (ARGUMENTS, 2, "box")
        refused = await answer(people, data, digest="another call")
        assert refused.status_code == 409
        await answer(people, data, digest=question["digest"], by="ann")
        assert (await said(people.stage, other)).action == "accept"


# --- HumanLayer -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "response", "action", "content"),
    [
        ({}, {"response": '{"city": "Oslo"}'}, "accept", {"city": "Oslo"}),
        ({}, {"response": "Oslo, please"}, "cancel", None),
        ({}, {"response": "Decline"}, "decline", None),
        ({"url": URL}, {"response_option_name": "I go there"}, "accept", None),
        ({"url": URL}, {"response": "no way"}, "decline", None),
    ],
)
async def test_humanlayer_a_form_is_described_and_answered_as_json(
    tmp_path: Path, fields: dict[str, Any], response: dict[str, str], action: str, content: Any
) -> None:
    write_secrets(tmp_path, KEYS)
    async with humanlayer_server() as server, answering(tmp_path, humanlayer_url=server.url) as people:
        await people.agent(hl_channel())
        task = await begin(people)
        await wonder(people.stage, task, **fields)
        (kept,) = await server.asked("contact_requests")
        assert "The MCP server box asks this" in kept.spec["msg"]
        assert ("a page of evil.example" if fields else '"city": a text, required') in kept.spec["msg"]
        server.decide(kept, **response, user_info={"id": "U1"})
        answered = await said(people.stage, task)
        assert (answered.action, answered.content, answered.by) == (action, content, "U1")


@pytest.mark.parametrize(
    ("response", "action", "comment"),
    [
        ({"response_option_name": "Run it again"}, "accept", ""),
        ({"response": "run it again"}, "accept", ""),
        ({"response_option_name": "Leave it", "response": "it is there"}, "decline", "it is there"),
        ({"response": "what is this?"}, "decline", "what is this?"),
    ],
)
async def test_humanlayer_a_doubtful_call_is_run_again_only_if_that_is_said(
    tmp_path: Path, response: dict[str, str], action: str, comment: str
) -> None:
    write_secrets(tmp_path, KEYS)
    async with humanlayer_server() as server, answering(tmp_path, humanlayer_url=server.url) as people:
        await people.agent(hl_channel())
        task = await begin(people)
        await doubt(people.stage, task)
        (kept,) = await server.asked("contact_requests")
        assert ARGUMENTS in kept.spec["msg"]
        assert [one["name"] for one in kept.spec["response_options"]] == ["Run it again", "Leave it"]
        server.decide(kept, **response)
        answered = await said(people.stage, task)
        assert (answered.action, answered.comment) == (action, comment)
