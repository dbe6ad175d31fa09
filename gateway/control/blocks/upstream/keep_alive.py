"""The blocks `keep_alive:` and `max_connections:` of an upstream."""

from __future__ import annotations

from typing import Final

from gateway.control.blocks.block import Block, UpstreamFacts
from gateway.control.words import values
from gateway.control.words.model import Model, setting


class UpstreamKeepAlive(Model):
    """Idle connections to an endpoint."""

    idle: values.Duration = setting("4s", "How long one is kept: less than the upstream itself keeps it.")
    max_idle: int = setting(256, "How many are kept, per endpoint.", ge=0, le=65_535)


BLOCKS: Final = (Block[UpstreamFacts]("keep_alive"), Block[UpstreamFacts]("max_connections"))
