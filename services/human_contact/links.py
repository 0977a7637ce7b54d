"""Links that people are sent: the key that signs them, and the address that they begin with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from services.human_contact.core.tokens import keys_of

if TYPE_CHECKING:
    from services.runtime.settings import Settings

PATH = "a"
"""The first part of the path of a link."""
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - where nobody is reached
"""Hosts to listen on that are no addresses to go to."""
NO_KEY = "links cannot be signed: HOLDFAST_PEOPLE_LINK_KEY_FILE is not set (`openssl rand -hex 32` makes such a file)"


class NoLinks(RuntimeError):
    """Links cannot be made or read here. The text says what is missing."""


class Links:
    """Key and address. The key is read anew each time, so that a new one is seen."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.people_link_key_file
        self._url = settings.people_url.rstrip("/")
        self._own = ""

    def serve_at(self, host: str, port: int) -> None:
        """The port is open: links begin with it, unless another address is set."""
        if host not in EVERYWHERE:
            shown = f"[{host}]" if ":" in host else host
            self._own = f"http://{shown}:{port}"

    @property
    def base(self) -> str:
        """What links begin with; raises `NoLinks`."""
        if base := self._url or self._own:
            return base
        raise NoLinks("links lead nowhere: HOLDFAST_PEOPLE_URL is not set, and no port of one address is open")

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys, the one to sign with first; raises `NoLinks`."""
        if not self._file:
            raise NoLinks(NO_KEY)
        try:
            return keys_of(Path(self._file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise NoLinks(f"HOLDFAST_PEOPLE_LINK_KEY_FILE cannot be used: {why}") from error

    def url(self, token: str) -> str:
        """The link of a token."""
        return f"{self.base}/{PATH}/{token}"
