"""Signatures, against the vector that the specification's authors publish with their libraries."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from services.runtime.signing import BadKey, BadSignature, check, key_of, signature, signed_headers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = "whsec_" + base64.b64encode(bytes(range(32))).decode()


def test_the_published_vector() -> None:
    assert signature(key_of(SECRET), ID, TIMESTAMP, BODY) == SIGNATURE


def test_a_key_may_be_written_without_its_prefix() -> None:
    assert key_of(SECRET.removeprefix("whsec_")) == key_of(SECRET)


def test_while_keys_are_changed_each_of_them_signs() -> None:
    at = datetime.fromtimestamp(TIMESTAMP, UTC)
    headers = signed_headers([key_of(OTHER), key_of(SECRET)], ID, at, BODY)
    assert headers["webhook-id"] == ID
    assert headers["webhook-timestamp"] == str(TIMESTAMP)
    signatures = headers["webhook-signature"].split(" ")
    assert len(signatures) == 2
    assert signatures[1] == SIGNATURE
    assert signatures[0] != SIGNATURE


def test_without_a_key_nothing_claims_to_be_signed() -> None:
    assert "webhook-signature" not in signed_headers([], ID, datetime.fromtimestamp(TIMESTAMP, UTC), BODY)


@pytest.mark.parametrize("secret", ["whsec_not base 64!", "whsec_", "whsec_c2hvcnQ=", "whsec_ÄÄÄÄ"])
def test_a_key_that_is_none_is_refused_and_not_told(secret: str) -> None:
    with pytest.raises(BadKey) as refused:
        key_of(secret)
    assert secret.removeprefix("whsec_") not in str(refused.value) or secret == "whsec_"


SIGNED_AT = datetime.fromtimestamp(TIMESTAMP, UTC)
SIGNED = signed_headers([key_of(SECRET)], ID, SIGNED_AT, BODY)


@pytest.mark.parametrize("keys", [[SECRET], [OTHER, SECRET]])
@pytest.mark.parametrize("age_s", [0, 299, -299])
def test_what_was_signed_just_now_with_one_of_the_keys_is_taken(keys: list[str], age_s: int) -> None:
    assert check([key_of(key) for key in keys], SIGNED, BODY, SIGNED_AT + timedelta(seconds=age_s)) == ID


@pytest.mark.parametrize(
    ("headers", "body", "age_s", "said"),
    [
        (SIGNED, BODY + b" ", 0, "not that of this message"),
        (SIGNED | {"webhook-id": "msg_other"}, BODY, 0, "not that of this message"),
        (SIGNED | {"webhook-timestamp": str(TIMESTAMP + 1)}, BODY, 0, "not that of this message"),
        (SIGNED | {"webhook-timestamp": "yesterday"}, BODY, 0, "not a number"),
        (SIGNED | {"webhook-timestamp": "9" * 40}, BODY, 0, "not a number"),
        (SIGNED | {"webhook-signature": "v1,"}, BODY, 0, "not that of this message"),
        (SIGNED | {"webhook-signature": "v1,\u00e4"}, BODY, 0, "not that of this message"),
        (SIGNED | {"webhook-signature": ""}, BODY, 0, "are required"),
        ({}, BODY, 0, "are required"),
        (SIGNED, BODY, 301, "older than 300 s"),
        (SIGNED, BODY, -301, "from the future"),
    ],
)
def test_what_was_not_signed_so_is_refused(headers: dict[str, str], body: bytes, age_s: int, said: str) -> None:
    with pytest.raises(BadSignature, match=said):
        check([key_of(SECRET)], headers, body, SIGNED_AT + timedelta(seconds=age_s))


def test_without_a_key_nothing_passes() -> None:
    with pytest.raises(BadSignature):
        check([], SIGNED, BODY, SIGNED_AT)
