"""Signed links: GET and HEAD show, POST answers. Whoever has a link is the one whom it was sent to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.requests import Accepted
from services.human_contact.core.forms import Answerer, BadForm, form_answer
from services.human_contact.core.pages import CSP, answered_page, plain_page, question_page
from services.human_contact.core.questions import asking
from services.human_contact.core.tokens import BadToken, Link, link_of
from services.human_contact.door import FrontDoor, sentence
from services.human_contact.links import Links, NoLinks
from services.human_contact.web.base import Received, Reply, Unfit

if TYPE_CHECKING:
    from services.human_contact.door import Found
    from services.runtime.ports import Clock

STATUSES = {"conflict": 409, "forbidden": 403, "not_found": 404, "invalid": 422}


class LinkPages:
    """Answers what is below `/a/`."""

    def __init__(self, door: FrontDoor, links: Links, clock: Clock) -> None:
        self._door = door
        self._links = links
        self._clock = clock

    async def handle(self, received: Received) -> Reply:
        """A page."""
        if received.method not in ("GET", "HEAD", "POST"):
            raise Unfit(405, "A link is opened, or its form is sent.")
        try:
            link = link_of(self._links.keys, received.path.rpartition("/")[2], self._clock.now())
        except BadToken as error:
            return _page(404, plain_page("This link cannot be used", str(error)))
        except NoLinks:
            return _page(404, plain_page("This link cannot be used", "There are no links here."))
        found = await self._door.find(link.namespace, link.task, link.interaction)
        if found is None or link.channel not in found.channels:
            return _page(404, plain_page("This link cannot be used", "Its task is not there any more."))
        if asking(found.asked) != link.asking:
            return _page(409, plain_page("This link cannot be used", "Something else was shown than is asked."))
        if received.method == "POST":
            return await self._answer(link, found, received)
        return _shown(link, found)

    async def _answer(self, link: Link, found: Found, received: Received) -> Reply:
        fields = received.form()
        who = Answerer(by=link.to, via="email", digest=found.asked.digest)
        try:
            request = form_answer(found.asked, link.action, who, fields)
        except BadForm as error:
            page = question_page(found.asked, link.action, note=str(error), filled=fields)
            return _page(422, page) if found.answered is None else _shown(link, found)
        reply = await self._door.answer(link.namespace, request, link.channel)
        again = await self._door.find(link.namespace, link.task, link.interaction) or found
        status = 200 if isinstance(reply, Accepted) else STATUSES.get(reply.code, 409)
        if again.answered is not None:
            return _page(status, answered_page(again.asked, again.answered, note=sentence(reply)))
        if isinstance(reply, Accepted):
            return _page(status, plain_page("Thank you", sentence(reply)))
        return _page(status, question_page(again.asked, link.action, note=sentence(reply), filled=fields))


def _shown(link: Link, found: Found) -> Reply:
    if found.answered is not None:
        return _page(200, answered_page(found.asked, found.answered))
    return _page(200, question_page(found.asked, link.action))


def _page(status: int, html: str) -> Reply:
    return Reply(status, html.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": CSP})
