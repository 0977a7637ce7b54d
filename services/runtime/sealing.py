"""Encryption of what is stored about a namespace's tasks, so that a stream's files tell nothing of what was said.

    namespace key (a secret)  --wraps-->  data key (of one process, for an hour)  --seals-->  payloads

AES-256-GCM throughout. A message carries its wrapped data key in a header; the subject is authenticated too, so what
was sealed for one subject is not believed on another. Keys are files, `<directory>/<namespace>`, or `_default` for
namespaces that have none of their own: 32 bytes in base64 a line. The first line seals; the others only open what was
sealed with them. A namespace without a key is stored as it is.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.ids import digest
from schemas.wire import Malformed
from services.runtime.errors import Broken, KeyMissing

logger = logging.getLogger(__name__)

DEFAULT = "_default"
KEY_BYTES = 32
NONCE_BYTES = 12
DATA_KEY_S = 3600.0
"""How long a process uses one data key."""
DATA_KEY_MESSAGES_MAX = 1 << 20
"""And for how many messages: random nonces of 96 bits are safe for 2**32 (NIST SP 800-38D, 8.3)."""
LOOK_S = 5.0
"""How long a changed file can go unnoticed."""
OPENED_MAX = 4096
"""Data keys that are kept unwrapped."""
VERSION = "1"


class _File(NamedTuple):
    """A file of keys as it was read, the one that seals first."""

    stamp: tuple[int, int]
    keys: dict[str, bytes]


class _DataKey(NamedTuple):
    """A data key in use."""

    namespace_key: str
    header: str
    cipher: AESGCM
    until: float


class Sealer:
    """Seals and opens."""

    def __init__(self, directory: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read all keys; raises `Broken` for a file that holds something else."""
        self._directory = Path(directory)
        self._clock = clock
        self._files: dict[str, _File | None] = {}
        self._looked: dict[str, float] = {}
        self._sealing: dict[str, _DataKey] = {}
        self._uses: dict[str, int] = {}
        self._opened: OrderedDict[str, AESGCM] = OrderedDict()
        try:
            names = [path.name for path in self._directory.iterdir() if not path.name.startswith(".")]
        except OSError as error:
            raise Broken(f"HOLDFAST_PAYLOAD_KEYS_DIR: {error}") from error
        for name in names:
            self._files[name] = _read(self._directory / name)

    def seal(self, namespace: str, subject: str, data: bytes) -> tuple[bytes, str] | None:
        """Sealed data and the header that goes with it; None for a namespace without a key."""
        key_id, key = self._newest(namespace)
        if key is None:
            return None
        data_key = self._sealing.get(namespace)
        now = self._clock()
        uses = self._uses.get(namespace, 0)
        if (
            data_key is None
            or data_key.namespace_key != key_id
            or now >= data_key.until
            or uses >= DATA_KEY_MESSAGES_MAX
        ):
            data_key = self._sealing[namespace] = _new_data_key(namespace, key_id, key, now + DATA_KEY_S)
            uses = 0
        self._uses[namespace] = uses + 1
        nonce = os.urandom(NONCE_BYTES)
        return nonce + data_key.cipher.encrypt(nonce, data, subject.encode()), data_key.header

    def open(self, namespace: str, subject: str, data: bytes, header: str) -> bytes:
        """What was sealed; raises `KeyMissing`, or `Malformed` for what was changed or belongs elsewhere."""
        cipher = self._opened.get(header)
        if cipher is None:
            cipher = self._opened[header] = self._unwrapped(namespace, subject, header)
            if len(self._opened) > OPENED_MAX:
                self._opened.popitem(last=False)
        try:
            return cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], subject.encode())
        except (InvalidTag, ValueError) as error:
            raise Malformed(f"{subject} is sealed, and is not what was sealed for it") from error

    # --- keys ---

    def _newest(self, namespace: str) -> tuple[str, bytes | None]:
        for name in (namespace, DEFAULT):
            keys = self._keys(name)
            if keys:
                return next(iter(keys.items()))
        return "", None

    def _keys(self, name: str, *, now: bool = False) -> dict[str, bytes]:
        """The keys of a file, read again if it has changed."""
        at = self._clock()
        if now or at - self._looked.get(name, float("-inf")) >= LOOK_S:
            self._looked[name] = at
            try:
                self._files[name] = _read(self._directory / name, self._files.get(name))
            except Broken as error:
                logger.error("%s; the keys that were known go on to count", error, extra={"action": "keys.malformed"})  # noqa: TRY400 - the text says it all
        file = self._files.get(name)
        return file.keys if file is not None else {}

    def _unwrapped(self, namespace: str, subject: str, header: str) -> AESGCM:
        version, _, rest = header.partition(".")
        key_id, _, wrapped = rest.partition(".")
        if version != VERSION or not wrapped:
            raise Malformed(f"{subject} is sealed in a way that this version does not know")
        key = self._by_id(namespace, key_id)
        if key is None:
            raise KeyMissing(
                f"{subject} is sealed with key {key_id!r:.20} of namespace {namespace!r}, which is not in"
                f" {self._directory}: put it on a line of its own into the file {namespace!r} or {DEFAULT!r}",
                after_s=LOOK_S,
            )
        try:
            packed = base64.urlsafe_b64decode(wrapped)
            return AESGCM(AESGCM(key).decrypt(packed[:NONCE_BYTES], packed[NONCE_BYTES:], _bound(namespace)))
        except (InvalidTag, ValueError) as error:
            raise Malformed(f"the key that {subject} is sealed with was changed") from error

    def _by_id(self, namespace: str, key_id: str) -> bytes | None:
        for now in (False, True):
            for name in (namespace, DEFAULT):
                if (key := self._keys(name, now=now).get(key_id)) is not None:
                    return key
        return None


def _read(path: Path, known: _File | None = None) -> _File | None:
    """The keys of a file, None if there is none; raises `Broken` for a file that holds something else."""
    try:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_ino)
        return known if known is not None and known.stamp == stamp else _File(stamp, _parsed(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Broken(f"the keys in {path} cannot be read: {error.strerror}") from error


def _new_data_key(namespace: str, key_id: str, key: bytes, until: float) -> _DataKey:
    secret, nonce = os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
    wrapped = nonce + AESGCM(key).encrypt(nonce, secret, _bound(namespace))
    header = f"{VERSION}.{key_id}.{base64.urlsafe_b64encode(wrapped).decode()}"
    return _DataKey(key_id, header, AESGCM(secret), until)


def _bound(namespace: str) -> bytes:
    """What a wrapped data key is authenticated with: it counts in its namespace only."""
    return f"holdfast data key of {namespace}".encode()


def _parsed(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for n, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            key = base64.b64decode(line.strip(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise Broken(f"line {n} of {path} is no key: it must be {KEY_BYTES} bytes in base64")
        found[digest("payload key", key)[:8]] = key
    return found
