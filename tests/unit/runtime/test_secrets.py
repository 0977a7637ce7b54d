"""Secrets: from a directory or the environment, read anew each time, never told in an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.resources import SecretKeyRef
from services.runtime.secrets import SecretMissing, Secrets, secret_variable

REF = SecretKeyRef(name="open-ai", key="api.key")


def put(directory: Path, value: bytes, *, name: str = "open-ai", key: str = "api.key") -> Path:
    path = directory / name / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value)
    return path


def test_a_secret_is_a_file_of_its_directory(tmp_path: Path) -> None:
    put(tmp_path, b"s3cret\n")
    assert Secrets(str(tmp_path), {}).get(REF) == "s3cret"


def test_a_secret_is_a_variable_where_there_is_no_file(tmp_path: Path) -> None:
    environ = {"HOLDFAST_SECRET_OPEN_AI_API_KEY": "from the environment"}
    assert secret_variable(REF) == "HOLDFAST_SECRET_OPEN_AI_API_KEY"
    assert Secrets("", environ).get(REF) == "from the environment"
    assert Secrets(str(tmp_path), environ).get(REF) == "from the environment"
    put(tmp_path, b"from the file")
    assert Secrets(str(tmp_path), environ).get(REF) == "from the file"


def test_a_key_that_is_written_as_a_variable_is_one() -> None:
    environ = {"OPENAI_API_KEY": "k", "HOME": "/root"}
    assert Secrets("", environ).get(SecretKeyRef(name="any", key="OPENAI_API_KEY")) == "k"
    with pytest.raises(SecretMissing):
        Secrets("", environ).get(SecretKeyRef(name="any", key="HOME"))


def test_a_rotated_secret_is_seen(tmp_path: Path) -> None:
    secrets = Secrets(str(tmp_path), {})
    put(tmp_path, b"old")
    before = secrets.fingerprint(REF)
    put(tmp_path, b"new")
    assert secrets.get(REF) == "new"
    assert secrets.fingerprint(REF) != before


def test_a_fingerprint_tells_nothing_of_the_value(tmp_path: Path) -> None:
    put(tmp_path, b"s3cret")
    fingerprint = Secrets(str(tmp_path), {}).fingerprint(REF)
    assert len(fingerprint) == 16
    assert "s3cret" not in fingerprint
    assert Secrets(str(tmp_path), {}).fingerprint(REF) == fingerprint


def test_the_fingerprint_of_a_missing_secret_is_empty() -> None:
    assert Secrets("", {}).fingerprint(REF) == ""


def test_a_missing_secret_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SecretMissing, match=r"HOLDFAST_SECRETS_DIR is not set.*HOLDFAST_SECRET_OPEN_AI_API_KEY"):
        Secrets("", {}).get(REF)
    with pytest.raises(SecretMissing, match=str(tmp_path / "open-ai" / "api.key")):
        Secrets(str(tmp_path), {}).get(REF)


@pytest.mark.parametrize(("name", "key"), [("..", "x"), ("a", "../b/x"), ("a/b", "x"), ("", "x"), ("a", ".hidden")])
def test_a_reference_cannot_leave_the_directory(tmp_path: Path, name: str, key: str) -> None:
    (tmp_path / "x").write_text("outside")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_text("outside")
    inner = tmp_path / "secrets"
    (inner / "a").mkdir(parents=True)
    with pytest.raises(SecretMissing, match="is not the name of one"):
        Secrets(str(inner), {}).get(SecretKeyRef(name=name, key=key))


def test_a_secret_that_cannot_be_read_is_missing_and_not_shown(tmp_path: Path) -> None:
    put(tmp_path, b"\xff\xfe secret bytes")
    with pytest.raises(SecretMissing, match="cannot be read") as missing:
        Secrets(str(tmp_path), {}).get(REF)
    assert "secret bytes" not in str(missing.value)
    (tmp_path / "open-ai" / "folder").mkdir()
    with pytest.raises(SecretMissing, match="cannot be read"):
        Secrets(str(tmp_path), {}).get(SecretKeyRef(name="open-ai", key="folder"))
