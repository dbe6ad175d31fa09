"""`gateway logs`: lines of the access log as people read them."""

from __future__ import annotations

import argparse
import sys

from gateway.cli.common import OK, UNREACHABLE, Add, colour, fail


def add_commands(add: Add) -> None:
    logs = add("logs", _logs, "Show lines of the access log as people read them, from a file or standard input.")
    logs.add_argument("file", nargs="?", default="-", metavar="FILE", help="default: standard input")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is appended, in a rotated file too")
    logs.add_argument("--route", action="append", default=[], metavar="NAME", help="of this route; may be repeated")
    logs.add_argument("--status", action="append", default=[], metavar="STATUS", help="5xx, 404 or 500-503; may be repeated")
    logs.add_argument("--slow", metavar="DURATION", help="that took so long or longer, such as 500ms")
    logs.add_argument("--failed", action="store_true", help="that the gateway refused or failed, or an upstream with 5xx")
    logs.add_argument("--request", default="", metavar="ID", help="with this request id or trace id")
    logs.add_argument("--raw", action="store_true", help="print the lines as they are: JSON")


def _logs(options: argparse.Namespace) -> int:
    from gateway.control.tools.log_view import FilterError, run

    try:
        run(options, colour=colour(sys.stdout))
    except FilterError as error:
        fail(options.name, str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(options.name, f"cannot read `{options.file}`: {error.strerror}", UNREACHABLE)
    return OK
