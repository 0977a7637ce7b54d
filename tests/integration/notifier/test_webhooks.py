"""Webhooks and responseURLs, posted to real servers on this machine."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest

from schemas.notifications import NotificationDelivered, NotificationFailed
from schemas.resources import EnvVar
from schemas.task import Cancelled
from services.notifier.core import machine
from services.runtime.signing import signature
from tests.support.notifying import KEY_BYTES, OLD_KEY_BYTES, SECRETS, Notifying, hook, json_of, notifying, secret
from tests.support.raw_http import Asked, RawServer, raw_server, redirect, response
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries within tenths of a second."""
    monkeypatch.setattr(machine, "BACKOFF_BASE_S", 0.2)
    monkeypatch.setattr(machine, "BACKOFF_MAX_S", 0.2)


def url_of(server: RawServer, path: str = "/hook") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def in_turn(server: RawServer, *answers: bytes, path: str = "/hook") -> None:
    """Answer the first request so, the second so, and the others as the last one."""
    left = list(answers)

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    server.paths[path] = answer


def is_signed(asked: Asked, key: bytes) -> bool:
    id_, at = asked.headers["webhook-id"], int(asked.headers["webhook-timestamp"])
    return signature(key, id_, at, asked.body) in asked.headers["webhook-signature"].split(" ")


async def test_t25_a_response_url_is_posted_the_predecessors_human_contact() -> None:
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = response()
        task = await here.finished("It is noon.", responseURL=url_of(server))
        (done,) = await here.until_all(task, NotificationDelivered)
        (asked,) = server.asked
        assert (asked.method, asked.headers["content-type"]) == ("POST", "application/json")
        assert json_of(asked.body) == {"run_id": "helper", "call_id": done.id, "spec": {"msg": "It is noon."}}
        assert "webhook-signature" not in asked.headers


async def test_t25_a_response_url_that_answers_500_is_tried_again_and_the_status_is_told() -> None:
    async with raw_server() as server, notifying() as here:
        in_turn(server, response(status="500 No"), response(status="500 No"), response())
        task = await here.finished(responseURL=url_of(server))
        (done,) = await here.until_all(task, NotificationDelivered)
        assert [one.status for one in done.tried] == [500, 500, 200]
        assert done.tried[0].error == "HTTP error from responseURL (status 500)"
        assert len({asked.headers["webhook-id"] for asked in server.asked}) == 1


async def test_t25_a_response_url_where_nobody_listens_is_told_as_what_it_is() -> None:
    async with raw_server() as server:
        gone = url_of(server)
    async with notifying() as here:
        task = await here.finished(responseURL=gone)
        pending = await here.until_tried(task, 1)
        assert "failed to send HTTP request" in pending.tried[0].error


async def test_t26_the_answer_is_posted_within_five_seconds_of_the_task_s_end() -> None:
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = response()
        began = asyncio.get_running_loop().time()
        task = await here.finished("Test result", responseURL=url_of(server))
        await here.until_all(task, NotificationDelivered)
        assert asyncio.get_running_loop().time() - began < 5
        assert json_of(server.asked[0].body)["spec"]["msg"] == "Test result"


async def test_who_asked_hears_of_a_failure_and_of_a_cancellation_too() -> None:
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = response()
        failed = await here.failed(responseURL=url_of(server))
        await here.until_all(failed, NotificationDelivered)
        cancelled = await here.submit(userMessage="stop me", responseURL=url_of(server))
        await here.ask("cancel", {"task": cancelled.task, "reason": "not needed"})
        await here.until_state(cancelled, Cancelled)
        await here.until_all(cancelled, NotificationDelivered)
        texts = [json_of(asked.body)["spec"]["msg"] for asked in server.asked]
        assert f"Task {failed.task} failed" in texts[0]
        assert "not needed" in texts[1]


async def test_posts_to_a_response_url_are_signed_if_the_operator_has_a_key() -> None:
    async with raw_server() as server, notifying(response_url_secret="ops/signing") as here:
        server.paths["/hook"] = response()
        task = await here.finished(responseURL=url_of(server))
        await here.until_all(task, NotificationDelivered)
        assert is_signed(server.asked[0], KEY_BYTES)


async def test_a_subscription_hears_what_it_names_signed_with_every_key() -> None:
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = response(status="204 No Content")
        keys = (secret("signing"), secret("old"))
        headers = (EnvVar(name="X-Team", value="ops"), EnvVar(name="Authorization", value_from=secret("old")))
        await here.subscribe("ops", webhook=hook(url_of(server), secret_from=keys, headers=headers))
        await here.subscribe("failures", events=("task.failed",), webhook=hook(url_of(server, "/failures")))
        await here.subscribe("others", agents=("somebody-else",), webhook=hook(url_of(server, "/others")))
        task = await here.finished("It is noon.", labels={"tier": "1"})
        await here.until_all(task, NotificationDelivered)
        (asked,) = server.asked
        assert is_signed(asked, KEY_BYTES)
        assert is_signed(asked, OLD_KEY_BYTES)
        assert abs(int(asked.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60
        assert asked.headers["x-team"] == "ops"
        assert asked.headers["authorization"] == SECRETS["HOLDFAST_SECRET_OPS_OLD"]
        event = json_of(asked.body)
        assert event["type"] == "task.finished"
        data = event["data"]
        assert (data["namespace"], data["task"], data["agent"]) == ("default", task.task, "helper")
        assert (data["phase"], data["output"], data["labels"]) == ("FinalAnswer", "It is noon.", {"tier": "1"})
        assert data["usage"]["inputTokens"] == 10


async def test_a_task_that_nobody_wants_to_know_of_costs_no_message() -> None:
    async with notifying() as here:
        await here.subscribe("others", agents=("somebody-else",), webhook=hook("http://127.0.0.1:9/"))
        task = await here.finished()
        assert await here.bus.log(task.partition).subjects(f"{task.root}.cmd.notify.{task.task}.>") == []
        assert await here.notifications(task) == []


async def test_a_status_that_no_attempt_can_change_is_a_dead_letter_at_once_and_can_be_sent_again() -> None:
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = response(b"no such hook", status="404 Not Found")
        task = await here.finished(responseURL=url_of(server))
        (failed,) = await here.until_all(task, NotificationFailed)
        await until(lambda: _letters(here, 1), "a dead letter")
        (letter,) = await here.letters()
        assert letter.reason == "undelivered"
        for part in (failed.id, task.task, "responseURL", "404", "no such hook"):
            assert part in letter.error
        assert len(server.asked) == 1
        server.paths["/hook"] = response()
        await here.redrive(letter)
        (done,) = await here.until_all(task, NotificationDelivered)
        assert (done.id, done.redriven) == (failed.id, 1)
        assert {asked.headers["webhook-id"] for asked in server.asked} == {failed.id}
        assert await here.letters() == []


async def _letters(here: Notifying, count: int) -> bool:
    return len(await here.letters()) == count


async def test_a_letter_that_is_sent_again_and_fails_again_is_a_letter_again() -> None:
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = response(status="410 Gone")
        task = await here.finished(responseURL=url_of(server))
        for times in (1, 2, 3):
            await until(lambda: _letters(here, 1), "a dead letter")
            (letter,) = await here.letters()
            await here.redrive(letter)
            await until(lambda: len(server.asked) == times + 1, "another attempt")  # noqa: B023 - awaited here
        (failed,) = await here.until_all(task, NotificationFailed)
        assert failed.redriven == 3


async def test_a_receiver_that_is_down_for_a_while_hears_it_when_it_is_up() -> None:
    async with raw_server() as server:
        port = server.port
    async with notifying() as here:
        task = await here.finished(responseURL=f"http://127.0.0.1:{port}/hook")
        await here.until_tried(task, 2)
        back = RawServer()
        back.paths["/hook"] = response()
        listening = await asyncio.start_server(back.handle, "127.0.0.1", port)
        try:
            (done,) = await here.until_all(task, NotificationDelivered)
            assert done.attempts > 2
            assert len(back.asked) == 1
        finally:
            listening.close()


async def test_a_receiver_that_says_when_to_come_again_is_not_asked_before() -> None:
    async with raw_server() as server, notifying() as here:
        in_turn(server, response(status="429 Slow Down", Retry_After="2"), response())
        task = await here.finished(responseURL=url_of(server))
        pending = await here.until_tried(task, 1)
        assert (pending.due - pending.tried[0].at).total_seconds() >= 2
        first = asyncio.get_running_loop().time()
        await here.until_all(task, NotificationDelivered)
        assert asyncio.get_running_loop().time() - first > 1.5
        assert len(server.asked) == 2


async def test_a_receiver_that_takes_too_long_is_left_and_asked_again() -> None:
    async with raw_server() as server, notifying() as here:
        hanging = asyncio.Event()

        async def hang(_: Asked, writer: asyncio.StreamWriter) -> None:
            await hanging.wait()

        server.paths["/hook"] = hang
        await here.subscribe("slow", webhook=hook(url_of(server), timeout_s=0.3))
        task = await here.finished()
        pending = await here.until_tried(task, 1)
        assert "no answer within 0.3 s" in pending.tried[0].error
        server.paths["/hook"] = response()
        await here.until_all(task, NotificationDelivered)
        hanging.set()


async def test_a_receiver_that_took_it_before_the_connection_was_cut_hears_the_same_id_again() -> None:
    async with raw_server() as server, notifying() as here:
        taken: list[str] = []

        async def take(asked: Asked, writer: asyncio.StreamWriter) -> None:
            if asked.headers["webhook-id"] in taken:
                writer.write(response())
                await writer.drain()
            else:  # it has it, and its answer never arrives
                taken.append(asked.headers["webhook-id"])
                writer.transport.abort()

        server.paths["/hook"] = take
        task = await here.finished(responseURL=url_of(server))
        (done,) = await here.until_all(task, NotificationDelivered)
        assert taken == [done.id]
        assert [asked.headers["webhook-id"] for asked in server.asked] == [done.id, done.id]
        assert server.asked[0].body == server.asked[1].body


async def test_an_answer_that_breaks_off_after_its_status_counts() -> None:
    async with raw_server() as server, notifying() as here:

        async def half(_: Asked, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            await writer.drain()

        server.paths["/hook"] = half
        task = await here.finished(responseURL=url_of(server))
        await here.until_all(task, NotificationDelivered)
        assert len(server.asked) == 1


async def test_private_addresses_are_refused_also_where_a_receiver_redirects() -> None:
    async with raw_server() as server, notifying(egress_allow="127.0.0.1") as here:
        metadata = "http://169.254.169.254/latest/meta-data"
        server.paths["/hook"] = redirect(metadata, "307 Temporary Redirect")
        task = await here.finished(responseURL=url_of(server))
        (failed,) = await here.until_all(task, NotificationFailed)
        assert "refused" in failed.error
        assert "169.254.169.254" in failed.error
    async with raw_server() as server, notifying(egress_allow="") as here:
        task = await here.finished(responseURL=url_of(server))
        (failed,) = await here.until_all(task, NotificationFailed)
        assert "loopback" in failed.error
        assert server.asked == []


async def test_a_redirect_that_keeps_the_method_is_followed_without_what_is_secret() -> None:
    async with raw_server() as server, raw_server() as other, notifying() as here:
        server.paths["/hook"] = redirect(url_of(other), "308 Permanent Redirect")
        other.paths["/hook"] = response()
        headers = (EnvVar(name="Authorization", value_from=secret("old")),)
        await here.subscribe("ops", webhook=hook(url_of(server), headers=headers))
        task = await here.finished()
        await here.until_all(task, NotificationDelivered)
        assert "authorization" in server.asked[0].headers
        assert "authorization" not in other.asked[0].headers
        assert is_signed(other.asked[0], KEY_BYTES)


async def test_a_receiver_that_quotes_what_it_was_sent_has_no_secret_repeated() -> None:
    async with raw_server() as server, notifying() as here:
        headers = (EnvVar(name="Authorization", value_from=secret("old")),)

        async def quote(asked: Asked, writer: asyncio.StreamWriter) -> None:
            said = f"401: {asked.headers['authorization']} is not welcome; {json.dumps(asked.headers)}"
            writer.write(response(said.encode(), status="400 Bad Request"))
            await writer.drain()

        server.paths["/hook"] = quote
        await here.subscribe("ops", webhook=hook(url_of(server), headers=headers))
        task = await here.finished()
        (failed,) = await here.until_all(task, NotificationFailed)
        value = server.asked[0].headers["authorization"]
        assert "is not welcome" in failed.error
        assert value not in failed.error
        assert value not in str(failed)


@pytest.mark.parametrize("answer", [redirect("/other"), redirect("/hook", "307 Temporary Redirect")])
async def test_a_redirect_that_leads_nowhere_fails_at_once(answer: bytes) -> None:
    async with raw_server() as server, notifying() as here:
        server.paths["/hook"] = answer
        task = await here.finished(responseURL=url_of(server))
        await here.until_all(task, NotificationFailed)
        assert len(server.asked) <= 4


async def test_a_secret_that_is_missing_is_waited_for_and_told() -> None:
    async with raw_server() as server, notifying({}) as here:
        await here.subscribe("ops", webhook=hook(url_of(server)))
        task = await here.finished()
        pending = await here.until_tried(task, 1)
        assert "failed to get secret" in pending.tried[0].error
        assert server.asked == []
