"""`holdfast serve`: from names to services. The one place that knows them all."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from services.cli.exits import ExitCode, Stop
from services.runtime.settings import BadSettings, Settings

if TYPE_CHECKING:
    from services.runtime.replica import Build

SERVICES: Mapping[str, str] = {
    "planner": "services.planner.main",
    "llm-gateway": "services.llm_gateway.main",
    "tool-executor": "services.tool_executor.main",
    "human-contact": "services.human_contact.main",
    "notifier": "services.notifier.main",
}
"""Each service by its outward name, and the module whose `build` makes it."""


def chosen(names: Sequence[str]) -> list[str]:
    """The services that are meant, each once, in our order; the command ends for one that does not exist."""
    wanted = {part for name in names for part in name.split(",") if part}
    if "all" in wanted:
        return list(SERVICES)
    for name in sorted(wanted):
        if name not in SERVICES:
            near = difflib.get_close_matches(name, SERVICES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SERVICES)}, and all"
            raise Stop(f"there is no service {name!r}; {hint}", ExitCode.USAGE)
    return [name for name in SERVICES if name in wanted]


def run(names: Sequence[str]) -> int:
    """Run services in this process until a signal ends them; the exit code."""
    try:
        settings = Settings.from_env(os.environ)
    except BadSettings as error:
        raise Stop(str(error), ExitCode.USAGE) from error
    from services.runtime.process import run_services  # noqa: PLC0415 - loads the bus and telemetry

    builds: dict[str, Build] = {name: importlib.import_module(SERVICES[name]).build for name in chosen(names)}
    return run_services(builds, settings)
