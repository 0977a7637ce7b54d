"""The documents: what is generated is fresh, and what they name exists.

python -m tests.unit.test_docs    put the machine's diagram into the architecture document
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.planner.diagram import markdown
from services.runtime.settings import PREFIX, Settings
from services.runtime.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
MACHINE = re.compile(r"(<!-- machine: begin -->\n)(.*?)(<!-- machine: end -->)", re.DOTALL)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "tests" / "README.md"])
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])


def with_fresh_machine(text: str) -> str:
    return MACHINE.sub(lambda found: f"{found[1]}{markdown()}{found[3]}", text)


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_machine_in_the_architecture_document_is_the_one_that_runs() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert MACHINE.search(text)
    assert text == with_fresh_machine(text), "stale: run `python -m tests.unit.test_docs`"


@every_document
def test_a_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(path)):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), target


@every_document
def test_a_file_in_the_text_exists(path: Path) -> None:
    for cited in re.findall(r"`((?:schemas|services|tests|docs|requirements)/[\w./-]+)`", prose(path)):
        assert (ROOT / cited).exists() or list(ROOT.glob(f"{cited}*")), cited


@every_document
def test_a_target_a_setting_and_a_metric_in_the_text_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.__struct_fields__} | {"HOLDFAST_STATE_DIR"}
    named = {name for name in re.findall(r"HOLDFAST_[A-Z0-9_]+", text) if not name.startswith("HOLDFAST_SECRET_")}
    streams = {"HOLDFAST_REQUESTS", "HOLDFAST_TIMERS", "HOLDFAST_DEAD_LETTERS"}
    assert {name.rstrip("_") for name in named} - streams - {"HOLDFAST"} <= settings
    metrics = {sample.name for family in Metrics().registry.collect() for sample in family.samples}
    families = {family.name for family in Metrics().registry.collect()}
    said = {name for name in re.findall(r"\bholdfast_[a-z_]+", text) if not name.startswith("holdfast_payloads")}
    for name in said - {"holdfast_resources", "holdfast_flow", "holdfast_"}:
        assert name in metrics | families or name.removesuffix("_total") in families, name


def test_decisions_are_numbered_without_a_gap_and_have_their_three_parts() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(len(records)))
    for path in records:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {path.name[:4] if path.name[:4] != '0000' else 'NNNN'}: ")
        for part in ("## Context", "## Decision", "## Consequence"):
            assert part in text, path.name


if __name__ == "__main__":
    ARCHITECTURE.write_text(with_fresh_machine(ARCHITECTURE.read_text(encoding="utf-8")), encoding="utf-8")
