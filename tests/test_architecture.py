"""The rules of the tree that no linter knows: sizes, which file has a test, what every module and every test says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GATEWAY = ROOT / "gateway"
TESTS = ROOT / "tests"
MAX_LINES = 400

PURE = ("endpoints", "errors", "headers", "metrics", "router")
"""Modules of the pure core that decide something. The others of the contract only declare."""

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


def imported(module: ast.Module) -> Iterator[str]:
    """Every dotted name that an import statement of the module mentions."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions_that_test(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The test functions of a module, those in classes too."""
    for node in ast.walk(module):
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


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_file_uses_the_undocumented_parsers(path: Path) -> None:
    """aiohttp's parsers are not documented API: they are an oracle for tests, nothing the gateway may come to rest on."""
    parsers = [found for found in imported(tree(path)) if found.startswith(("aiohttp.http_parser", "aiohttp._http_parser"))]

    assert parsers == []


def patterns(module: ast.Module) -> Iterator[str]:
    """The parts of every regular expression, each class of characters written as a dot."""
    for call in ast.walk(module):
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("re."):
            for node in ast.walk(call):
                if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
                    text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
                    yield re.sub(r"\[(?:\\.|[^\]\\])+\]", ".", text)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_pattern_has_possessive_groups(path: Path) -> None:
    """Python before 3.11.5 matches possessive and atomic groups wrongly (cpython#106052); a possessive class is right."""
    assert [text for text in patterns(tree(path)) if re.search(r"\)(?:[*+?]|\{[\d,]+\})\+|\(\?>", text)] == []
