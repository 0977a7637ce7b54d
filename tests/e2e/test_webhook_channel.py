"""A webhook that real processes ask, one of which is killed while it is asked."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import httpx2

from schemas.resources import ContactChannelSpec, WebhookOptions
from services.runtime.signing import check, key_of, signed_headers
from tests.e2e.test_people import crew
from tests.support.answering import WEBHOOK_SECRET, secret
from tests.support.raw_http import Asked, raw_server, response
from tests.support.waiting import until

KEY = key_of(WEBHOOK_SECRET)


async def test_a_kill_while_a_webhook_is_asked_repeats_the_question_under_its_id(tmp_path: Path) -> None:
    taken = asyncio.Event()

    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        await taken.wait()
        writer.write(response(b"thanks"))
        await writer.drain()

    async with raw_server() as receiver, crew(tmp_path) as people:
        receiver.paths["/ask"] = answer
        options = WebhookOptions(url=f"http://127.0.0.1:{receiver.port}/ask", signing_secret_from=secret("webhook"))
        await people.agent(ContactChannelSpec(type="webhook", webhook=options))
        task = await people.stage.submit()

        async def posted(times: int) -> None:
            await until(lambda: len(receiver.asked) >= times, f"{times} posts", within_s=20)

        await posted(1)
        people.running.kill("human-contact")
        taken.set()
        people.running.start("human-contact")
        await posted(2)
        await people.port_is_open(2)
        first, second = (
            (check([KEY], asked.headers, asked.body, datetime.now(UTC)), json.loads(asked.body)["data"])
            for asked in receiver.asked[:2]
        )
        assert first == second

        _, data = first
        shown = data["question"]["digest"]
        said = {"task": data["task"], "interaction": data["interaction"], "by": "ann", "digest": shown}
        body = json.dumps(said).encode()
        headers = signed_headers([KEY], "msg_1", datetime.now(UTC), body)
        async with httpx2.AsyncClient(trust_env=False) as client:
            reply = await client.post(f"{people.url}{data['answerTo']}", content=body, headers=headers)
        assert (reply.status_code, reply.text) == (200, "Thank you, your answer was taken.\n")
        assert (await people.result(task)).outcome == "succeeded"
        answered = await people.answered(task)
        assert answered is not None
        assert (answered.by, answered.via) == ("ann", "webhook")
