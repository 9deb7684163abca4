"""The same load with files that stay open all the time, while one daemon after the other dies."""

import os
import random
from contextlib import ExitStack
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


class HeldLoad(Load):
    """Some descriptors live as long as the load does. A file that is renamed, replaced, truncated
    or unlinked by the others meanwhile goes on behind its descriptor, with the bytes it had."""

    def __init__(self, calls: Calls, rng: random.Random, *, big: bool) -> None:
        super().__init__(calls, rng, big=big)
        self._all: list[Held] = []
        self._ops |= {
            self.hold: 12,
            self.hold_new: 6,
            self.hold_unlinked: 3,
            self.held_write: 16,
            self.held_read: 20,
            self.held_sync: 5,
            self.held_cut: 4,
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
            fd, file = stack.enter_context(self._calls.made(self._new("held")))
            self._write_pieces(fd, file, self._data())
            self._all.append(Held(fd, file, True, stack.pop_all()))

    def hold_unlinked(self) -> None:
        if len(self._all) >= MOST_HELD:
            return
        with ExitStack() as stack:
            path = self._new("nameless")
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

    def let_go(self) -> None:
        if self._all:
            self._all.pop(self._rng.randrange(len(self._all))).stack.close()
