"""The folder of an installation's identities: keys, certificates and the servers' configuration, made and kept up.

    identities.json           what was asked for, and everybody's public keys; no secrets
    authority/                the authority's key: keep it offline
    servers/<name>/           nats.conf, accounts.conf, tls.crt, tls.key, ca.crt
    users/<name>/             nkey.seed, tls.crt, tls.key, ca.crt, holdfast.env

Doing it again makes what is missing and keeps the rest, so adding a tenant or a partition is doing it again. A rotation
has two halves: first the new key counts beside the old one, then, when everybody has it, alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import nkeys  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

from services.cli.exits import ExitCode, Stop
from services.cli.nats.certificates import Pair, expires, issued, new_authority
from services.runtime.nats.accounts import API_PREFIX, CORE_USERS, Account, accounts, rendered
from services.runtime.nats.server import MAX_PAYLOAD_BYTES, SYNCED_MARK

CLUSTER_PORT = 6222
KEYS_MAX = 2
"""Public keys of one user that count at once: the one in use and, while it is rotated, the one before."""

_nkeys: Any = nkeys


class BadFolder(Stop):
    """The folder is not what it should be. The text says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.REFUSED)


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A NATS server."""

    name: str
    hosts: tuple[str, ...]
    """The names and addresses it is reached by; the first is the one that clients are told."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    servers: tuple[Server, ...]
    partitions: int = 1
    tenants: tuple[str, ...] = ()
    server_path: str = ""
    """Where a server finds its folder; empty: where it is made."""
    user_path: str = ""
    """Where a user finds theirs."""
    listen: str = "127.0.0.1"
    port: int = 4222
    monitor_port: int = 8222
    """Of the server's own statistics, on loopback; 0: none."""
    store_dir: str = ""
    """Where a server keeps its streams; empty: in its folder."""


class Identities(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`identities.json`."""

    wanted: Wanted
    keys: dict[str, tuple[str, ...]]
    """Everybody's public keys, the newest first."""


class Folder:
    """The folder, as it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = path / "identities.json"

    def load(self) -> Identities | None:
        """What is there; None if nothing is. Raises `BadFolder`."""
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=Identities)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise BadFolder(f"{self._state} cannot be read: {error}") from error

    def make(self, wanted: Wanted, *, days: int) -> list[str]:
        """Make what is missing; says what was made. Raises `BadFolder`."""
        known = self.load()
        if known is None and self._path.is_dir() and any(self._path.iterdir()):
            raise BadFolder(f"{self._path} is not empty, and not the folder of an installation: name another")
        all_ = accounts(wanted.partitions, wanted.tenants)
        keys = dict(known.keys) if known is not None else {}
        made: list[str] = []
        authority = self._authority(made)
        for user in _users(all_):
            keys[user] = self._user(user, keys.get(user, ()), authority, days, made)
        for server in wanted.servers:
            self._server_identity(server, authority, days, made)
        self._finish(Identities(wanted=wanted, keys={user: keys[user] for user in _users(all_)}))
        return made

    def rotate(self, names: Sequence[str], *, days: int) -> list[str]:
        """Give users a new key and certificate, servers a new certificate; the old keys count until `finish`."""
        known = self._known()
        authority = self._authority([])
        keys = dict(known.keys)
        servers = {server.name: server for server in known.wanted.servers}
        done: list[str] = []
        for name in names or (*keys, *servers):
            if name in keys:
                if len(keys[name]) >= KEYS_MAX:
                    raise BadFolder(
                        f"the rotation of {name} is not finished yet: `holdfast nats rotate --finish` first"
                    )
                keys[name] = (self._new_seed(name), *keys[name])
                self._write_pair(self._user_path(name), issued(authority, name, days=days))
            elif name in servers:
                pair = issued(authority, name, hosts=servers[name].hosts, days=days)
                self._write_pair(self._server_path(name), pair)
            else:
                raise BadFolder(f"there is no user or server {name!r}; there are {', '.join((*keys, *servers))}")
            done.append(name)
        self._finish(Identities(wanted=known.wanted, keys=keys))
        return done

    def rotate_authority(self) -> None:
        """Make a new authority, which signs from now on; everybody believes both until `finish`."""
        self._known()
        certificates = self._authorities()
        if len(certificates) >= KEYS_MAX:
            raise BadFolder("the authority's rotation is not finished yet: `holdfast nats rotate --finish` first")
        pair = new_authority("holdfast")
        self._write(self._path / "authority" / "ca.key", pair.key, secret=True)
        self._write(self._path / "authority" / "ca.crt", pair.certificate + certificates[0])
        self._finish(self._known())

    def finish(self) -> list[str]:
        """Forget the keys and the authority from before a rotation; whose they were."""
        known = self._known()
        done = [user for user, keys in known.keys.items() if len(keys) > 1]
        certificates = self._authorities()
        if len(certificates) > 1:
            self._write(self._path / "authority" / "ca.crt", certificates[0])
            done.append("authority")
        self._finish(Identities(wanted=known.wanted, keys={user: keys[:1] for user, keys in known.keys.items()}))
        return done

    def expiries(self) -> Iterator[tuple[str, str]]:
        """Everybody's name and when the certificate ends."""
        known = self._known()
        for name, place in (
            *((user, self._user_path(user)) for user in known.keys),
            *((server.name, self._server_path(server.name)) for server in known.wanted.servers),
        ):
            yield name, expires((place / "tls.crt").read_bytes()).isoformat(timespec="minutes")

    # --- inside ---

    def _known(self) -> Identities:
        known = self.load()
        if known is None:
            raise BadFolder(f"{self._path} is not the folder of an installation: make one with `holdfast nats init`")
        return known

    def _authority(self, made: list[str]) -> Pair:
        place = self._path / "authority"
        if not (place / "ca.key").exists():
            if (place / "ca.crt").exists():
                raise BadFolder(f"{place / 'ca.key'} is missing: put the authority's key back, it signs what is new")
            pair = new_authority("holdfast")
            self._write(place / "ca.key", pair.key, secret=True)
            self._write(place / "ca.crt", pair.certificate)
            made.append("authority")
        return Pair(self._authorities()[0], (place / "ca.key").read_bytes())

    def _authorities(self) -> list[bytes]:
        """The certificates that are believed, the one that signs first."""
        end = b"-----END CERTIFICATE-----\n"
        parts = (self._path / "authority" / "ca.crt").read_bytes().split(end)
        return [part + end for part in parts if part.strip()]

    def _user(self, user: str, keys: tuple[str, ...], authority: Pair, days: int, made: list[str]) -> tuple[str, ...]:
        place = self._user_path(user)
        if not keys or not (place / "nkey.seed").exists():
            keys = (self._new_seed(user),)
            made.append(user)
        if not (place / "tls.key").exists():
            self._write_pair(place, issued(authority, user, days=days))
        return keys

    def _server_identity(self, server: Server, authority: Pair, days: int, made: list[str]) -> None:
        place = self._server_path(server.name)
        if not (place / "tls.key").exists():
            self._write_pair(place, issued(authority, server.name, hosts=server.hosts, days=days))
            made.append(server.name)

    def _new_seed(self, user: str) -> str:
        """Write a new seed; its public key."""
        seed: bytes = bytes(_nkeys.encode_seed(os.urandom(32), _nkeys.PREFIX_BYTE_USER))
        pair = _nkeys.from_seed(bytearray(seed))
        public: str = pair.public_key.decode()
        pair.wipe()
        self._write(self._user_path(user) / "nkey.seed", seed + b"\n", secret=True)
        return public

    def _finish(self, identities: Identities) -> None:
        """Write what follows from the rest: configurations, settings, and, last, what is known."""
        wanted = identities.wanted
        all_ = accounts(wanted.partitions, wanted.tenants)
        trusted = (self._path / "authority" / "ca.crt").read_bytes()
        for server in wanted.servers:
            place = self._server_path(server.name)
            self._write(place / "ca.crt", trusted)
            self._write(place / "accounts.conf", rendered(all_, identities.keys).encode())
            self._write(place / "nats.conf", _server_config(server, wanted, wanted.server_path or str(place)).encode())
        for account in all_:
            for user in account.users:
                place = self._user_path(user)
                self._write(place / "ca.crt", trusted)
                self._write(place / "holdfast.env", _settings(user, account, wanted, wanted.user_path or str(place)))
        self._write(self._state, msgspec.json.format(msgspec.json.encode(identities), indent=2) + b"\n")

    def _user_path(self, user: str) -> Path:
        return self._path / "users" / user

    def _server_path(self, server: str) -> Path:
        return self._path / "servers" / server

    def _write_pair(self, place: Path, pair: Pair) -> None:
        self._write(place / "tls.crt", pair.certificate)
        self._write(place / "tls.key", pair.key, secret=True)

    def _write(self, path: Path, data: bytes, *, secret: bool = False) -> None:
        """Replace a file whole; nobody else reads a secret, at any moment."""
        try:
            self._replace(path, data, secret=secret)
        except OSError as error:
            raise BadFolder(f"{path} cannot be written: {error}") from error

    def _replace(self, path: Path, data: bytes, *, secret: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if secret:
            path.parent.chmod(0o700)
        new = path.with_name(f".{path.name}.new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        mode = 0o600 if secret else 0o644
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)


def _users(all_: Sequence[Account]) -> list[str]:
    return [user for account in all_ for user in account.users]


def _settings(user: str, account: Account, wanted: Wanted, path: str) -> bytes:
    """The settings of whoever connects as a user."""
    urls = ",".join(f"tls://{_url_host(server.hosts[0])}:{wanted.port}" for server in wanted.servers)
    lines = {
        "NATS_URL": urls,
        "NATS_NKEY_SEED_FILE": f"{path}/nkey.seed",
        "NATS_TLS_CA": f"{path}/ca.crt",
        "NATS_TLS_CERT": f"{path}/tls.crt",
        "NATS_TLS_KEY": f"{path}/tls.key",
    }
    if user.startswith("tenant-"):
        lines["NATS_NAMESPACE"] = user.removeprefix("tenant-")
    else:
        lines["PARTITIONS"] = str(wanted.partitions)
        if len(wanted.servers) > 1:
            lines["STREAM_REPLICAS"] = "3"
    if account.users != CORE_USERS and "NATS_NAMESPACE" not in lines:
        lines |= {"NATS_API_PREFIX": API_PREFIX, "TOPOLOGY": "check"}
    return "".join(f"HOLDFAST_{name}={value}\n" for name, value in lines.items()).encode()


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _server_config(server: Server, wanted: Wanted, path: str) -> str:
    """The configuration of one server, without the accounts."""
    tls = f'cert_file: "{path}/tls.crt", key_file: "{path}/tls.key", ca_file: "{path}/ca.crt", verify: true'
    routes = [f'"tls://{_url_host(other.hosts[0])}:{CLUSTER_PORT}"' for other in wanted.servers]
    cluster = f"""
cluster {{
  name: holdfast
  listen: "{_url_host(wanted.listen)}:{CLUSTER_PORT}"
  routes: [{", ".join(routes)}]
  tls {{ {tls}, timeout: 5 }}
}}
"""
    return f"""\
# Made by `holdfast nats init`, and made again by it.
server_name: {server.name}-{SYNCED_MARK}
listen: "{_url_host(wanted.listen)}:{wanted.port}"
{f'http: "127.0.0.1:{wanted.monitor_port}"' if wanted.monitor_port else ""}
max_payload: {MAX_PAYLOAD_BYTES}
write_deadline: "10s"
lame_duck_duration: "30s"
tls {{ {tls}, timeout: 3 }}
jetstream {{
  store_dir: "{wanted.store_dir or f"{path}/jetstream"}"
  # Acknowledged means: on disk.
  sync_interval: always
}}
# The newer form of acknowledgement subjects is another one than the accounts import.
feature_flags {{ js_ack_fc_v2: false }}
{cluster if len(wanted.servers) > 1 else ""}
include "accounts.conf"
"""
