"""The channels that this replica uses: made when they are first needed, anew when they or their secrets change.

A channel's module is imported with its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from schemas.resources import ContactChannel, ContactChannelSpec, SecretSource
from services.human_contact.channels.base import Channel, ChannelFailed
from services.human_contact.channels.console import ConsoleChannel
from services.runtime.secrets import SecretMissing
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from services.human_contact.links import Links
    from services.runtime.ports import Clock
    from services.runtime.resources import Resources
    from services.runtime.secrets import Secrets
    from services.runtime.settings import Settings

MODULES = {
    "humanlayer": "services.human_contact.channels.humanlayer",
    "slack": "services.human_contact.channels.slack",
    "email": "services.human_contact.channels.email",
    "webhook": "services.human_contact.channels.webhook",
}
"""Each has `make(setup) -> Channel`."""
POLLED = frozenset({"humanlayer"})
"""Families of channels whose answers are asked for (`Pollable`)."""
INBOUND = {
    "slack": "services.human_contact.web.slack",
    "email": "services.human_contact.web.email",
    "webhook": "services.human_contact.web.webhook",
}
"""Who answers requests below `/<family>/`. Each has `inbound(reception: Reception) -> Handler`."""


class ChannelKey(NamedTuple):
    """A ContactChannel resource."""

    namespace: str
    name: str


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel is made of."""

    key: ChannelKey
    spec: ContactChannelSpec
    secrets: Secrets
    settings: Settings
    clock: Clock
    links: Links

    def secret(self, source: SecretSource | None, what: str) -> str:
        """A secret value; raises `ChannelFailed` if it is missing or empty."""
        if source is None:
            raise ChannelFailed(f"{what} is required", transient=False)
        try:
            value = self.secrets.get(source.secret_key_ref)
        except SecretMissing as error:
            raise ChannelFailed(str(error), transient=True) from error
        if not value:
            raise ChannelFailed(f"{what}: the secret is empty", transient=True)
        return value


class _Made(msgspec.Struct, frozen=True):
    version: tuple[int, str]
    channel: Channel


class Channels:
    """Channels by resource."""

    def __init__(self, resources: Resources, secrets: Secrets, settings: Settings, clock: Clock, links: Links) -> None:
        self._links = links
        self._resources = resources
        self._secrets = secrets
        self._settings = settings
        self._clock = clock
        self._made: dict[ChannelKey, _Made] = {}
        self._ending = Tasks()

    def spec(self, key: ChannelKey) -> ContactChannelSpec | None:
        """A channel as it is declared now."""
        channel = self._resources.get(ContactChannel, *key)
        return channel.spec if channel is not None else None

    def version(self, key: ChannelKey) -> tuple[int, str]:
        """Changes when the resource or one of its secrets does."""
        known = self._resources.known("ContactChannel", *key)
        if known is None or not isinstance(known.resource, ContactChannel):
            return (0, "")
        refs = sorted(_secrets_in(known.resource.spec), key=lambda source: source.secret_key_ref.name)
        return known.revision, ".".join(self._secrets.fingerprint(source.secret_key_ref) for source in refs)

    def get(self, key: ChannelKey) -> Channel:
        """The channel; raises `ChannelFailed` if it is not there or cannot be used."""
        spec = self.spec(key)
        if spec is None:
            self.forget(key)
            raise ChannelFailed(f"ContactChannel {key.name!r} not found in namespace {key.namespace!r}", transient=True)
        version = self.version(key)
        made = self._made.get(key)
        if made is None or made.version != version:
            self.forget(key)
            made = self._made[key] = _Made(version, self._make(key, spec))
        return made.channel

    def of_family(self, family: str) -> list[ChannelKey]:
        """The channels that are shown to people in one way."""
        found = self._resources.all(ContactChannel)
        return sorted(
            ChannelKey(channel.metadata.namespace, channel.metadata.name)
            for channel, _ in found
            if family_of(channel.spec) == family
        )

    def is_polled(self, key: ChannelKey) -> bool:
        """Whether answers to a channel's questions are asked for."""
        spec = self.spec(key)
        return spec is not None and family_of(spec) in POLLED

    def forget(self, key: ChannelKey) -> None:
        """The resource has changed, or is gone."""
        made = self._made.pop(key, None)
        if made is not None:
            self._ending.spawn(made.channel.end(), name=f"channel:{key.name}:end")

    async def close(self) -> None:
        """Let go of all."""
        for key in list(self._made):
            self.forget(key)
        await self._ending.join()

    def _make(self, key: ChannelKey, spec: ContactChannelSpec) -> Channel:
        family = family_of(spec)
        if family == "console":
            return ConsoleChannel()
        setup = Setup(
            key=key,
            spec=spec,
            secrets=self._secrets,
            settings=self._settings,
            clock=self._clock,
            links=self._links,
        )
        channel: Channel = importlib.import_module(MODULES[family]).make(setup)
        return channel


def family_of(spec: ContactChannelSpec) -> str:
    """Who shows a channel's questions to people: the HumanLayer API where the manifest has its key, else ourselves."""
    keys = (spec.api_key_from, spec.channel_api_key_from)
    if spec.type in ("slack", "email") and any(key is not None for key in keys):
        return "humanlayer"
    return spec.type


def _secrets_in(spec: ContactChannelSpec) -> list[SecretSource]:
    """Every secret that a channel names, however deep."""
    found: list[SecretSource] = []
    ways: list[object] = [spec]
    while ways:
        one = ways.pop()
        if isinstance(one, SecretSource):
            found.append(one)
        elif isinstance(one, msgspec.Struct):
            ways += [getattr(one, name) for name in one.__struct_fields__]
        elif isinstance(one, tuple):
            ways += one
    return found
