"""What is done about a question, channel by channel: refused, out of reach, reminded, passed on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.interactions import InteractionRequested, InteractionStep
from schemas.resources import ContactChannelSpec, OnTimeout, Ref
from services.human_contact.core.moves import (
    STEPS_MAX,
    Deliver,
    Fail,
    GiveUp,
    Move,
    Remind,
    Wait,
    next_move,
    try_again_at,
)

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED = InteractionRequested(
    kind="approval",
    namespace="default",
    task="t1",
    interaction="r1.1.0",
    message="",
    agent="helper",
    tool="box__write",
    at=AT,
    expires=AT + timedelta(days=1),
    channel="one",
)


def spec(
    to: str = "", on_timeout: OnTimeout = "escalate", timeout_s: float | None = 100, remind_s: float | None = None
) -> ContactChannelSpec:
    """A channel that is waited for 100 s."""
    following = Ref(name=to) if to else None
    return ContactChannelSpec(
        type="console", timeout_s=timeout_s, on_timeout=on_timeout, escalate_to=following, remind_s=remind_s
    )


def step(n: int, channel: str, at_s: float = 0, **fields: object) -> InteractionStep:
    """A channel that was tried at that second."""
    return InteractionStep(interaction="r1.1.0", step=n, channel=channel, at=after(at_s), **fields)  # type: ignore[arg-type]


def after(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


def move(now_s: float, channels: dict[str, ContactChannelSpec], *steps: InteractionStep) -> Move:
    return next_move(ASKED, steps, channels.get, after(now_s))


def test_a_channel_that_refuses_passes_the_question_on_at_once() -> None:
    channels = {"one": spec("two"), "two": spec()}
    assert move(1, channels, step(0, "one", refused="no such user")) == Deliver(1, "two")


def test_a_channel_that_refuses_passes_the_question_on_whatever_its_time_ends_with() -> None:
    channels = {"one": spec("two", on_timeout="fail"), "two": spec()}
    assert move(1, channels, step(0, "one", refused="no such user")) == Deliver(1, "two")


def test_people_who_were_asked_are_waited_for_as_long_as_the_channel_that_refused_would_have_been() -> None:
    channels = {"one": spec("two"), "two": spec(on_timeout="fail")}
    steps = step(0, "one", delivered=True, until=after(100)), step(1, "two", 100, refused="gone")
    assert move(101, channels, *steps) == Wait(after(200))
    assert move(200, channels, *steps) == GiveUp("fail", 200)


def test_people_who_were_asked_are_waited_for_to_the_end_if_the_channel_that_refused_has_no_time() -> None:
    channels = {"one": spec("two"), "two": ContactChannelSpec(type="console")}
    steps = step(0, "one", delivered=True, until=after(100)), step(1, "two", 100, refused="gone")
    assert move(101, channels, *steps) == Wait(ASKED.expires)
    assert move(86_400, channels, *steps) == GiveUp("deny", 86_400)


def test_only_when_no_channel_has_the_question_it_fails() -> None:
    channels = {"one": spec("two"), "two": spec()}
    refused = step(0, "one", refused="no such user"), step(1, "two", 1, refused="gone")
    assert move(2, channels, *refused) == Fail("no such user; gone")
    away = step(0, "one"), step(1, "two", 100, refused="gone")
    assert move(101, channels, *away) == Fail("gone")


def test_channels_that_pass_questions_to_each_other_end_too() -> None:
    channels = {"one": spec("two"), "two": spec("one")}
    refused = step(0, "one", refused="no such user"), step(1, "two", 1, refused="gone")
    assert isinstance(move(2, channels, *refused), Fail)


def test_a_channel_out_of_reach_is_tried_until_its_time_is_over_and_then_passed_over() -> None:
    channels = {"one": spec("two"), "two": spec()}
    assert move(99, channels, step(0, "one")) == Deliver(0, "one")
    assert move(100, channels, step(0, "one")) == Deliver(1, "two")


@pytest.mark.parametrize(("on_timeout", "outcome"), [("deny", "deny"), ("fail", "fail"), ("approve", "deny")])
def test_the_silence_of_people_who_were_not_asked_is_no_consent(on_timeout: OnTimeout, outcome: OnTimeout) -> None:
    channels = {"one": spec(on_timeout=on_timeout)}
    assert move(100, channels, step(0, "one")) == GiveUp(outcome, 100, asked=False)
    reached = step(0, "one", delivered=True, until=after(100))
    assert move(100, channels, reached) == GiveUp(on_timeout, 100)


def test_a_channel_is_tried_again_later_each_time_and_not_after_its_time() -> None:
    def again(now_s: float, channel: ContactChannelSpec | None, after_s: float = 0) -> float:
        at = try_again_at(ASKED, step(0, "one"), channel, after(now_s), after_s)
        return (at - AT).total_seconds() - now_s

    none = ContactChannelSpec(type="console")
    assert [again(now_s, none) for now_s in (0, 10, 200, 1_000)] == [2, 10, 200, 300]
    assert again(0, none, after_s=60) == 60
    assert again(90, spec()) == 10
    assert again(0, spec(), after_s=3_600) == 100
    assert again(86_390, None) == 10


def test_a_refused_reminder_ends_the_reminders_and_not_the_question() -> None:
    channels = {"one": spec(on_timeout="deny", remind_s=10)}
    reached = step(0, "one", delivered=True, until=after(100))
    assert move(10, channels, reached) == Remind(reached, 1)
    refused = msgspec.structs.replace(reached, reminded=1, refused="thread is locked")
    assert move(50, channels, refused) == Wait(after(100))
    assert move(100, channels, refused) == GiveUp("deny", 100)


def test_reminders_that_were_missed_are_not_made_up_for() -> None:
    channels = {"one": spec(on_timeout="deny", timeout_s=10_000, remind_s=10)}
    reached = step(0, "one", delivered=True, until=after(10_000))
    assert move(3_605, channels, reached) == Remind(reached, 360)
    reminded = msgspec.structs.replace(reached, reminded=360)
    assert move(3_605, channels, reminded) == Wait(after(3_610))


NAMES = [f"c{n}" for n in range(4)]


@given(
    specs=st.fixed_dictionaries(
        {
            name: st.builds(
                spec,
                st.sampled_from(["", *NAMES]),
                st.sampled_from(["deny", "approve", "escalate", "fail"]),
                st.sampled_from([None, 30.0, 1_000.0]),
                st.sampled_from([None, 7.0]),
            )
            for name in NAMES
        }
    ),
    behaves=st.fixed_dictionaries({name: st.sampled_from(["takes", "away", "refuses", "mute"]) for name in NAMES}),
    late_s=st.sampled_from([0.0, 5.0, 500.0]),
)
def test_every_chain_ends_and_fails_only_if_nobody_was_asked(
    specs: dict[str, ContactChannelSpec], behaves: dict[str, str], late_s: float
) -> None:
    asked = msgspec.structs.replace(ASKED, channel="c0", expires=AT + timedelta(seconds=3_000))
    steps: list[InteractionStep] = []
    now = AT
    for _ in range(2_000):
        match next_move(asked, steps, specs.get, now):
            case Deliver(step=n, channel=name):
                if n == len(steps):
                    assert all(one.channel != name for one in steps)
                    steps.append(InteractionStep(interaction="r1.1.0", step=n, channel=name, at=now))
                assert not steps[n].delivered
                assert not steps[n].refused
                timeout_s = specs[name].timeout_s
                match behaves[name]:
                    case "away":
                        now = try_again_at(asked, steps[n], specs[name], now, 0)
                    case "refuses":
                        steps[n] = msgspec.structs.replace(steps[n], refused="no")
                    case _:
                        until = now + timedelta(seconds=timeout_s) if timeout_s is not None else None
                        steps[n] = msgspec.structs.replace(steps[n], delivered=True, at=now, until=until)
            case Remind(step=one, n=n):
                assert n > one.reminded
                refused = "no" if behaves[one.channel] == "mute" else ""
                steps[one.step] = msgspec.structs.replace(one, reminded=n, refused=refused)
            case Wait(until=until):
                assert until > now
                now = until + timedelta(seconds=late_s)
            case GiveUp(asked=somebody, outcome=outcome):
                assert somebody == any(one.delivered for one in steps)
                assert outcome != "escalate"
                assert outcome != "approve" or steps[-1].delivered
                break
            case Fail():
                assert not any(one.delivered for one in steps)
                break
            case other:
                raise AssertionError(other)
    else:
        raise AssertionError("it never ends")
    assert len(steps) <= STEPS_MAX
