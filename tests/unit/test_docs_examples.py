"""What the pages show can be done: configurations are valid, commands are understood, make targets and modules exist."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gateway.cli.main import _parser, main
from gateway.demo import parser as demo_parser
from tests.certificates import Certificates
from tests.docs.examples import PAGES, ROOT, Block, all_blocks, blocks, commands, completed, is_gateway, shell_lines

YAML = [block for block in all_blocks("yaml") if block.mark != "other"]
OTHER_YAML = [block for block in all_blocks("yaml") if block.mark == "other"]
SHELL = all_blocks("sh")
FENCES = re.compile(r"^```([^\n]*)\n.*?^```$", re.MULTILINE | re.DOTALL)
WALKED = [*sorted((ROOT / "docs/how-to").glob("*.md")), ROOT / "docs/tutorial.md"]


@pytest.mark.parametrize("block", YAML, ids=str)
def test_configurations_are_valid(
    block: Block,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every configuration of a page passes `gateway check`, fragments within what they belong to."""
    certificates: Certificates | None = request.getfixturevalue("certificates") if "certificate" in block.text else None
    path, variables = completed(block, tmp_path, certificates)
    for name in variables:
        monkeypatch.setenv(name, "value")

    assert main(["check", str(path)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("block", OTHER_YAML, ids=str)
def test_yaml_of_other_programs_can_be_read(block: Block) -> None:
    """It is YAML at least; what it says is theirs."""
    assert list(yaml.safe_load_all(block.text))


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_are_understood(block: Block) -> None:
    """Every `gateway` command of a shell block is one that its parser takes, and what make and python are told to do exists."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for line in shell_lines(block.text):
        for words in commands(line):
            if is_gateway(words):
                parser = demo_parser() if words[1] == "demo" else _parser()
                parser.parse_args(words[2:] if words[1] == "demo" else words[1:])
            elif words[0] == "make":
                assert words[1] in targets
            elif words[0].endswith("python") and words[1:2] == ["-m"]:
                assert importlib.util.find_spec(words[2]), line


@pytest.mark.parametrize("page", WALKED, ids=lambda page: page.name)
def test_walked_pages_say_what_is_run(page: Path) -> None:
    """Where a reader is led by the hand, each shell block is run by a test, or says why not."""
    silent = [str(block) for block in blocks(page) if block.language == "sh" and block.mark not in ("run", "start", "not run")]

    assert silent == []


def test_blocks_are_of_languages_that_are_tried() -> None:
    """YAML and shell are tried, the others are shown; a block in a list, or in a dialect of those, would escape."""
    found = {language for page in PAGES for language in FENCES.findall(page.read_text(encoding="utf-8"))}

    assert found <= {"yaml", "sh", "text", "python", "nginx"}
    assert [page.name for page in PAGES if re.search(r"^[ >]+```", page.read_text(encoding="utf-8"), re.MULTILINE)] == []


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    """Every link and every anchor of the documentation leads somewhere, and every page is in the navigation."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    assert (tmp_path / "search/search_index.json").is_file()
