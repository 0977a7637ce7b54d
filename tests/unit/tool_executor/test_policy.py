from __future__ import annotations

from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.resources import MCPServerSpec, Ref, ShellOptions, ToolAnnotations, ToolInfo, ToolPolicy, ToolsetSpec
from services.tool_executor.core.policy import (
    CallPolicy,
    channel_of,
    channels_of,
    nobody_is_told,
    policy_of,
    toolset_policy,
)

MAYBE = st.one_of(st.none(), st.booleans())


def spec(*policies: ToolPolicy, timeout_s: float = 60.0) -> MCPServerSpec:
    return MCPServerSpec(transport="stdio", command="x", policies=policies, timeout_s=timeout_s)


def tool(name: str = "t", /, **hints: bool | None) -> ToolInfo:
    return ToolInfo(name=name, annotations=ToolAnnotations(**hints))


def test_a_tool_that_nothing_is_said_of_is_not_repeated() -> None:
    assert policy_of(spec(), tool()) == CallPolicy(repeatable=False, on_uncertain="fail", timeout_s=60.0)


@pytest.mark.parametrize("hints", [{"read_only": True}, {"idempotent": True}, {"read_only": False, "idempotent": True}])
def test_what_a_server_says_of_its_tool_counts(hints: dict[str, bool]) -> None:
    assert policy_of(spec(), tool(**hints)).repeatable


def test_a_tool_that_is_not_destructive_may_still_not_be_repeated() -> None:
    assert not policy_of(spec(), tool(destructive=False, open_world=False)).repeatable


def test_the_manifest_knows_better_than_the_server() -> None:
    careful = spec(ToolPolicy(tool="t", read_only=False, idempotent=False))
    assert not policy_of(careful, tool(read_only=True, idempotent=True)).repeatable
    bold = spec(ToolPolicy(tool="t", idempotent=True))
    assert policy_of(bold, tool(read_only=False, idempotent=False)).repeatable


def test_the_first_policy_that_matches_counts() -> None:
    policies = (ToolPolicy(tool="git_*", read_only=True), ToolPolicy(tool="*", on_uncertain="retry", timeout_s=5))
    assert policy_of(spec(*policies), tool("git_log")) == CallPolicy(
        repeatable=True, on_uncertain="fail", timeout_s=60.0
    )
    assert policy_of(spec(*policies), tool("Git_log")) == CallPolicy(
        repeatable=False, on_uncertain="retry", timeout_s=5
    )


def test_a_tool_whose_name_is_a_pattern_is_matched_by_its_name() -> None:
    assert policy_of(spec(ToolPolicy(tool="a[b]", read_only=True)), tool("a[b]")).repeatable


@given(MAYBE, MAYBE, MAYBE, MAYBE, st.sampled_from(["fail", "retry", "ask", None]))
def test_a_tool_is_repeatable_only_if_somebody_says_so(
    read_only: bool | None,
    idempotent: bool | None,
    stated_read_only: bool | None,
    stated_idempotent: bool | None,
    on_uncertain: Literal["fail", "retry", "ask"] | None,
) -> None:
    stated = ToolPolicy(tool="*", read_only=stated_read_only, idempotent=stated_idempotent, on_uncertain=on_uncertain)
    found = policy_of(spec(stated), tool(read_only=read_only, idempotent=idempotent))
    said = (stated_read_only, stated_idempotent, read_only, idempotent)
    assert found.repeatable <= (True in said)
    if stated_read_only is False and stated_idempotent is False:
        assert not found.repeatable
    assert found.on_uncertain == (on_uncertain or "fail")


def test_people_are_asked_about_an_uncertain_call_by_default_where_a_channel_reaches_them() -> None:
    approving, asked = Ref(name="lead"), Ref(name="oncall")
    reaching = msgspec.structs.replace(spec(), contact_channel=asked)
    approved = msgspec.structs.replace(spec(), approval_contact_channel=approving)
    for one in (reaching, approved):
        assert policy_of(one, tool()).on_uncertain == "ask"
    both = msgspec.structs.replace(reaching, approval_contact_channel=approving)
    assert [channel_of(one) for one in (spec(), reaching, approved, both)] == ["", "oncall", "lead", "oncall"]
    assert channels_of(both) == ("lead", "oncall")
    stated = msgspec.structs.replace(reaching, policies=(ToolPolicy(tool="*", on_uncertain="fail"),))
    assert policy_of(stated, tool()).on_uncertain == "fail"
    toolset = ToolsetSpec(shell=ShellOptions(), contact_channel=asked)
    assert toolset_policy(toolset, tool()).on_uncertain == "ask"


def test_a_tool_that_may_be_repeated_is_a_question_to_nobody() -> None:
    asks = spec(ToolPolicy(tool="*", on_uncertain="ask"))
    assert policy_of(asks, tool()).asks
    assert not policy_of(asks, tool(read_only=True)).asks


def test_a_status_says_that_nobody_is_told_what_is_asked() -> None:
    asks = spec(ToolPolicy(tool="*", on_uncertain="ask"))
    assert "holdfast inbox" in nobody_is_told(asks)
    assert nobody_is_told(msgspec.structs.replace(asks, contact_channel=Ref(name="oncall"))) == ""
    assert nobody_is_told(spec()) == ""
