"""Sealing: what was sealed is opened with the right key, on the right subject and in the right namespace only."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.wire import Malformed
from services.runtime import sealing
from services.runtime.errors import Broken, KeyMissing
from services.runtime.sealing import Sealer

SUBJECT = "hf.0.team-a.evt.t1.submitted"


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def write(path: Path, *keys: str) -> None:
    """Replace a file of keys, as an orchestrator does: by another one."""
    new = path.with_name(".new")
    new.write_text("\n".join(keys) + "\n")
    new.replace(path)


def sealed(sealer: Sealer, data: bytes = b"secret", *, namespace: str = "team-a") -> tuple[bytes, str]:
    made = sealer.seal(namespace, SUBJECT, data)
    assert made is not None
    return made


def test_what_was_sealed_is_opened_by_another_process(tmp_path: Path) -> None:
    write(tmp_path / "team-a", new_key())
    data, header = sealed(Sealer(str(tmp_path)))
    assert b"secret" not in data
    assert Sealer(str(tmp_path)).open("team-a", SUBJECT, data, header) == b"secret"


def test_the_same_is_never_sealed_alike(tmp_path: Path) -> None:
    write(tmp_path / "team-a", new_key())
    sealer = Sealer(str(tmp_path))
    assert len({sealed(sealer)[0] for _ in range(100)}) == 100


def test_empty_data_is_sealed_too(tmp_path: Path) -> None:
    write(tmp_path / "team-a", new_key())
    sealer = Sealer(str(tmp_path))
    assert sealer.open("team-a", SUBJECT, *sealed(sealer, b"")) == b""


def test_a_namespace_without_a_key_is_not_sealed_unless_there_is_one_for_all(tmp_path: Path) -> None:
    write(tmp_path / "team-a", new_key())
    sealer = Sealer(str(tmp_path))
    assert sealer.seal("team-b", SUBJECT, b"x") is None
    write(tmp_path / "_default", new_key())
    sealer = Sealer(str(tmp_path))
    data, header = sealed(sealer, namespace="team-b")
    assert sealer.open("team-b", SUBJECT, data, header) == b"secret"


def changed(data: bytes, header: str) -> Iterator[tuple[bytes, str]]:
    """Sealed data and its header, each time with something else about it."""
    wrapped = header.rpartition(".")[0]
    yield data[:-1], header
    yield bytes([data[0] ^ 1]) + data[1:], header
    yield data[:-1] + bytes([data[-1] ^ 1]), header
    yield b"", header
    yield data, header[:-8] + "AAAAAAA="
    yield data, f"{wrapped}."
    yield data, f"{wrapped}.!!!"
    yield data, "2" + header[1:]
    yield data, ""


def test_what_was_changed_is_not_believed(tmp_path: Path) -> None:
    write(tmp_path / "team-a", new_key())
    sealer = Sealer(str(tmp_path))
    for data, header in changed(*sealed(sealer)):
        with pytest.raises(Malformed):
            sealer.open("team-a", SUBJECT, data, header)


def test_what_was_sealed_for_one_subject_or_namespace_is_not_believed_elsewhere(tmp_path: Path) -> None:
    key = new_key()
    write(tmp_path / "team-a", key)
    write(tmp_path / "team-b", key)
    sealer = Sealer(str(tmp_path))
    data, header = sealed(sealer)
    with pytest.raises(Malformed):
        sealer.open("team-a", SUBJECT.replace("t1", "t2"), data, header)
    with pytest.raises(Malformed):
        Sealer(str(tmp_path)).open("team-b", SUBJECT, data, header)


def test_a_key_is_replaced_without_a_restart(tmp_path: Path) -> None:
    first, second, clock = new_key(), new_key(), Clock()
    write(tmp_path / "team-a", first)
    writer, reader = Sealer(str(tmp_path), clock=clock), Sealer(str(tmp_path), clock=clock)
    before = sealed(writer)
    write(tmp_path / "team-a", second, first)
    assert sealed(writer)[1] == before[1], "it was looked at a moment ago"
    clock.at += sealing.LOOK_S
    after = sealed(writer)
    assert after[1].split(".")[1] != before[1].split(".")[1]
    clock.at -= sealing.LOOK_S
    assert reader.open("team-a", SUBJECT, *after) == b"secret", "a key that is not known yet is looked for at once"
    assert reader.open("team-a", SUBJECT, *before) == b"secret"
    write(tmp_path / "team-a", second)
    clock.at += 2 * sealing.LOOK_S
    with pytest.raises(KeyMissing, match=r"team-a.* is not in"):
        Sealer(str(tmp_path), clock=clock).open("team-a", SUBJECT, *before)


def test_a_data_key_is_used_for_an_hour_or_so_many_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "team-a", new_key())
    clock = Clock()
    sealer = Sealer(str(tmp_path), clock=clock)
    headers = {sealed(sealer)[1] for _ in range(10)}
    assert len(headers) == 1
    clock.at += sealing.DATA_KEY_S
    assert sealed(sealer)[1] not in headers
    monkeypatch.setattr(sealing, "DATA_KEY_MESSAGES_MAX", 5)
    assert len({sealed(sealer)[1] for _ in range(15)}) >= 3


def test_a_file_that_holds_no_keys_is_refused_at_the_start_and_left_alone_later(tmp_path: Path) -> None:
    key, clock = new_key(), Clock()
    write(tmp_path / "team-a", key)
    sealer = Sealer(str(tmp_path), clock=clock)
    made = sealed(sealer)
    for wrong in ("short", base64.b64encode(b"x" * 31).decode(), f"{key}\nnot base64 at all"):
        write(tmp_path / "team-a", wrong)
        with pytest.raises(Broken, match=r"line \d of .*team-a is no key") as caught:
            Sealer(str(tmp_path))
        assert key not in str(caught.value)
        clock.at += sealing.LOOK_S
        assert sealer.open("team-a", SUBJECT, *made) == b"secret"
        assert sealed(sealer)[1]
    with pytest.raises(Broken, match="HOLDFAST_PAYLOAD_KEYS_DIR"):
        Sealer(str(tmp_path / "none"))


def test_keys_that_are_kept_unwrapped_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "OPENED_MAX", 3)
    monkeypatch.setattr(sealing, "DATA_KEY_MESSAGES_MAX", 1)
    write(tmp_path / "team-a", new_key())
    sealer = Sealer(str(tmp_path))
    made = [sealed(sealer) for _ in range(10)]
    assert all(sealer.open("team-a", SUBJECT, *one) == b"secret" for one in made)
    assert len(sealer._opened) == 3
