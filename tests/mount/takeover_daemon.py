"""A file system of two files that can be told to hang: `takeover_daemon.py FOLDER MOUNT HOW` (hang,
answer) for the first start, and with the number of the kept descriptor for a successor's.

What it says goes to FOLDER/said, a word a line.
"""

import errno
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pyfuse3
import trio

from mountd.fusefs import request_loop
from mountd.fusefs.takeover import Beginning, Greeting, Successor

BIG, OUT, LATE = 2, 3, 4
NAMES = {b"big": BIG, b"out": OUT, b"late": LATE}
PATTERN = bytes(range(256)) * (1 << 12)  # 1 MiB
BIG_SIZE = 16 << 20
FOLDER, MOUNT, HANGS = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "hang"


def say(word: str) -> None:
    with (FOLDER / "said").open("a") as file:
        file.write(word + "\n")


class Files(pyfuse3.Operations):
    enable_writeback_cache = True

    def __init__(self, beginning: Beginning | Successor) -> None:
        super().__init__()
        self._beginning = beginning
        self._out = os.open(FOLDER / "out", os.O_RDWR | os.O_CREAT)

    async def _hang_or_say(self, what: str) -> None:
        again = self._beginning.resent
        if HANGS:
            say(f"hangs-{what}")
            await trio.sleep_forever()
        say(f"{'again' if again else 'first'}-{what}")

    def _entry(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        is_root = inode == pyfuse3.ROOT_INODE
        entry.st_mode = stat.S_IFDIR | 0o755 if is_root else stat.S_IFREG | 0o644
        entry.st_size = BIG_SIZE if inode == BIG else os.fstat(self._out).st_size
        entry.st_nlink = 1
        entry.entry_timeout = entry.attr_timeout = 60
        return entry

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._entry(inode)

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        return self._entry(inode)

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name == b"late":
            await self._hang_or_say("lookup")
        if name not in NAMES:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._entry(NAMES[name])

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        if off >= BIG_SIZE // 2:
            await self._hang_or_say("read")
        start = off % len(PATTERN)
        return (PATTERN * 2)[start : start + size]

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        await self._hang_or_say("write")
        return os.pwrite(self._out, buf, off)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        return None

    async def flush(self, fh: int) -> None:
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def fsync(self, fh: int, datasync: bool) -> None:
        return None


def greeted(fd: int, greeting: Greeting) -> None:
    assert greeting.is_sound()
    assert greeting.can_resend
    (FOLDER / "request").write_bytes(greeting.request)
    (FOLDER / "answer").write_bytes(greeting.answer)
    (FOLDER / "connection").write_text(str(fd))
    say("greeted")


def main() -> None:
    beginning: Beginning | Successor = Beginning(greeted)
    where = MOUNT
    if len(sys.argv) > 4:
        request, answer = (FOLDER / "request").read_bytes(), (FOLDER / "answer").read_bytes()
        beginning = Successor(int(sys.argv[4]), Greeting(request, answer))
        where = f"/dev/fd/{beginning.fd}"
    assert request_loop.install(beginning)
    pyfuse3.init(Files(beginning), where, set(pyfuse3.default_options))
    trio.run(pyfuse3.main, 4, 200)
    pyfuse3.close()


if __name__ == "__main__":
    main()
