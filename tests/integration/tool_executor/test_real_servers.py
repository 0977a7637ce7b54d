"""Servers that others wrote."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.mcp_servers.bench import on_bench, stdio_server


async def test_the_time_server_tells_the_time(scripts: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(stdio_server("time", (f"{scripts}/mcp-server-time", "--local-timezone=UTC")))
        status = await bench.until_ready("time")
        assert status.status_detail == "Connected successfully with 2 tools"
        assert [tool.name for tool in status.tools] == ["convert_time", "get_current_time"]
        assert "timezone" in status.tools[1].input_schema["properties"]

        result = await bench.call("time__convert_time", _noon())
        assert result.outcome == "succeeded"
        assert json.loads(result.content)["target"]["datetime"].endswith("T21:00:00+09:00")

        wrong = await bench.call("time__convert_time", {**_noon(), "source_timezone": "Mars/Olympus"})
        assert wrong.outcome == "failed"
        assert "Mars/Olympus" in wrong.content


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one file that is not in it."""
    path = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", str(path)], check=True)
    (path / "note.txt").write_text("hello\n")
    return path


async def test_the_git_server_reads_and_writes_a_repository(scripts: Path, repository: Path) -> None:
    identity = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "tester")
    addresses = dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "tester@example.org")
    server = stdio_server("git", (f"{scripts}/mcp-server-git",), env={**identity, **addresses})
    async with on_bench() as bench:
        await bench.declare(server)
        status = await bench.until_ready("git")
        hints = {tool.name: tool.annotations for tool in status.tools}
        assert hints["git_log"].read_only
        assert not hints["git_commit"].read_only
        assert not hints["git_commit"].idempotent

        here = {"repo_path": str(repository)}
        assert (await bench.call("git__git_add", {**here, "files": ["note.txt"]})).outcome == "succeeded"
        committed = await bench.ask("git__git_commit", {**here, "message": "first"})
        assert (await bench.until_result(committed)).outcome == "succeeded"
        assert await bench.bus.log(0).get(committed.ledger("r1", 1)) is not None

        looked = await bench.ask("git__git_log", here)
        assert "first" in (await bench.until_result(looked)).content
        assert await bench.bus.log(0).get(looked.ledger("r1", 1)) is None, "a ledger entry for a call that only reads"


def _noon() -> dict[str, str]:
    return {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
