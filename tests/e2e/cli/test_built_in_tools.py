"""The example of docs/howto/built-in-tools.md: a task that writes, runs commands and asks programs, on a real bus."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
import yaml

from schemas.resources import ToolsetSpec
from schemas.toolsets import toolset_problems, toolset_tools
from tests.support.dev import Dev

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "howto" / "built-in-tools.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_the_example_works_in_its_own_directory(dev: Dev) -> None:
    dev.good("apply", "-f", str(ROOT / "examples" / "built-in-tools.yaml"), "-n", "work", "--wait")
    said = dev.good("run", "worker", "How many lines has your notebook?", "-n", "work", "--name", "first").out
    assert said.count("3 notebook/today.txt") == 2
    assert re.search(r"^(Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day$", said, re.MULTILINE)
    note = dev.directory / "state" / "dev" / "work" / "work" / "first" / "notebook" / "today.txt"
    assert note.read_text() == "one\ntwo\nthree\n"
    shown = json.loads(dev.good("get", "toolset", "programs", "-n", "work", "-o", "json").out)
    assert shown["status"]["status"] == "Ready"
    assert [tool["name"] for tool in shown["status"]["tools"]] == ["calendar", "count"]


@pytest.mark.parametrize("block", [block for block in BLOCKS if "policies" in block or "commands:" in block])
def test_the_toolsets_of_the_page_are_in_order(block: str) -> None:
    spec = msgspec.convert(yaml.safe_load(block)["spec"], ToolsetSpec)
    assert list(toolset_problems(spec)) == []
    assert toolset_tools(spec)
