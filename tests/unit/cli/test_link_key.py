"""The key of links that `holdfast dev` keeps."""

from __future__ import annotations

from pathlib import Path

from services.cli.dev import link_key
from services.human_contact.core.tokens import keys_of


def test_the_key_is_made_once_and_is_for_its_owner_only(tmp_path: Path) -> None:
    file = link_key(tmp_path)
    first = file.read_text()
    assert len(keys_of(first)) == 1
    assert file.stat().st_mode & 0o077 == 0
    assert link_key(tmp_path).read_text() == first
