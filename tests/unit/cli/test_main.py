from __future__ import annotations

import io
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.requests import Limits
from services.cli.dev import locked, replicas_of
from services.cli.exits import MEANINGS, ExitCode, Stop
from services.cli.main import run
from services.cli.requests import labels_of, limits_of
from services.cli.serve import SERVICES, chosen

AGENT = """\
apiVersion: holdfast.dev/v1
kind: Agent
metadata: {name: helper}
spec: {llmRef: {name: gpt}, system: Help.}
"""


@pytest.fixture(autouse=True)
def _nobody_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOLDFAST_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("NATS_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "100")


def test_help_teaches_by_examples_and_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "holdfast demo" in shown
    for code, meaning in MEANINGS.items():
        assert f"{code.value:>3}  {meaning}" in shown


@pytest.mark.parametrize(
    "command",
    [
        "dev",
        "demo",
        "serve",
        "apply",
        "get",
        "describe",
        "delete",
        "run",
        "submit",
        "watch",
        "cancel",
        "events",
        "usage",
    ],
)
def test_every_command_has_help_with_its_exact_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"holdfast {command}" in shown
    if command != "demo":
        assert "Example" in shown


def test_help_comes_quickly() -> None:
    def once() -> float:
        """Seconds of processor time, which a busy machine does not stretch."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "services.cli.main", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(3)) < 0.4


def test_help_loads_neither_the_bus_nor_a_service() -> None:
    script = (
        "import sys; from services.cli.main import run; run(['get', '--help']);"
        "bad = {'nats', 'openai', 'anthropic', 'mcp', 'prometheus_client', 'opentelemetry'} & set(sys.modules);"
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nothing"], 2, "No such command"),
        (["get", "-o", "xml"], 2, "xml"),
        (["get", "agnets"], 2, "did you mean agents?"),
        (["get", "agents,llms", "x"], 2, "names go with one kind"),
        (["describe", "agent"], 2, "describe one thing"),
        (["delete"], 2, "say what to delete"),
        (["delete", "toolcall", "x", "-f", "y"], 2, "either -f or KIND NAME"),
        (["apply"], 2, "filename"),
        (["apply", "-f", "/nowhere.yaml"], 3, "cannot read /nowhere.yaml"),
        (["submit"], 2, "either -f FILE, or --agent"),
        (["submit", "-a", "helper"], 4, "one of userMessage or contextWindow must be provided"),
        (["run", "helper", "hi", "--max-cost", "cheap"], 2, "is not a number of US dollars"),
        (["run", "helper", "hi", "--label", "novalue"], 2, "must be KEY=VALUE"),
        (["run", "Not A Name", "hi"], 4, "may hold only"),
        (["dlq", "redrive"], 2, "say which"),
        (["serve", "plannr"], 2, "did you mean planner?"),
        (["serve"], 2, "SERVICE"),
        (["dev", "--services", "planner:0"], 2, "1 to 16"),
        (["get", "--nats", "nats://127.0.0.1:1"], 5, "no server at nats://127.0.0.1:1: start one with `holdfast dev`"),
    ],
)
def test_a_wrong_command_line_ends_with_its_code_and_the_fix(
    arguments: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert text in said


def test_a_defect_ends_with_70_and_not_like_a_failed_task(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("services.cli.commands.resources.parse", broken)
    assert run(["apply", "--dry-run", "-f", str(Path(__file__))]) == 70
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "please report it" in said


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m services.cli.main completion bash | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_manifests_are_checked_without_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(AGENT)
    (tmp_path / "b.yml").write_text(AGENT.replace("helper", "other"))
    (tmp_path / "c.txt").write_text("not looked at")
    assert run(["apply", "--dry-run", "-f", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "agent/helper checked\nagent/other checked\n"


def test_a_wrong_manifest_is_refused_before_the_server_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(AGENT.replace("llmRef", "llmReff"))
    assert run(["apply", "-f", str(file)]) == 4
    said = capsys.readouterr().err
    assert said.startswith("error: a problem in the manifests; nothing was done\n")
    assert f"{file}:4: spec.llmReff: unknown field; did you mean llmRef?" in said


@pytest.mark.parametrize(("data", "code"), [(AGENT.encode(), 0), (b"\xff\xfe\x00", 4), (b"", 4)])
def test_manifests_are_read_from_standard_input(data: bytes, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert run(["apply", "--dry-run", "-f", "-"]) == code


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    shown = capsys.readouterr().out
    assert "_HOLDFAST_COMPLETE" in shown
    assert "holdfast" in shown


def test_the_shell_is_given_commands_and_kinds() -> None:
    def completed(words: str, word: int) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "services.cli.main"],
            env={"_HOLDFAST_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(word), "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.split()

    assert completed("holdfast de", 1) == ["dev", "demo", "describe", "delete"]
    assert completed("holdfast get ag", 2) == ["agent", "agents"]
    assert completed("holdfast get agent x", 3) == []


def test_limits_are_exact() -> None:
    assert str(limits_of(3, None, "$0.10", 5.0).max_cost_usd) == "0.10"
    assert limits_of(None, None, "", None) == Limits()
    assert labels_of(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    for wrong in ("-1", "0"):
        with pytest.raises(Stop, match="more than 0"):
            limits_of(None, None, wrong, None)


def test_services_are_named_once_each_in_our_order() -> None:
    assert chosen(["all"]) == list(SERVICES)
    assert chosen(["tool-executor,planner", "planner"]) == ["planner", "tool-executor"]
    assert replicas_of("all") == dict.fromkeys(SERVICES, 1)
    assert replicas_of("planner:2,llm-gateway") == {"planner": 2, "llm-gateway": 1}
    for wrong in ("planner:x", "planner:17", ","):
        with pytest.raises(Stop) as caught:
            replicas_of(wrong)
        assert caught.value.code == ExitCode.USAGE


def test_a_data_directory_belongs_to_one_dev_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "data"):
        with (
            pytest.raises(Stop, match="is in use by `holdfast dev` with process id") as caught,
            locked(tmp_path / "data"),
        ):
            pass
        assert caught.value.code == ExitCode.REFUSED
    with locked(tmp_path / "data"):
        pass
