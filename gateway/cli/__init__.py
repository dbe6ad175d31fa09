"""The commands. Exit codes: 0 ok, 1 the configuration is not valid, 2 wrong usage, 3 not reachable.

Each command imports what it needs when it runs: a container runs the health check every few seconds.
"""

from gateway.cli.common import INVALID, OK, UNREACHABLE, USAGE
from gateway.cli.main import main

__all__ = ["INVALID", "OK", "UNREACHABLE", "USAGE", "main"]
