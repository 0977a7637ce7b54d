"""Tools as servers list them: names, pages, schemas; and what servers say that nobody asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from schemas.tools import Source, offer
from tests.support.mcp_servers.bench import called, on_bench, plain, record_of, until

LONG = "n" * 100
ODD: list[dict[str, Any]] = [
    {"name": "with.dots.in-it"},
    {"name": LONG},
    {"name": LONG + "2"},
    {"name": "two__under__scores"},
    {"name": "späce d"},
]


async def test_every_name_is_mapped_back_exactly_over_all_pages(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("odd", record, tools=ODD, page=2))
        status = await bench.until_ready("odd")
        assert [tool.name for tool in status.tools] == sorted(tool["name"] for tool in ODD)
        table = offer([Source("MCPServer", "odd", status.tools)])
        assert len(table) == len(ODD)
        assert all(len(name) <= 64 for name in table)
        for name, offered in table.items():
            assert (await called(bench, name, a=1)) == {"tool": offered.info.name, "arguments": {"a": 1}}


async def test_five_hundred_tools_in_pages_are_all_there(record: Path) -> None:
    tools = [{"name": f"tool-{n:03}", "description": "d" * 200} for n in range(500)]
    async with on_bench() as bench:
        await bench.declare(plain("many", record, tools=tools, page=7))
        status = await bench.until_ready("many")
        assert status.status_detail == "Connected successfully with 500 tools"
        assert [tool.name for tool in status.tools] == [tool["name"] for tool in tools]
        assert (await called(bench, "many__tool-499"))["tool"] == "tool-499"


async def test_pages_without_end_are_left_and_tools_that_do_not_fit_are_counted(record: Path) -> None:
    tools = [{"name": f"tool-{n:03}"} for n in range(100)]
    async with on_bench() as bench:
        await bench.declare(plain("long", record, tools=tools, pad=8000))
        status = await bench.until_ready("long")
        left = 100 - len(status.tools)
        assert left > 0
        assert f"({left} more do not fit into a status)" in status.status_detail
        await bench.declare(plain("endless", record, tools=[{"name": "one"}], endless=True))
        assert [tool.name for tool in (await bench.until_ready("endless")).tools] == ["one"]


BROKEN: list[Any] = [
    {"type": "object", "properties": {"a": {"type": "nonsense"}}},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}},
    {"type": "object", "properties": 7, "required": "a"},
    {"type": "object", "$ref": "#"},
    {"type": "object", "properties": {"a": {"pattern": "(a+)+$"}}},
    {"type": "object", "allOf": [{"allOf": [{"$ref": "#"}]}]},
]


@pytest.mark.parametrize("schema", BROKEN)
async def test_one_broken_schema_harms_no_other_tool(record: Path, schema: dict[str, Any]) -> None:
    tools = [{"name": "broken", "inputSchema": schema}, {"name": "whole"}]
    async with on_bench() as bench:
        await bench.declare(plain("server", record, tools=tools))
        await bench.until_ready("server")
        assert (await called(bench, "server__whole", a=1))["arguments"] == {"a": 1}
        assert (await called(bench, "server__broken", a="a" * 40 + "!"))["tool"] == "broken"


async def test_a_server_with_a_name_that_is_split_differently_is_told_apart(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("a", record, tools=[{"name": "b__c"}]))
        await bench.declare(plain("a--b", record, tools=[{"name": "c"}]), servers=("a", "a--b"))
        await bench.until_ready("a")
        await bench.until_ready("a--b")
        assert (await called(bench, "a__b__c"))["tool"] == "b__c"
        assert (await called(bench, "a--b__c"))["tool"] == "c"


async def test_a_schema_that_refers_elsewhere_fetches_nothing_and_hinders_nothing(record: Path) -> None:
    tools = [{"name": "t", "inputSchema": {"type": "object", "$ref": "http://127.0.0.1:9/schema.json"}}]
    async with on_bench() as bench:
        await bench.declare(plain("hostile", record, tools=tools))
        await bench.until_ready("hostile")
        assert (await called(bench, "hostile__t", a=1))["arguments"] == {"a": 1}


async def test_a_server_that_floods_its_output_harms_no_other(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("good", record))
        await bench.until_ready("good")
        await bench.declare(plain("flood", record, flood=True), servers=("good", "flood"))
        await bench.until_ready("flood")
        for n in range(10):
            task = await bench.ask("good__echo", {"n": n})
            assert (await bench.until_result(task, within_s=5)).outcome == "succeeded"


async def test_a_flood_of_messages_fills_no_memory_and_harms_no_other(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("calm", record))
        await bench.until_ready("calm")
        before = rss_mb()
        await bench.declare(plain("loud", record, chatter=True), servers=("calm", "loud"))
        await until(lambda: any(line.startswith("chatter") for line in record_of(record)), "it has begun")
        for n in range(20):
            assert (await called(bench, "calm__echo", n=n))["arguments"] == {"n": n}
        said = [line for line in record_of(record) if line.startswith("chatter")][-1]
        assert rss_mb() - before < 64, f"after {said} megabytes"


def rss_mb() -> float:
    """What this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
