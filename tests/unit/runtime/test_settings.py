"""Settings: read once from the environment, unknown ones refused, contradictions named."""

from __future__ import annotations

import os
import socket

import pytest

from services.runtime.settings import BadSettings, Settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()


def test_every_field_has_its_variable() -> None:
    settings = Settings.from_env(
        {
            "HOLDFAST_NATS_URL": "nats://a:1,nats://b:2",
            "HOLDFAST_PARTITIONS": "4",
            "HOLDFAST_ACK_WAIT_S": "0.5",
            "HOLDFAST_STRICT_DURABILITY": "true",
            "HOLDFAST_COMMIT": "two-step",
            "HOLDFAST_LOG_LEVEL": "DEBUG",
            "HOLDFAST_REPLICA": "r1",
            "PATH": "/bin",
        }
    )
    assert settings == Settings(
        nats_url="nats://a:1,nats://b:2",
        partitions=4,
        ack_wait_s=0.5,
        strict_durability=True,
        commit="two-step",
        log_level="DEBUG",
        replica="r1",
    )


def test_the_variable_that_every_client_knows_is_accepted() -> None:
    assert Settings.from_env({"NATS_URL": "nats://a:1"}).nats_url == "nats://a:1"


def test_our_own_variable_counts_more_than_the_common_one() -> None:
    environ = {"HOLDFAST_NATS_URL": "nats://ours:1", "NATS_URL": "nats://common:1"}
    assert Settings.from_env(environ).nats_url == "nats://ours:1"
    assert Settings.from_env(dict(reversed(environ.items()))).nats_url == "nats://ours:1"


def test_a_misspelt_variable_is_refused_with_what_is_near() -> None:
    with pytest.raises(BadSettings, match="unknown setting HOLDFAST_PARTITION; did you mean HOLDFAST_PARTITIONS"):
        Settings.from_env({"HOLDFAST_PARTITION": "2"})


def test_a_variable_that_resembles_nothing_is_refused_with_all_that_are_known() -> None:
    with pytest.raises(BadSettings, match=r"HOLDFAST_ACK_WAIT_S.*HOLDFAST_STORAGE"):
        Settings.from_env({"HOLDFAST_ZZZZZZZZZZ": "1"})


def test_secrets_and_the_command_lines_variables_are_left_alone() -> None:
    environ = {"HOLDFAST_SECRET_OPENAI_KEY": "s3cret", "HOLDFAST_STATE_DIR": "/var/lib"}
    assert Settings.from_env(environ) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HOLDFAST_PARTITIONS", "0", "HOLDFAST_PARTITIONS is 0"),
        ("HOLDFAST_PARTITIONS", "1025", "1 to 1024"),
        ("HOLDFAST_PARTITIONS", "many", "partitions"),
        ("HOLDFAST_STREAM_REPLICAS", "2", "1, 3 or 5"),
        ("HOLDFAST_ACK_WAIT_S", "0.1", "HOLDFAST_ACK_WAIT_S is 0.1"),
        ("HOLDFAST_SLOTS", "0", "at least 1"),
        ("HOLDFAST_DELIVERIES_MAX", "-1", "at least 1"),
        ("HOLDFAST_STORAGE", "tape", "storage"),
        ("HOLDFAST_LOG_LEVEL", "LOUD", "log_level"),
        ("HOLDFAST_NATS_TLS_CERT", "cert.pem", "go together"),
    ],
)
def test_a_bad_value_is_refused_by_name(variable: str, value: str, said: str) -> None:
    with pytest.raises(BadSettings, match=said):
        Settings.from_env({variable: value})


def test_a_replica_is_named_for_its_host_and_process() -> None:
    assert Settings(replica="r1").replica_name == "r1"
    assert Settings().replica_name == f"{socket.gethostname().split('.', 1)[0]}-{os.getpid()}"
