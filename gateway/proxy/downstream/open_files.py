"""The limit of open files."""

from __future__ import annotations

import logging
import resource
from typing import Final

SPARE_FILES: Final = 64
"""Open files beside connections: listeners, logs, the loop."""

_log = logging.getLogger("gateway")


def raise_file_limit(connections: int) -> None:
    """Every exchange takes two sockets, and as many as there may be connections may not have come through a TLS handshake;
    the usual soft limit of 1024 files would end that early."""
    wanted = 3 * connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if max(most, soft) < connections + SPARE_FILES:
        _log.warning("%d open files are allowed: too few for `server.limits.connections: %d`", max(most, soft), connections)
