"""The alert rules, read as they are, and taken apart into what Prometheus is asked."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

from tests.support.stack import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "observability" / "alerts"
TESTS = REPOSITORY / "deploy" / "observability" / "prometheus" / "tests"
CONFIG = REPOSITORY / "deploy" / "observability" / "prometheus" / "prometheus.yml"
SEVERITIES = ("critical", "warning", "info")
_COMPARED = re.compile(r"(.*\S)\s+(?:>|<)\s+-?[\d.]+")
_ABSENT = re.compile(r"absent\((.+)\)")


class Alert(NamedTuple):
    """A rule."""

    name: str
    group: str
    expr: str
    severity: str
    annotations: dict[str, str]

    @property
    def asked(self) -> list[str]:
        """What is compared with a number, and what must not be absent, each by itself."""
        found: list[str] = []
        for line in self.expr.strip().splitlines():
            part = re.sub(r"^\s*(and|or) ", "", line.strip())
            match = _COMPARED.fullmatch(part) or _ABSENT.fullmatch(part)
            assert match, f"{self.name}: {part!r} is neither a comparison with a number nor `absent`"
            found.append(match[1])
        return found


def alerts() -> list[Alert]:
    """All rules, in their order."""
    found: list[Alert] = []
    for path in sorted(FOLDER.glob("*.yaml")):
        content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        for group in content["groups"]:
            found += [
                Alert(rule["alert"], group["name"], rule["expr"], rule["labels"]["severity"], rule["annotations"])
                for rule in group["rules"]
            ]
    return found
