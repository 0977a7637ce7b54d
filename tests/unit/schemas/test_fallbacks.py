"""Which LLM comes next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.fallbacks import next_llm
from schemas.requests import FailureCause
from schemas.resources import AgentSpec, Fallback, Ref

NAMES = st.sampled_from(["own", "a", "b", "c"])
CAUSES: list[FailureCause] = ["overloaded", "quotaExhausted"]
LISTS = st.lists(st.tuples(NAMES, st.lists(st.sampled_from(CAUSES), unique=True)), max_size=6)


def agent(*fallbacks: tuple[str, tuple[FailureCause, ...]]) -> AgentSpec:
    listed = tuple(Fallback(llm_ref=Ref(name=name), on=causes) for name, causes in fallbacks)
    return AgentSpec(llm_ref=Ref(name="own"), system="s", fallbacks=listed)


@pytest.mark.parametrize(
    ("failed", "cause", "expected"),
    [
        ("own", "overloaded", "a"),
        ("own", "quotaExhausted", "b"),
        ("a", "overloaded", "c"),
        ("a", "quotaExhausted", "b"),
        ("c", "overloaded", ""),
        ("own", "contentFiltered", ""),
        ("", "overloaded", "a"),
        ("renamed", "overloaded", "a"),
    ],
)
def test_the_first_later_one_that_names_the_failure_is_next(failed: str, cause: FailureCause, expected: str) -> None:
    listed = agent(("a", ("overloaded",)), ("b", ("quotaExhausted",)), ("c", ("overloaded",)))
    assert next_llm(listed, failed, cause) == expected


@given(LISTS, st.sampled_from(CAUSES))
def test_a_list_is_gone_through_once(listed: list[tuple[str, list[FailureCause]]], cause: FailureCause) -> None:
    spec = agent(*((name, tuple(causes)) for name, causes in listed))
    asked = ["own"]
    while following := next_llm(spec, asked[-1], cause):
        asked.append(following)
    assert len(asked) == len(set(asked))
