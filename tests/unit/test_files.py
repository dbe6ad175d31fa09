"""The files of a configuration: which there are, what counts as a change, and when a change is taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.control.load import load
from gateway.control.reading.files import Look, Settling, digests_of, matching, stamps_of
from gateway.control.reading.problems import ConfigError

A, B = Path("a"), Path("b")
SMALL = "version: 1\nroutes: [{name: one, match: {}, respond: 204}]\n"


def test_a_change_is_taken_when_two_looks_agree() -> None:
    """What is still being written is left alone, and what was taken is not taken again."""
    settling = Settling({A: b"1"})

    assert settling.seen({A: b"1"}) is Look.NOTHING
    assert settling.seen({A: b"2"}) is Look.WAIT
    assert settling.seen({A: b"3"}) is Look.WAIT
    assert settling.seen({A: b"3"}) is Look.RELOAD
    assert settling.seen({A: b"3"}) is Look.NOTHING


def test_a_change_that_is_taken_back_is_none() -> None:
    """A file that is as before when it is looked at again has not changed."""
    settling = Settling({A: b"1"})

    assert settling.seen({A: b"2"}) is Look.WAIT
    assert settling.seen({A: b"1"}) is Look.NOTHING
    assert settling.seen({A: b"2"}) is Look.WAIT


def test_files_that_come_and_go_are_changes() -> None:
    """A new file, a file that vanishes, and one that comes back are each taken once."""
    settling = Settling({A: b"1"})
    for digests in ({A: b"1", B: b"1"}, {A: b"1", B: None}, {A: b"1"}):
        assert settling.seen(dict(digests)) is Look.WAIT
        assert settling.seen(dict(digests)) is Look.RELOAD


def test_what_a_reload_has_read_is_known() -> None:
    """After a reload by a signal the same content is no change; files it did not get to keep what was last seen of them."""
    settling = Settling({A: b"1", B: b"1"})
    settling.tried({A: b"2"}, [A, B])

    assert settling.seen({A: b"2", B: b"1"}) is Look.NOTHING
    assert settling.seen({A: b"2", B: b"2"}) is Look.WAIT


def test_a_swapped_link_is_seen_every_time(tmp_path: Path) -> None:
    """A ConfigMap is a folder behind a link that is swapped: stamp and digest change with each swap (kubernetes)."""
    file = tmp_path / "gateway.yaml"
    (tmp_path / "v0").mkdir()
    (tmp_path / "v0" / "gateway.yaml").write_text("0", encoding="utf-8")
    (tmp_path / "..data").symlink_to("v0")
    file.symlink_to("..data/gateway.yaml")
    seen, stamps = [digests_of([file])], [stamps_of([file])]
    for version in (1, 2, 3):
        folder = tmp_path / f"v{version}"
        folder.mkdir()
        (folder / "gateway.yaml").write_text(str(version), encoding="utf-8")
        (tmp_path / "..tmp").symlink_to(folder.name)
        (tmp_path / "..tmp").replace(tmp_path / "..data")
        seen.append(digests_of([file]))
        stamps.append(stamps_of([file]))

    assert len({digests[file] for digests in seen}) == 4
    assert len({stamp[file] for stamp in stamps}) == 4


def test_what_cannot_be_read_has_no_digest(tmp_path: Path) -> None:
    """A file that is not there, a folder and a pipe are all the same: nothing to look at."""
    os.mkfifo(tmp_path / "pipe")

    paths = [tmp_path / "none", tmp_path, tmp_path / "pipe"]
    assert digests_of(paths) == dict.fromkeys(paths)


def test_an_include_is_a_file_a_folder_or_a_pattern(tmp_path: Path) -> None:
    """Hidden files of a folder do not count, and what is not there is None."""
    for name in ("a.yaml", "b.yml", ".c.yaml", "d.txt"):
        (tmp_path / name).touch()

    assert sorted(matching(tmp_path) or []) == [tmp_path / "a.yaml", tmp_path / "b.yml"]
    assert matching(tmp_path / "a.yaml") == [tmp_path / "a.yaml"]
    assert matching(tmp_path / "*.txt") == [tmp_path / "d.txt"]
    assert matching(tmp_path / "none") is None


def test_a_pattern_leaves_out_what_cannot_be_looked_at(tmp_path: Path) -> None:
    """What matches a pattern but cannot be asked what it is (a link to an impossible name, to itself) is no file."""
    (tmp_path / "a.yaml").touch()
    (tmp_path / "long.yaml").symlink_to("x" * 300)
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")

    assert matching(tmp_path / "*.yaml") == [tmp_path / "a.yaml"]


def test_a_link_to_itself_in_an_included_folder_is_a_problem(tmp_path: Path) -> None:
    """It is reported as a file that cannot be read, as any other."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "loop.yaml").symlink_to("loop.yaml")
    main = tmp_path / "gateway.yaml"
    main.write_text(SMALL + "include: more\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(main, {})

    (problem,) = caught.value.problems
    assert (problem.file, problem.message[:20]) == (str(tmp_path / "more" / "loop.yaml"), "cannot read the file")


def test_sources_are_all_that_was_read(tmp_path: Path) -> None:
    """The main file, included ones, secrets and the files that fields name; a new file in an included folder is one more."""
    (tmp_path / "token").write_text("t", encoding="utf-8")
    (tmp_path / "name").write_text("edge", encoding="utf-8")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.yaml").write_text("routes: [{name: two, match: {path: /two}, respond: 204}]", encoding="utf-8")
    main = tmp_path / "gateway.yaml"
    text = SMALL + "include: more\nserver: {name: '${file:name}'}\nadmin: {token_file: token}\n"
    main.write_text(text, encoding="utf-8")
    sources = load(main, {}).sources

    assert dict(sources.digests) == digests_of([main, tmp_path / "more" / "a.yaml", tmp_path / "name", tmp_path / "token"])
    (tmp_path / "more" / "b.yaml").touch()
    assert set(sources.paths()) == {*sources.digests, tmp_path / "more" / "b.yaml"}


@pytest.mark.parametrize("text", ["{", SMALL + "unknown: 1\n", SMALL + "include: none.yaml\n"])
def test_a_broken_file_has_sources_too(tmp_path: Path, text: str) -> None:
    """Whoever waits for the correction knows where to look."""
    main = tmp_path / "gateway.yaml"
    main.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(main, {})

    assert caught.value.sources.digests[main] == digests_of([main])[main]
