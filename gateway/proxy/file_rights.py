"""Who may use the files that the gateway makes: sockets and logs."""

from __future__ import annotations

import os

from gateway.server_settings import Rights


def grant(file: str | int, rights: Rights) -> None:
    """Give the file, a path or a descriptor, these rights. Raises OSError."""
    if rights.mode:
        os.chmod(file, rights.mode)  # noqa: PTH101 - of a descriptor too
    if (rights.owner, rights.group) != (-1, -1):
        os.chown(file, rights.owner, rights.group)
