"""What the demo plays on: a directory with a small repository, manifests, and a model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from services.cli.exits import ExitCode, Stop

HOOK_S = 1.2
"""How long the repository's pre-commit hook takes."""
COMMIT_MESSAGE = "Add the notes"
REPOSITORY = "repository"
MESSAGE = (
    "What time is it in Tokyo and in UTC? Then commit the new file NOTES.md of the repository, "
    f"with the message '{COMMIT_MESSAGE}', and make sure that it is in the history exactly once."
)
MESSAGE_TIME = "What time is it in Tokyo and in UTC? And what is 09:30 in Tokyo for colleagues in Berlin?"
Provider = Literal["scripted", "openai", "anthropic"]


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is there before the curtain goes up."""

    directory: Path
    repository: Path | None
    """None when there is no git on this machine."""
    provider: Provider
    manifests: tuple[tuple[str, str], ...]
    """Names and texts."""
    message: str

    @property
    def hook_started(self) -> Path:
        """Exists while and after the commit hook has run; a line for each run."""
        return self.directory / "hook-started"


def provider_of(environ: Mapping[str, str], *, scripted: bool) -> Provider:
    """The model that answers: a real one if there is a key for it."""
    if scripted:
        return "scripted"
    if environ.get("OPENAI_API_KEY"):
        return "openai"
    return "anthropic" if environ.get("ANTHROPIC_API_KEY") else "scripted"


def set_up(directory: Path, provider: Provider, *, model: str) -> Stage:
    """Make the repository and choose the manifests; the command ends when the MCP servers are not installed."""
    git = shutil.which("git") is not None
    for program in ("mcp-server-time", "mcp-server-git") if git else ("mcp-server-time",):
        if _installed(program) is None:
            raise Stop(f"{program} is not installed: pip install 'holdfast[demo]'", ExitCode.NOT_FOUND)
    form = "" if git else "-time"
    names = [f"tools{form}.yaml", f"agent{form}.yaml"]
    names.insert(0, f"model-scripted{form}.yaml" if provider == "scripted" else f"model-{provider}.yaml")
    manifests = [(name, _text(name)) for name in names]
    if provider != "scripted":
        manifests[0] = (names[0], _adjusted(manifests[0][1], provider, model))
    for name, text in manifests:
        (directory / name).write_text(text)
    stage = Stage(
        directory=directory,
        repository=directory / REPOSITORY if git else None,
        provider=provider,
        manifests=tuple(manifests),
        message=MESSAGE if git else MESSAGE_TIME,
    )
    if stage.repository is not None:
        _make_repository(stage.repository, stage.hook_started)
    return stage


def _installed(program: str) -> str | None:
    beside = str(Path(sys.executable).parent)
    return shutil.which(program, path=os.pathsep.join((beside, os.environ.get("PATH", ""))))


def _text(name: str) -> str:
    return resources.files("services.cli").joinpath("data", "demo", name).read_text()


def _adjusted(text: str, provider: Provider, model: str) -> str:
    """The manifest of a real model, with the model and address that were asked for."""
    base_url = os.environ.get(f"{provider.upper()}_BASE_URL", "")
    lines = text.rstrip("\n").splitlines()
    if model:
        lines = [f"    model: {model}" if line.startswith("    model: ") else line for line in lines]
    if base_url:
        lines.append(f"    baseUrl: {base_url}")
    return "\n".join(lines) + "\n"


def _make_repository(place: Path, hook_started: Path) -> None:
    """A repository with one commit, a new file, and a hook that takes its time, as tests before a commit do."""
    place.mkdir()
    _git(place, "init", "--quiet", "--initial-branch=main")
    for key, value in (
        ("user.name", "Demo"),
        ("user.email", "demo@example.com"),
        ("commit.gpgsign", "false"),
        ("core.hooksPath", ".git/hooks"),
    ):
        _git(place, "config", key, value)
    (place / "README.md").write_text("# A small repository\n")
    _git(place, "add", "README.md")
    _git(place, "commit", "--quiet", "-m", "Begin")
    (place / "NOTES.md").write_text("Whatever happens to the processes, this is committed once.\n")
    hook = place / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho run >> '{hook_started}'\nsleep {HOOK_S}\n")
    hook.chmod(0o755)


def commits_of(repository: Path) -> list[str]:
    """The subjects of all commits, the newest first."""
    return _git(repository, "log", "--format=%s").splitlines()


def _git(place: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - fixed arguments, in a directory of our own
        ["git", *arguments],  # noqa: S607 - whichever git the user has
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GIT_CONFIG_NOSYSTEM": "1"},
    )
    if done.returncode != 0:
        raise Stop(f"git {arguments[0]} failed: {done.stderr.strip()}", ExitCode.TASK_FAILED)
    return done.stdout
