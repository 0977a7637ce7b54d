"""The AsyncAPI document, judged by the reference parser.

The parser comes from the npm registry. Without the registry these tests are skipped and say so; all other checks of
the document are in `tests/unit/schemas/test_export.py`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.export import ASYNCAPI, GENERATED
from tests.support import npm

HERE = Path(__file__).parent

Validate = Callable[[Path], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def validate() -> Validate:
    modules = npm.packages(HERE / "package-lock.json")

    def run(document: Path) -> subprocess.CompletedProcess[str]:
        result = npm.node(str(HERE / "validate.mjs"), str(modules), str(document))
        assert not result.stderr, result.stderr
        return result

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
