"""What the handlers of channels' requests have at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from services.human_contact.channels.registry import Channels
    from services.human_contact.door import FrontDoor
    from services.human_contact.links import Links
    from services.runtime.ports import Clock


class Reception(msgspec.Struct, frozen=True):
    """Given to a channel module's `inbound`."""

    door: FrontDoor
    channels: Channels
    links: Links
    clock: Clock
