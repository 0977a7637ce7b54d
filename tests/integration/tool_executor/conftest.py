"""A place for the tools' own record of what they did, and commands of servers that others wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Where our servers note their effects."""
    return tmp_path / "record"


@pytest.fixture
def scripts() -> Path:
    """Where console scripts are installed."""
    return Path(sys.executable).parent
