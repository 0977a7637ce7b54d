from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from schemas.messages import ImagePart, TextPart, UserMessage
from schemas.requests import ResponseFormat
from services.cli.exits import ExitCode, Stop
from services.cli.images import image_of, image_text
from services.cli.requests import Question, question_of, response_format_of

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
SCHEMA = {"type": "object", "properties": {"celsius": {"type": "number"}}, "required": ["celsius"]}


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        (b"GIF89a rest", "image/gif"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
    ],
)
def test_an_image_is_known_by_its_first_bytes_and_not_by_its_name(data: bytes, media_type: str, tmp_path: Path) -> None:
    (tmp_path / "picture.txt").write_bytes(data)
    image = image_of(str(tmp_path / "picture.txt"))
    assert image == ImagePart(media_type=media_type, data=base64.b64encode(data).decode())


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7", b"<svg/>", b"RIFF\x10\0\0\0WAVEfmt "])
def test_what_no_provider_takes_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(data)
    with pytest.raises(Stop, match="convert it first") as caught:
        image_of(str(tmp_path / "picture.png"))
    assert caught.value.code == ExitCode.REFUSED


def test_an_image_that_is_not_there_or_too_large_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="No such file") as caught:
        image_of(str(tmp_path / "no.png"))
    assert caught.value.code == ExitCode.NOT_FOUND
    with (tmp_path / "large.png").open("wb") as file:
        file.write(PNG)
        file.truncate(16 << 20)
    with pytest.raises(Stop, match="more than 15 MiB"):
        image_of(str(tmp_path / "large.png"))


def test_an_address_is_passed_on_unread() -> None:
    assert image_of("https://images.example/cat.jpg") == ImagePart(url="https://images.example/cat.jpg")


def test_images_come_after_the_text_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    assert question_of("hello", []) == Question("hello", None)
    _, window = question_of("What is it?", [str(tmp_path / "a.png"), "https://images.example/b.png"])
    assert window is not None
    (message,) = window
    assert isinstance(message, UserMessage)
    assert message.content[0] == TextPart(text="What is it?")
    assert len(message.content) == 3
    _, alone = question_of("", ["https://images.example/b.png"])
    assert alone == (UserMessage(content=(ImagePart(url="https://images.example/b.png"),)),)


def test_an_image_is_told_by_its_type_and_size() -> None:
    def of(size: int) -> str:
        return image_text(ImagePart(media_type="image/png", data=base64.b64encode(b"x" * size).decode()))

    assert [of(1), of(12_345), of(2_500_000)] == [
        "[image image/png, 1 B]",
        "[image image/png, 12 kB]",
        "[image image/png, 2.5 MB]",
    ]
    assert image_text(ImagePart(url="https://images.example/b.png")) == "[image https://images.example/b.png]"


@pytest.mark.parametrize(
    "document",
    [
        SCHEMA,
        {"schema": SCHEMA},
        {"type": "json_schema", "schema": SCHEMA},
        {"type": "json_schema", "json_schema": {"name": "response", "schema": SCHEMA, "strict": True}},
    ],
)
def test_a_response_format_is_read_in_every_form(document: object, tmp_path: Path) -> None:
    (tmp_path / "format.json").write_text(json.dumps(document))
    assert response_format_of(str(tmp_path / "format.json")) == ResponseFormat(schema=SCHEMA)


def test_a_response_format_may_be_yaml_and_may_be_absent(tmp_path: Path) -> None:
    (tmp_path / "format.yaml").write_text("name: weather\nstrict: false\nschema: {type: object}\n")
    wanted = ResponseFormat(name="weather", strict=False, schema={"type": "object"})
    assert response_format_of(str(tmp_path / "format.yaml")) == wanted
    assert response_format_of("") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "format.json:1: not YAML"),
        ("[]", "must be a mapping"),
        ("{}\n---\n{}", "must hold one document, not 2"),
        ('{"type": "objec"}', "is not a JSON Schema that can be used"),
        ('{"schema": {}, "nam": "x"}', "unknown field; did you mean name?"),
        ('{"schema": {}, "name": "a b"}', "must be letters"),
    ],
)
def test_a_response_format_that_is_none_is_refused_with_the_reason(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "format.json").write_text(text)
    with pytest.raises(Stop, match=problem) as caught:
        response_format_of(str(tmp_path / "format.json"))
    assert caught.value.code == ExitCode.REFUSED
