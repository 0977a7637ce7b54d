"""Where answers come in that do not come by the bus: the port, and the mailboxes that replies arrive in."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from services.human_contact.channels.registry import INBOUND
from services.human_contact.door import FrontDoor
from services.human_contact.links import PATH
from services.human_contact.mailboxes import Mailboxes
from services.human_contact.web.base import Handler, Received, Reply
from services.human_contact.web.gate import Gate
from services.human_contact.web.link_pages import LinkPages
from services.human_contact.web.reception import Reception

if TYPE_CHECKING:
    from services.human_contact.channels.registry import Channels
    from services.human_contact.links import Links
    from services.human_contact.web.server import WebServer
    from services.runtime.service import Runtime


class Entrance:
    """Lets answers in."""

    def __init__(self, runtime: Runtime, channels: Channels, links: Links) -> None:
        self._settings = runtime.settings
        self._clock = runtime.bus.clock
        self._links = links
        self._reception = Reception(
            door=FrontDoor(runtime.bus), channels=channels, links=links, clock=runtime.bus.clock
        )
        self._mailboxes = Mailboxes(runtime.bus, channels, self._reception.door, runtime.replica)
        self._server: WebServer | None = None

    async def start(self) -> None:
        """Look into mailboxes, and open the port, if there is to be one."""
        self._mailboxes.start()
        if self._settings.people_http_port >= 0:
            await self._open_port()

    async def _open_port(self) -> None:
        settings = self._settings
        from services.human_contact.web.server import WebServer  # noqa: PLC0415 - some megabytes, where it is served

        pages = LinkPages(self._reception.door, self._links, self._clock)
        handlers: dict[str, Handler] = {PATH: pages.handle}
        handlers |= {family: self._later(module) for family, module in INBOUND.items()}
        gate = Gate(handlers, self._clock, proxies=settings.people_proxies)
        self._server = WebServer(gate, settings.people_http_host, settings.people_http_port)
        await self._server.start()
        self._links.serve_at(settings.people_http_host, self._server.port)

    async def stop(self) -> None:
        """Let no more in."""
        await self._mailboxes.stop()
        if self._server is not None:
            await self._server.stop()

    def _later(self, module: str) -> Handler:
        """The handler of a family of channels, whose module is imported with its first request."""
        made: list[Handler] = []

        async def handle(received: Received) -> Reply:
            if not made:
                made.append(importlib.import_module(module).inbound(self._reception))
            return await made[0](received)

        return handle
