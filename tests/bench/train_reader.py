"""A training's input as PyTorch's DataLoader brings it, without torch: worker processes that read
whole files, batch k by worker k modulo their number, two batches ahead each, taken in order. The
processor that learns is a sleep for each batch."""

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from tests.bench.readers import Progress, WrongData

BATCHES_AHEAD = 2
_KEPT_EVERY = 8  # batches, of which one file each is compared

Batch = Sequence[str]
Reply = tuple[int, bytes, str]  # bytes in all, the first file, or an error


@dataclass(frozen=True, slots=True)
class TrainEpoch:
    """One epoch over `keys` in that order; an operation is a file. `progress.waited_s` is what the
    training stood still for."""

    keys: Sequence[str]
    size: int
    batch: int
    compute_s: float
    workers: int = 4

    def run(self, root: Path, progress: Progress) -> None:
        batches = [self.keys[at : at + self.batch] for at in range(0, len(self.keys), self.batch)]
        for folder in sorted({os.path.dirname(key) for key in self.keys}):
            os.listdir(root / folder)  # as ImageFolder does, before the loader exists
        with _running(root, self.workers, self.size) as workers:
            progress.start()
            for number in range(min(len(batches), BATCHES_AHEAD * self.workers)):
                workers[number % self.workers].send(batches[number])
            for number, batch in enumerate(batches):
                worker = workers[number % self.workers]
                self._take(worker, batch, number, progress)
                following = number + BATCHES_AHEAD * self.workers
                if following < len(batches):
                    worker.send(batches[following])
                if progress.out_of_time():
                    return
                time.sleep(self.compute_s)
        progress.complete = True

    def _take(self, worker: Connection, batch: Batch, number: int, progress: Progress) -> None:
        began_s = time.monotonic()
        count, first, error = worker.recv()
        progress.waited_s += time.monotonic() - began_s
        if error:
            raise WrongData(error)
        progress.operations += len(batch)
        progress.bytes_moved += count
        if number % _KEPT_EVERY == 0:
            progress.keep(batch[0], 0, first)


@contextmanager
def _running(root: Path, count: int, size: int) -> Iterator[list[Connection]]:
    """The workers' ends; they end when these are closed, whatever ends us."""
    context = multiprocessing.get_context("fork")
    ours: list[Connection] = []
    processes = []
    try:
        for _ in range(count):
            mine, theirs = context.Pipe()
            ours.append(mine)
            process = context.Process(target=_work, args=(root, size, theirs, list(ours)))
            process.start()
            processes.append(process)
            theirs.close()
        yield ours
    finally:
        for each in ours:
            each.close()
        for process in processes:
            process.join(5)


def _work(root: Path, size: int, pipe: Connection, others: Sequence[Connection]) -> None:
    for each in others:
        each.close()
    try:
        while True:
            batch: Batch = pipe.recv()
            pipe.send(_read(root, batch, size))
    except (EOFError, OSError):
        pass
    os._exit(0)


def _read(root: Path, batch: Batch, size: int) -> Reply:
    first, total = b"", 0
    for key in batch:
        try:
            with open(f"{root}/{key}", "rb") as file:
                data = file.read()
        except OSError as error:
            return 0, b"", f"{key}: {error}"
        if len(data) != size:
            return 0, b"", f"{key}: {len(data)} bytes instead of {size}"
        first = first or data
        total += len(data)
    return total, first, ""
