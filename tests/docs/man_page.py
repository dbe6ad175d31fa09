"""The manual page `deploy/man/gateway.1`, made from the parsers of the command line by `make docs`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.cli.examples import EXAMPLES
from tests.docs.commands_page import commands, helped, metavar

PAGE: Final = Path(__file__).resolve().parents[2] / "deploy" / "man" / "gateway.1"

HEAD: Final = r""".\" Made by `make docs` from the parsers.
.TH GATEWAY 1 "" "gateway" "User commands"
.SH NAME
gateway \- a reverse-proxy gateway: HTTP policy at one point
.SH SYNOPSIS
.B gateway
.I COMMAND
[\fIargument\fR ...]
.SH DESCRIPTION
It sits in front of HTTP services and applies the route policies of a YAML file: time budgets, rate limits, retries, circuit
breakers, compression. Which file a command is about: the one that is named, else that of \fBGATEWAY_CONFIG\fR, else the first
there is of \fIgateway.yaml\fR, \fIconfig/gateway.yaml\fR and \fI/etc/gateway/gateway.yaml\fR.
.SH COMMANDS
"""

TAIL: Final = r""".SH EXIT STATUS
.TP
.B 0
ok
.TP
.B 1
the configuration is not valid, the gateway could not start, or a running one refused; of \fBdiff\fR: there are changes
.TP
.B 2
wrong usage; of \fBdiff\fR: a file is not valid
.TP
.B 3
not reachable; of \fBlogs\fR: the file cannot be read
.SH ENVIRONMENT
.TP
.B GATEWAY_CONFIG
the configuration that commands are about
.TP
.B GATEWAY_ADMIN
where commands find the admin listener of a running gateway: a URL, or \fIunix:/path\fR
.TP
.B NO_COLOR
no colours, on a terminal either
.SH SIGNALS
.TP
.B SIGTERM, SIGINT
stop taking requests, let those in flight end, then exit; a second one ends at once
.TP
.B SIGHUP
read the configuration again
.TP
.B SIGUSR1
open the access log anew
"""


def escaped(text: str) -> str:
    """Text as roff has it."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The arguments and options of a command."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        names = ", ".join(action.option_strings) or metavar(action)
        value = f" {metavar(action)}" if action.option_strings and metavar(action) else ""
        yield f".TP\n.B {escaped(names + value)}\n{escaped(helped(action).replace(chr(92) + '|', '|'))}\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, parser in commands().items():
        parts += [f".SS gateway {escaped(name)}\n{escaped(parser.description or '')}\n", *arguments(parser)]
        parts += [f".PP\n.nf\n{escaped(example)}\n.fi\n" for example in EXAMPLES[name]]
    return "".join(parts) + TAIL
