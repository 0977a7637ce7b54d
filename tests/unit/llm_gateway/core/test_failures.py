from __future__ import annotations

from datetime import UTC, datetime

import pytest

from schemas.messages import AssistantMessage
from schemas.requests import FailureCause
from services.llm_gateway.core.answers import refusal_of
from services.llm_gateway.core.calls import ERROR_LENGTH_MAX, ModelReply
from services.llm_gateway.core.failures import (
    cause_of,
    http_failure,
    network_failure,
    retry_after,
    stream_failure,
    wait_in_words,
)
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


CONTEXT_TOO_LONG: list[tuple[int, object]] = [
    # OpenAI, Azure, llama-cpp-python
    (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 4097 tokens. However, your messages resulted in "
                "4294 tokens. Please reduce the length of the messages.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
    ),
    # a minute's tokens are fewer than this one call needs: no wait helps
    (
        429,
        {
            "error": {
                "message": "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, "
                "Requested 36114. The input or output tokens must be reduced in order to run successfully.",
                "type": "tokens",
                "param": None,
                "code": "rate_limit_exceeded",
            }
        },
    ),
    # vLLM
    (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 6048 tokens. However, you requested 6616 tokens (568 in "
            "the messages, 6048 in the completion). Please reduce the length of the messages or completion.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    # DeepSeek
    (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 131072 tokens. However, you requested 131134 tokens "
                "(122942 in the messages, 8192 in the completion).",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_request_error",
            }
        },
    ),
    # Anthropic
    (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "prompt is too long: 208310 tokens > 200000 maximum",
            },
        },
    ),
    (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease "
                "input length or `max_tokens` and try again",
            },
        },
    ),
    (413, {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}}),
    # Google
    (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (1091639) exceeds the maximum number of tokens allowed "
                    "(1048576).",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    # llama.cpp, now and before it said so by a status of refusal
    (
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size. try increasing the context size or enable "
                "context shift",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 14429,
                "n_ctx": 8192,
            }
        },
    ),
    (500, {"error": {"code": 500, "message": "the request exceeds the available context size", "type": "x"}}),
    (500, {"error": {"message": "Requested tokens (2285) exceed context window of 2048", "type": "x"}}),
    # Ollama's cloud
    (400, {"error": "prompt too long; exceeded max context length by 540451 tokens (ref: 00ad71bb)"}),
    # Mistral
    (
        400,
        {
            "object": "error",
            "message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
            "type": "invalid_request_prompt",
            "param": None,
            "code": "3051",
        },
    ),
]
NO_QUOTA: list[tuple[int, object]] = [
    # OpenAI
    (
        429,
        {
            "error": {
                "message": "You exceeded your current quota, please check your plan and billing details.",
                "type": "insufficient_quota",
                "param": None,
                "code": "insufficient_quota",
            }
        },
    ),
    (429, {"message": "You exceeded your current quota, please check your plan and billing details."}),
    # Anthropic
    (
        400,
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing "
                "to upgrade or purchase credits.",
            },
        },
    ),
    (402, {"type": "error", "error": {"type": "billing_error", "message": "Payment is due."}}),
    (
        429,
        {
            "type": "error",
            "error": {
                "type": "rate_limit_error",
                "message": "Limit reached.",
                "details": {"error_code": "enforced_spend_limit_reached"},
            },
        },
    ),
    # OpenRouter, DeepSeek
    (402, {"error": {"message": "This request requires more credits, or fewer max_tokens.", "code": 402}}),
    (402, {"error": {"message": "Insufficient Balance", "type": "unknown_error", "code": "invalid_request_error"}}),
    # Google: a limit of nothing, and a day's
    (
        429,
        [
            {
                "error": {
                    "code": 429,
                    "message": "You exceeded your current quota, please check your plan and billing details.\n* Quota "
                    "exceeded for metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, "
                    "limit: 0, model: gemini-3-pro\nPlease retry in 10.673410956s.",
                    "status": "RESOURCE_EXHAUSTED",
                }
            }
        ],
    ),
    (
        429,
        [
            {
                "error": {
                    "code": 429,
                    "message": "You exceeded your current quota, please check your plan and billing details. Please "
                    "retry in 20.04466179s.",
                    "status": "RESOURCE_EXHAUSTED",
                    "details": [
                        {
                            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                            "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}],
                        }
                    ],
                }
            }
        ],
    ),
]
FILTERED: list[tuple[int, object]] = [
    # Azure
    (
        400,
        {
            "error": {
                "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management "
                "policy. Please modify your prompt and retry.",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
    ),
    (
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"},
        },
    ),
]
RATE_LIMITED: list[tuple[int, object]] = [
    (429, {"error": {"message": "Rate limit reached for gpt-4o.", "type": "requests", "code": "rate_limit_exceeded"}}),
    (429, {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "param": None, "code": "1300"}),
    (
        429,
        {
            "object": "error",
            "message": "Service tier capacity exceeded for this model.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        },
    ),
    (
        429,
        {
            "type": "error",
            "error": {
                "type": "rate_limit_error",
                "message": "This request would exceed your account's rate limit. Please try again later.",
                "details": {"error_code": "ramp_limit_exceeded"},
            },
        },
    ),
    (
        429,
        [
            {
                "error": {
                    "code": 429,
                    "message": "You exceeded your current quota, please check your plan and billing details. For more "
                    "information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.\n* Quota "
                    "exceeded for metric: generativelanguage.googleapis.com/generate_content_requests, limit: 10, "
                    "model: gemini-2.5-pro\nPlease retry in 38.863719904s.",
                    "status": "RESOURCE_EXHAUSTED",
                }
            }
        ],
    ),
]
OTHERS: list[tuple[int, object, FailureCause]] = [
    (401, {"error": {"message": "Incorrect API key", "type": "x", "code": "invalid_api_key"}}, "authentication"),
    (403, {"error": {"message": "Country, region, or territory not supported"}}, "authentication"),
    (
        400,
        [{"error": {"code": 400, "message": "API key not valid. Please pass one.", "status": "INVALID_ARGUMENT"}}],
        "authentication",
    ),
    (404, {"error": {"message": "The model does not exist", "code": "model_not_found"}}, "invalidRequest"),
    (422, {"detail": [{"loc": ["body", "temperature"], "msg": "less than 2"}]}, "invalidRequest"),
    (400, {"error": {"message": "'temperature' does not support 0.7", "code": "unsupported_value"}}, "invalidRequest"),
    (408, None, "timeout"),
    (409, None, "other"),
    (500, {"error": {"message": "The server had an error", "type": "server_error", "code": None}}, "overloaded"),
    (502, "<html>Bad gateway</html>", "overloaded"),
    (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}, "overloaded"),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "overloaded"),
]
CAUSES: list[tuple[int, object, FailureCause]] = [
    *((status, body, "contextTooLong") for status, body in CONTEXT_TOO_LONG),
    *((status, body, "quotaExhausted") for status, body in NO_QUOTA),
    *((status, body, "contentFiltered") for status, body in FILTERED),
    *((status, body, "rateLimited") for status, body in RATE_LIMITED),
    *OTHERS,
]
"""What providers and servers of open models are documented to say, or were seen to say."""


@pytest.mark.parametrize(("status", "body", "cause"), CAUSES)
def test_the_cause_is_found_in_what_each_provider_says(status: int, body: object, cause: FailureCause) -> None:
    found = said(body, "")
    failure = http_failure("p", status, found.words, codes=found.codes)
    assert failure.cause == cause
    assert failure.transient is (cause in ("rateLimited", "overloaded", "timeout", "other"))


@pytest.mark.parametrize(
    "words",
    [
        "Invalid 'messages[0].content': string expected; see the section on context length",
        "tool result mentions a prompt: too long a story",
        "rate limit on tokens per min (TPM): Limit 30000, Used 29000, Requested 4000. Please try again in 6s.",
        "The temperature exceeds the maximum of 2",
    ],
)
def test_words_that_only_sound_like_it_say_nothing_of_the_context(words: str) -> None:
    assert cause_of(400, words) == "invalidRequest"
    assert cause_of(429, words) == "rateLimited"


def test_words_are_not_looked_at_where_the_status_says_enough() -> None:
    assert cause_of(503, "prompt is too long") == "overloaded"
    assert cause_of(401, "credit balance is too low") == "authentication"


@pytest.mark.parametrize(
    ("status", "codes", "words", "cause", "transient"),
    [
        (502, (), "Provider disconnected", "overloaded", True),
        (429, (), "slow down", "rateLimited", True),
        (400, ("BadRequestError",), "maximum context length is 4 tokens", "contextTooLong", False),
        (None, ("insufficient_quota",), "x", "quotaExhausted", False),
        (None, ("invalid_request_error",), "bad", "invalidRequest", False),
        (None, ("server_error",), "oh", "overloaded", True),
        (None, (), "something", "other", True),
    ],
)
def test_a_failure_in_the_stream_has_its_cause(
    status: int | None, codes: tuple[str, ...], words: str, cause: FailureCause, transient: bool
) -> None:
    failure = stream_failure("p", words, codes=codes, status=status)
    assert (failure.cause, failure.transient) == (cause, transient)


def test_what_is_the_networks_is_called_so() -> None:
    assert network_failure("p", "gone").cause == "network"
    assert network_failure("p", "slow", cause="timeout").cause == "timeout"


@pytest.mark.parametrize(
    ("words", "wait_s"),
    [
        ("Please try again in 20s. Visit ...", 20.0),
        ("Please try again in 1m30.5s.", 90.5),
        ("Please try again in 6ms.", 0.006),
        ("Please try again in 2h0m1s.", 3600.0),
        ("Please retry in 10.673410956s.", 10.673410956),
        ("have exceeded call rate limit of your current OpenAI S0 pricing tier. Please retry after 7 seconds.", 7.0),
        ("Please try again later.", None),
        ("retry in some days", None),
    ],
)
def test_a_wait_that_is_only_in_the_words_is_found(words: str, wait_s: float | None) -> None:
    assert wait_in_words(words) == wait_s
    assert http_failure("p", 429, words).retry_after_s == wait_s
    assert http_failure("p", 429, words, retry_after_s=3.0).retry_after_s == 3.0


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("content_filter", "contentFiltered"),
        ("refusal", "contentFiltered"),
        ("model_context_window_exceeded", "contextTooLong"),
        ("stop", None),
        ("something_new", None),
    ],
)
def test_an_empty_answer_is_a_refusal_only_if_the_provider_says_so(reason: str, cause: FailureCause | None) -> None:
    refusal = refusal_of(ModelReply(message=AssistantMessage(content=" "), finish_reason=reason))
    assert (refusal.cause if refusal else None) == cause
    assert refusal_of(ModelReply(message=AssistantMessage(content="half"), finish_reason=reason)) is None


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
