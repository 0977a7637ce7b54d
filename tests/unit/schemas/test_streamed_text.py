from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schemas.live import TextAsked, TextDelta, TextSoFar
from schemas.streamed_text import StreamedText, TextPiece, TextRestarted

AT = datetime(2030, 1, 1, tzinfo=UTC)
LATER = AT + timedelta(seconds=2)


def delta(text: str, offset: int, *, turn: int = 1, attempt: int = 1, begun: datetime | None = AT) -> TextDelta:
    return TextDelta(turn=turn, attempt=attempt, offset=offset, text=text, begun=begun)


def test_pieces_in_order_are_told_as_they_are() -> None:
    text = StreamedText()
    assert text.take(delta("It is ", 0)) == [TextPiece(1, 1, "It is ")]
    assert text.take(delta("noon.", 6)) == [TextPiece(1, 1, "noon.")]
    assert text.missing is None
    assert text.answered(1, 1, "It is noon.") == []


def test_a_piece_after_a_gap_waits_until_what_was_asked_for_has_come() -> None:
    text = StreamedText()
    assert text.take(delta("noon.", 6)) == []
    assert text.missing == TextAsked(turn=1, attempt=1, begun=AT, offset=0)
    said = TextSoFar(turn=1, attempt=1, begun=AT, offset=0, text="It is no", length=11)
    assert text.take(said) == [TextPiece(1, 1, "It is noon.")]
    assert text.missing is None


def test_an_answer_that_is_cut_leaves_something_to_ask_for() -> None:
    text = StreamedText()
    assert text.take(TextSoFar(turn=1, attempt=1, begun=AT, offset=0, text="It", length=5)) == [TextPiece(1, 1, "It")]
    assert text.missing == TextAsked(turn=1, attempt=1, begun=AT, offset=2)


def test_offsets_count_characters_also_those_that_are_two_units_elsewhere() -> None:
    text = StreamedText()
    assert text.take(delta("\U0001f600", 0)) == [TextPiece(1, 1, "\U0001f600")]
    assert text.take(delta("\U0001f600!", 0)) == [TextPiece(1, 1, "!")]
    assert text.take(delta("?", 2)) == [TextPiece(1, 1, "?")]


def test_a_call_that_is_made_again_starts_the_text_again_and_the_lost_one_is_not_heard_any_more() -> None:
    text = StreamedText()
    text.take(delta("It is ", 0))
    assert text.take(delta("The time", 0, begun=LATER)) == [TextRestarted(1, 1), TextPiece(1, 1, "The time")]
    assert text.take(delta("noon.", 6)) == []
    assert text.answered(1, 1, "The time is noon.") == [TextPiece(1, 1, " is noon.")]


def test_another_attempt_starts_the_text_again_unless_nothing_was_told() -> None:
    text = StreamedText()
    text.take(delta("It is ", 0))
    text.failed(1, 1)
    assert text.take(delta("is", 3)) == []
    assert text.take(delta("Noon", 0, attempt=2)) == [TextRestarted(1, 2), TextPiece(1, 2, "Noon")]
    other = StreamedText()
    other.failed(1, 1)
    assert other.take(delta("Noon", 0, attempt=2)) == [TextPiece(1, 2, "Noon")]


def test_the_recorded_answer_is_told_again_if_something_else_was_streamed() -> None:
    text = StreamedText()
    text.take(delta("It was ", 0))
    assert text.answered(1, 1, "It is noon.") == [TextRestarted(1, 1), TextPiece(1, 1, "It is noon.")]


def test_an_answer_that_nobody_streamed_is_told_whole_and_once() -> None:
    text = StreamedText()
    assert text.answered(1, 2, "Noon.") == [TextPiece(1, 2, "Noon.")]
    assert text.answered(1, 2, "Noon.") == []
    assert text.take(delta("Noon.", 0, attempt=2)) == []
    assert text.take(delta("And then?", 0, turn=2)) == [TextPiece(2, 1, "And then?")]


def test_a_late_answer_of_a_lost_attempt_changes_nothing() -> None:
    text = StreamedText()
    text.take(delta("Noon", 0, attempt=2))
    assert text.answered(1, 1, "It is noon.") == []
    assert text.text == "Noon"


def test_a_gateway_of_the_first_release_says_no_time_and_is_understood() -> None:
    text = StreamedText()
    assert text.take(delta("noon", 3, begun=None)) == []
    assert text.missing == TextAsked(turn=1, attempt=1, offset=0)


def test_a_call_of_which_nothing_was_told_is_no_text_that_starts_again() -> None:
    text = StreamedText()
    assert text.take(delta("noon", 6)) == []
    assert text.take(delta("Noon", 0, begun=LATER)) == [TextPiece(1, 1, "Noon")]


def test_of_two_pieces_that_wait_at_one_place_the_longer_one_counts() -> None:
    text = StreamedText()
    text.take(delta("noon.", 6))
    text.take(delta("no", 6))
    assert text.take(delta("It is ", 0)) == [TextPiece(1, 1, "It is noon.")]
    assert text.missing is None
