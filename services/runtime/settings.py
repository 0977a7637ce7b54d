"""What a process is told from outside: `HOLDFAST_*` variables, read once, unknown ones refused.

`NATS_URL` is accepted for `HOLDFAST_NATS_URL`, because every NATS client knows it.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
from collections.abc import Mapping
from typing import Literal, Self

import msgspec

PREFIX = "HOLDFAST_"
ELSEWHERE = frozenset({"HOLDFAST_STATE_DIR"})
"""Variables of the command line, which the services do not read."""


class BadSettings(ValueError):
    """A setting is unknown, malformed, or contradicts another. The text names the variable."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One process's settings. Each field `x_y` is the variable `HOLDFAST_X_Y`."""

    nats_url: str = "nats://127.0.0.1:4222"
    """One server, or several separated by commas."""
    nats_creds: str = ""
    """A credentials file (JWT and seed)."""
    nats_nkey_seed_file: str = ""
    nats_user: str = ""
    nats_password: str = ""
    nats_token: str = ""
    nats_tls_ca: str = ""
    nats_tls_cert: str = ""
    nats_tls_key: str = ""
    nats_api_prefix: str = "$JS.API"
    """What the JetStream API is called in this process's account (`holdfast nats init`)."""
    nats_namespace: str = ""
    """The only namespace that these credentials are for: what is stored is read by asking a planner."""
    topology: Literal["make", "check"] = "make"
    """Whether this process makes the streams and consumers that are missing, or waits until a planner has."""
    partitions: int = 1
    """Task streams. Fixed when the streams are first made."""
    stream_replicas: int = 1
    """Copies that a NATS cluster keeps of each stream: 1, 3 or 5."""
    storage: Literal["file", "memory"] = "file"
    commit: Literal["auto", "batch", "two-step"] = "auto"
    """How a state and its commands are written; `auto`: batch where that is the faster one."""
    strict_durability: bool = False
    """Refuse a server that acknowledges before it syncs."""
    ack_wait_s: float = 1.5
    """How long a silent replica keeps its work: the takeover time after a kill, in seconds."""
    deliveries_max: int = 12
    """Deliveries of one message before it is a dead letter."""
    slots: int = 64
    """Messages that one consumer of this process handles at once."""
    drain_s: float = 20.0
    """How long SIGTERM waits for work in hand, in seconds."""
    reconcile_s: float = 30.0
    """How often every live task is looked at, in seconds."""
    survey_s: float = 15.0
    """How often a planner looks at the streams and consumers for its metrics, in seconds."""
    retention_s: float = 0.0
    """How long an ended task is kept before the planner removes it, in seconds; 0: until somebody deletes it."""
    secrets_dir: str = ""
    """Secrets as files, `<name>/<key>`: the layout of a Kubernetes secret volume."""
    payload_keys_dir: str = ""
    """Keys that payloads are encrypted with at rest, as files `<namespace>` or `_default`."""
    work_dir: str = ""
    """Working directories of tasks, `<namespace>/<task>`, of this installation alone; by default in the system's
    temporary directory."""
    egress_allow: str = ""
    """Hosts and networks that notifications may reach though they are not public, separated by commas."""
    humanlayer_url: str = "https://api.humanlayer.dev"
    """The API that contact channels are reached by."""
    people_looks_per_s: float = 20.0
    """How often a channel that keeps its answers (HumanLayer) is asked for them, by each replica; the rest waits."""
    slack_url: str = "https://slack.com/api"
    """Slack's Web API, for contact channels with a bot's token."""
    response_url_secret: str = ""
    """The secrets `<name>/<key>` that posts to a task's responseURL are signed with, separated by commas."""
    notify_give_up_s: float = 86_400.0
    """How long a notification is tried before it is a dead letter, in seconds."""
    people_http_host: str = "127.0.0.1"
    people_http_port: int = 0
    """Port where people's answers come in (links, Slack, replies to mail); 0: a free one, which is logged; -1: none."""
    people_url: str = ""
    """The address of that port as people reach it (`https://people.example.com`); by default the port itself."""
    people_link_key_file: str = ""
    """A file whose first line signs the links that people are sent; further lines are keys that were used before."""
    people_proxies: str = ""
    """Addresses and networks, separated by commas, whose word on whom they speak for (`X-Forwarded-For`) counts."""
    http_host: str = "127.0.0.1"
    http_port: int = 0
    """Port of `/metrics`, `/healthz` and `/readyz`; 0: a free one, which is logged; -1: none."""
    trace_content: bool = False
    """Whether spans show what was said (prompts, answers, arguments and results of tools), to whoever sees traces."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "text"] = "json"
    replica: str = ""
    """This process's name; by default host and process id."""

    def __post_init__(self) -> None:
        """Check what one field alone cannot say."""
        if not 1 <= self.partitions <= 1024:
            raise ValueError(f"HOLDFAST_PARTITIONS is {self.partitions}; it must be 1 to 1024")
        if self.stream_replicas not in (1, 3, 5):
            raise ValueError(f"HOLDFAST_STREAM_REPLICAS is {self.stream_replicas}; it must be 1, 3 or 5")
        if not 0.2 <= self.ack_wait_s <= 600:
            raise ValueError(f"HOLDFAST_ACK_WAIT_S is {self.ack_wait_s}; it must be 0.2 to 600 seconds")
        if self.slots < 1 or self.deliveries_max < 1:
            raise ValueError("HOLDFAST_SLOTS and HOLDFAST_DELIVERIES_MAX must be at least 1")
        if not self.survey_s > 0:
            raise ValueError(f"HOLDFAST_SURVEY_S is {self.survey_s}; it must be more than 0 seconds")
        if not self.people_looks_per_s > 0:
            raise ValueError(f"HOLDFAST_PEOPLE_LOOKS_PER_S is {self.people_looks_per_s}; it must be more than 0")
        if not self.notify_give_up_s > 0:
            raise ValueError(f"HOLDFAST_NOTIFY_GIVE_UP_S is {self.notify_give_up_s}; it must be more than 0 seconds")
        if bool(self.nats_tls_cert) != bool(self.nats_tls_key):
            raise ValueError("HOLDFAST_NATS_TLS_CERT and HOLDFAST_NATS_TLS_KEY go together")

    @property
    def nats_shown(self) -> str:
        """The servers' addresses, fit to be logged: without user, password or token."""
        return re.sub(r"//[^/@,]*@", "//", self.nats_url)

    @property
    def replica_name(self) -> str:
        """This process, for logs, leases and people."""
        return self.replica or f"{socket.gethostname().split('.', 1)[0]}-{os.getpid()}"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """The settings in `environ`; raises `BadSettings`."""
        known = {f"{PREFIX}{name.upper()}": name for name in cls.__struct_fields__}
        found: dict[str, str] = {}
        if url := environ.get("NATS_URL"):
            found["nats_url"] = url
        for variable, value in environ.items():
            if not variable.startswith(PREFIX) or variable in ELSEWHERE or variable.startswith("HOLDFAST_SECRET_"):
                continue
            if variable not in known:
                near = difflib.get_close_matches(variable, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"
                raise BadSettings(f"unknown setting {variable}{hint}")
            found[known[variable]] = value
        try:
            return msgspec.convert(found, cls, strict=False)
        except msgspec.ValidationError as error:
            raise BadSettings(f"bad settings in the environment ({PREFIX}*): {error}") from error
