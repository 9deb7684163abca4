"""Forks one process per reader, starts them at one moment and collects how far they came.

Forked, not spawned: a spawned Python needs 50 ms of a core before it reads its first byte. A
reader that a mount doesn't answer is killed (a process waiting for FUSE can be).
"""

import os
import pickle
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.readers import Progress, Reader, WrongData
from tests.servers.s3.seeding import synthetic_bytes

# How long after the end of its time a reader may still wait for its last answer.
GRACE_S = 30.0


class ReadersFailed(Exception):
    """A reader got an error, wrong data or no answer at all."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the readers did together; `elapsed_s` is from the first's start to the last's end.

    `ended_s` is that end in time.monotonic(), which all processes of the machine share.
    """

    elapsed_s: float
    operations: int
    bytes_moved: int
    complete: bool
    ended_s: float = 0.0
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Report:
    started_s: float
    ended_s: float
    operations: int
    bytes_moved: int
    complete: bool
    error: str = ""
    waited_s: float = 0.0


@dataclass(slots=True)
class _Worker:
    pid: int
    fd: int
    received: bytes = b""


def run_readers(
    readers: Sequence[Reader], root: Path, *, time_s: float, at_end: Callable[[], None]
) -> Outcome:
    """Runs them all at once for at most `time_s`.

    `at_end` is called when the last one has stopped its clock. ReadersFailed for an error, for
    wrong data, and for a reader without an answer `GRACE_S` after its time.
    """
    synthetic_bytes("", 0, 1)  # makes the pattern once, here, for all forks
    start_fd, hold_fd = os.pipe()
    done_fd, tell_fd = os.pipe()
    workers: list[_Worker] = []
    try:
        for reader in readers:
            workers.append(_fork(reader, root, time_s, start_fd, hold_fd, tell_fd, workers))
        os.close(tell_fd)
        os.close(hold_fd)
        _wait_for_clocks(done_fd, time.monotonic() + time_s + GRACE_S)
        at_end()
        reports = _collect(workers, time.monotonic() + GRACE_S)
    finally:
        for fd in (start_fd, done_fd, *(worker.fd for worker in workers)):
            os.close(fd)
        for worker in workers:
            _reap(worker.pid)
    return _combine(reports)


def _fork(
    reader: Reader,
    root: Path,
    time_s: float,
    start_fd: int,
    hold_fd: int,
    tell_fd: int,
    earlier: Sequence[_Worker],
) -> _Worker:
    out_fd, in_fd = os.pipe()
    pid = os.fork()
    if pid:
        os.close(in_fd)
        return _Worker(pid, out_fd)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent kills us
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for fd in (hold_fd, out_fd, *(worker.fd for worker in earlier)):
            os.close(fd)
        os.read(start_fd, 1)  # ends when the parent closes its side
        report = _work(reader, root, time_s, tell_fd)
        with os.fdopen(in_fd, "wb") as pipe:
            pickle.dump(report, pipe)
    finally:
        os._exit(0)


def _work(reader: Reader, root: Path, time_s: float, tell_fd: int) -> _Report:
    started_s = time.monotonic()
    progress = Progress(started_s + time_s, started_s)
    error = ""
    try:
        reader.run(root, progress)
    except (OSError, WrongData) as problem:
        error = f"{type(problem).__name__}: {problem}"
    ended_s = time.monotonic()
    os.close(tell_fd)
    if not error:
        try:
            progress.check()
        except WrongData as problem:
            error = f"WrongData: {problem}"
    return _Report(
        progress.started_s,
        ended_s,
        progress.operations,
        progress.bytes_moved,
        progress.complete,
        error,
        progress.waited_s,
    )


def _wait_for_clocks(done_fd: int, deadline_s: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(done_fd, selectors.EVENT_READ)
        if not selector.select(max(0.0, deadline_s - time.monotonic())):
            raise ReadersFailed(f"a reader had no answer for {GRACE_S:.0f} s after its time")


def _collect(workers: Sequence[_Worker], deadline_s: float) -> list[_Report]:
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.fd, selectors.EVENT_READ, worker)
        while selector.get_map():
            events = selector.select(max(0.0, deadline_s - time.monotonic()))
            if not events:
                raise ReadersFailed("a reader did not report")
            for key, _mask in events:
                data = os.read(key.fd, 65536)
                key.data.received += data
                if not data:
                    selector.unregister(key.fd)
    if not all(worker.received for worker in workers):
        raise ReadersFailed("a reader died without a report; its traceback is above")
    return [pickle.loads(worker.received) for worker in workers]


def _combine(reports: Sequence[_Report]) -> Outcome:
    errors = [report.error for report in reports if report.error]
    if errors:
        raise ReadersFailed(errors[0])
    return Outcome(
        max(report.ended_s for report in reports) - min(report.started_s for report in reports),
        sum(report.operations for report in reports),
        sum(report.bytes_moved for report in reports),
        all(report.complete for report in reports),
        max(report.ended_s for report in reports),
        max(report.waited_s for report in reports),
    )


def _reap(pid: int) -> None:
    """Kills what still runs, and waits a little for it: the mount may have to go first."""
    deadline_s = time.monotonic() + 2.0
    os.kill(pid, signal.SIGKILL)
    while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline_s:
        time.sleep(0.01)
