"""The same load with files that stay open all the time, while one daemon after the other dies."""

import mmap
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.crash.kill_loop_calls import Calls, DaemonGone, Failed
from tests.crash.kill_loop_load import Load
from tests.crash.kill_loop_model import File

MOST_HELD = 10
MOST_HELD_BYTES = 4 << 20  # so that one who reads them as a whole is not all that is done


@dataclass(slots=True)
class Held:
    fd: int
    file: File
    is_writable: bool
    stack: ExitStack  # closes it
    mapped: "Mapped | None" = None


class Mapped:
    """A file in memory, shared and writable. All goes through the kernel's copying: where no page
    is to be had that is EFAULT and no SIGBUS, which would end this process."""

    AT_ONCE = 60_000  # a pipe holds it

    def __init__(self, fd: int, size: int) -> None:
        self._map = mmap.mmap(fd, size)
        self._fd = fd
        self.size = size

    def close(self) -> None:
        self._map.close()

    def write(self, start: int, data: bytes) -> int:
        with _pipe() as (out, into), memoryview(self._map) as whole:
            os.write(into, data)
            with whole[start : start + len(data)] as part:
                return os.readv(out, [part])

    def read(self, start: int, size: int) -> bytes:
        with _pipe() as (out, into), memoryview(self._map) as whole:
            with whole[start : start + size] as part:
                os.write(into, part)
            return os.read(out, size)

    def flush(self) -> None:
        self._map.flush()

    def drop(self) -> None:
        """What is clean leaves memory: the next look at it is a question to the daemon."""
        self._map.madvise(mmap.MADV_DONTNEED)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


class HeldLoad(Load):
    """Some descriptors live as long as the load does. A file that is renamed, replaced, truncated
    or unlinked by the others meanwhile goes on behind its descriptor, with the bytes it had."""

    def __init__(self, calls: Calls, rng: random.Random, *, big: bool) -> None:
        super().__init__(calls, rng, big=big)
        self._all: list[Held] = []
        self.ops |= {
            self.hold: 12,
            self.hold_new: 6,
            self.hold_unlinked: 3,
            self.held_write: 16,
            self.held_read: 20,
            self.held_sync: 5,
            self.held_cut: 4,
            self.hold_mapped: 8,
            self.mapped_write: 14,
            self.mapped_read: 14,
            self.mapped_sync: 5,
            self.let_go: 6,
        }

    def run(self, seconds: float) -> bool:
        is_gone = super().run(seconds)
        while self._all:
            held = self._all.pop()
            try:
                if is_gone:  # what the close of a dead mount's file says is worth nothing
                    with held.stack:
                        raise DaemonGone
                held.stack.close()
            except DaemonGone:
                is_gone = True
            except Failed:
                continue
        return is_gone

    def hold(self) -> None:
        found = self._file()
        if found is None or len(self._all) >= MOST_HELD or found[1].size > MOST_HELD_BYTES:
            return
        is_writable = self._rng.random() < 0.6
        with ExitStack() as stack:
            flags = os.O_RDWR if is_writable else os.O_RDONLY
            fd, file = stack.enter_context(self._calls.opened(found[0], flags))
            self._all.append(Held(fd, file, is_writable, stack.pop_all()))

    def hold_new(self) -> None:
        if self._is_full() or len(self._all) >= MOST_HELD:
            return
        with ExitStack() as stack:
            fd, file = stack.enter_context(self._calls.made(self.new("held", None)))
            self._write_pieces(fd, file, self._data())
            self._all.append(Held(fd, file, True, stack.pop_all()))

    def hold_unlinked(self) -> None:
        if len(self._all) >= MOST_HELD:
            return
        with ExitStack() as stack:
            path = self.new("nameless", None)
            fd, file = stack.enter_context(self._calls.made(path))
            self._write_pieces(fd, file, self._data())
            self._calls.remove(path)
            self._all.append(Held(fd, file, True, stack.pop_all()))

    def _one(self, *, writable: bool = False) -> Held | None:
        found = [held for held in self._all if held.is_writable or not writable]
        return self._rng.choice(found) if found else None

    def held_write(self) -> None:
        held = self._one(writable=True)
        if held is not None and held.file.size < MOST_HELD_BYTES:
            start = self._rng.randrange(held.file.size + 1)
            data = self._rng.randbytes(self._rng.choice((10, 4096, 70_000)))
            self._calls.write(held.fd, held.file, start, data)

    def held_read(self) -> None:
        held = self._one()
        if held is None or held.file.size > MOST_HELD_BYTES:
            return
        wanted = bytes(held.file.current())
        seen = self._calls.call("pread held", os.pread, held.fd, len(wanted) + 1, 0)
        if not held.file.spoilt and seen != wanted:
            why = held.file.difference(seen) or "another state"
            self._calls.problems.append(f"inode {held.file.number}, open: read: {why}")

    def held_sync(self) -> None:
        held = self._one(writable=True)
        if held is not None:
            self._calls.sync(held.fd, held.file)

    def held_cut(self) -> None:
        held = self._one(writable=True)
        if held is not None:
            size = self._rng.randrange(held.file.size + 5_000)
            self._calls.cut(held.fd, held.file, size)

    def hold_mapped(self) -> None:
        found = self._file()
        if found is None or len(self._all) >= MOST_HELD:
            return
        if not 0 < found[1].size <= MOST_HELD_BYTES:
            return
        with ExitStack() as stack:
            fd, file = stack.enter_context(self._calls.opened(found[0], os.O_RDWR))
            mapped = self._calls.call("mmap", Mapped, fd, file.size)
            stack.callback(mapped.close)
            self._all.append(Held(fd, file, True, stack.pop_all(), mapped))

    def _mapped(self) -> tuple[Held, Mapped, int, int] | None:
        """One, and a part that the file still has."""
        found = [(held, held.mapped) for held in self._all if held.mapped is not None]
        if not found:
            return None
        held, mapped = self._rng.choice(found)
        size = min(mapped.size, held.file.size)
        if not size:
            return None
        start = self._rng.randrange(size)
        return held, mapped, start, min(size - start, self._rng.choice((10, 5_000, 60_000)))

    def mapped_write(self) -> None:
        found = self._mapped()
        if found is not None:
            held, mapped, start, size = found
            self._calls.store(mapped.write, held.file, start, self._rng.randbytes(size))

    def mapped_read(self) -> None:
        found = self._mapped()
        if found is None:
            return
        held, mapped, start, size = found
        if self._rng.random() < 0.4:
            mapped.drop()
        wanted = bytes(held.file.current()[start : start + size])
        seen = self._calls.call("load mapped", mapped.read, start, size)
        if not held.file.spoilt and seen != wanted:
            at = next((i for i in range(min(len(seen), size)) if seen[i] != wanted[i]), len(seen))
            self._calls.problems.append(
                f"inode {held.file.number}, mapped: byte {start + at} is another"
            )

    def mapped_sync(self) -> None:
        found = self._mapped()
        if found is not None and found[1].size >= found[0].file.size:
            self._calls.sync_mapped(found[1].flush, found[0].file)

    def let_go(self) -> None:
        if self._all:
            self._all.pop(self._rng.randrange(len(self._all))).stack.close()
