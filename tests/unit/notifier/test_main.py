"""What the operator sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cli.manifests import parse
from services.notifier.main import build
from services.runtime.errors import Broken
from services.runtime.settings import BadSettings, Settings
from tests.support.stage import on_stage

HOWTO = Path(__file__).parents[3] / "docs" / "howto" / "notifications.md"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"egress_allow": "not a host!"}, "HOLDFAST_EGRESS_ALLOW"),
        ({"response_url_secret": "no-key"}, "HOLDFAST_RESPONSE_URL_SECRET"),
    ],
)
async def test_a_setting_that_makes_no_sense_ends_the_process_and_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(Broken, match=said):
        async with on_stage({"notifier": build}, settings=Settings(**settings)):
            pass


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(BadSettings, match="HOLDFAST_NOTIFY_GIVE_UP_S"):
        Settings.from_env({"HOLDFAST_NOTIFY_GIVE_UP_S": "0"})


def test_the_manifests_of_the_guide_are_ones() -> None:
    first, *sinks = [block.split("```")[0] for block in HOWTO.read_text(encoding="utf-8").split("```yaml\n")[1:]]
    whole = yaml.safe_load(first)
    assert len(sinks) == 2
    assert len(parse([("guide", first)]).resources) == 1
    for sink in sinks:
        spec = {key: value for key, value in whole["spec"].items() if key != "webhook"} | yaml.safe_load(sink)
        assert parse([("guide", yaml.safe_dump({**whole, "spec": spec}))]).resources
