"""A transport without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class RecordingTransport(asyncio.Transport):
    """Keeps what is written; knows whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.paused = False
        self.closing = False
        self.unsent = 0
        self.calls: list[str] = []

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def get_write_buffer_size(self) -> int:
        """Set by the test."""
        return self.unsent

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.written += bytes(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Keep them."""
        self.written += b"".join(list_of_data)

    def pause_reading(self) -> None:
        """As asyncio's, it must not be called twice."""
        assert not self.paused
        self.paused = True
        self.calls.append("pause")

    def resume_reading(self) -> None:
        """As asyncio's."""
        assert self.paused
        self.paused = False
        self.calls.append("resume")

    def is_closing(self) -> bool:
        """Set by the test."""
        return self.closing

    def abort(self) -> None:
        """Close."""
        self.closing = True
        self.calls.append("abort")
