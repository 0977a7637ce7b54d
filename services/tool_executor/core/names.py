"""What to tell a model that called a tool which is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NEAR_MAX = 3
NAMED_MAX = 20


def unknown_tool(name: str, known: Iterable[str]) -> str:
    """What is wrong with `name`, and which of the known names may be meant."""
    names = sorted(known)
    text = f"There is no tool {name[:100]!r}."
    if not names:
        return f"{text} This agent has no tools."
    near = difflib.get_close_matches(name, names, n=NEAR_MAX, cutoff=0.5)
    if near:
        return f"{text} Perhaps you mean {' or '.join(near)}."
    listed = ", ".join(names[:NAMED_MAX])
    more = f", and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return f"{text} The tools are: {listed}{more}."
