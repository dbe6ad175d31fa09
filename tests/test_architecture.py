"""The rules of the tree that no linter knows: sizes, circles, which file has a test, what every module and every test says."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.docs.architecture_page import PAGE, page

ROOT = Path(__file__).resolve().parent.parent
GATEWAY = ROOT / "gateway"
TESTS = ROOT / "tests"
MAX_LINES = 400
MAX_FILES = 16

PURE = ("endpoints", "errors", "gates", "headers", "metrics", "router")
DECLARED = ("access_log", "policies", "ports", "request_key", "server_settings", "snapshot")
"""The pure core: modules that decide something, and those that only declare. Each policy has a test of its own."""

SOURCES = sorted(GATEWAY.rglob("*.py"))
TEST_SOURCES = sorted(TESTS.rglob("*.py"))
POLICIES = sorted(path for path in (GATEWAY / "policies").iterdir() if path.stem[:2] != "__")


def name(path: Path) -> str:
    """The path as people write it."""
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def nodes(module: ast.Module) -> list[ast.AST]:
    """All that is in it: each rule asks for that."""
    return list(ast.walk(module))


def imported(module: ast.Module) -> Iterator[str]:
    """Every dotted name that an import statement of the module mentions."""
    for node in nodes(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions_that_test(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The test functions of a module, those in classes too."""
    for node in nodes(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_file_of_the_gateway_has_two_reasons_to_change(path: Path) -> None:
    """A file of more than 400 lines is split."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES + TEST_SOURCES, ids=name)
def test_every_module_says_what_it_is(path: Path) -> None:
    """A module starts with a docstring; only an empty `__init__.py` has nothing to say."""
    module = tree(path)

    assert ast.get_docstring(module) or (path.name == "__init__.py" and not module.body)


def test_every_module_of_the_core_is_listed() -> None:
    """The contract of the pure core and the lists above name the same modules."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    core = next(contract["source_modules"] for contract in contracts if contract["name"].startswith("The core decides"))

    assert sorted(core) == sorted(f"gateway.{module}" for module in PURE + DECLARED)


@pytest.mark.parametrize("module", PURE)
def test_every_pure_module_has_its_own_unit_test(module: str) -> None:
    """Pure code is tested by itself, without a loop or sockets: `tests/unit/test_<module>.py`."""
    assert (TESTS / "unit" / f"test_{module}.py").is_file()


@pytest.mark.parametrize("path", POLICIES, ids=name)
def test_every_policy_has_its_own_unit_test(path: Path) -> None:
    """A policy is a decision, so it can be tested as one: `tests/unit/test_<policy>.py`."""
    assert (TESTS / "unit" / f"test_{path.stem}.py").is_file()


@pytest.mark.parametrize("path", TEST_SOURCES, ids=name)
def test_every_test_says_its_rule(path: Path) -> None:
    """Each test function states the rule it holds, in its docstring."""
    silent = [test.name for test in functions_that_test(tree(path)) if not ast.get_docstring(test)]

    assert silent == []


@pytest.mark.parametrize("path", SOURCES + TEST_SOURCES, ids=name)
def test_nothing_is_mocked(path: Path) -> None:
    """Tests use real sockets, or fakes behind the Protocols of `ports.py`."""
    mocks = [found for found in imported(tree(path)) if found.startswith(("unittest.mock", "mock.")) or found == "mock"]

    assert mocks == []


CLOCKS = {"monotonic", "perf_counter", "time"}
TOOK = {"took", "elapsed", "duration", "seconds_passed"}
WALL_CLOCK = {"tests/support.py", "tests/fleets.py"}
"""Where tests may ask a clock again and again, and sleep in between: `eventually`, `until`, `holds`, `time_passes`."""
PLAIN_TESTS = [path for path in TEST_SOURCES if TESTS / "bench" not in path.parents]
"""Without the benches, which measure."""


def called(node: ast.AST) -> str:
    """The last part of the name of what is called; empty for what is no call."""
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


def is_a_duration(node: ast.AST) -> bool:
    """`monotonic() - began`, a name that says so, or `entry["duration_ms"]`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        return called(node.left) in CLOCKS
    if isinstance(node, ast.Subscript):
        return isinstance(node.slice, ast.Constant) and str(node.slice.value).endswith("_ms")
    return isinstance(node, ast.Name) and node.id in TOOK


def upper_bounds(module: ast.Module) -> Iterator[str]:
    """Comparisons that say that something took less than a number of seconds that stands there."""
    for node in nodes(module):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
                less, more = (left, right) if isinstance(operator, (ast.Lt, ast.LtE)) else (right, left)
                ordered = isinstance(operator, (ast.Lt, ast.LtE, ast.Gt, ast.GtE))
                if ordered and is_a_duration(less) and isinstance(more, ast.Constant):
                    yield f"{node.lineno}: {ast.unparse(node)}"


def loops_without_end(module: ast.Module) -> Iterator[str]:
    """`while` in a test or a helper of tests, but for those that end: with their peer, or with the time they are given.

    A behaviour of an upstream ends with its connection, `peer` or `reader`; what goes on beside a test ends with its task, and
    says so by the name `for_ever`.
    """

    def ends(node: ast.AST) -> bool:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            told = {one.arg for one in node.args.args} & {"peer", "reader", "source", "data"}
            return bool(told) or "for_ever" in node.name
        return isinstance(node, ast.AsyncWith) and any("timeout" in called(item.context_expr) for item in node.items)

    def look(node: ast.AST, bounded: bool) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inside = bounded or ends(child)
            if isinstance(child, ast.While) and not inside:
                waits = any(isinstance(one, ast.Await) for one in ast.walk(child))
                if waits or ast.unparse(child.test) == "True":
                    yield f"{child.lineno}: while {ast.unparse(child.test)}"
            yield from look(child, inside)

    return look(module, False)


@pytest.mark.parametrize("path", PLAIN_TESTS, ids=name)
def test_no_test_sleeps(path: Path) -> None:
    """A sleep hopes: what a test waits for is a state or an event. Slowness that is meant is `time_passes` of support.py."""
    sleeps = [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in nodes(tree(path))
        if isinstance(node, ast.Call) and called(node) == "sleep" and ast.unparse(node.args[0]) != "0"
    ]

    assert name(path) in WALL_CLOCK | {"tests/redis_server.py", "tests/integration/framing/judge.py"} or sleeps == [], sleeps


@pytest.mark.parametrize("path", PLAIN_TESTS, ids=name)
def test_no_test_demands_that_the_machine_is_fast(path: Path) -> None:
    """How long something takes says more about the machine than about the code; processor time may be compared."""
    assert list(upper_bounds(tree(path))) == []


@pytest.mark.parametrize("path", PLAIN_TESTS, ids=name)
def test_no_test_waits_for_ever(path: Path) -> None:
    """A loop that waits has a deadline, or ends with its peer: a failure is told, not hung upon."""
    assert name(path) in WALL_CLOCK or list(loops_without_end(tree(path))) == []


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_file_uses_the_undocumented_parsers(path: Path) -> None:
    """aiohttp's parsers are not documented API: they are an oracle for tests, nothing the gateway may come to rest on."""
    parsers = [found for found in imported(tree(path)) if found.startswith(("aiohttp.http_parser", "aiohttp._http_parser"))]

    assert parsers == []


def patterns(module: ast.Module) -> Iterator[str]:
    """The parts of every regular expression, each class of characters written as a dot."""
    for call in nodes(module):
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("re."):
            for node in ast.walk(call):
                if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
                    text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                    yield re.sub(r"\[(?:\\.|[^\]\\])+\]", ".", text)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_pattern_has_possessive_groups(path: Path) -> None:
    """Python before 3.11.5 matches possessive and atomic groups wrongly (cpython#106052); a possessive class is right."""
    assert [text for text in patterns(tree(path)) if re.search(r"\)(?:[*+?]|\{[\d,]+\})\+|\(\?>", text)] == []


# -- circles and rooms -------------------------------------------------------------------------------------------------

MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}


def needed(module: str) -> set[str]:
    """The modules that the imports name, those for types only too. A name that a package passes on belongs to the package."""
    found: set[str] = set()
    for node in nodes(tree(MODULES[module])):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are absolute"
            names = [full if (full := f"{node.module}.{alias.name}") in MODULES else str(node.module) for alias in node.names]
        else:
            continue
        found.update(name for name in names if name in MODULES)
    return found - {module}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan 1972)."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        numbers[module] = lowest[module] = len(numbers)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in numbers:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in stack:
                lowest[module] = min(lowest[module], numbers[other])
        if lowest[module] == numbers[module]:
            circle = [stack.pop()]
            while circle[-1] != module:
                circle.append(stack.pop())
            if len(circle) > 1:
                found.append(sorted(circle))

    for module in sorted(graph):
        if module not in numbers:
            visit(module)
    return found


def test_circles_are_found() -> None:
    """The search itself: two circles that touch are one, and what only leads to a circle is not in it."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"c"}, "e": {"f"}, "f": {"e"}, "g": {"a"}}

    assert sorted(circles(graph)) == [["b", "c", "d"], ["e", "f"]]


def test_no_modules_import_one_another() -> None:
    """No circle of imports, those under `TYPE_CHECKING` included: each module is understood after those below it."""
    assert circles({module: needed(module) for module in MODULES}) == []


@pytest.mark.parametrize("room", sorted({path.parent for path in SOURCES}), ids=name)
def test_no_room_is_crowded(room: Path) -> None:
    """A folder of more than 16 Python files is split."""
    assert len(list(room.glob("*.py"))) <= MAX_FILES


STEPS = sorted(path for part in ("steps", "attempts", "access_log") for path in (GATEWAY / "proxy" / part).glob("*.py")) + [
    GATEWAY / "proxy" / f"{stem}.py" for stem in ("exchange", "pipeline", "time_limits")
]


@pytest.mark.parametrize("path", STEPS, ids=name)
def test_no_step_writes_on_a_transport(path: Path) -> None:
    """Steps answer through `Client` and ask through an upstream connection; bytes on a socket are below them."""
    assert [node.attr for node in nodes(tree(path)) if isinstance(node, ast.Attribute) and node.attr == "transport"] == []


def test_the_tables_of_the_architecture_page_are_as_the_code_is() -> None:
    """docs/architecture.md lists every file with the first sentence of its docstring; `make docs` writes it."""
    assert page() == PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_docstring_sends_the_reader_elsewhere(path: Path) -> None:
    """A docstring says what it is about. What overrides a documented method needs none."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) or "" for node in nodes(tree(path)) if isinstance(node, kinds)]

    assert [text for text in texts if text.startswith(("See ", "The same "))] == []
