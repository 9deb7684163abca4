"""What the workers do on the mount until the daemon is killed: ordinary work, at random."""

import os
import random
import time
from collections.abc import Callable

from tests.crash.kill_loop_calls import Calls, DaemonGone, Failed
from tests.crash.kill_loop_check import scan
from tests.crash.kill_loop_model import File

KIB = 1 << 10
MIB = 1 << 20
MOST_NODES = 40
MOST_FOLDERS = 9
MOST_BIG = 3
BIG_BYTES = 17 * MIB  # mountd sends more than 16 MiB in parts


class Load:
    """One worker's work. `big`: it also makes and changes files that travel in parts."""

    def __init__(self, calls: Calls, rng: random.Random, *, big: bool) -> None:
        self._calls = calls
        self._tree = calls.tree
        self._rng = rng
        self.new: Callable[[str, str | None], str] = self._unused
        self.most_nodes = MOST_NODES
        self._named = 0
        self._run_id = f"{rng.randrange(1 << 24):06x}"
        self.ops = {
            self.create: 18,
            self.edit_in_place: 14,
            self.append_and_sync: 12,
            self.append_and_close: 5,
            self.rewrite: 5,
            self.save_by_rename: 14,
            self.rename_file: 8,
            self.rename_over: 5,
            self.swap: 3,
            self.rename_folder: 10,
            self.rename_over_empty_folder: 3,
            self.unlink: 8,
            self.unlink_while_open: 3,
            self.make_folder: 6,
            self.remove_folder: 5,
            self.remove_tree: 2,
            self.truncate: 6,
            self.truncate_open: 4,
            self.touch: 3,
            self.read: 14,
            self.list_names: 3,
        }
        if big:
            self.ops |= {self.create_big: 3, self.edit_in_place: 40}

    def run(self, seconds: float) -> bool:
        """Until then, or until the daemon is gone: True."""
        until_s = time.monotonic() + seconds
        try:
            while time.monotonic() < until_s:
                [act] = self._rng.choices(list(self.ops), list(self.ops.values()))
                try:
                    act()
                except Failed:
                    continue
        except DaemonGone:
            return True
        return False

    # -- choosing

    def _file(self, *, big: bool | None = None) -> tuple[str, File] | None:
        found = [
            (path, file)
            for path, file in self._tree.files().items()
            if big is None or big == (file.size >= BIG_BYTES)
        ]
        return self._rng.choice(found) if found else None

    def _folder(self) -> str:
        return self._rng.choice(self._tree.folders())

    def _unused(self, kind: str, folder: str | None) -> str:
        folder = self._folder() if folder is None else folder
        self._named += 1
        name = f"{kind}-{self._run_id}-{self._named}"
        return f"{folder}/{name}" if folder else name

    def _data(self) -> bytes:
        most = self._rng.choice((200, 5_000, 20_000, 300_000))
        return self._rng.randbytes(self._rng.randrange(most))

    def _is_full(self) -> bool:
        return len(self._tree.nodes) >= self.most_nodes

    # -- bytes

    def create(self) -> None:
        if self._is_full():
            self.unlink()
            return
        with self._calls.made(self.new("f", None)) as (fd, file):
            self._write_pieces(fd, file, self._data())

    def create_big(self) -> None:
        if len([f for f in self._tree.files().values() if f.size >= BIG_BYTES]) >= MOST_BIG:
            return
        data = self._rng.randbytes(MIB) * 17 + self._rng.randbytes(self._rng.randrange(3 * MIB))
        with self._calls.made(self.new("big", None)) as (fd, file):
            self._write_pieces(fd, file, data)

    def _write_pieces(self, fd: int, file: File, data: bytes) -> None:
        size = self._rng.choice((len(data), 100_000, 1 << 20)) or 1
        for start in range(0, len(data), size):
            self._calls.write(fd, file, start, data[start : start + size])

    def edit_in_place(self) -> None:
        found = self._file(big=True) if self._rng.random() < 0.6 else self._file()
        if found is None:
            return
        path, file = found
        with self._calls.opened(path, os.O_RDWR) as (fd, _):
            for _ in range(self._rng.randrange(1, 5)):
                for _ in range(self._rng.randrange(1, 4)):
                    start = self._rng.randrange(file.size + 1)
                    data = self._rng.randbytes(self._rng.choice((10, 4096, 70_000)))
                    self._calls.write(fd, file, start, data)
                self._calls.sync(fd, file)

    def append_and_sync(self) -> None:
        found = self._file()
        if found is None:
            return
        with self._calls.opened(found[0], os.O_WRONLY | os.O_APPEND) as (fd, file):
            for _ in range(self._rng.randrange(1, 6)):
                self._calls.append(fd, file, self._rng.randbytes(self._rng.randrange(1, 3_000)))
                self._calls.sync(fd, file)

    def append_and_close(self) -> None:
        found = self._file()
        if found is not None:
            with self._calls.opened(found[0], os.O_WRONLY | os.O_APPEND) as (fd, file):
                self._calls.append(fd, file, self._rng.randbytes(self._rng.randrange(1, 3_000)))

    def rewrite(self) -> None:
        found = self._file(big=False)
        if found is not None:
            with self._calls.opened(found[0], os.O_WRONLY | os.O_TRUNC) as (fd, file):
                self._write_pieces(fd, file, self._data())

    def save_by_rename(self) -> None:
        found = self._file(big=False)
        if found is None:
            return
        path, _ = found
        folder = path.rpartition("/")[0]
        temporary = self.new(".tmp", folder)
        with self._calls.made(temporary) as (fd, file):
            self._write_pieces(fd, file, self._data())
            if self._rng.random() < 0.5:
                self._calls.sync(fd, file)
        self._calls.move(temporary, path)

    def truncate(self) -> None:
        found = self._file()
        if found is not None:
            path, file = found
            size = self._rng.choice((0, file.size // 2, file.size + 10_000, file.size + 1))
            if file.size >= BIG_BYTES:
                size = file.size - self._rng.randrange(3) + 1
            self._calls.cut(self._calls.top / path, file, size)

    def truncate_open(self) -> None:
        found = self._file(big=False)
        if found is None:
            return
        with self._calls.opened(found[0], os.O_RDWR) as (fd, file):
            self._calls.write(fd, file, file.size // 2, self._rng.randbytes(9_000))
            self._calls.cut(fd, file, self._rng.randrange(file.size + 5_000))
            self._calls.write(fd, file, file.size, self._rng.randbytes(500))
            self._calls.sync(fd, file)

    def touch(self) -> None:
        found = self._file()
        if found is not None:
            self._calls.set_mtime(found[0], 10**9 * self._rng.randrange(1, 1 << 30))

    # -- names

    def rename_file(self) -> None:
        found = self._file()
        if found is not None:
            self._calls.move(found[0], self.new("f", None))

    def rename_over(self) -> None:
        one, other = self._file(), self._file(big=False)
        if one is not None and other is not None and one[0] != other[0]:
            self._calls.move(one[0], other[0])

    def swap(self) -> None:
        one, other = self._file(big=False), self._file(big=False)
        if one is None or other is None or one[0] == other[0]:
            return
        aside = self.new("swap", None)
        self._calls.move(one[0], aside)
        self._calls.move(other[0], one[0])
        self._calls.move(aside, other[0])

    def rename_folder(self) -> None:
        folder, target = self._folder(), self._folder()
        if folder and target != folder and not target.startswith(folder + "/"):
            self._calls.move(folder, self.new("d", target))

    def rename_over_empty_folder(self) -> None:
        folder, target = self._folder(), self._folder()
        is_apart = not target.startswith(folder + "/") and not folder.startswith(target + "/")
        if folder and target and folder != target and is_apart and not self._tree.inside(target):
            self._calls.move(folder, target)

    def unlink(self) -> None:
        found = self._file()
        if found is not None:
            self._calls.remove(found[0])

    def unlink_while_open(self) -> None:
        found = self._file(big=False)
        if found is None:
            return
        with self._calls.opened(found[0], os.O_RDWR) as (fd, file):
            self._calls.remove(found[0])
            self._calls.write(fd, file, file.size // 2, self._data())
            wanted = bytes(file.current())
            seen = self._calls.call("pread", os.pread, fd, len(wanted) + 1, 0)
            if not file.spoilt and seen != wanted:
                self._calls.problems.append(f"{found[0]}: read after unlink: {len(seen)} bytes")

    def make_folder(self) -> None:
        if len(self._tree.folders()) < MOST_FOLDERS:
            self._calls.make_folder(self.new("d", None))

    def remove_folder(self) -> None:
        empty = [path for path in self._tree.folders() if path and not self._tree.inside(path)]
        if empty:
            self._calls.remove(self._rng.choice(empty))

    def remove_tree(self) -> None:
        top = self._folder()
        if top:
            self.remove_below(top)

    def remove_below(self, top: str) -> None:
        """With the directory itself."""
        below = [path for path in self._tree.nodes if path.startswith(top + "/")]
        for path in sorted(below, key=lambda path: -path.count("/")):
            self._calls.remove(path)
        self._calls.remove(top)

    # -- looking

    def read(self) -> None:
        found = self._file()
        if found is None:
            return
        path, file = found
        seen = self._calls.call(f"read {path}", (self._calls.top / path).read_bytes)
        if not file.spoilt and seen != file.current():
            self._calls.problems.append(f"{path}: read: {file.difference(seen) or 'another state'}")

    def list_names(self) -> None:
        seen = self._calls.call("list", scan, self._calls.top)
        wanted = {path: type(node) for path, node in self._tree.nodes.items()}
        if {path: facts.kind for path, facts in seen.items()} != wanted:
            self._calls.problems.append(f"list: {sorted(seen.keys() ^ wanted.keys())[:8]}")
            return
        for path, node in self._tree.nodes.items():
            if node.number and node.number != seen[path].number:
                self._calls.problems.append(f"{path}: inode {node.number} -> {seen[path].number}")
