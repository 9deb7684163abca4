"""Client programs: plain system calls, the same for every contestant.

A reader works until it is done or its time is over. Every so often it keeps what it read, and
that is compared with what the server holds after the clock has stopped, so that a wrong answer
can't win.
"""

import mmap
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.servers.s3.seeding import synthetic_bytes

MIB = 1 << 20
PAGE_SIZE = 4096
# What one worker keeps for the comparison, at most.
_KEPT_BYTES = 96 * MIB
_SEQUENTIAL_KEEP_EVERY = 16
TOUCHED_AT_ONCE = 64 << 10


class WrongData(Exception):
    """The mount gave other bytes, other sizes or other names than the server has."""


class Sample(NamedTuple):
    key: str
    offset: int
    data: bytes


@dataclass(slots=True)
class Progress:
    """How far one reader came. `operations` are what the case counts: reads, files, entries.

    `started_s` is when its clock started: at once, unless it has something to prepare.
    `waited_s` is for readers that do something else meanwhile.
    """

    deadline_s: float
    started_s: float = 0.0
    operations: int = 0
    bytes_moved: int = 0
    complete: bool = False
    waited_s: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    kept_bytes: int = 0

    def start(self) -> None:
        """The clock starts now; what came before was preparation."""
        now_s = time.monotonic()
        self.deadline_s += now_s - self.started_s
        self.started_s = now_s

    def out_of_time(self) -> bool:
        return time.monotonic() >= self.deadline_s

    def count(self, size: int) -> None:
        self.operations += 1
        self.bytes_moved += size

    def keep(self, key: str, offset: int, data: bytes) -> None:
        if self.kept_bytes + len(data) <= _KEPT_BYTES:
            self.kept_bytes += len(data)
            self.samples.append(Sample(key, offset, data))

    def check(self) -> None:
        """Raises WrongData where a sample isn't what the server has."""
        for key, offset, data in self.samples:
            if data != synthetic_bytes(key, offset, offset + len(data)):
                raise WrongData(f"{key} at {offset}: {len(data)} bytes differ from the server's")


class Reader(Protocol):
    """A client program; picklable, run in a process of its own."""

    def run(self, root: Path, progress: Progress) -> None:
        """Reads below `root` until done (then `progress.complete`) or out of time."""


@dataclass(frozen=True, slots=True)
class Sequential:
    """Reads files one after the other from start to end, 1 MiB at a time.

    `keep_all` compares every byte, for the check that each contestant must pass first.
    """

    keys: Sequence[str]
    size: int
    keep_all: bool = False

    def run(self, root: Path, progress: Progress) -> None:
        buffer = bytearray(MIB)
        for key in self.keys:
            if not self._read(root / key, key, buffer, progress):
                return
        progress.complete = True

    def _read(self, path: Path, key: str, buffer: bytearray, progress: Progress) -> bool:
        offset = 0
        fd = os.open(path, os.O_RDONLY)
        try:
            while not progress.out_of_time():
                count = os.readv(fd, [buffer])
                if not count:
                    _check_size(key, offset, self.size)
                    return True
                if self.keep_all:
                    expected = synthetic_bytes(key, offset, offset + count)
                    if memoryview(buffer)[:count] != expected:
                        raise WrongData(f"{key}: the MiB at {offset} differs from the server's")
                elif progress.operations % _SEQUENTIAL_KEEP_EVERY == 0:
                    progress.keep(key, offset, bytes(memoryview(buffer)[:count]))
                progress.count(count)
                offset += count
        finally:
            os.close(fd)
        return False


@dataclass(frozen=True, slots=True)
class RandomReads:
    """4 KiB at random page-aligned offsets of one file, by pread or through a mapping."""

    key: str
    size: int
    count: int
    seed: int
    mapped: bool = False

    def run(self, root: Path, progress: Progress) -> None:
        fd = os.open(root / self.key, os.O_RDONLY)
        try:
            if self.mapped:
                with mmap.mmap(fd, self.size, prot=mmap.PROT_READ) as mapping:
                    self._read_mapping(mapping, progress)
            else:
                self._read_file(fd, progress)
        finally:
            os.close(fd)

    def _offsets(self) -> Iterator[int]:
        chance = random.Random(self.seed)
        pages = self.size // PAGE_SIZE
        for _ in range(self.count):
            yield chance.randrange(pages) * PAGE_SIZE

    def _read_file(self, fd: int, progress: Progress) -> None:
        for offset in self._offsets():
            if progress.out_of_time():
                return
            data = os.pread(fd, PAGE_SIZE, offset)
            _check_size(f"{self.key} at {offset}", len(data), PAGE_SIZE)
            progress.keep(self.key, offset, data)
            progress.count(PAGE_SIZE)
        progress.complete = True

    def _read_mapping(self, mapping: mmap.mmap, progress: Progress) -> None:
        for offset in self._offsets():
            if progress.out_of_time():
                return
            progress.keep(self.key, offset, mapping[offset : offset + PAGE_SIZE])
            progress.count(PAGE_SIZE)
        progress.complete = True


@dataclass(frozen=True, slots=True)
class TouchTensors:
    """A mapping of a whole file whose every byte is looked at, in order, a tensor at a time: what
    loading a safetensors file comes to. The sizes are those of a layer of a language model."""

    key: str
    size: int
    header: int = 16 << 10
    tensors: Sequence[int] = (8 << 10, 32 * MIB, 8 * MIB, 8 * MIB, 32 * MIB, 8 << 10, 86 * MIB)

    def run(self, root: Path, progress: Progress) -> None:
        fd = os.open(root / self.key, os.O_RDONLY)
        try:
            with mmap.mmap(fd, self.size, prot=mmap.PROT_READ) as mapping:
                progress.keep(self.key, 0, mapping[: self.header])
                offset, number = self.header, 0
                while offset < self.size:
                    end = min(self.size, offset + self.tensors[number % len(self.tensors)])
                    if progress.out_of_time():
                        return
                    # In small pieces: memcpy takes one of megabytes from its end.
                    for at in range(offset, end, TOUCHED_AT_ONCE):
                        piece = mapping[at : min(end, at + TOUCHED_AT_ONCE)]
                        progress.bytes_moved += len(piece)
                        if at == offset:
                            progress.keep(self.key, at, piece)
                    progress.operations += 1
                    offset, number = end, number + 1
        finally:
            os.close(fd)
        progress.complete = True


@dataclass(frozen=True, slots=True)
class WalkFiles:
    """Directories in order of name; of each, every file in the order of the listing."""

    size: int
    keep_every: int = 25

    def run(self, root: Path, progress: Progress) -> None:
        for folder in sorted(os.listdir(root)):
            for name in os.listdir(root / folder):
                if progress.out_of_time():
                    return
                _read_file(root, f"{folder}/{name}", self.size, self.keep_every, progress)
        progress.complete = True


@dataclass(frozen=True, slots=True)
class ReadFiles:
    """Whole small files in the given order, as a training job reads an epoch."""

    keys: Sequence[str]
    size: int
    keep_every: int = 25

    def run(self, root: Path, progress: Progress) -> None:
        for key in self.keys:
            if progress.out_of_time():
                return
            _read_file(root, key, self.size, self.keep_every, progress)
        progress.complete = True


@dataclass(frozen=True, slots=True)
class ListTree:
    """`ls -lR`, the program itself; an operation is a file listed with its right size."""

    files: int
    size: int

    def run(self, root: Path, progress: Progress) -> None:
        command = ["ls", "-lR", str(root)]
        environment = os.environ | {"LC_ALL": "C"}
        wanted = str(self.size).encode()
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(b"-"):
                    if line.split()[4] != wanted:
                        process.kill()
                        raise WrongData(f"wrong size: {line.decode(errors='replace')}")
                    progress.count(0)
                if progress.out_of_time():
                    process.kill()
                    return
        if process.returncode != 0 or progress.operations != self.files:
            raise WrongData(f"ls: exit {process.returncode}, {progress.operations} files")
        progress.complete = True


def _read_file(root: Path, key: str, size: int, keep_every: int, progress: Progress) -> None:
    fd = os.open(f"{root}/{key}", os.O_RDONLY)
    try:
        data = os.read(fd, size + 1)
        while more := os.read(fd, MIB):
            data += more
    finally:
        os.close(fd)
    _check_size(key, len(data), size)
    if progress.operations % keep_every == 0:
        progress.keep(key, 0, data)
    progress.count(size)


def _check_size(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise WrongData(f"{what}: {found} bytes instead of {expected}")
