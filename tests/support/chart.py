"""The Helm chart as tests use it: rendered by helm itself, without a cluster or a network.

helm wants every dependency to be in the chart's `charts/`, also one that is off. The public chart of NATS cannot be
fetched here, so a stand-in is put there: a chart of its name and version that says which values it was given. What it
would install is not tested.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import kubernetes_validate.utils  # type: ignore[import-untyped]
import msgspec
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "holdfast"
STAND_IN = ROOT / "tests" / "conformance" / "helm" / "stand-in" / "nats"
HELM_S = 60
RELEASE = "prod"
NAMESPACE = "agents"

Object = dict[str, Any]
"""One Kubernetes object, as YAML has it."""
Values = Mapping[str, Any]
Rendered = Callable[[str, str], list[Object]]
"""`(case, version of Kubernetes) -> ` what would be installed."""

KUBE_NEWEST: str = kubernetes_validate.utils.major_minor(kubernetes_validate.latest_version())
KUBE_VERSIONS = ("1.27", "1.30", "1.33", KUBE_NEWEST)
"""The first version that the chart is for, the newest whose schemas there are, and some between them."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One way to install the chart."""

    files: tuple[str, ...] = ()
    """Value files of the chart."""
    values: dict[str, Any] = {}
    alerts: bool = False
    """With rules and dashboards, whether or not the repository has any yet."""


EVERYTHING: dict[str, Any] = {
    "image": {"registry": "registry.example.com/team", "digest": "sha256:" + "ab" * 32},
    "imagePullSecrets": [{"name": "pull"}],
    "commonLabels": {"team": "agents"},
    "settings": {
        "partitions": 3,
        "streamReplicas": 3,
        "ackWaitS": 2.5,
        "retentionS": 2_592_000,
        "responseUrlSecret": "webhooks/key",
        "logFormat": "text",
    },
    "bus": {
        "url": "tls://nats-0.example.com:4222,tls://nats-1.example.com:4333",
        "auth": {"secret": "holdfast-bus-{service}"},
        "tls": {"secret": "holdfast-bus-{service}"},
        "accounts": True,
    },
    "defaults": {
        "priorityClassName": "agents",
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "agents", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "serviceAccountAnnotations": {"e": "f"},
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        "maxUnavailable": "50%",
        "preStopSeconds": 30,
    },
    "services": {
        "llm-gateway": {
            "secrets": [{"name": "openai"}, {"name": "anthropic-2026", "as": "anthropic", "keys": ["api-key"]}],
            "settings": {"slots": 128},
            "autoscaling": {"messagesPerReplica": 96},
        },
        "tool-executor": {
            "image": {"repository": "holdfast-with-node"},
            "extraEgress": [{"to": [{"podSelector": {"matchLabels": {"app": "mcp"}}}], "ports": [{"port": 8000}]}],
        },
        "notifier": {"secrets": [{"name": "webhooks"}]},
        "human-contact": {"secrets": [{"name": "slack"}]},
    },
    "payloadKeys": {"secret": "payload-keys"},
    "workDirectory": {"persistent": True, "size": "50Gi", "storageClass": "shared"},
    "people": {
        "enabled": True,
        "proxies": ["10.0.0.0/8"],
        "linkKey": {"secret": "people"},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "host": "people.example.com",
            "annotations": {"cert-manager.io/cluster-issuer": "le"},
            "tls": [{"hosts": ["people.example.com"], "secretName": "people-tls"}],
        },
    },
    "keda": {"enabled": True, "natsMonitor": "nats-headless.nats.svc:8222"},
    "monitoring": {
        "labels": {"release": "prometheus"},
        "podMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboards": {"enabled": True, "annotations": {"folder": "agents"}},
    },
    "tracing": {"endpoint": "http://collector.observability:4318"},
}
"""Every feature at once, with everything that has to be brought along."""

CASES: dict[str, Case] = {
    "defaults": Case(),
    "dev": Case(files=("values-dev.yaml",)),
    "prod": Case(files=("values-prod.yaml",)),
    "prod with rules and dashboards": Case(files=("values-prod.yaml",), alerts=True),
    "everything": Case(values=EVERYTHING, alerts=True),
    "dev with everything but an outside bus": Case(
        files=("values-dev.yaml",),
        values={key: value for key, value in EVERYTHING.items() if key != "bus"}
        | {"nats": {"config": {"cluster": {"enabled": True, "replicas": 3}}}},
    ),
    "prod without KEDA": Case(files=("values-prod.yaml",), values={"keda": {"enabled": False}}),
    "prod without NetworkPolicies": Case(files=("values-prod.yaml",), values={"networkPolicy": {"enabled": False}}),
    "prod on an outside bus": Case(
        files=("values-prod.yaml",),
        values={
            "nats": {"enabled": False},
            "bus": {"url": "nats://nats.nats", "auth": {"secret": "creds", "kind": "creds", "key": "user.creds"}},
            "keda": {"natsMonitor": "nats-headless.nats:8222"},
            "networkPolicy": {"busTo": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "peopleFrom": [{"podSelector": {}}]},
            "people": {"enabled": True, "url": "https://people.example.com"},
        },
    ),
    "KEDA over three partitions": Case(
        files=("values-dev.yaml",), values={"keda": {"enabled": True}, "settings": {"partitions": 3}}
    ),
    "without people and notifications": Case(
        values={"services": {"human-contact": {"enabled": False}, "notifier": {"enabled": False}}}
    ),
    "one tool-executor with a disk": Case(
        values={"workDirectory": {"persistent": True, "accessModes": ["ReadWriteOnce"]}}
    ),
    "a disk that is there": Case(values={"workDirectory": {"persistent": True, "existingClaim": "work"}}),
    "no wait before SIGTERM": Case(values={"defaults": {"preStopSeconds": 0}, "tracing": {"endpoint": "https://o"}}),
}
"""The ways to install it that are rendered and checked."""

BAD_CASES: dict[str, tuple[Values, str]] = {
    "a name that is not one": ({"replicas": 3}, "replicas"),
    "a service that is not one": ({"services": {"plannner": {}}}, "plannner"),
    "a misspelt field of a service": ({"services": {"planner": {"replica": 2}}}, "replica"),
    "a misspelt setting": ({"settings": {"slotz": 2}}, "slotz"),
    "a setting that all services share, for one": ({"services": {"planner": {"settings": {"partitions": 2}}}}, "parti"),
    "two copies": ({"settings": {"streamReplicas": 2}}, "streamReplicas"),
    "no partitions": ({"settings": {"partitions": 0}}, "partitions"),
    "the tag latest": ({"image": {"tag": "latest"}}, "tag"),
    "a digest that is none": ({"image": {"digest": "sha256:abc"}}, "digest"),
    "a password in the bus's address": ({"bus": {"url": "nats://user:secret@nats:4222"}}, "url"),
    "an address that is not of NATS": ({"bus": {"url": "http://nats:4222"}}, "url"),
    "a password in another address": ({"settings": {"slackUrl": "https://u:p@slack.example.com"}}, "slackUrl"),
    "no replicas": ({"services": {"planner": {"replicas": 0}}}, "replicas"),
    "a scaling to nothing": ({"defaults": {"autoscaling": {"minReplicas": 0}}}, "minReplicas"),
    "text for a number": ({"defaults": {"drainSeconds": "20"}}, "drainSeconds"),
    "resources that are none": ({"defaults": {"resources": {"limits": {"memory": "lots"}}}}, "memory"),
    "secrets for the planner": ({"services": {"planner": {"secrets": [{"name": "openai"}]}}}, "planner"),
    "a secret without a name": ({"services": {"notifier": {"secrets": [{"as": "x"}]}}}, "name"),
    "a folder out of the secrets'": ({"services": {"notifier": {"secrets": [{"name": "a", "as": "../b"}]}}}, "as"),
    "accounts with one key for all": ({"bus": {"accounts": True, "auth": {"secret": "key"}}}, "{service}"),
    "more copies than servers": ({"nats": {"enabled": True}, "settings": {"streamReplicas": 3}}, "streamReplicas"),
    "KEDA that cannot ask NATS": ({"keda": {"enabled": True}}, "keda.natsMonitor"),
    "an ingress without a host": ({"people": {"enabled": True, "ingress": {"enabled": True}}}, "people.ingress.host"),
    "one disk for two": (
        {
            "workDirectory": {"persistent": True, "accessModes": ["ReadWriteOnce"]},
            "services": {"tool-executor": {"replicas": 2}},
        },
        "ReadWriteMany",
    ),
}
"""Values that are refused, and what the refusal names."""


class Refused(Exception):
    """helm did not render the chart. The text is what it said."""


def find_helm() -> str:
    """helm of the environment, or of the machine; empty if there is none."""
    beside = Path(sys.executable).with_name("helm")
    return str(beside) if beside.exists() else shutil.which("helm") or ""


class Chart:
    """A copy of the chart and of what its links lead to, with the stand-in for NATS."""

    def __init__(self, helm: str, folder: Path, *, alerts: bool) -> None:
        self._helm = helm
        shutil.copytree(DEPLOY, folder / "deploy", symlinks=True, ignore=shutil.ignore_patterns("charts"))
        self.path = folder / "deploy" / "helm" / "holdfast"
        shutil.copytree(STAND_IN, self.path / "charts" / "nats")
        self._values = folder / "values"
        self._values.mkdir()
        if alerts:
            add_alerts(folder / "deploy" / "observability")

    def run(self, *arguments: str) -> str:
        """What helm says; raises `Refused`."""
        done = subprocess.run(
            [self._helm, *arguments], capture_output=True, text=True, timeout=HELM_S, check=False, cwd=self.path
        )
        if done.returncode:
            raise Refused(done.stdout + done.stderr)
        return done.stdout

    def lint(self, case: Case, kube: str) -> str:
        """`helm lint --strict`; raises `Refused`."""
        return self.run("lint", "--strict", "--kube-version", kube, ".", *self._given(case))

    def render(self, case: Case, kube: str, *, release: str = RELEASE) -> list[Object]:
        """What would be installed, tests included; raises `Refused`."""
        given = self._given(case)
        text = self.run("template", release, ".", "--namespace", NAMESPACE, "--kube-version", kube, *given)
        return [found for found in yaml.load_all(text, _Loader) if found]

    def notes(self, case: Case) -> str:
        """What people are told after an installation."""
        seen = self.path / "templates" / "seen.yaml"
        seen.write_text(
            'notes: {{ include "holdfast/templates/NOTES.txt" . | quote }}\n'
        )  # helm shows them at installs only
        try:
            place = ("--namespace", NAMESPACE, "--show-only", "templates/seen.yaml")
            return str(yaml.safe_load(self.run("template", RELEASE, ".", *place, *self._given(case)))["notes"])
        finally:
            seen.unlink()

    def _given(self, case: Case) -> Sequence[str]:
        path = self._values / f"{len(list(self._values.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump(case.values))
        return [part for file in (*case.files, str(path)) for part in ("--values", file)]


class _Loader(yaml.CSafeLoader):
    """Refuses a key that is there twice, which PyYAML would let the last one win."""


def _mapping(loader: yaml.CSafeLoader, node: yaml.MappingNode) -> Object:
    keys = [str(key.value) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is there twice: {keys}"
    return cast("Object", loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def add_alerts(observability: Path) -> None:
    """Put a file of rules and a dashboard where the chart looks for them."""
    rules = {
        "groups": [
            {
                "name": "sample",
                "rules": [
                    {
                        "alert": "SampleDown",
                        "expr": 'up{job="planner"} == 0',
                        "for": "5m",
                        "labels": {"severity": "page"},
                        "annotations": {"summary": "{{ $labels.pod }} is down: {{ $value }}"},
                    },
                    {"record": "sample:up:sum", "expr": "sum(up)"},
                ],
            }
        ]
    }
    (observability / "alerts" / "sample.yaml").write_text("# A comment\n" + yaml.safe_dump(rules))
    dashboard = '{\n  "title": "Sample {{ pod }}",\n  "uid": "sample"\n}\n'
    (observability / "grafana" / "dashboards" / "sample.json").write_text(dashboard)


def of_kind(objects: Sequence[Object], kind: str) -> dict[str, Object]:
    """The objects of a kind, by name."""
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def component(found: Object) -> str:
    """The service that an object is of; empty for one of none."""
    return str(found["metadata"]["labels"].get("app.kubernetes.io/component", ""))


def by_service(objects: Sequence[Object], kind: str) -> dict[str, Object]:
    """The objects of a kind, by the service that they are of."""
    return {component(found): found for found in of_kind(objects, kind).values() if component(found)}


def pods(objects: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Every pod that would run, by the name of what makes it."""
    for found in objects:
        if found["kind"] == "Pod":
            yield found["metadata"]["name"], found
        elif "template" in found.get("spec", {}):
            yield found["metadata"]["name"], found["spec"]["template"]


def container(found: Object) -> Object:
    """The one container of a Deployment or pod."""
    spec: Object = found["spec"]["template"]["spec"] if "template" in found["spec"] else found["spec"]
    (only,) = cast("list[Object]", spec["containers"])
    return only


def environment(found: Object) -> dict[str, str]:
    """The variables of a Deployment's container."""
    return {variable["name"]: variable["value"] for variable in container(found)["env"]}


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector selects a pod with these labels."""
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "In"
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True
