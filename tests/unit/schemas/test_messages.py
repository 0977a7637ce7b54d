"""What messages are made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import IMAGE_TYPES, image_type


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n...", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a..", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", ""),
        (b"<svg>", ""),
        (b"", ""),
    ],
)
def test_images_are_told_by_how_they_begin(data: bytes, kind: str) -> None:
    assert image_type(data) == kind


@given(st.binary(max_size=200))
def test_no_bytes_are_an_image_that_providers_do_not_take(data: bytes) -> None:
    assert image_type(data) in ("", *IMAGE_TYPES)
