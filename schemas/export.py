"""Writes the contract down for those who do not read Python: JSON Schema of every message, and an AsyncAPI document.

    python -m schemas.export            write schemas/generated/
    python -m schemas.export --check    say what differs from it, and fail if anything does

The structs are the contract and these files describe them; nothing reads the files at run time. What is written
depends on the code only, so the same code gives the same bytes.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from schemas import subjects
from schemas.catalog import CHANNELS, PLACEHOLDERS, Channel, Party, messages

GENERATED = Path(__file__).parent / "generated"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI = "asyncapi.json"
ASYNCAPI_VERSION = "3.0.0"
CONTRACT_VERSION = "1.0.0"
"""Grows with the contract: the second number when something is added, the first when a tag ends in a new `v`."""

Json = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Write the files, or check them."""
    if list(arguments) == ["--check"]:
        stale = differences(GENERATED)
        if stale:
            sys.stderr.write(f"{GENERATED} is stale: {', '.join(stale)}; run `make schemas` and commit the result\n")
        return 1 if stale else 0
    if arguments:
        sys.stderr.write(f"usage: python -m schemas.export [--check]; got {' '.join(arguments)}\n")
        return 2
    GENERATED.mkdir(exist_ok=True)
    wanted = documents()
    for path in _present(GENERATED) - wanted.keys():
        (GENERATED / path).unlink()
    for name, text in wanted.items():
        (GENERATED / name).write_text(text, encoding="utf-8")
    return 0


def documents() -> dict[str, str]:
    """Every generated file: its name and its text."""
    files = {f"{message.__name__}.json": json_schema(message) for message in messages()}
    files[ASYNCAPI] = asyncapi()
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in files.items()}


def differences(directory: Path) -> list[str]:
    """The names of files that are missing, superfluous or different."""
    wanted = documents()
    stale = _present(directory) - wanted.keys()
    for name, text in wanted.items():
        path = directory / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.add(name)
    return sorted(stale)


def _present(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("*.json")}


# --- JSON Schema ------------------------------------------------------------------------


def json_schema(message: type[msgspec.Struct]) -> Json:
    """The JSON Schema of one message, complete in itself."""
    components = _components([message], "#/$defs/{name}")
    return {
        "$schema": DIALECT,
        "$id": f"urn:holdfast:{message.__name__}",
        "$ref": f"#/$defs/{message.__name__}",
        "$defs": components,
    }


def _components(types: Iterable[type[msgspec.Struct]], ref_template: str) -> Json:
    """The schemas of these and of all they are made of, by name."""
    types = list(types)
    _, components = msgspec.json.schema_components(types, ref_template=ref_template)
    structs = {struct.__name__: struct for struct in reachable(types)}
    for name, component in components.items():
        _describe(component, structs[name])
    text = json.dumps({name: components[name] for name in sorted(components)})
    plain: Json = json.loads(text, object_hook=_plain)
    return plain


def reachable(types: Iterable[type[msgspec.Struct]]) -> set[type[msgspec.Struct]]:
    """The structs that these are made of, themselves included."""
    found: set[type[msgspec.Struct]] = set()
    waiting: list[Any] = [msgspec.inspect.type_info(kind) for kind in types]
    while waiting:
        info = waiting.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in found:
                continue
            found.add(info.cls)
            waiting += [field.type for field in info.fields]
        elif isinstance(info, msgspec.inspect.UnionType):
            waiting += info.types
        elif isinstance(info, msgspec.inspect.Type):
            waiting += [getattr(info, name) for name in info.__struct_fields__]
    return found


def _describe(component: Json, struct: type[msgspec.Struct]) -> None:
    """Put the sentences that the source has below its fields beside the properties."""
    component["description"] = inspect.cleandoc(struct.__doc__ or "")
    for field in msgspec.structs.fields(struct):
        if text := next(filter(None, (_field_docs(base).get(field.name) for base in struct.__mro__)), ""):
            component["properties"][field.encode_name]["description"] = text


@functools.cache
def _field_docs(struct: type) -> Mapping[str, str]:
    """The string below each field of a class of ours, in its source."""
    if not struct.__module__.startswith("schemas."):
        return {}
    (definition,) = ast.parse(inspect.getsource(struct)).body
    assert isinstance(definition, ast.ClassDef)
    docs: dict[str, str] = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            docs[field.target.id] = inspect.cleandoc(ast.literal_eval(below.value)).replace("\n", " ")
    return docs


def _plain(schema: Json) -> Json:
    """`schema` without what only OpenAPI knows, and with decimals as they may be written by hand."""
    plain = {key: value for key, value in schema.items() if key != "discriminator"}
    return {**plain, "type": ["string", "number"]} if plain.get("format") == "decimal" else plain


# --- AsyncAPI ---------------------------------------------------------------------------


def asyncapi() -> Json:
    """The AsyncAPI document of the catalogue."""
    components = _components(messages(), "#/components/schemas/{name}")
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "id": "urn:holdfast",
        "info": {
            "title": "Holdfast",
            "version": CONTRACT_VERSION,
            "description": "Every message between Holdfast's services, and between them and everybody else. "
            "JSON in UTF-8. Unknown fields of messages are ignored; an unknown field of a request or a resource, "
            "an unknown tag, a missing field or a wrong type is refused.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "A NATS server with JetStream."}
        },
        "channels": {channel.name: _channel(channel) for channel in CHANNELS},
        "operations": dict(operation for channel in CHANNELS for operation in _operations(channel)),
        "components": {
            "messages": {message.__name__: _message(message) for message in messages()},
            "schemas": components,
        },
    }


def _channel(channel: Channel) -> Json:
    placeholders = [part.split("}")[0] for part in channel.address.split("{")[1:]]
    written: Json = {
        "address": channel.address or None,
        "title": channel.title,
        "messages": {
            message.__name__: {"$ref": f"#/components/messages/{message.__name__}"} for message in channel.messages
        },
    }
    if placeholders:
        written["parameters"] = {name: {"description": PLACEHOLDERS[name]} for name in placeholders}
    facts: Json = {"delivery": channel.delivery, "kept": channel.kept, "bytesMax": channel.bytes_max}
    if channel.stream:
        facts["stream"] = channel.stream
    if channel.consumer:
        facts["consumer"] = channel.consumer
    if channel.other_consumers:
        facts["otherConsumers"] = channel.other_consumers
    return {**written, "x-holdfast": facts}


def _operations(channel: Channel) -> list[tuple[str, Json]]:
    return [
        *((f"{party}-sends-{channel.name}", _operation(channel, party, "send")) for party in channel.published_by),
        *((f"{party}-receives-{channel.name}", _operation(channel, party, "receive")) for party in channel.consumed_by),
    ]


def _operation(channel: Channel, party: Party, action: str) -> Json:
    operation: Json = {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "summary": channel.title,
        "tags": [{"name": party}],
        "messages": [
            {"$ref": f"#/channels/{channel.name}/messages/{message.__name__}"} for message in channel.messages
        ],
    }
    if channel.reply:
        operation["reply"] = {"channel": {"$ref": f"#/channels/{channel.reply}"}}
        if channel.stream:
            operation["reply"]["address"] = {"location": f"$message.header#/{subjects.REPLY_TO}"}
    return operation


def _message(message: type[msgspec.Struct]) -> Json:
    name = message.__name__
    headers = dict(_STORED_HEADERS)
    if any(channel.reply and message in channel.messages for channel in CHANNELS):
        headers |= _REQUEST_HEADERS
    return {
        "name": name,
        "title": name,
        "summary": inspect.cleandoc(message.__doc__ or "").split("\n", 1)[0],
        "headers": {
            "type": "object",
            "properties": {header: {"type": "string", "description": text} for header, text in headers.items()},
        },
        "payload": {"$ref": f"#/components/schemas/{name}"},
    }


_STORED_HEADERS = {
    subjects.TRACEPARENT: "The W3C trace context of whoever says it.",
    subjects.PAYLOAD_REF: "The name of the body in the object store; then the body here is empty.",
}
_REQUEST_HEADERS = {
    subjects.MSG_ID: "Makes the request idempotent; a task without a name is named after it.",
    subjects.REQUEST_ID: "The same, where `Nats-Msg-Id` cannot be used.",
    subjects.REPLY_TO: "The inbox on which the answer is wanted.",
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
