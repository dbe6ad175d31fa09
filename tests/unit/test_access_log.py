"""The access log writer, on real pipes: a bad reader costs lines, never the loop."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import orjson
import pytest

from gateway.metrics import GatewayMetrics
from gateway.proxy.access_log.writer import AccessLog, open_log
from tests.support import PATIENCE, holds


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose ends the test may close itself."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


def line_of(entry: dict[str, object]) -> bytes:
    """A line."""
    return orjson.dumps(entry) + b"\n"


def read_all(fd: int) -> bytes:
    """What arrives at the pipe until the last writer closes."""
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def lines_of(entries: list[dict[str, object]], pipe: tuple[int, int]) -> list[bytes]:
    """The lines that a log writes for the entries."""
    log = AccessLog(pipe[1])
    for entry in entries:
        log.record(line_of(entry))
    log.close()
    os.close(pipe[1])
    return read_all(pipe[0]).splitlines()


def test_entries_become_json_lines_in_order(pipe: tuple[int, int]) -> None:
    """One JSON object per line, in the order of the records."""
    entries: list[dict[str, object]] = [{"n": n, "path": "/a\nb", "upstream": None, "ms": 0.5} for n in range(1000)]

    written = lines_of(entries, pipe)

    assert [orjson.loads(line) for line in written] == entries


def test_a_line_is_written_within_the_interval_without_close(pipe: tuple[int, int]) -> None:
    """Lines do not wait for more lines: whoever follows the log sees them at once."""
    log = AccessLog(pipe[1], interval=0.01)
    os.set_blocking(pipe[0], False)
    log.record(line_of({"n": 1}))

    def arrived() -> bool:
        try:
            return os.read(pipe[0], 100) == b'{"n":1}\n'
        except BlockingIOError:
            return False

    assert holds(arrived)
    log.close()


def test_a_blocked_reader_costs_lines_and_no_time(pipe: tuple[int, int]) -> None:
    """A full pipe never blocks the loop: the queue is bounded, the rest is dropped and counted, close() gives up."""
    metrics = GatewayMetrics("0")
    log = AccessLog(pipe[1], metrics, max_bytes=300_000, interval=0.001)
    entry: dict[str, object] = {"filler": "x" * 1000}

    def record_and_close() -> None:
        for _ in range(5_000):
            log.record(line_of(entry))
        log.close(timeout=0.2)

    # Whatever waits for the pipe here waits for ever.
    recording = Thread(target=record_and_close, daemon=True)
    recording.start()
    recording.join(PATIENCE)

    assert not recording.is_alive()
    assert 4_000 < log.dropped <= 5_000
    assert metrics.access_log_dropped == log.dropped


def test_every_line_is_either_read_or_counted_as_dropped(pipe: tuple[int, int]) -> None:
    """With a reader that begins late, written and dropped lines add up to the lines recorded."""
    log = AccessLog(pipe[1], max_lines=100, interval=0.001)
    for n in range(2_000):
        log.record(line_of({"n": n, "filler": "x" * 500}))
    os.close(pipe[1])
    written: list[bytes] = []

    def drained() -> bool:
        written.extend(os.read(pipe[0], 1 << 20).splitlines(keepends=True))
        return not log._lines

    assert holds(drained)
    log.close()
    text = b"".join(written) + read_all(pipe[0])

    assert text.endswith(b"\n")
    assert text.count(b"\n") + log.dropped == 2_000
    assert log.dropped > 0


def test_a_line_limit_holds_as_well_as_the_byte_limit(pipe: tuple[int, int]) -> None:
    """Many short lines are bounded by their number."""
    log = AccessLog(pipe[1], max_lines=10, interval=30.0)
    for _ in range(25):
        log.record(line_of({}))

    assert log.dropped == 15
    log.close()
    os.close(pipe[1])
    assert read_all(pipe[0]) == b"{}\n" * 10


def test_a_closed_reader_is_counted_and_survived(pipe: tuple[int, int]) -> None:
    """EPIPE ends neither the thread nor the process: each lost line is counted."""
    metrics = GatewayMetrics("0")
    os.close(pipe[0])
    log = AccessLog(pipe[1], metrics, interval=0.001)
    log.record(line_of({"n": 1}))
    assert holds(lambda: log.dropped == 1)

    log.record(line_of({"n": 2}))
    assert holds(lambda: log.dropped == 2)
    log.close()

    assert metrics.access_log_dropped == 2


def test_a_non_blocking_descriptor_is_waited_for(pipe: tuple[int, int]) -> None:
    """A terminal that another process made non-blocking loses no line while it is read."""
    os.set_blocking(pipe[1], False)
    log = AccessLog(pipe[1], interval=0.001)
    for n in range(500):
        log.record(line_of({"n": n, "filler": "x" * 1000}))
    assert holds(lambda: len(log._lines) < 500)
    os.close(pipe[1])
    seen = bytearray()

    def everything() -> bool:
        seen.extend(os.read(pipe[0], 1 << 20))
        return seen.count(b"\n") == 500

    assert holds(everything)
    log.close()
    assert log.dropped == 0


def test_a_non_blocking_descriptor_nobody_reads_does_not_hold_up_close(pipe: tuple[int, int]) -> None:
    """close() ends the wait for a full non-blocking descriptor, and the thread ends with it."""
    os.set_blocking(pipe[1], False)
    log = AccessLog(pipe[1], interval=0.001)
    for _ in range(500):
        log.record(line_of({"filler": "x" * 1000}))

    log.close(timeout=0.1)

    assert holds(lambda: not log._thread.is_alive())
    assert log.dropped > 300


def test_closing_the_callers_descriptor_does_not_redirect_the_log(pipe: tuple[int, int]) -> None:
    """The log holds its own duplicate: a reused descriptor number never receives log lines."""
    log = AccessLog(pipe[1], interval=0.001)
    os.close(pipe[1])
    log.record(line_of({"n": 1}))
    log.close()

    assert read_all(pipe[0]) == b'{"n":1}\n'


def test_records_after_close_are_dropped(pipe: tuple[int, int]) -> None:
    """An exchange that outlives the log neither raises nor queues for ever."""
    log = AccessLog(pipe[1])
    log.close()
    log.record(line_of({"n": 1}))

    assert log.dropped == 1


def test_a_rotated_file_is_opened_anew(tmp_path: Path) -> None:
    """After `reopen` lines go to a new file of the old name; not one is lost or split over it."""
    path = tmp_path / "access.log"
    fd = open_log(str(path))
    log = AccessLog(fd, path=str(path), interval=0.001)
    os.close(fd)
    log.record(b"1\n")
    assert holds(lambda: path.read_bytes() == b"1\n")
    path.rename(tmp_path / "access.log.1")
    log.reopen()
    assert holds(path.exists)
    log.record(b"2\n")
    log.close()

    assert (tmp_path / "access.log.1").read_bytes() == b"1\n"
    assert path.read_bytes() == b"2\n"
    assert log.dropped == 0


def test_a_file_that_cannot_be_opened_anew_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that has gone costs no line: the old file goes on, and the operator is told."""
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "access.log"
    fd = open_log(str(path))
    log = AccessLog(fd, path=str(path), interval=0.001)
    os.close(fd)
    kept = os.open(path, os.O_RDONLY)
    path.unlink()
    folder.rmdir()
    log.reopen()
    assert holds(lambda: "cannot open the access log" in caplog.text)
    log.record(b"1\n")
    log.close()

    assert os.read(kept, 10) == b"1\n"
    os.close(kept)


def test_a_named_pipe_needs_a_reader(tmp_path: Path) -> None:
    """Nobody waits for the reader of a named pipe: without one it cannot be opened, with one writes may wait as ever."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device or address"):
        open_log(str(path))

    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fd = open_log(str(path))
    try:
        assert os.get_blocking(fd)
        assert os.write(fd, b"line") == 4
        assert os.read(reader, 10) == b"line"
    finally:
        os.close(fd)
        os.close(reader)


def test_standard_output_is_not_opened_anew(pipe: tuple[int, int]) -> None:
    """Without a file there is nothing to rotate."""
    log = AccessLog(pipe[1], interval=0.001)
    log.reopen()
    log.record(b"1\n")
    log.close()
    os.close(pipe[1])

    assert read_all(pipe[0]) == b"1\n"


def test_workers_that_share_a_pipe_do_not_cut_each_others_lines(pipe: tuple[int, int], tmp_path: Path) -> None:
    """A pipe takes only 4 KiB in one piece, so processes take turns."""
    script = (
        "import sys; from gateway.proxy.access_log.writer import AccessLog, open_log\n"
        "log = AccessLog(1, interval=0.001, lock=open_log(sys.argv[2]))\n"
        "[log.record(sys.argv[1].encode() * 2000 + b'\\n') for _ in range(1000)]\n"
        "log.close(20)"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, name, str(tmp_path / "lock")], stdout=pipe[1]) for name in "abc"]
    os.close(pipe[1])
    lines = read_all(pipe[0]).splitlines()

    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert len(lines) == 3000
    assert {len(set(line)) for line in lines} == {1}
    assert {len(line) for line in lines} == {2000}
