"""`make release`: what it makes, and that it makes nothing of a dependency with a known vulnerability.

The database of vulnerabilities is a double here that speaks OSV's protocol (https://google.github.io/osv.dev/post-v1-query/).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tarfile
import threading
import tomllib
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DIST = REPOSITORY / "dist"
RELEASE_S = 900
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]


@contextmanager
def osv(*vulnerable: str) -> Generator[tuple[str, list[str]]]:
    """A database that knows of a vulnerability in these packages; its address, and the packages it was asked about."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = question["package"]["name"]
            asked.append(name)
            known = {
                "id": "GHSA-0000-0000-0000",
                "summary": "planted",
                "details": "planted",
                "modified": "2026-01-01T00:00:00Z",
                "published": "2026-01-01T00:00:00Z",
                "affected": [
                    {
                        "package": {"name": name, "ecosystem": "PyPI"},
                        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
                        "versions": [question["version"]],
                    }
                ],
            }
            body = json.dumps({"vulns": [known]} if name in vulnerable else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
    finally:
        server.shutdown()
        server.server_close()


def release(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "release"],
        cwd=REPOSITORY,
        env={**os.environ, "OSV_URL": url},
        capture_output=True,
        text=True,
        timeout=RELEASE_S,
        check=False,
    )


def locked() -> set[str]:
    text = (REPOSITORY / "requirements" / "runtime.txt").read_text()
    return {match[1] for match in re.finditer(r"^([a-z0-9._-]+)==", text, re.MULTILINE)}


def test_a_release_is_the_wheel_and_what_is_to_be_known_of_it() -> None:
    with osv() as (url, asked):
        done = release(url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(asked) == locked(), "every locked dependency was looked up"
    names = {path.name for path in DIST.iterdir()}
    kinds = ("-py3-none-any.whl", ".tar.gz", ".cdx.json", ".licences.md", ".audit.json")
    assert names == {f"holdfast-{VERSION}{kind}" for kind in kinds} | {"SHA256SUMS"}
    for line in (DIST / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((DIST / name).read_bytes()).hexdigest() == digest
    bill = json.loads((DIST / f"holdfast-{VERSION}.cdx.json").read_text())
    components = {one["name"].lower().replace("_", "-") for one in bill["components"]}
    assert {name.replace("_", "-") for name in locked()} - {"setuptools"} <= components | {"holdfast"}
    assert (bill["metadata"]["component"]["name"], bill["metadata"]["component"]["version"]) == ("holdfast", VERSION)
    licences = (DIST / f"holdfast-{VERSION}.licences.md").read_text().lower()
    assert all(name in licences.replace("_", "-") for name in ("msgspec", "nats-py", "openai"))
    with zipfile.ZipFile(DIST / f"holdfast-{VERSION}-py3-none-any.whl") as wheel:
        shipped = wheel.namelist()
    assert any(name.startswith("services/planner/") for name in shipped)
    assert not any(name.startswith(("tests/", "deploy/", "docs/")) for name in shipped)
    with tarfile.open(DIST / f"holdfast-{VERSION}.tar.gz") as source:
        assert any(name.endswith("/pyproject.toml") for name in source.getnames())


def test_no_release_is_made_of_a_dependency_with_a_known_vulnerability() -> None:
    with osv("msgspec") as (url, _):
        done = release(url)
    assert done.returncode != 0
    assert "known vulnerability" in done.stderr
    found = json.loads((DIST / f"holdfast-{VERSION}.audit.json").read_text())
    assert [one["name"] for one in found["dependencies"] if one.get("vulns")] == ["msgspec"]
    assert not (DIST / "SHA256SUMS").exists()


def test_no_release_is_made_of_what_could_not_be_checked() -> None:
    done = release("http://127.0.0.1:1/v1/query")
    assert done.returncode != 0
    assert "could not be asked" in done.stderr
    assert not (DIST / "SHA256SUMS").exists()
