"""What servers have beyond tools and text: images, long outputs, resources and prompts."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from schemas.events import ToolFinished, ToolOutput
from schemas.resources import ServerRef
from schemas.wire import decode
from services.tool_executor.core.results import IMAGES_MAX, RESULT_BYTES_MAX
from tests.support.mcp_servers.bench import Bench, HttpKitchen, http_server, kitchen, on_bench, plain
from tests.support.mcp_servers.kitchen import PIXEL


async def declare(bench: Bench, record: Path) -> None:
    """The kitchen, of which an agent may have everything."""
    await bench.declare(kitchen("kitchen", record))
    await bench.declare_agent(ServerRef(name="kitchen", resources=True, prompts=True))
    await bench.until_ready("kitchen")


async def test_images_reach_the_model_as_images(record: Path) -> None:
    async with on_bench() as bench:
        await declare(bench, record)
        result = await bench.call("kitchen__gallery", {"count": IMAGES_MAX + 1})
        assert len(result.images) == IMAGES_MAX
        assert {image.media_type for image in result.images} == {"image/png"}, "not what the bytes are"
        assert base64.b64decode(result.images[0].data) == PIXEL
        assert "not shown: a result has 8 images at most" in result.content
        some = await bench.call("kitchen__gallery", {"count": 1})
        assert some.content.splitlines()[-1].endswith("not shown: not an image of a kind that models see]")


@pytest.mark.parametrize("size", [RESULT_BYTES_MAX + 1, 6_000_000])
async def test_the_whole_of_a_long_result_is_kept(record: Path, size: int) -> None:
    async with on_bench() as bench:
        await declare(bench, record)
        task = await bench.ask("kitchen__huge", {"size": size})
        result = await bench.until_result(task)
        assert f"of {size} bytes were left out here" in result.content
        assert len(result.content.encode()) <= RESULT_BYTES_MAX
        assert result.whole == task.tool_output("r1", 1)
        entry = await bench.bus.log(0).get(result.whole)
        assert entry is not None
        whole = decode(entry.data, ToolOutput).content
        assert whole == "head" + "x" * (size - 8) + "tail"
        finished = await bench.bus.log(0).get(task.tool_event("r1", 1))
        assert finished is not None
        assert entry.seq < finished.seq, "the result was there before what it refers to"
        short = await bench.call("kitchen__pair")
        assert short.whole == ""


async def listed(bench: Bench, tool: str, **arguments: object) -> Any:
    result = await bench.call(tool, arguments)
    assert result.outcome == "succeeded", result.content
    return json.loads(result.content)


async def test_resources_are_listed_and_read(record: Path) -> None:
    async with on_bench() as bench:
        await declare(bench, record)
        found = await listed(bench, "kitchen__list_resources")
        assert {one["uri"]: one["mimeType"] for one in found["resources"]} == {
            "menu://today": "text/plain",
            "photo://today": "image/png",
        }
        assert [one["uriTemplate"] for one in found["templates"]] == ["recipe://{dish}"]
        read = await bench.call("kitchen__read_resource", {"uri": "menu://today"})
        assert read.content == "[resource text/plain, 4 bytes: menu://today]\nsoup"
        seen = await bench.call("kitchen__read_resource", {"uri": "photo://today"})
        assert [image.media_type for image in seen.images] == ["image/png"]
        task = await bench.ask("kitchen__read_resource", {"uri": "recipe://egg"})
        long = await bench.until_result(task)
        assert long.whole == task.tool_output("r1", 1)
        assert await bench.bus.log(0).get(task.ledger("r1", 1)) is None, "reading is no effect"


async def test_prompts_are_listed_and_got(record: Path) -> None:
    async with on_bench() as bench:
        await declare(bench, record)
        (prompt,) = (await listed(bench, "kitchen__list_prompts"))["prompts"]
        assert (prompt["name"], prompt["arguments"]) == ("advise", [{"name": "dish", "required": True}])
        got = await bench.call("kitchen__get_prompt", {"name": "advise", "arguments": {"dish": "eggs"}})
        assert got.content == "Ask for advice.\nuser:\nHow do I cook eggs?"


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("read_resource", {"uri": "menu://never"}, "menu://never"),
        ("read_resource", {}, "'uri' is a required property"),
        ("get_prompt", {"name": "nothing"}, "rror"),
        ("get_prompt", {"name": "advise", "arguments": {"dish": 3}}, "3 is not of type 'string'"),
    ],
)
async def test_what_is_not_there_is_said_to_the_model(
    record: Path, tool: str, arguments: dict[str, Any], words: str
) -> None:
    async with on_bench() as bench:
        await declare(bench, record)
        result = await bench.call(f"kitchen__{tool}", arguments)
        assert result.outcome == "failed"
        assert words in result.content


async def test_a_server_that_has_nothing_but_tools_says_so(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("plain", record))
        await bench.declare_agent(ServerRef(name="plain", resources=True, prompts=True))
        await bench.until_ready("plain")
        for tool, what in (("list_resources", "resources"), ("list_prompts", "prompts")):
            result = await bench.call(f"plain__{tool}")
            assert (result.outcome, result.content) == ("failed", f"This server offers no {what}.")


async def test_an_agent_that_did_not_ask_for_more_has_tools_only(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record))
        await bench.until_ready("kitchen")
        result = await bench.call("kitchen__list_resources")
        assert result.outcome == "failed"
        assert "There is no tool 'kitchen__list_resources'" in result.content


@pytest.mark.parametrize("flag", ["--json", "--sse"])
async def test_resources_are_read_over_http_too(record: Path, flag: str) -> None:
    with HttpKitchen(record, flag) as server:
        async with on_bench() as bench:
            await bench.declare(http_server("kitchen", server.url))
            await bench.declare_agent(ServerRef(name="kitchen", resources=True))
            await bench.until_ready("kitchen")
            read: ToolFinished = await bench.call("kitchen__read_resource", {"uri": "menu://today"})
            assert read.content.endswith("soup")
