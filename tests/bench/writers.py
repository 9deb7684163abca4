"""Client programs that write, each timed until its last close returned.

What they write is what `seeding.synthetic_bytes` says of the key, so that anybody can compare what
arrives.
"""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.readers import Progress, WrongData
from tests.servers.s3.bodies import PATTERN_PERIOD
from tests.servers.s3.seeding import synthetic_bytes


class ProgramFailed(WrongData):
    """A program ended with an error."""


@dataclass(frozen=True, slots=True)
class WriteFile:
    """One file from start to end, `chunk_bytes` per write(2), and its close."""

    key: str
    size: int
    chunk_bytes: int

    def run(self, root: Path, progress: Progress) -> None:
        # Once, beforehand: a slice of it costs nothing while the clock runs.
        pattern = memoryview(synthetic_bytes(self.key, 0, PATTERN_PERIOD + self.chunk_bytes))
        progress.start()
        fd = os.open(root / self.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            for offset in range(0, self.size, self.chunk_bytes):
                if progress.out_of_time():
                    return
                at = offset % PATTERN_PERIOD
                count = min(self.chunk_bytes, self.size - offset)
                _write(fd, pattern[at : at + count], self.key)
                progress.count(count)
            progress.complete = True
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class WriteFiles:
    """New small files one after the other: open, one write, close."""

    keys: Sequence[str]
    size: int

    def run(self, root: Path, progress: Progress) -> None:
        contents = [synthetic_bytes(key, 0, self.size) for key in self.keys]
        progress.start()
        for folder in sorted({key.rpartition("/")[0] for key in self.keys} - {""}):
            os.mkdir(root / folder)
        for key, data in zip(self.keys, contents, strict=True):
            if progress.out_of_time():
                return
            fd = os.open(f"{root}/{key}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                _write(fd, memoryview(data), key)
            finally:
                os.close(fd)
            progress.count(self.size)
        progress.complete = True


@dataclass(frozen=True, slots=True)
class EditFile:
    """Opens a file that is there, writes `data` at `offset`, closes it."""

    key: str
    offset: int
    data: bytes

    def run(self, root: Path, progress: Progress) -> None:
        fd = os.open(root / self.key, os.O_RDWR)
        try:
            os.pwrite(fd, self.data, self.offset)
        finally:
            os.close(fd)
        progress.count(len(self.data))
        progress.complete = True


@dataclass(frozen=True, slots=True)
class RenameFolder:
    """One rename(2)."""

    source: str
    target: str
    operations: int

    def run(self, root: Path, progress: Progress) -> None:
        os.rename(root / self.source, root / self.target)
        progress.operations = self.operations
        progress.complete = True


@dataclass(frozen=True, slots=True)
class Program:
    """A program; `{root}` in an argument is where the mount is. Killed when its time is over.

    `operations` and `size` are what it has done in all when it ends without an error.
    """

    arguments: Sequence[str]
    operations: int
    size: int = 0

    def run(self, root: Path, progress: Progress) -> None:
        command = [part.format(root=root) for part in self.arguments]
        quiet = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | quiet | {"LC_ALL": "C"},
        ) as process:
            try:
                _, said = process.communicate(timeout=progress.deadline_s - time.monotonic())
            except subprocess.TimeoutExpired:
                process.kill()
                return
        if process.returncode != 0:
            text = " ".join(said.decode(errors="replace").split())[:200]
            raise ProgramFailed(f"{command[0]}: exit {process.returncode}: {text}")
        progress.operations, progress.bytes_moved = self.operations, self.size
        progress.complete = True


def _write(fd: int, data: memoryview, key: str) -> None:
    if os.write(fd, data) != len(data):
        raise WrongData(f"{key}: a write took less than it was given")
