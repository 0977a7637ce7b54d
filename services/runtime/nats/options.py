"""How the client is told to connect: whom to, as whom, and never to give up.

Every option is given, since the client's own are not for us: it would give up after sixty attempts, and notice a server
that hangs after four minutes.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from services.runtime.errors import Unavailable
from services.runtime.nats.client import OUTBOX_BYTES_MAX
from services.runtime.settings import Settings

ATTEMPT_S = 2
"""How long one attempt to connect may take."""
BETWEEN_ATTEMPTS_S = 0.2
PING_S = 1
PINGS_LOST_MAX = 2
"""A server that hangs is left after three to four seconds."""


def connect_options(settings: Settings, service: str) -> dict[str, Any]:
    """The client's options; raises `Unavailable` for a file that cannot be read."""
    check_files(settings)
    options: dict[str, Any] = {
        "servers": [url.strip() for url in settings.nats_url.split(",") if url.strip()],
        "name": f"holdfast {service} {settings.replica_name}",
        "inbox_prefix": f"_INBOX_{service.replace('-', '_')}",
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": BETWEEN_ATTEMPTS_S,
        "ping_interval": PING_S,
        "max_outstanding_pings": PINGS_LOST_MAX,
        "connect_timeout": ATTEMPT_S,
        "pending_size": OUTBOX_BYTES_MAX,
    }
    if settings.nats_creds:
        options["user_credentials"] = settings.nats_creds
    if settings.nats_nkey_seed_file:
        options["nkeys_seed"] = settings.nats_nkey_seed_file
    if settings.nats_user:
        options["user"] = settings.nats_user
        options["password"] = settings.nats_password
    if settings.nats_token:
        options["token"] = settings.nats_token
    if tls := tls_context(settings):
        options["tls"] = tls
    return options


def check_files(settings: Settings) -> None:
    """Refuse a file that cannot be read; the client would only look at it when a server asks for it."""
    for setting in ("nats_creds", "nats_nkey_seed_file", "nats_tls_ca", "nats_tls_cert", "nats_tls_key"):
        path: str = getattr(settings, setting)
        try:
            if path:
                Path(path).read_bytes()
        except OSError as error:
            raise Unavailable(f"HOLDFAST_{setting.upper()}: {error}") from error


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS as the settings ask for it; None leaves it to the URL's scheme."""
    if not (settings.nats_tls_ca or settings.nats_tls_cert):
        return None
    context = ssl.create_default_context(cafile=settings.nats_tls_ca or None)
    if settings.nats_tls_cert:
        context.load_cert_chain(Path(settings.nats_tls_cert), Path(settings.nats_tls_key))
    return context
