from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.llm_gateway.core.calls import ERROR_LENGTH_MAX
from services.llm_gateway.core.failures import http_failure, network_failure, retry_after, stream_failure
from services.llm_gateway.providers.words import said

NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 415, 422, 451])
def test_a_refusal_is_final(status: int) -> None:
    failure = http_failure("openai", status, "No.", codes=("why",), retry_after_s=5)
    assert not failure.transient
    assert failure.status == status
    assert failure.retry_after_s is None
    assert failure.error == f"openai refused the call (HTTP {status}, why): No."


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_transient(status: int) -> None:
    failure = http_failure("openai", status, "Later.", retry_after_s=5)
    assert failure.transient
    assert failure.retry_after_s == 5
    assert failure.error == f"openai failed (HTTP {status}): Later."


def test_an_exhausted_quota_is_final_although_it_comes_as_a_rate_limit() -> None:
    assert not http_failure("openai", 429, "Pay.", codes=("insufficient_quota",)).transient


def test_a_failure_without_words_still_says_something() -> None:
    assert http_failure("openai", 500, " ").error == "openai failed (HTTP 500): no explanation"


def test_words_are_bounded() -> None:
    words = "x" * 10_000
    for failure in (http_failure("p", 400, words), stream_failure("p", words), network_failure("p", words)):
        assert len(failure.error) == ERROR_LENGTH_MAX


@pytest.mark.parametrize(
    ("code", "transient"), [("server_error", True), ("context_length_exceeded", False), ("", True)]
)
def test_a_failure_in_the_stream_is_judged_by_its_code(code: str, transient: bool) -> None:
    assert stream_failure("openai", "x", codes=(code,) if code else ()).transient is transient


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "1e9"}, 3600.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Tue, 01 Jan 2030 12:01:30 GMT"}, 90.0),
        ({"retry-after": "Tue, 01 Jan 2030 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Tue, 01 Jan 2030 13:01:30 +0100"}, 90.0),
        ({"retry-after": "9", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "9", "retry-after-ms": "x"}, 9.0),
    ],
)
def test_how_long_to_wait_is_read_in_every_form(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after(headers, NOW) == wait_s


@pytest.mark.parametrize(
    ("body", "words", "codes"),
    [
        ({"error": {"message": "m", "type": "t", "code": "c"}}, "m", ("c", "t")),
        ({"message": "m", "type": "t", "code": None, "param": None}, "m", ("t",)),
        ([{"error": {"message": "m", "code": 400, "status": "INVALID_ARGUMENT"}}], "m", ("INVALID_ARGUMENT",)),
        ({"type": "error", "error": {"type": "t", "message": "m", "details": {"error_code": "d"}}}, "m", ("d", "t")),
        ({"object": "error", "message": {"detail": [1]}, "type": "t"}, '{"detail":[1]}', ("t",)),
        ({"detail": "m"}, "m", ()),
        ({"error": "m"}, "m", ()),
        ({"odd": 1}, '{"odd":1}', ()),
        ({}, "", ()),
        ([], "", ()),
        (None, "", ()),
        ("<html> <h1>502</h1>\n Bad  Gateway</html>", "502 Bad Gateway", ()),
        (17, "17", ()),
    ],
)
def test_a_providers_words_are_found_in_every_shape(body: object, words: str, codes: tuple[str, ...]) -> None:
    found = said(body, "sk-secret")
    assert (found.words, found.codes) == (words, codes)


def test_a_quoted_key_is_not_passed_on() -> None:
    assert said({"message": "bad key sk-secret!"}, "sk-secret").words == "bad key ***!"
