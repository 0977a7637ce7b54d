"""One channel's mistakes are its own: the others are looked at, and what is wrong is said."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from schemas.resources import (
    ContactChannel,
    ContactChannelSpec,
    EmailOptions,
    Metadata,
    ResourceStatus,
    SlackOptions,
    SMTPOptions,
    WebhookOptions,
)
from schemas.subjects import status_key
from schemas.wire import decode
from services.human_contact.channels.console import ConsoleChannel
from tests.support.answering import Answering, answering, secret, write_secrets
from tests.support.slack_server import CHANNEL, slack_server
from tests.support.stage import until


def slack(token: str) -> ContactChannelSpec:
    options = SlackOptions(
        channel_or_user_id=CHANNEL, bot_token_from=secret(token), signing_secret_from=secret("slack-signing")
    )
    return ContactChannelSpec(type="slack", slack=options)


def mail(host: str, port: int = 25) -> ContactChannelSpec:
    smtp = SMTPOptions(host=host, port=port, security="none", sender="agent@example.com")
    return ContactChannelSpec(type="email", email=EmailOptions(address="ann@example.com", smtp=smtp))


def webhook(url: str) -> ContactChannelSpec:
    return ContactChannelSpec(type="webhook", webhook=WebhookOptions(url=url, signing_secret_from=secret("webhook")))


async def status(people: Answering, name: str) -> ResourceStatus:
    """Wait for the status of a channel."""
    key, found = status_key("ContactChannel", "default", name), list[ResourceStatus]()

    async def there() -> bool:
        entry = await people.stage.bus.resources.get(key)
        if entry is not None and entry.data is not None:
            found.append(decode(entry.data, ResourceStatus))
        return bool(found)

    await until(there, f"the status of {name}")
    return found[-1]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (slack("no-ascii"), "no header may have"),
        (slack("two-lines"), "Slack was not reached"),
        (mail("a" * 70 + ".example.com"), "is not a host"),
        (mail("a..b"), "is not a host"),
        (mail("127.0.0.1", 99_999), ""),
        (webhook("http://[::1"), "cannot be used"),
        (webhook("http://a:99999/"), ""),
    ],
    ids=["no-ascii", "two-lines", "long", "dots", "port", "bracket", "url-port"],
)
async def test_a_channel_that_cannot_be_used_says_why_and_ends_nothing(
    tmp_path: Path, spec: ContactChannelSpec, said: str
) -> None:
    write_secrets(tmp_path, {"no-ascii": "xoxb-\u2026\u00e9", "two-lines": "xoxb-1\nX-Evil: 1"})
    async with slack_server() as (_, api), answering(tmp_path, slack_url=api) as people:
        await people.stage.apply(ContactChannel(metadata=Metadata(name="bad"), spec=spec))
        found = await status(people, "bad")
        assert found.status == "Error"
        assert said in found.status_detail
        assert "xoxb" not in found.status_detail
        good = ContactChannel(metadata=Metadata(name="good"), spec=ContactChannelSpec(type="console"))
        await people.stage.apply(good)
        assert (await status(people, "good")).status == "Ready"


@pytest.mark.parametrize("mistake", [RuntimeError("not foreseen"), None], ids=["raises", "hangs"])
async def test_a_look_that_nobody_foresaw_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Exception | None
) -> None:
    begun = asyncio.Event()

    async def check(_: ConsoleChannel) -> str:
        if not begun.is_set():
            begun.set()
            if mistake is not None:
                raise mistake
            await asyncio.Event().wait()
        return "fine"

    monkeypatch.setattr(ConsoleChannel, "check", check)
    async with answering(tmp_path) as people:
        console = ContactChannelSpec(type="console")
        await people.stage.apply(ContactChannel(metadata=Metadata(name="bad"), spec=console))
        await begun.wait()
        await people.stage.apply(ContactChannel(metadata=Metadata(name="good"), spec=console))
        assert (await status(people, "good")).status == "Ready"
