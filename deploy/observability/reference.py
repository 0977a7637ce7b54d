"""The catalogue of metrics as a document.

python -m deploy.observability.reference    write docs/operations/metrics.md
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from services.runtime.telemetry.families import Description, Label
from services.runtime.telemetry.metrics import catalogue

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations" / "metrics.md"
HEAD = """\
# Metrics

Made from the catalogue in `services/runtime/telemetry/metrics.py` by `make dashboards`; a test holds them together.
[observability.md](observability.md) says where they are shown and how to read them.

Every process serves `/metrics` on `HOLDFAST_HTTP_PORT`, in the text format of Prometheus, and shows what its own
services count. Units are in the names: seconds, bytes, US dollars. Labels have closed sets of values, which are listed
below; an id, a name that somebody chose, or a text is never one. A value that a label does not have becomes `other`.
What is counted is there from the start, at zero.

Gauges of what all replicas share (marked *shared*) are told by every planner, and all tell the same: take the `max` of
them over the replicas, never the `sum`. A planner that cannot know one now leaves it out.

Beside these, every process shows what the Prometheus client library knows of it: `process_*` (memory, processor, open
files; on Linux) and `python_gc_*`.
"""
TITLES = {
    "": "Every process",
    "planner": "The planner",
    "llm-gateway": "The llm-gateway",
    "tool-executor": "The tool-executor",
    "human-contact": "human-contact",
    "notifier": "The notifier",
}


def document() -> str:
    """The whole text."""
    known = [declared.description for declared in catalogue()]
    parts = [HEAD]
    for service, title in TITLES.items():
        own = [one for one in known if one.services == ((service,) if service else ())]
        parts.append(f"## {title}\n\n{_table(own)}")
    labels = {label: None for one in known for label in one.labels}
    parts.append(f"## Labels\n\n{_labels(labels, known)}")
    return "\n".join(parts)


def _table(known: Iterable[Description]) -> str:
    rows = ["| metric | kind | labels | |", "| --- | --- | --- | --- |"]
    for one in known:
        labels = ", ".join(f"`{label.name}`" for label in one.labels)
        kind = one.kind.__name__.lower()
        shared = ", *shared*" if one.is_shared else ""
        rows.append(f"| `{one.name}` | {kind}{shared} | {labels} | {one.sentence} |")
    return "\n".join(rows) + "\n"


def _labels(labels: Iterable[Label], known: Iterable[Description]) -> str:
    rows = ["| label | values | of |", "| --- | --- | --- |"]
    for label in labels:
        values = ", ".join(f"`{value}`" for value in label.values) or label.says
        of = [f"`{one.name}`" for one in known if label in one.labels]
        rows.append(f"| `{label.name}` | {values} | {', '.join(of)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write it."""
    DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
    DOCUMENT.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
