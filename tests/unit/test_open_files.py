"""The limit of open files is raised to what a full house needs, as far as the system lets us."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from gateway.proxy.downstream.open_files import SPARE_FILES, raise_file_limit


@pytest.fixture
def hard() -> Iterator[int]:
    """The usual soft limit; gives the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_there_is_room_for_handshakes_beside_a_full_house(hard: int) -> None:
    """Connections that say nothing must not take the files that the others ask upstreams with (threat: slowloris)."""
    raise_file_limit(1000)

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(3000 + SPARE_FILES, hard), hard)


def test_a_limit_is_never_lowered(hard: int) -> None:
    """What the operator has given stays."""
    raise_file_limit(10)

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(1024, hard), hard)
