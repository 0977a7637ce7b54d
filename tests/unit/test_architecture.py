"""The rules of the layout, held by reading the source.

`schemas` knows nothing of ours; a `core` knows `schemas` and neither clock, chance, tasks nor logs; the runtime knows
no service; no service knows another; a library is known to the one place that adapts it. Sizes are a ratchet: nothing
new may cross the limits without a line here that says why.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("schemas", "services", "tests")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

LIBRARIES: dict[str, tuple[str, ...]] = {
    "anyio": ("services/tool_executor/mcp/",),
    "anthropic": ("services/llm_gateway/providers/anthropic.py",),
    "attrs": ("services/runtime/json_schema.py",),
    "cryptography": ("services/cli/nats/certificates.py", "services/runtime/sealing.py"),
    "httpx2": (
        "services/human_contact/channels/slack_api.py",
        "services/llm_gateway/providers/",
        "services/runtime/egress_http.py",
        "services/runtime/outbound.py",
        "services/tool_executor/mcp/",
        "services/tool_executor/toolsets/http.py",
    ),
    "jsonschema": ("services/runtime/json_schema.py",),
    "jwt": ("services/llm_gateway/providers/google_token.py",),
    "mcp": ("services/tool_executor/mcp/",),
    "mcp_types": ("services/tool_executor/mcp/",),
    "msgspec": ("schemas/", "services/"),
    "nats": ("services/runtime/nats/",),
    "nkeys": ("services/cli/nats/setup.py",),
    "openai": ("services/llm_gateway/providers/openai.py",),
    "opentelemetry": (
        "services/runtime/telemetry/otel.py",
        "services/runtime/telemetry/otlp_logs.py",
        "services/runtime/telemetry/otlp_metrics.py",
    ),
    "prometheus_client": (
        "services/runtime/telemetry/families.py",
        "services/runtime/telemetry/metrics.py",
        "services/runtime/health.py",
    ),
    "pydantic": ("services/tool_executor/mcp/",),
    "referencing": ("services/runtime/json_schema.py",),
    "rich": ("services/cli/",),
    "typer": ("services/cli/",),
    "uvicorn": ("services/human_contact/web/server.py",),
    "uvloop": ("services/runtime/",),
    "yaml": ("services/cli/",),
}
"""Where each library may be imported. Another one needs a line here, and one in the record on dependencies."""

DISTRIBUTIONS = {"jwt": "pyjwt", "nats": "nats-py", "opentelemetry": "opentelemetry-sdk", "yaml": "pyyaml"}
"""The distributions of libraries that are called otherwise."""

IMPURE = (
    *("asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select"),
    *("shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib.request"),
    "uuid",
)
"""What a core cannot import: clock, chance, input and output, tasks, logs."""

PURE_RUNTIME = "services.runtime.json_schema"
"""What a core may use of the runtime: a function of its arguments, which more than one service needs."""

LONG_FILES: dict[str, str] = {
    "schemas/catalog.py": "one channel after another: a table of all that is said",
    "schemas/resources.py": "one struct after another: a table of all that a manifest may say",
    "schemas/subjects.py": "one subject after another: a table of all that is said on the bus",
}
"""Files above the limit, each with the reason why it is one file."""
LONG_FUNCTIONS: dict[str, str] = {}
"""`file:function` above the limit, each with the reason."""
BROAD_EXCEPTS = {
    "services/cli/main.py": "a defect must not end with the code of a failed task",
    "services/runtime/consumer.py": "a handler's bug, whatever it is, becomes a dead letter",
    "services/runtime/json_schema.py": "a foreign schema fails in any way it likes",
    "services/runtime/nats/client.py": "a receiver that fails must not end the client's reading",
    "services/runtime/nats/signals.py": "one bad signal must not silence the rest",
    "services/runtime/nats/attach.py": "closes what it opened and raises again",
    "services/runtime/nats/bus.py": "closes what it opened and raises again",
    "services/runtime/telemetry/otel.py": "marks the span and raises again",
    "services/runtime/telemetry/otlp_metrics.py": "one reading that fails must not end the export",
    "services/tool_executor/mcp/session.py": "whatever a server or the SDK does wrong ends as that server's status",
}
"""Files that may catch everything, and what follows there."""
CLOCKS = ("services/runtime/nats/bus.py", "services/runtime/memory/clock.py", "services/cli/")
"""The real time is asked for in a `Clock`, and by people's command line."""

Source = tuple[str, str, ast.Module]
"""A file's path from the root, its text and its tree."""


@functools.cache
def source_of(path: Path) -> Source:
    text = path.read_text(encoding="utf-8")
    return path.relative_to(ROOT).as_posix(), text, ast.parse(text)


def sources(*folders: str) -> list[Source]:
    return [source_of(path) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)
            case ast.ImportFrom():
                yield node.lineno, "a relative import"
            case _:
                pass


def dotted(node: ast.expr) -> str:
    """`a.b.c` for such an expression; empty for any other."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{dotted(value)}.{name}"
        case _:
            return ""


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def ours_allowed(path: str) -> tuple[str, ...]:
    """The packages of ours that a file may import from."""
    parts = path.split("/")
    match parts:
        case ["schemas", *_]:
            return ("schemas",)
        case ["services", service, "core", *_]:
            return ("schemas", f"services.{service}.core", PURE_RUNTIME)
        case ["services", "runtime", *_]:
            return ("schemas", "services.runtime")
        case ["services", service, *_]:
            return ("schemas", "services.runtime", f"services.{service}")
        case _:
            return ("schemas", "services", "tests")


def bad_imports(source: Source) -> Iterator[str]:
    path, _, tree = source
    is_core = "/core/" in path
    for_types = {
        place
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and dotted(node.test) == "TYPE_CHECKING"
        for place in imported(node)
    }
    for line, name in imported(tree):
        top = name.split(".")[0]
        if top in FOLDERS:
            if not within(name, *ours_allowed(path)):
                yield f"{path}:{line} imports {name}"
        elif top in sys.stdlib_module_names:
            if is_core and within(name, *IMPURE):
                yield f"{path}:{line} imports {name} into a core"
        elif (line, name) not in for_types and not path.startswith(LIBRARIES.get(top, ())):
            yield f"{path}:{line} imports {name}, which is not for this place"


def bad_calls(source: Source) -> Iterator[str]:
    path, _, tree = source
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match dotted(node.func):
            case "asyncio.create_task" | "asyncio.ensure_future" as called:
                yield f"{path}:{node.lineno} calls {called}; use services.runtime.tasks.spawn"
            case "time.time" | "datetime.utcnow" as called:
                yield f"{path}:{node.lineno} calls {called}; time comes from a Clock"
            case "datetime.now" if not path.startswith(CLOCKS):
                yield f"{path}:{node.lineno} calls datetime.now; time comes from a Clock"
            case "print" if not path.startswith("services/cli/"):
                yield f"{path}:{node.lineno} prints"
            case _:
                pass


def broad_excepts(source: Source) -> Iterator[str]:
    path, _, tree = source
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            if caught in ("everything", "Exception", "BaseException") and path not in BROAD_EXCEPTS:
                yield f"{path}:{node.lineno} catches {caught}"


def sleeps(source: Source) -> Iterator[str]:
    path, _, tree = source
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) in ("asyncio.sleep", "time.sleep", "sleep"):
            if node.args and ast.unparse(node.args[0]) == "0":
                continue  # lets others run, and waits for nothing
            yield f"{path}:{node.lineno} sleeps; wait on the condition"


def long_files(source: Source) -> Iterator[str]:
    path, text, _ = source
    lines = text.count("\n")
    if lines > FILE_LINES_MAX and path not in LONG_FILES:
        yield f"{path} has {lines} lines; {FILE_LINES_MAX} at most"


def long_functions(source: Source) -> Iterator[str]:
    path, _, tree = source
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX and f"{path}:{node.name}" not in LONG_FUNCTIONS:
                yield f"{path}:{node.lineno} {node.name} has {lines} lines; {FUNCTION_LINES_MAX} at most"


def notes(source: Source) -> Iterator[tuple[int, str]]:
    """The comments and docstrings of a file."""
    _, text, tree = source
    for token in tokenize.generate_tokens(iter(text.splitlines(keepends=True)).__next__):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def nameless_todos(source: Source) -> Iterator[str]:
    for line, note in notes(source):
        for found in re.finditer(r"\b(TODO|FIXME|XXX)\b(?! ?\(?#\d+)", note):
            yield f"{source[0]}:{line} has a {found[1]} without the number of an issue"


CITED = re.compile(r"(?<![\w/.<>*-])((?:[\w.-]+/)*[\w-]+\.(?:py|md|toml|sh))\b(?![/(])")


def dead_citations(source: Source, *, known: frozenset[str]) -> Iterator[str]:
    for line, note in notes(source):
        for cited in CITED.findall(note):
            if not any(path == cited or path.endswith(f"/{cited}") for path in known):
                yield f"{source[0]}:{line} cites {cited}, which does not exist"


def all_paths() -> frozenset[str]:
    files = [path for folder in (*FOLDERS, "docs") for path in (ROOT / folder).rglob("*") if path.is_file()]
    return frozenset(path.relative_to(ROOT).as_posix() for path in [*files, *ROOT.glob("*.*")])


def refuse(problems: Iterable[str]) -> None:
    found = list(problems)
    assert not found, "\n".join(found)


CODE = sources("schemas", "services")
MAY_SLEEP = ("tests/chaos/", "tests/e2e/", "tests/bench/", "tests/support/")
"""Where real time passes, and where waiting on a condition is built."""
TESTS = [source for source in sources("tests") if not source[0].startswith(MAY_SLEEP)]


def test_imports_point_one_way_and_libraries_stay_in_their_adapters() -> None:
    refuse(problem for source in CODE for problem in bad_imports(source))


def test_every_library_that_is_imported_is_declared_and_none_is_listed_in_vain() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in project["dependencies"]}
    used = {name.split(".")[0] for source in CODE for _, name in imported(source[2])}
    assert LIBRARIES.keys() <= used
    assert {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in LIBRARIES} <= declared


def test_background_tasks_time_and_output_come_from_their_one_place() -> None:
    refuse(problem for source in CODE for problem in bad_calls(source))


def test_everything_is_caught_only_where_it_is_said_what_follows() -> None:
    refuse(problem for source in CODE for problem in broad_excepts(source))


def test_tests_wait_on_conditions() -> None:
    refuse(problem for source in TESTS for problem in sleeps(source))


def test_no_file_or_function_has_grown_out_of_sight() -> None:
    everything = sources(*FOLDERS)
    refuse(problem for check in (long_files, long_functions) for source in everything for problem in check(source))


def test_every_exception_is_still_needed() -> None:
    """A stale exception would let something through later."""
    files = {path: text for path, text, _ in sources(*FOLDERS)}
    too_long = {path for path, text in files.items() if text.count("\n") > FILE_LINES_MAX}
    assert LONG_FILES.keys() <= too_long
    assert {name.split(":")[0] for name in LONG_FUNCTIONS} <= files.keys()
    catching = {path for path, text in files.items() if re.search(r"except (Base)?Exception", text)}
    assert BROAD_EXCEPTS.keys() <= catching


def test_an_unfinished_thing_names_its_issue() -> None:
    refuse(problem for source in sources(*FOLDERS) for problem in nameless_todos(source))


def test_a_file_that_is_cited_exists() -> None:
    known = all_paths()
    refuse(problem for source in sources(*FOLDERS) for problem in dead_citations(source, known=known))


PLANTED: tuple[tuple[Callable[[Source], Iterator[str]], str, str], ...] = (
    (bad_imports, "schemas/x.py", "from services.runtime import ports"),
    (bad_imports, "services/runtime/x.py", "from services.planner.steps import Steps"),
    (bad_imports, "services/planner/x.py", "import services.llm_gateway.main"),
    (bad_imports, "services/planner/core/x.py", "from services.runtime.errors import Broken"),
    (bad_imports, "services/planner/core/x.py", "import asyncio"),
    (bad_imports, "services/planner/core/x.py", "from time import monotonic"),
    (bad_imports, "services/planner/x.py", "import nats"),
    (bad_imports, "services/llm_gateway/providers/openai.py", "from anthropic import AsyncAnthropic"),
    (bad_imports, "services/planner/x.py", "import requests"),
    (bad_imports, "services/planner/x.py", "from .steps import Steps"),
    (bad_calls, "services/planner/x.py", "asyncio.create_task(f())"),
    (bad_calls, "services/planner/x.py", "time.time()"),
    (bad_calls, "services/planner/x.py", "datetime.now(UTC)"),
    (bad_calls, "services/planner/x.py", "print(1)"),
    (broad_excepts, "services/planner/x.py", "try:\n    f()\nexcept Exception:\n    pass"),
    (broad_excepts, "services/planner/x.py", "try:\n    f()\nexcept:\n    pass"),
    (sleeps, "tests/unit/x.py", "await asyncio.sleep(0.1)"),
    (long_files, "services/x.py", "x = 1\n" * (FILE_LINES_MAX + 1)),
    (long_functions, "services/x.py", "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX),
    (nameless_todos, "services/x.py", "x = 1  # TODO: later"),
    (lambda source: dead_citations(source, known=all_paths()), "services/x.py", '"""See `gone/for_ever.py`."""'),
)


@pytest.mark.parametrize(("check", "path", "text"), PLANTED, ids=range(len(PLANTED)))
def test_a_planted_fault_is_found(check: Callable[[Source], Iterator[str]], path: str, text: str) -> None:
    assert len(list(check((path, text, ast.parse(text))))) == 1
