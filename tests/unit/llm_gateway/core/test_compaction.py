"""Conversations made shorter: what stays, what goes, and what never may."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import ConversationStarted, ModelAnswered, ToolFinished, WindowCompacted
from schemas.messages import (
    AssistantMessage,
    ImagePart,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from schemas.requests import ResponseFormat
from schemas.resources import LLM, ContextPolicy, LLMParameters, LLMSpec, Metadata
from schemas.subjects import TaskSubjects
from schemas.wire import Wire, encode
from services.llm_gateway.core import compaction, tokens
from services.llm_gateway.core.compaction import Compacted, Goal, spelled_out, split, summarized, truncated
from services.llm_gateway.core.size import Size, size_of
from services.llm_gateway.core.window import Counted, Window, extend

AT = datetime(2030, 1, 1, tzinfo=UTC)
TASK = TaskSubjects(0, "team", "job")
SYSTEM, ASKED = SystemMessage(content="Be brief."), UserMessage(content="What is in these files?")
SUMMARY_WEIGHT = 100 * tokens.HUNDREDTHS
Entry = tuple[str, Wire]


def started(*messages: Message) -> Entry:
    return TASK.context, ConversationStarted(messages=messages or (SYSTEM, ASKED))


def turn(number: int, *results: str, images: int = 0) -> list[Entry]:
    """An answer with a call for each result, and the results."""
    calls = tuple(ToolCall(id=f"c{number}-{n}", name="files__read", arguments="{}") for n in range(1, len(results) + 1))
    answer = ModelAnswered(
        turn=number, attempt=1, message=AssistantMessage(content="x", tool_calls=calls), usage=Usage(), at=AT
    )
    entries: list[Entry] = [(TASK.model_event(number, 1), answer)]
    for n, content in enumerate(results, start=1):
        finished = ToolFinished(
            request=f"r{number}",
            n=n,
            tool_call_id=f"c{number}-{n}",
            tool="files__read",
            outcome="succeeded",
            content=content,
            at=AT,
            images=(ImagePart(media_type="image/png", data="aGk="),) * images,
        )
        entries.append((TASK.tool_event(f"r{number}", n), finished))
    return entries


def window_of(entries: Sequence[Entry]) -> Window:
    return extend(Window(), [(subject, encode(entry)) for subject, entry in entries])


def long_window(*lengths: int) -> Window:
    """A conversation whose turns have one result each, of these lengths."""
    entries = [started()]
    for number, length in enumerate(lengths, start=1):
        entries += turn(number, "r" * length)
    return window_of(entries)


def applied(entries: Sequence[Entry], done: Compacted, policy: str = "truncateToolResults") -> Window:
    """The conversation as the gateway reads it after the planner let the step replace the beginning."""
    step = WindowCompacted(
        turn=9,
        attempt=1,
        policy=policy,  # type: ignore[arg-type]  # one of the two
        replaced=done.replaced,
        messages=done.messages,
        tokens_before=0,
        tokens_after=0,
        at=AT,
    )
    return window_of([(TASK.model_event(9, 1), step), *entries[done.replaced :]])


def within(window: Window, part: float) -> Goal:
    limit = int(window.weight * part)
    return Goal(wanted=limit, limit=limit)


def results(messages: Sequence[Message]) -> list[str]:
    return [message.content for message in messages if isinstance(message, ToolMessage)]


# --- shorter results --------------------------------------------------------------------


def test_the_oldest_results_lose_their_middle_and_as_few_as_needed() -> None:
    window = long_window(20_000, 20_000, 20_000, 20_000)
    done = truncated(window, within(window, 0.6))
    assert done is not None
    assert done.replaced == 5
    first, second = results(done.messages)
    assert first == second
    assert first.startswith("r" * compaction.HEAD_LENGTH)
    assert first.endswith("r" * compaction.TAIL_LENGTH)
    assert "18,000 characters are left out" in first
    assert "record has the whole" in first
    assert done.weight <= window.weight * 0.6


def test_only_the_entries_that_changed_and_those_before_are_replaced() -> None:
    entries = [started(), *turn(1, "r" * 20_000), *turn(2, "short"), *turn(3, "short")]
    window = window_of(entries)
    done = truncated(window, within(window, 0.5))
    assert done is not None
    assert done.replaced == 3
    after = applied(entries, done)
    assert after.weight == done.weight
    assert after.messages[4:] == window.messages[4:]


def test_parallel_calls_stay_with_their_results() -> None:
    entries = [started(), *turn(1, "r" * 20_000, "short", "short"), *turn(2, "short")]
    window = window_of(entries)
    done = truncated(window, within(window, 0.5))
    assert done is not None
    assert done.replaced == 5
    assert applied(entries, done).unanswered == ()


def test_the_newest_results_are_cut_only_if_it_must_be() -> None:
    window = long_window(20_000, 20_000)
    weight = window.weight
    spared = truncated(window, Goal(wanted=weight // 10, limit=int(weight * 0.7)))
    assert spared is not None
    assert len(results(spared.messages)) == 1
    cut = truncated(window, Goal(wanted=weight // 10, limit=int(weight * 0.4)))
    assert cut is not None
    assert len(results(cut.messages)) == 2


def test_results_are_left_out_whole_if_shortening_is_not_enough() -> None:
    window = long_window(*[2_500] * 20)
    done = truncated(window, within(window, 0.3))
    assert done is not None
    assert "[This result, of 2,500 characters, is left out" in results(done.messages)[0]
    assert done.weight <= window.weight * 0.3


def test_nothing_is_done_where_nothing_helps() -> None:
    talk = window_of([started(SYSTEM, UserMessage(content="u" * 50_000))])
    assert truncated(talk, within(talk, 0.9)) is None
    window = long_window(100, 100)
    assert truncated(window, within(window, 0.1)) is None


def test_what_was_shortened_is_not_shortened_again() -> None:
    entries = [started(), *turn(1, "r" * 20_000), *turn(2, "r" * 20_000)]
    window = window_of(entries)
    done = truncated(window, within(window, 0.7))
    assert done is not None
    again = applied(entries, done)
    more = truncated(again, within(again, 0.5))
    assert more is not None
    assert results(more.messages)[0] == results(done.messages)[0]
    assert more.replaced == 3


def test_images_of_a_shortened_result_go_and_it_says_so() -> None:
    entries = [started(), *turn(1, "a picture", images=2), *turn(2, "short")]
    window = window_of(entries)
    done = truncated(window, within(window, 0.5))
    assert done is not None
    message = done.messages[3]
    assert isinstance(message, ToolMessage)
    assert message.images == ()
    assert "2 of its images are left out" in message.content


# --- a summary --------------------------------------------------------------------------


def test_a_summary_stands_for_the_beginning_and_the_end_stays_word_for_word() -> None:
    entries = [started(), *turn(1, "r" * 9_000), *turn(2, "s" * 9_000), *turn(3, "t" * 9_000)]
    window = window_of(entries)
    parts = split(window, within(window, 0.6), SUMMARY_WEIGHT)
    assert parts is not None
    assert parts.head == (SYSTEM, ASKED)
    assert results(parts.left_out) == ["r" * 9_000, "s" * 9_000]
    done = summarized(window, parts, "They hold letters.")
    assert done.replaced == 5
    system, asked, said = done.messages
    assert (system, asked) == (SYSTEM, ASKED)
    assert isinstance(said, UserMessage)
    assert "They hold letters." in str(said.content)
    after = applied(entries, done, "summarize")
    assert after.messages[3:] == window.messages[6:]
    assert after.weight == done.weight < window.weight


def test_a_summary_can_itself_be_summarized() -> None:
    entries = [started(), *turn(1, "r" * 9_000), *turn(2, "s" * 9_000)]
    window = window_of(entries)
    parts = split(window, within(window, 0.6), SUMMARY_WEIGHT)
    assert parts is not None
    done = summarized(window, parts, "First.")
    step = applied(entries, done, "summarize")
    longer = window_of([started(*step.messages, *window.messages[2:])])
    parts = split(longer, within(longer, 0.5), SUMMARY_WEIGHT)
    assert parts is not None
    assert parts.head == (SYSTEM, ASKED)
    assert "First." in spelled_out(parts.left_out, 10**9)


def test_a_conversation_that_was_given_is_summarized_within_its_one_entry() -> None:
    given: list[Message] = [SYSTEM, ASKED]
    for n in range(10):
        given += [AssistantMessage(content=f"answer {n} " * 200), UserMessage(content=f"question {n}")]
    window = window_of([started(*given)])
    parts = split(window, within(window, 0.5), SUMMARY_WEIGHT)
    assert parts is not None
    done = summarized(window, parts, "Much was said.")
    assert done.replaced == 1
    assert done.messages[:2] == (SYSTEM, ASKED)
    assert done.messages[-1] == given[-1]
    assert done.weight <= window.weight * 0.5


def test_the_newest_answer_and_its_results_are_never_summarized() -> None:
    window = long_window(100, 90_000)
    parts = split(window, within(window, 0.1), SUMMARY_WEIGHT)
    assert parts is not None
    assert results(parts.tail) == ["r" * 90_000]
    only = long_window(90_000)
    assert split(only, within(only, 0.1), SUMMARY_WEIGHT) is None
    assert split(window_of([started()]), Goal(wanted=0, limit=0), SUMMARY_WEIGHT) is None


def test_what_is_summarized_is_spelled_out_and_bounded() -> None:
    messages = (
        UserMessage(content=(TextPart(text="look"), ImagePart(url="https://example.com/a.png"))),
        AssistantMessage(content="I do.", tool_calls=(ToolCall(id="a", name="files__read", arguments='{"n": 1}'),)),
        ToolMessage(tool_call_id="a", name="files__read", content="r" * 9_000),
    )
    text = spelled_out(messages, 10**9)
    assert "USER: look [1 images]" in text
    assert 'calls files__read with {"n": 1}' in text
    assert "7,000 characters are left out" in text
    short = spelled_out(messages, 300 * tokens.HUNDREDTHS)
    assert tokens.text_weight(short) <= 300 * tokens.HUNDREDTHS
    assert short.startswith("USER: look")
    assert tokens.text_weight(spelled_out(messages, 0)) < 100 * tokens.HUNDREDTHS


# --- laws -------------------------------------------------------------------------------

LENGTHS = st.lists(st.lists(st.integers(0, 8_000), max_size=3), min_size=1, max_size=8)


def story(lengths: list[list[int]]) -> list[Entry]:
    entries = [started()]
    for number, turn_lengths in enumerate(lengths, start=1):
        entries += turn(number, *["é," * (length // 2) for length in turn_lengths], images=number % 2)
    return entries


@given(LENGTHS, st.floats(0.05, 0.95), st.floats(0.3, 1))
@settings(max_examples=150)
def test_shorter_results_keep_every_message_and_call_in_its_place(
    lengths: list[list[int]], part: float, eagerness: float
) -> None:
    entries = story(lengths)
    window = window_of(entries)
    limit = int(window.weight * part)
    done = truncated(window, Goal(wanted=int(limit * eagerness), limit=limit))
    if done is None:
        return
    after = applied(entries, done)
    assert after.unanswered == ()
    assert after.weight == done.weight <= limit
    assert len(after.messages) == len(window.messages)
    for before, now in zip(window.messages, after.messages, strict=True):
        if isinstance(before, ToolMessage):
            assert isinstance(now, ToolMessage)
            assert now.tool_call_id == before.tool_call_id
            assert tokens.message_weight(now) <= tokens.message_weight(before)
        else:
            assert now == before


@given(LENGTHS, st.floats(0.05, 0.95))
@settings(max_examples=150)
def test_a_summary_keeps_the_beginning_the_end_and_every_pair(lengths: list[list[int]], part: float) -> None:
    entries = story(lengths)
    window = window_of(entries)
    parts = split(window, within(window, part), SUMMARY_WEIGHT)
    if parts is None:
        return
    done = summarized(window, parts, "S.")
    after = applied(entries, done, "summarize")
    assert after.unanswered == ()
    assert after.weight == done.weight
    assert after.messages[:2] == (SYSTEM, ASKED)
    assert after.messages[3:] == parts.tail == window.messages[-len(parts.tail) :]
    kept = len(parts.head) + len(parts.left_out) + len(parts.tail)
    assert kept == len(window.messages)
    newest = [message for message in window.messages if isinstance(message, AssistantMessage)][-1]
    assert newest in parts.tail


# --- how large it is --------------------------------------------------------------------


def llm(context_tokens: int | None, max_tokens: int | None = None) -> LLM:
    parameters = LLMParameters(context_tokens=context_tokens, max_tokens=max_tokens)
    return LLM(metadata=Metadata(name="model"), spec=LLMSpec(provider="openai", parameters=parameters))


def size(
    conversation: int,
    context_tokens: int | None,
    *,
    max_tokens: int | None = None,
    scale: float = 1.0,
    counted: Counted | None = None,
) -> Size:
    return size_of(
        llm(context_tokens, max_tokens),
        ContextPolicy(),
        conversation=conversation,
        beside=10_000,
        scale=scale,
        counted=counted,
    )


def test_question_and_answer_must_fit_together() -> None:
    assert not size(600_000, 10_000, max_tokens=2_000).is_too_large
    assert size(600_000, 10_000, max_tokens=3_000).is_too_large
    assert size(700_000, 10_000, max_tokens=2_000).is_too_large
    assert size(600_000, 10_000, max_tokens=2_000, scale=1.5).is_too_large
    assert not size(10**9, None).is_too_large


def test_an_answer_without_a_limit_takes_a_part_of_the_context() -> None:
    assert size(0, None).room == tokens.ROOM_DEFAULT
    assert size(0, 8_000).room == 1_000
    assert size(0, 8_000, max_tokens=16_000).room == 4_000


def test_the_goal_is_under_the_limit_and_what_meets_it_fits() -> None:
    large = size(2_000_000, 10_000, scale=1.3)
    goal = large.goal()
    assert goal.wanted < goal.limit < 2_000_000
    assert not size(goal.limit, 10_000, scale=1.3).is_too_large
    assert size(goal.limit + 1_000, 10_000, scale=1.3).is_too_large


def test_what_a_provider_refused_must_become_much_shorter_whatever_was_estimated() -> None:
    unknown = size(1_000_000, None).goal_when_refused()
    assert unknown.wanted <= 500_000
    assert unknown.limit <= 800_000
    thought_to_fit = size(1_000_000, 1_000_000).goal_when_refused()
    assert thought_to_fit == unknown
    known = size(1_000_000, 5_000).goal_when_refused()
    assert known.limit == size(1_000_000, 5_000).goal().limit


def test_the_words_have_the_numbers() -> None:
    words = size(600_000, 10_000, max_tokens=3_000).words
    for number in ("6,100", "3,000", "0.85", "10,000"):
        assert number in words


def test_what_was_counted_in_the_conversation_is_where_the_estimate_goes_on_from() -> None:
    counted = Counted("model", 1_000, 90_000)
    assert size(90_000, None, scale=0.5, counted=counted).tokens == 1_000
    assert size(190_000, None, scale=0.5, counted=counted).tokens == 2_000
    assert size(90_000, None, scale=0.5, counted=Counted("another", 1_000, 90_000)).tokens == 500


def test_what_a_provider_adds_by_itself_does_not_grow_with_the_conversation() -> None:
    counted = Counted("model", 3_000, 40_000)
    small = size(40_000, 10_000, counted=counted)
    assert (small.tokens, small.unseen) == (3_000, 2_500)
    grown = size(240_000, 10_000, counted=counted)
    assert grown.tokens == 5_000
    large = Counted("model", 30_000, 990_000)
    assert size(1_090_000, None, counted=large).tokens == 31_500
    goal = size(2_000_000, 10_000, counted=counted).goal()
    assert not size(goal.limit, 10_000, counted=counted).is_too_large
    assert size(goal.limit + 1_000, 10_000, counted=counted).is_too_large


@given(st.integers(1, 10**6), st.integers(1, 10**8), st.integers(0, 10**8))
def test_a_conversation_is_never_estimated_below_what_was_counted_of_it(tokens_in: int, weight: int, more: int) -> None:
    counted = Counted("model", tokens_in, weight)
    assert size(weight + more, None, counted=counted).tokens >= tokens_in


# --- reading on -------------------------------------------------------------------------


def counted_in(number: int, tokens_in: int, attempt: int = 1) -> Entry:
    answer = ModelAnswered(
        turn=number,
        attempt=attempt,
        message=AssistantMessage(content="x"),
        usage=Usage(input_tokens=tokens_in),
        at=AT,
        llm="model",
    )
    return TASK.model_event(number, attempt), answer


def test_the_last_count_of_a_provider_is_known_with_the_weight_it_was_for() -> None:
    window = window_of([started(), counted_in(1, 70)])
    assert window.counted is not None
    assert (window.counted.llm, window.counted.tokens) == ("model", 70)
    assert window.counted.weight == tokens.messages_weight((SYSTEM, ASKED))


def test_a_count_from_before_the_beginning_was_replaced_is_none() -> None:
    step = WindowCompacted(
        turn=3,
        attempt=1,
        policy="summarize",
        replaced=1,
        messages=(SYSTEM, ASKED),
        tokens_before=1,
        tokens_after=1,
        at=AT,
    )
    compacted: Entry = (TASK.model_event(3, 1), step)
    assert window_of([compacted, counted_in(2, 90_000)]).counted is None
    assert window_of([compacted, counted_in(2, 90_000), counted_in(3, 70, attempt=2)]).counted is not None


def test_the_response_format_is_carried_over() -> None:
    wanted = ResponseFormat(schema={"type": "object"})
    step = WindowCompacted(
        turn=3,
        attempt=1,
        policy="summarize",
        replaced=1,
        messages=(SYSTEM, ASKED),
        tokens_before=1,
        tokens_after=1,
        at=AT,
        response_format=wanted,
    )
    assert window_of([(TASK.model_event(3, 1), step), *turn(4, "r")]).response_format == wanted
