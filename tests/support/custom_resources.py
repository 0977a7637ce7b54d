"""The custom resources that the chart makes, as strict JSON Schemas: only the fields that it uses, and no others.

Written by hand after the API references of KEDA 2.19 and the Prometheus operator 0.82, whose own definitions are not
copied here. Their versions may accept more; what these accept, they do too.
"""

from __future__ import annotations

from typing import Any

import jsonschema

Schema = dict[str, Any]

DURATION = r"^(0|(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", "maxLength": 253}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
COUNT: Schema = {"type": "integer", "minimum": 0}
WHOLE_NUMBER: Schema = {"type": "string", "pattern": "^[0-9]+$"}
PERIOD: Schema = {"type": "string", "pattern": DURATION}
SELECTOR = _object(
    matchLabels=LABELS,
    matchExpressions={
        "type": "array",
        "items": _object(
            ("key", "operator"),
            key=TEXT,
            operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            values={"type": "array", "items": TEXT},
        ),
    },
)


def _resource(api_version: str, kind: str, spec: Schema) -> Schema:
    metadata = _object(("name",), name=NAME, labels=LABELS, annotations=TEXTS)
    of = {"apiVersion": {"const": api_version}, "kind": {"const": kind}, "metadata": metadata, "spec": spec}
    return _object(tuple(of), **of)


TRIGGER = _object(
    ("type", "metadata"),
    type={"const": "nats-jetstream"},
    metadata=_object(
        ("natsServerMonitoringEndpoint", "account", "stream", "consumer", "lagThreshold"),
        natsServerMonitoringEndpoint={"type": "string", "pattern": r"^[^/]+:[0-9]+$"},
        account=TEXT,
        stream=TEXT,
        consumer=TEXT,
        lagThreshold=WHOLE_NUMBER,
        activationLagThreshold=WHOLE_NUMBER,
        useHttps={"enum": ["true", "false"]},
    ),
)
SCALED_OBJECT = _object(
    ("scaleTargetRef", "triggers"),
    scaleTargetRef=_object(("name",), name=NAME, kind=TEXT, apiVersion=TEXT),
    pollingInterval=COUNT,
    cooldownPeriod=COUNT,
    minReplicaCount=COUNT,
    maxReplicaCount=COUNT,
    fallback=_object(("failureThreshold", "replicas"), failureThreshold=COUNT, replicas=COUNT),
    advanced=_object(
        horizontalPodAutoscalerConfig=_object(
            behavior=_object(scaleDown=_object(stabilizationWindowSeconds={**COUNT, "maximum": 3600}))
        )
    ),
    triggers={"type": "array", "minItems": 1, "items": TRIGGER},
)
POD_MONITOR = _object(
    ("selector", "podMetricsEndpoints"),
    jobLabel=TEXT,
    selector=SELECTOR,
    podMetricsEndpoints={
        "type": "array",
        "minItems": 1,
        "items": _object(
            ("port",),
            port=TEXT,
            path=TEXT,
            interval=PERIOD,
            relabelings={
                "type": "array",
                "items": _object(sourceLabels={"type": "array", "items": TEXT}, targetLabel=TEXT),
            },
        ),
    },
)
RULE: Schema = {
    "oneOf": [
        _object(
            ("alert", "expr"),
            alert=TEXT,
            expr=TEXT,
            labels=TEXTS,
            annotations=TEXTS,
            keep_firing_for={**PERIOD, "minLength": 1},
            **{"for": PERIOD},
        ),
        _object(("record", "expr"), record=TEXT, expr=TEXT, labels=TEXTS),
    ]
}
PROMETHEUS_RULE = _object(
    ("groups",),
    groups={
        "type": "array",
        "minItems": 1,
        "items": _object(
            ("name", "rules"),
            name={"type": "string", "minLength": 1},
            interval=PERIOD,
            limit=COUNT,
            labels=TEXTS,
            rules={"type": "array", "items": RULE},
        ),
    },
)

CUSTOM: dict[str, Schema] = {
    "ScaledObject": _resource("keda.sh/v1alpha1", "ScaledObject", SCALED_OBJECT),
    "PodMonitor": _resource("monitoring.coreos.com/v1", "PodMonitor", POD_MONITOR),
    "PrometheusRule": _resource("monitoring.coreos.com/v1", "PrometheusRule", PROMETHEUS_RULE),
}


def check_custom(found: dict[str, Any]) -> None:
    """Raise `jsonschema.ValidationError` if a custom resource is not as its kind says."""
    jsonschema.validate(found, CUSTOM[found["kind"]], cls=jsonschema.Draft202012Validator)
