"""Signatures, against the vector that the specification's authors publish with their libraries."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from services.notifier.core.signing import BadKey, key_of, signature, signed_headers

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
