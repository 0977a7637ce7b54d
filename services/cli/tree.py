"""The tree of tasks that a task belongs to: which asked which, and how far each is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.task import State
from schemas.task_view import describe_state
from services.cli.client import Client
from services.cli.text import money, one_line, seconds_text


async def family(client: Client, state: State) -> list[State]:
    """The tasks that belong to the same tree as a task, or go on in its thread; empty if it is alone."""
    others = [stored.state for stored in await client.tasks(state.namespace)]
    by_name = {other.task: other for other in others}
    root = _root(by_name, state)
    found = [other for other in others if _root(by_name, other) == root]
    return found if len(found) > 1 else []


def tree_rows(states: Sequence[State], name: str) -> list[str]:
    """The tree as lines, `name` marked."""
    children: dict[str, list[State]] = {}
    names = {state.task for state in states}
    roots: list[State] = []
    for state in sorted(states, key=lambda state: (state.created_at, state.task)):
        above = _above(state)
        (children.setdefault(above, []) if above in names else roots).append(state)
    return [line for root in roots for line in _rows(root, children, name, 0)]


def _rows(state: State, children: Mapping[str, list[State]], name: str, depth: int) -> list[str]:
    view = describe_state(state)
    took = seconds_text((state.updated_at - state.created_at).total_seconds())
    how = f"{state.parent.request} call {state.parent.n}, " if state.parent is not None else ""
    how = "goes on, " if state.continues else how
    mark = "*" if state.task == name else " "
    detail = f"{how}agent {state.agent}, {view.phase} after {took}, {money(state.spend.cost_usd)}"
    line = f"{mark} {'  ' * depth}{state.task}  ({one_line(detail, 120)})"
    return [line, *(row for child in children.get(state.task, ()) for row in _rows(child, children, name, depth + 1))]


def _above(state: State) -> str:
    return state.parent.task if state.parent is not None else state.continues


def _root(by_name: Mapping[str, State], state: State) -> str:
    seen: set[str] = set()
    while (above := _above(state)) and above in by_name and above not in seen:
        seen.add(above)
        state = by_name[above]
    return state.task
