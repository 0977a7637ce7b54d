"""The compose stack, used as its documentation says, scaled, killed and upgraded while tasks are under way.

One stack for all of these, one after another; each judges all that has happened to it so far.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from services.cli.serve import SERVICES
from tests.containers.engine import Builds, call
from tests.containers.stack import Stack
from tests.containers.working import site

APPROVING = Path(__file__).with_name("approving.yaml")
SCALED = {"llm-gateway": 3, "tool-executor": 2, "planner": 2}


def test_one_command_submits_a_task_and_follows_it(stack: Stack) -> None:
    said = stack.compose("run", "--rm", "-T", "demo", "What time is it in Tokyo?")
    assert "I am only a script, but the tool is real." in said
    assert '"timezone": "Asia/Tokyo"' in said
    assert "FinalAnswer" in stack.compose("run", "--rm", "-T", "cli", "get", "tasks")


def test_an_approval_is_waited_for_through_the_death_of_all_who_wait(stack: Stack) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    call(
        [sys.executable, "-m", "services.cli.main", "apply", "--wait", "-f", APPROVING],
        env={**environ, "NATS_URL": stack.url},
    )
    stack.compose("run", "--rm", "-T", "cli", "submit", "-a", "clerk", "Write to him.", "--name", "letter")
    stack.until(lambda: "r1.1.0" in cli(stack, "inbox", "letter"), "the question")
    for service in ("human-contact", "tool-executor", "planner"):
        stack.kill(service)
        stack.until_healthy(service)
    assert "r1.1.0" in cli(stack, "inbox", "letter")
    cli(stack, "approve", "letter", "r1.1.0")
    assert "It said:" in cli(stack, "watch", "letter")
    assert "r1.1.0" not in cli(stack, "inbox", "letter")


def cli(stack: Stack, *arguments: str) -> str:
    """What the command line in a container says."""
    return stack.compose("run", "--rm", "-T", "cli", *arguments)


async def test_services_are_scaled_up_and_down_under_load(stack: Stack) -> None:
    async with site(stack, "scaled") as place:
        async with place.load():
            await place.until_more(8)
            await asyncio.to_thread(stack.up, scale=SCALED)
            await place.until_more(12)
            gateways = [await asyncio.to_thread(stack.metrics, each) for each in stack.containers("llm-gateway")]
            await asyncio.to_thread(stack.up)
            await place.until_more(5)
        assert len(gateways) == SCALED["llm-gateway"]
        assert not await place.judge()
        assert not place.outcomes("unknown"), (
            "a replica that was told to end has handed over what it could have finished"
        )


async def test_containers_are_killed_and_the_server_is_restarted_under_load(stack: Stack) -> None:
    async with site(stack, "killed") as place:
        async with place.load():
            await place.until_more(5)
            for service in SERVICES:
                await asyncio.to_thread(stack.kill, service)
                await asyncio.to_thread(stack.until_healthy, service)
                await place.until_more(2)
            await asyncio.to_thread(stack.crash, "tool-executor")
            await asyncio.to_thread(stack.restart, "nats")
            await asyncio.to_thread(stack.until_healthy, "nats")
            await place.until_more(5)
            await asyncio.to_thread(stack.kill, "nats")
            await place.until_more(5)
        assert not await place.judge()


async def test_a_rolling_upgrade_loses_and_doubles_nothing(stack: Stack, builds: Builds) -> None:
    async with site(stack, "upgraded") as place:
        async with place.load():
            await place.until_more(5)
            for service in SERVICES:
                assert stack.image_of(service) == {builds.old}
                await asyncio.to_thread(stack.up, service, image=builds.new)
                assert stack.image_of(service) == {builds.new}
                await place.until_more(3)
        for service in SERVICES:
            (container,) = stack.containers(service)
            assert f'version="{builds.new_version}"' in stack.metrics(container)
        assert not await place.judge()
        assert not place.outcomes("unknown"), "an upgrade has interrupted a call that could have been finished"


@pytest.mark.parametrize("node", ["nats-2", "nats"])
async def test_a_cluster_survives_each_of_its_servers(cluster: Stack, node: str) -> None:
    async with site(cluster, "clustered") as place:
        async with place.load():
            await place.until_more(4)
            await asyncio.to_thread(cluster.kill, node)
            await place.until_more(6)
        assert not await place.judge()
