"""Who listens on a port, where the system tells (Linux): a busy port is mostly an older process of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_LISTENING: Final = "0A"
"""State of a socket in `/proc/net/tcp`."""


def holder(port: int) -> str:
    """Name and number of the process that listens on the port; empty when that cannot be known."""
    try:
        wanted = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(Path("/proc/net", table), port)}
        processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()] if wanted else []
    except OSError:
        return ""
    for process in processes:
        try:
            if any(str(file.readlink()) in wanted for file in (process / "fd").iterdir()):
                return f"`{(process / 'comm').read_text(encoding='utf-8', errors='replace').strip()}`, process {process.name}"
        except OSError:
            continue
    return ""


def _listening(table: Path, port: int) -> list[str]:
    rows = [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
    return [row[9] for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port]
