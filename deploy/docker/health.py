"""Asks a service of this container how it is: `python health.py [/healthz|/readyz]`, and the exit code is the answer.

Nothing but sockets: it is started every few seconds, and a start of `http.client` would cost more than all the rest.
"""

from __future__ import annotations

import os
import socket
import sys

ANSWER_S = 2.5
BYTES_MAX = 4096


def ask(port: int, path: str) -> tuple[bool, str]:
    """Whether all is well, and what was said."""
    try:
        with socket.create_connection(("127.0.0.1", port), ANSWER_S) as sock:
            sock.settimeout(ANSWER_S)
            sock.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            said = b""
            while len(said) < BYTES_MAX and (more := sock.recv(BYTES_MAX)):
                said += more
    except OSError as error:
        return False, f"no answer: {error}"
    head, _, body = said.decode(errors="replace").partition("\r\n\r\n")
    status = head.split(maxsplit=2)[1:2]
    return status == ["200"], body.strip() or head


def main() -> int:
    """0 if all is well."""
    well, said = ask(int(os.environ.get("HOLDFAST_HTTP_PORT", "9464")), (sys.argv[1:] or ["/healthz"])[0])
    sys.stdout.write(f"{said}\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
