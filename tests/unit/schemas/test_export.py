from __future__ import annotations

import json
import re
import shutil
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from schemas import export
from schemas.catalog import CHANNELS, messages
from schemas.wire import Malformed, decode
from tests.support.wire_examples import Example, examples

EXAMPLES = list(examples())
every_example = pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
every_message = pytest.mark.parametrize("message", messages(), ids=lambda message: message.__name__)

formats = jsonschema.FormatChecker(())


@formats.checks("date-time", raises=ValueError)
def _is_instant(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@formats.checks("decimal", raises=InvalidOperation)
def _is_decimal(value: object) -> bool:
    return not isinstance(value, str) or Decimal(value).is_finite()


def validator(message: type[msgspec.Struct]) -> Any:  # the library's types are recursive beyond what pyright follows
    path = export.GENERATED / f"{message.__name__}.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_bytes()), format_checker=formats)


def test_the_committed_files_are_what_the_code_describes() -> None:
    assert export.differences(export.GENERATED) == []


def test_a_changed_a_missing_and_a_superfluous_file_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "generated"
    shutil.copytree(export.GENERATED, copy)
    (copy / "CallModel.json").write_text("{}\n")
    (copy / "RunTool.json").unlink()
    (copy / "Gone.json").write_text("{}\n")
    monkeypatch.setattr(export, "GENERATED", copy)
    assert export.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "CallModel.json, Gone.json, RunTool.json" in said
    assert "make schemas" in said
    assert export.main([]) == 0
    assert export.main(["--check"]) == 0
    assert not (copy / "Gone.json").exists()


def test_an_argument_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["--chek"]) == 2
    assert "--chek" in capsys.readouterr().err


@every_message
def test_a_schema_is_valid_itself(message: type[msgspec.Struct]) -> None:
    schema = json.loads((export.GENERATED / f"{message.__name__}.json").read_bytes())
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


@every_example
def test_golden_bytes_are_valid_by_their_schema(example: Example) -> None:
    validator(type(example.value)).validate(json.loads(example.path.read_bytes()))


STRANGE: tuple[object, ...] = (None, True, 7, -1.5, "text", "", [], [7], {}, {"a": 7})


BY_TAG_OR_ALONE = {("ModelAnswered", "message")}
"""Fields that hold one kind of tagged struct: a schema asks for the tag there, a decoder does without it."""


@every_example
def test_schema_and_decoder_agree_about_every_field(example: Example) -> None:
    """Any value in any field: either both take it or both refuse it."""
    schema = validator(type(example.value))
    content: dict[str, Any] = json.loads(example.path.read_bytes())
    for name in [field.encode_name for field in msgspec.structs.fields(example.value)]:
        for value in STRANGE:
            if isinstance(value, dict) and (type(example.value).__name__, name) in BY_TAG_OR_ALONE:
                continue
            changed: dict[str, Any] = {**content, name: value}
            try:
                decode(json.dumps(changed).encode(), type(example.value))
                taken = True
            except Malformed:
                taken = False
            assert taken == schema.is_valid(changed), f"{name} = {value!r}: the decoder takes it: {taken}"


def test_the_sentence_below_a_field_becomes_its_description() -> None:
    properties = export.json_schema(messages()[1])["$defs"]["Waiting"]["properties"]
    assert properties["turn"]["description"] == "The turn to go on with; 0 when the conversation has not started."
    assert properties["submittedSeq"]["description"] == "Where the request is recorded."


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = export.asyncapi()

    references = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)))
    assert len(references) > 100
    for reference in references:
        target: Any = document
        for token in reference.split("/"):
            target = target[token]
        assert isinstance(target, dict)


def test_every_channel_has_an_operation_of_each_of_its_parties() -> None:
    operations = export.asyncapi()["operations"]
    for channel in CHANNELS:
        for party in channel.published_by:
            assert operations[f"{party}-sends-{channel.name}"]["action"] == "send"
        for party in channel.consumed_by:
            assert operations[f"{party}-receives-{channel.name}"]["action"] == "receive"
