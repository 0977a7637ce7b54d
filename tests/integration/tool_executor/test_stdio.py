"""Servers that are child processes: what goes in, what comes out, and what becomes of the processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from schemas.resources import EnvVar, SecretKeyRef, SecretSource, ToolPolicy
from services.runtime.settings import Settings
from services.tool_executor.core.results import RESULT_BYTES_MAX
from services.tool_executor.mcp import connection, pool, session, stdio
from tests.support.mcp_servers.bench import alive, called, kitchen, on_bench, plain, record_of, stdio_server, until


async def test_no_arguments_are_an_empty_object(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("plain", record))
        await bench.until_ready("plain")
        task = await bench.ask("plain__echo", "")
        assert json.loads((await bench.until_result(task)).content) == {"tool": "echo", "arguments": {}}


async def test_what_the_model_did_wrong_reaches_the_model_and_not_the_server(record: Path) -> None:
    schema = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
    async with on_bench() as bench:
        await bench.declare(plain("plain", record, tools=[{"name": "take", "inputSchema": schema}]))
        await bench.until_ready("plain")
        for arguments, words in (
            ("{", "not valid JSON"),
            ("[]", "must be one JSON object"),
            ({"count": "three"}, "$.count: 'three' is not of type 'integer'"),
            ({}, "'count' is a required property"),
        ):
            result = await bench.call("plain__take", arguments)
            assert result.outcome == "failed"
            assert words in result.content
        unknown = await bench.call("plain__tkae", {})
        assert unknown.outcome == "failed"
        assert "Perhaps you mean plain__take" in unknown.content
        assert record_of(record) == []


async def test_results_of_all_kinds_become_text(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record))
        await bench.until_ready("kitchen")
        assert (await bench.call("kitchen__picture")).content.startswith("before\n[image image/png, 100 bytes")
        assert await called(bench, "kitchen__pair") == {"one": 1, "two": 2}
        failed = await bench.call("kitchen__fail", {"message": "the oven is cold"})
        assert (failed.outcome, "the oven is cold" in failed.content) == ("failed", True)
        huge = await bench.call("kitchen__huge", {"size": 3_000_000})
        assert huge.outcome == "succeeded"
        assert len(huge.content.encode()) <= RESULT_BYTES_MAX
        assert huge.content.startswith("headxxx")
        assert huge.content.endswith("xxxtail")
        assert "of 3000000 bytes were left out" in huge.content


async def test_a_server_sees_what_is_declared_and_nothing_of_ours(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-executor")
    monkeypatch.setenv("HOLDFAST_NATS_PASSWORD", "hidden")
    secret = EnvVar(name="TOKEN", value_from=SecretSource(secret_key_ref=SecretKeyRef(name="box", key="token")))
    async with on_bench(environ={"HOLDFAST_SECRET_BOX_TOKEN": "a-secret-of-some-length"}) as bench:
        await bench.declare(kitchen("kitchen", record, secret_env=[secret]))
        await bench.until_ready("kitchen")
        result = await bench.call("kitchen__environment")
        seen = json.loads(result.content)
        assert seen.keys() <= {
            *("PYTHONPATH", "RECORD", "TOKEN"),
            *("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"),
            *("LC_CTYPE",),  # python's own, for its locale
        }
        assert seen["RECORD"] == str(record)
        assert seen["TOKEN"] == "[secret]", "a secret must not reach the transcript"


async def test_two_namespaces_share_nothing_but_a_name(record: Path) -> None:
    async with on_bench() as bench:
        for namespace in ("one", "two"):
            server = kitchen("kitchen", record.with_name(namespace), namespace=namespace)
            await bench.declare(server)
        for namespace in ("one", "two"):
            await bench.until_ready("kitchen", namespace=namespace)
            await bench.call("kitchen__effect", {"text": f"in {namespace}"}, namespace=namespace)
        assert record_of(record.with_name("one")) == ["in one"]
        assert record_of(record.with_name("two")) == ["in two"]
        pids = [(await bench.call("kitchen__pid", namespace=namespace)).content for namespace in ("one", "two")]
        assert pids[0] != pids[1]


async def test_a_killed_server_fails_the_call_at_once_and_comes_back(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record))
        await bench.until_ready("kitchen")
        pid = int((await bench.call("kitchen__pid")).content)
        careful = await bench.ask("kitchen__effect", {"text": "pour", "seconds": 60})
        again = await bench.ask("kitchen__set_value", {"text": "set", "seconds": 0.3})
        await until(lambda: set(record_of(record)) == {"pour", "set"}, "both calls under way")
        os.kill(pid, signal.SIGKILL)

        lost = await bench.until_result(careful, within_s=2)
        assert lost.outcome == "unknown"
        assert "may or may not have taken effect" in lost.content
        repeated = await bench.until_result(again)
        assert (repeated.outcome, repeated.content) == ("succeeded", "set done")
        assert sorted(record_of(record)) == ["pour", "set", "set"]
        assert int((await bench.call("kitchen__pid")).content) != pid
        assert (await bench.until_ready("kitchen")).ready


async def test_a_server_that_dies_of_a_call_is_not_fed_it_for_ever(record: Path) -> None:
    repeatable = ToolPolicy(tool="crash", idempotent=True)
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record, policies=[repeatable]))
        await bench.until_ready("kitchen")
        result = await bench.until_result(await bench.ask("kitchen__crash", {"text": "boom"}), within_s=90)
        assert result.outcome == "failed"
        assert "It was tried 3 times" in result.content
        assert record_of(record) == ["boom"] * 3


async def test_an_uncertain_call_is_repeated_where_the_manifest_says_so(record: Path) -> None:
    policy = ToolPolicy(tool="crash_once", idempotent=False, on_uncertain="retry")
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record, policies=[policy]))
        await bench.until_ready("kitchen")
        task = await bench.ask("kitchen__crash_once", {"text": "bang"})
        result = await bench.until_result(task)
        assert (result.outcome, result.content, result.attempt) == ("succeeded", "bang at last", 2)
        assert record_of(record) == ["bang", "bang"]


async def test_a_timeout_says_what_may_have_happened_and_stops_the_tool(record: Path) -> None:
    policies = [ToolPolicy(tool="*", timeout_s=0.5)]
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record, policies=policies))
        await bench.until_ready("kitchen")
        uncertain = await bench.call("kitchen__effect", {"text": "pour", "seconds": 60})
        assert uncertain.outcome == "timed_out"
        assert "no answer within 0.5 s" in uncertain.content
        assert "may or may not have taken effect" in uncertain.content
        harmless = await bench.call("kitchen__look", {"seconds": 60})
        assert harmless.outcome == "timed_out"
        assert "effect" not in harmless.content
        await until(
            lambda: {"pour cancelled", "look cancelled"} <= set(record_of(record)), "the tools were told to stop"
        )


async def test_a_stopped_task_stops_its_tool(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record))
        await bench.declare(
            plain("plain", record, tools=[{"name": "wait", "does": "sleep"}]), servers=("kitchen", "plain")
        )
        await bench.until_ready("kitchen")
        await bench.until_ready("plain")
        new = await bench.ask("kitchen__effect", {"text": "pour", "seconds": 60})
        old = await bench.ask("plain__wait")
        other = await bench.ask("kitchen__effect", {"text": "stay", "seconds": 1.0})
        await until(lambda: {"pour", "wait", "stay"} == set(record_of(record)), "all calls under way")
        for task in (new, old):
            await bench.bus.signals.publish(task.stop, b"")
            assert (await bench.until_result(task, within_s=3)).outcome == "cancelled"
        await until(lambda: {"pour cancelled", "cancelled"} <= set(record_of(record)), "both servers were told")
        assert (await bench.until_result(other)).outcome == "succeeded"


async def test_progress_is_told_to_those_who_watch(record: Path) -> None:
    heard: list[bytes] = []
    async with on_bench() as bench:

        async def hear(signal_: Any) -> None:
            heard.append(signal_.data)

        await bench.bus.signals.subscribe("hf.live.default.*", hear)
        await bench.declare(kitchen("kitchen", record))
        await bench.until_ready("kitchen")
        await bench.call("kitchen__steps", {"count": 30})
        await until(lambda: any(b'"progress":30' in data for data in heard), "the last step")
        assert len(heard) < 30, "every single step was published"
        first = json.loads(heard[0])
        assert (first["tool"], first["total"], first["message"]) == ("kitchen__steps", 30.0, "step 1")


@pytest.mark.parametrize("kind", ["old", "new"])
async def test_new_tools_are_offered_when_the_server_says_so(record: Path, kind: str) -> None:
    async with on_bench() as bench:
        if kind == "old":
            await bench.declare(plain("server", record, tools=[{"name": "grow", "does": "grow"}]))
        else:
            await bench.declare(kitchen("server", record))
        before = len((await bench.until_ready("server")).tools)
        assert (await bench.call("server__grow", {"name": "shoot"})).outcome == "succeeded"
        status = await bench.until_status("server", "Ready", detail=f"with {before + 1} tools")
        assert "shoot" in [tool.name for tool in status.tools]
        assert (await bench.call("server__shoot")).outcome == "succeeded"


async def test_a_call_carries_a_key_by_which_a_server_can_know_it_again(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("plain", record, tools=[{"name": "meta", "does": "meta"}]))
        await bench.until_ready("plain")
        task = await bench.ask("plain__meta")
        meta = json.loads((await bench.until_result(task)).content)
        assert meta["holdfast.dev/idempotency-key"] == f"default/{task.task}-r1-tc-01"


async def test_a_deleted_server_leaves_no_process_behind(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record))
        await bench.until_ready("kitchen")
        pid = int((await bench.call("kitchen__pid")).content)
        child = int((await bench.call("kitchen__child")).content)
        assert alive(pid)
        assert alive(child)
        await bench.delete("kitchen")
        await until(lambda: not alive(pid) and not alive(child), "the server and its child are gone")

        async def forgotten() -> bool:
            return await bench.status("kitchen") is None

        await until(forgotten, "its status is gone")


async def test_a_stopped_executor_leaves_no_process_behind_however_stubborn(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "EXIT_GRACE_S", 0.5)
    tools = [{"name": "pid", "does": "pid"}]
    async with on_bench() as bench:
        await bench.declare(plain("stubborn", record, stubborn=True, tools=tools))
        await bench.declare(kitchen("kitchen", record), servers=("stubborn", "kitchen"))
        await bench.until_ready("stubborn")
        await bench.until_ready("kitchen")
        pids = [int((await bench.call(f"{name}__pid")).content) for name in ("stubborn", "kitchen")]
        pids.append(int((await bench.call("kitchen__child")).content))
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)


async def test_a_killed_server_whose_child_holds_its_pipes_is_noticed(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record))
        await bench.until_ready("kitchen")
        child = int((await bench.call("kitchen__child")).content)
        task = await bench.ask("kitchen__crash", {"text": "boom"})
        assert (await bench.until_result(task, within_s=2)).outcome == "unknown"
        await until(lambda: not alive(child), "the rest of its process group is gone")


async def test_a_rotated_secret_starts_the_server_anew(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SECRETS_CHECK_S", 0.1)
    folder = tmp_path / "secrets" / "box"
    folder.mkdir(parents=True)
    (folder / "token").write_text("short-1")
    secret = EnvVar(name="TOKEN", value_from=SecretSource(secret_key_ref=SecretKeyRef(name="box", key="token")))
    async with on_bench(settings=Settings(secrets_dir=str(folder.parent))) as bench:
        await bench.declare(kitchen("kitchen", record, secret_env=[secret]))
        await bench.until_ready("kitchen")
        before = await called(bench, "kitchen__environment")
        assert before["TOKEN"] == "short-1"
        slow = await bench.ask("kitchen__effect", {"text": "pour", "seconds": 1.0})
        await until(lambda: record_of(record) == ["pour"], "a call under way")
        (folder / "token").write_text("short-2")

        async def renewed() -> bool:
            return bool((await called(bench, "kitchen__environment"))["TOKEN"] == "short-2")

        await until(renewed, "a server with the new secret")
        assert (await bench.until_result(slow)).outcome == "succeeded", "a call in flight was cut off"

        (folder / "token").unlink()
        status = await bench.until_status("kitchen", "Error")
        assert status.status_detail.startswith("Validation failed: failed to get secret")
        (folder / "token").write_text("short-3")
        await bench.until_ready("kitchen")


async def test_a_changed_manifest_starts_the_server_anew(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("plain", record, tools=[{"name": "one"}]))
        await bench.until_ready("plain")
        await bench.declare(plain("plain", record, tools=[{"name": "two"}]))
        status = await bench.until_ready("plain")
        assert [tool.name for tool in status.tools] == ["two"]
        assert (await bench.call("plain__two")).outcome == "succeeded"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"fail": "no such database"}, ["status 3", "no such database"]),
        ({"deaf": True}, ["no answer in time"]),
    ],
)
async def test_a_server_that_does_not_come_up_says_why_and_harms_no_other(
    record: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], words: list[str]
) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("good", record))
        await bench.until_ready("good")
        if config.get("deaf"):
            monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.5)
        await bench.declare(plain("bad", record, **config), servers=("bad", "good"))
        status = await bench.until_status("bad", "Error", detail="Connection failed: ")
        assert all(word in status.status_detail for word in words), status.status_detail
        assert (await called(bench, "good__echo"))["tool"] == "echo"


async def test_a_command_that_does_not_exist_is_named() -> None:
    async with on_bench() as bench:
        await bench.declare(stdio_server("missing", ("/no/such/command",)))
        status = await bench.until_status("missing", "Error", detail="Connection failed: ")
        assert "'/no/such/command' could not be started" in status.status_detail
        await bench.declare(stdio_server("empty", ("",)))
        status = await bench.until_status("empty", "Error")
        assert status.status_detail == "Validation failed: command is required for stdio transport"


async def test_words_that_are_no_messages_are_overheard(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(plain("chatty", record, garbage=True))
        await bench.until_ready("chatty")
        assert (await called(bench, "chatty__echo"))["tool"] == "echo"


async def test_an_answer_that_is_too_long_ends_the_connection_and_nothing_else(
    record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "MESSAGE_BYTES_MAX", 100_000)
    monkeypatch.setattr(stdio, "EXIT_GRACE_S", 0.2)
    repeat = ToolPolicy(tool="huge", read_only=False, idempotent=False)
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record, policies=[repeat]))
        await bench.until_ready("kitchen")
        assert (await bench.call("kitchen__huge", {"size": 1_000_000})).outcome == "unknown"
        assert (await bench.call("kitchen__pair")).outcome == "succeeded"


async def test_a_server_that_hangs_is_noticed_and_replaced(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CHECK_S", 0.2)
    monkeypatch.setattr(session, "ASK_TIMEOUT_S", 0.5)
    tools = [
        {"name": "pid", "does": "pid", "annotations": {"readOnlyHint": True}},
        {"name": "wait", "does": "sleep"},
    ]
    async with on_bench() as bench:
        await bench.declare(plain("plain", record, tools=tools))
        await bench.until_ready("plain")
        before = int((await bench.call("plain__pid")).content)
        task = await bench.ask("plain__wait")
        await until(lambda: "wait" in record_of(record), "a call is under way")
        os.kill(before, signal.SIGSTOP)
        assert (await bench.until_result(task, within_s=5)).outcome == "unknown"
        assert int((await bench.call("plain__pid")).content) != before
        assert not alive(before)


async def test_a_call_waits_for_a_server_that_is_being_started(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record))
        result = await bench.call("kitchen__pair")
        assert result.outcome == "succeeded"


async def test_calls_of_one_server_run_at_once_up_to_its_limit(record: Path) -> None:
    async with on_bench() as bench:
        await bench.declare(kitchen("kitchen", record, concurrency=3))
        await bench.until_ready("kitchen")
        tasks = [await bench.ask("kitchen__effect", {"text": f"{n}", "seconds": 0.5}) for n in range(6)]
        await until(lambda: len(record_of(record)) == 3, "three calls under way")
        assert [await bench.result(task) for task in tasks] == [None] * 6
        for task in tasks:
            assert (await bench.until_result(task)).outcome == "succeeded"
        assert sorted(record_of(record)) == list("012345")
