"""The access log: one JSON object per line, never at the expense of the requests it is about.

`record` appends a line to a bounded queue; one daemon thread polls the queue and writes. So a record costs no system call, no
lock and no wake-up, and a reader that stalls or goes away costs lines (counted in `gateway_access_log_dropped_total`), not
requests. A file is opened anew on request, so that it can be rotated.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import threading
from collections import deque
from typing import Final

from gateway.metrics import GatewayMetrics
from gateway.proxy.file_rights import grant
from gateway.server_settings import Rights

MAX_BYTES: Final = 8 * 1024 * 1024
MAX_LINES: Final = 20_000
INTERVAL: Final = 0.1
"""Seconds between two looks at the queue: the age a line may reach before it is written."""
WRITE_BYTES: Final = 256 * 1024
"""Lines are joined up to about this much for one write. Each write waits for the interpreter lock, up to 5 ms when the loop is
saturated, so smaller blocks (64 KiB) would cap the log below the rate of requests."""

PLAIN: Final = Rights()

_log = logging.getLogger("gateway")


def open_log(path: str, rights: Rights = PLAIN) -> int:
    """A descriptor that appends to the file. Raises OSError, also for a named pipe that nobody reads."""
    # To open such a pipe would else take until somebody does: forever, and the loop with it.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    try:
        grant(fd, rights)
    except OSError:
        os.close(fd)
        raise
    os.set_blocking(fd, True)
    return fd


class AccessLog:
    """A `LogSink` that writes to a file descriptor. `record` belongs to one thread, the loop's."""

    def __init__(
        self,
        fd: int,
        metrics: GatewayMetrics | None = None,
        *,
        path: str | None = None,
        rights: Rights = PLAIN,
        max_bytes: int = MAX_BYTES,
        max_lines: int = MAX_LINES,
        interval: float = INTERVAL,
        lock: int | None = None,
    ) -> None:
        """Duplicates `fd`, so that nobody else can close it and have its number reused for a client's socket.

        `lock` is a file that is locked for each block: what several processes write to one pipe would else be mixed up.

        `path` is the file behind it, None for standard output; `rights` are those of the file when it is made anew.
        """
        self._lock = lock
        self._fd = os.dup(fd)
        self._metrics = metrics
        self.path = path
        self.rights = rights
        self._max_bytes = max_bytes
        self._max_lines = max_lines
        self._interval = interval
        self._lines: deque[bytes] = deque()
        # Each of these two has one writer (the loop, the thread), so their difference needs no lock.
        self._queued = 0
        self._taken = 0
        self.dropped = 0
        """Lines that were not written: queue full, or write failed."""
        self._dropped_lock = threading.Lock()
        self._closed = False
        self._stop = threading.Event()
        self._give_up = threading.Event()
        self._reopen = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def record(self, line: bytes) -> None:
        """Queue one line; drop it when the queue is full. Never blocks, never raises."""
        lines = self._lines
        if self._queued - self._taken >= self._max_bytes or len(lines) >= self._max_lines or self._closed:
            self._drop(1)
            return
        self._queued += len(line)
        lines.append(line)

    def reopen(self) -> None:
        """Open the file anew, within the interval: it has been renamed. Standard output stays what it is."""
        if self.path is not None:
            self._reopen.set()

    def close(self, timeout: float = 2.0) -> None:
        """Write what is queued, but wait no longer than `timeout` seconds for a reader that does not read."""
        self._closed = True
        self._stop.set()
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return
        self._give_up.set()
        self._drop(len(self._lines))
        self._lines.clear()

    def _run(self) -> None:
        """The thread: look at the queue every interval, write all there is, and once more when told to stop."""
        stopping = False
        while not stopping:
            stopping = self._stop.wait(self._interval)
            if self._reopen.is_set():
                self._reopen.clear()
                self._open_anew()
            while self._lines and not self._give_up.is_set():
                self._write(self._next_block())
        os.close(self._fd)

    def _open_anew(self) -> None:
        assert self.path is not None
        try:
            fd = open_log(self.path, self.rights)
        except OSError as error:
            # The old file is better than none.
            _log.error("cannot open the access log `%s` anew, going on with the old file: %s", self.path, error.strerror)
            return
        os.close(self._fd)
        self._fd = fd

    def _next_block(self) -> list[bytes]:
        lines, size = [], 0
        while self._lines and size < WRITE_BYTES:
            line = self._lines.popleft()
            lines.append(line)
            size += len(line)
        self._taken += size
        return lines

    def _write(self, lines: list[bytes]) -> None:
        if self._lock is None:
            self._write_block(lines)
            return
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            self._write_block(lines)
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def _write_block(self, lines: list[bytes]) -> None:
        """Write the block, in as many parts as the descriptor takes. What fails is dropped, and the next block tried anew:
        a full disk or a reader that comes back may take it."""
        rest = memoryview(b"".join(lines))
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                # Somebody made the descriptor non-blocking: terminals are shared between processes.
                writable = select.poll()
                writable.register(self._fd, select.POLLOUT)
                writable.poll(self._interval * 1000)
                if self._give_up.is_set():
                    self._drop(len(lines))
                    return
            except OSError:
                self._drop(len(lines))
                return
        if self._metrics is not None:
            self._metrics.access_log_lines += len(lines)

    def _drop(self, count: int) -> None:
        with self._dropped_lock:
            self.dropped += count
            if self._metrics is not None:
                self._metrics.access_log_dropped += count
