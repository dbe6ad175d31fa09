"""`mode`, `owner` and `group` of files that the gateway makes: what cannot be is refused before the gateway runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.load import load
from gateway.control.reading.problems import ConfigError


def listening(path: Path, more: str) -> Path:
    """A file with a Unix socket of these rights."""
    text = "routes: [{name: a, match: {}, respond: {body: OK}}]"
    path.write_text(f'version: 1\nserver: {{listen: [{{address: "unix:/run/in", {more}}}]}}\n{text}\n')
    return path


@pytest.mark.parametrize("field", ["owner", "group"])
@pytest.mark.parametrize("number", ["4294967295", "99999999999", "9" * 5000])
def test_a_number_that_no_system_has_is_refused(tmp_path: Path, field: str, number: str) -> None:
    """The last of 32 bits would leave the owner as it is, and larger ones ended the start in a traceback."""
    with pytest.raises(ConfigError, match=f"`{field}`: the system has no numbers above 4294967294"):
        load(listening(tmp_path / "gateway.yaml", f"{field}: {number}"))


@pytest.mark.parametrize("name", ["²", "nobody-has-this-name", '"\\xe9"'])
def test_a_name_that_nobody_has_is_refused(tmp_path: Path, name: str) -> None:
    """Names are looked up where the file is checked."""
    with pytest.raises(ConfigError, match="there is no user of this name here"):
        load(listening(tmp_path / "gateway.yaml", f"owner: {name}"))


def test_the_largest_number_is_one(tmp_path: Path) -> None:
    """Numbers need not be in the list of users."""
    assert load(listening(tmp_path / "gateway.yaml", "owner: 4294967294")).config.server.listen[0].owner == 4294967294
