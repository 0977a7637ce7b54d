"""Which LLMs share a pool: those that use the same key for the same model at the same address.

The name of a pool is on the bus. A key cannot be found from it, nor tried out cheaply: it is derived by scrypt.
"""

from __future__ import annotations

import asyncio
import hashlib

from schemas.ids import digest
from schemas.resources import LLM
from services.llm_gateway.models import Model
from services.runtime.secrets import Secrets

SCRYPT_N = 1 << 13
"""8 MiB and some hundredths of a second, once for a key."""
ACCOUNT_LENGTH = 32
NAMES_MAX = 4096


class Pools:
    """The names of pools, each derived once."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._names: dict[tuple[str, ...], str] = {}

    async def account(self, llm: LLM, model: Model) -> str:
        """The pool of an LLM; raises `SecretMissing`."""
        endpoint, name = model.endpoint, llm.spec.parameters.model or ""
        where: tuple[str, ...] = (endpoint.provider, endpoint.base_url, name)
        if endpoint.family == "scripted" and not name:
            where = (*where, llm.metadata.namespace, llm.metadata.name)  # no account, and no model either
        known = (*where, model.version[1])
        if known not in self._names:
            derived = await asyncio.to_thread(_derived, where, self._key(llm))
            while len(self._names) >= NAMES_MAX:
                del self._names[next(iter(self._names))]
            self._names[known] = derived
        return self._names[known]

    def _key(self, llm: LLM) -> str:
        source = llm.spec.api_key_from
        return self._secrets.get(source.secret_key_ref) if source is not None else ""


def _derived(where: tuple[str, ...], key: str) -> str:
    salt = digest("holdfast-pool", *where).encode()
    secret = hashlib.scrypt(key.encode(), salt=salt, n=SCRYPT_N, r=8, p=1, dklen=20).hex()
    return digest("holdfast-pool", *where, secret)[:ACCOUNT_LENGTH]
