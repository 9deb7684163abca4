"""A remote that others write to as well, and the words that everybody writes into it.

Every write is a word of its own. It lives until whoever wrote it, or somebody who could see it,
takes it away.
"""

import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mountd.errors import FileSystemError, NoEntry, RemoteError, Stale, Throttled, Unreachable
from mountd.remotes.base import Body, Upload
from mountd.sync.conflict import is_base_gone
from mountd.types import Entry
from mountd.vfs.names import LINK_SUFFIX
from mountd_cache.changes import Change
from tests.fakes.memory_store import MemoryStore
from tests.fakes.moving_store import MovingStore
from tests.model.daemon import Daemon
from tests.model.reference import Path

WORD = 8  # bytes


class Witness(MemoryStore):
    """Notes where we replaced or removed somebody else's version that no listing had shown us."""

    def __init__(
        self,
        *,
        real_directories: bool = False,
        server_copy: bool = True,
        tree_versions: bool = False,
        native_move: bool = False,
        removes_trees: bool = False,
        identifies: bool = False,
    ) -> None:
        super().__init__(
            real_directories=real_directories,
            server_copy=server_copy,
            tree_versions=tree_versions,
            native_move=native_move,
            removes_trees=removes_trees,
            identifies=identifies,
        )
        self.theirs: set[str] = set()
        self.violations: list[str] = []
        self._listed: set[str] = set()
        self._listed_lock = threading.Lock()

    def listed(self, entries: Sequence[Entry]) -> None:
        with self._listed_lock:
            self._listed.update(entry.version for entry in entries)

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        for page in super().list(directory):
            self.listed(page)
            yield page

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        for page in super().list_tree(directory):
            self.listed([entry for _, entry in page])
            yield page

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        made = super().put(key, body, expect, upload)
        self._check("put", key, expect)
        return made

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        made = super().copy(source, version, key, expect, upload)
        self._check("copy", key, expect)
        return made

    def delete(self, key: str, expect: str | None) -> None:
        super().delete(key, expect)
        self._check("delete", key, expect)

    def remove_tree(self, key: str, inside: Mapping[str, str]) -> None:
        super().remove_tree(key, inside)
        for name, version in inside.items():
            self._check("remove_tree", name, version)

    def _check(self, call: str, key: str, expect: str | None) -> None:
        with self._listed_lock:
            is_blind = expect is None or (expect in self.theirs and expect not in self._listed)
        if is_blind:
            self.violations.append(f"{call} {key} over {expect}")


class Unreadable(Exception):
    """What is there can't be read: the version is gone, or the remote is down."""


@dataclass(eq=False, slots=True)
class Log:
    """A file that somebody keeps open to write to it. `is_nameless`: it was removed here."""

    fh: int
    number: int
    is_nameless: bool = False


class MovingWitness(MovingStore, Witness):
    """Also gives a file another name in one step."""


class Shared:
    """One user at the file system, and others at the remote."""

    def __init__(self, store: Witness) -> None:
        self.store = store
        self.daemon = Daemon(store)
        self.living: set[bytes] = set()
        self.logs: list[Log] = []
        self.foreign = 0  # how often others did something
        self._words = 0
        self._seen: dict[Path, int] = {}  # inodes of what was read last
        self._links: dict[Path, bool] = {}  # whether that was a link

    def word(self) -> bytes:
        self._words += 1
        made = b"%07d." % self._words
        self.living.add(made)
        return made

    def lose(self, data: bytes) -> None:
        self.living -= set(words_in(data))

    # -- the user

    def see(self, path: Path) -> bytes | None:
        """What the user reads there, None for nothing. Raises Unreadable."""
        for _ in range(3):
            try:
                return self.daemon.do(lambda: self._see(path))
            except NoEntry:
                return None
            except Stale:
                continue  # the kernel looks the name up again
            except (FileSystemError, RemoteError, TimeoutError) as error:
                self._check_foreseen(error)
                raise Unreadable(path) from error
        raise Unreadable(path)

    async def _see(self, path: Path) -> bytes:
        fs = self.daemon.fs
        self._seen[path] = number = (await self.daemon.walk(path)).number
        self._links[path] = fs.attributes(number).is_link
        if self._links[path]:
            return await fs.links.read(number)
        fh = await fs.open(number)
        try:
            return bytes(memoryview(await fs.read(fh, 0, 1 << 20)))
        finally:
            fs.release(fh)

    async def _number(self, path: Path) -> int:
        """Raises Stale where somebody has put something else there since it was seen."""
        number = (await self.daemon.walk(path)).number
        if number != self._seen[path]:
            raise Stale(path)
        return number

    def save(self, path: Path) -> None:
        """Replaces what is there, as a shell's `>` does."""
        try:
            before = self.see(path)
        except Unreadable:
            return
        if before is not None and self._links[path]:
            return

        async def save() -> None:
            fs = self.daemon.fs
            if before is None:
                fh, node = await fs.create(
                    await self.daemon.directory_of(path[:-1]), path[-1].encode(), {}
                )
                self.daemon.created(node.number)
            else:
                number = await self._number(path)
                fh = await fs.open(number, writes=True, truncates=True)
                self.lose(before)
            await fs.write(fh, 0, self.word())
            fs.release(fh)

        self._try(save)

    def link(self, path: Path, *, replaces: bool) -> None:
        """A link whose target is a word; it may replace what is there, as `ln -sf` does."""
        try:
            before = self.see(path)
        except Unreadable:
            return
        if before is not None and not replaces:
            return

        async def link() -> None:
            fs = self.daemon.fs
            there = await self._number(path) if before is not None else 0
            parent = await self.daemon.directory_of(path[:-1])
            name = path[-1].encode() if before is None else b"new"
            made = await fs.make_link(parent, name, self.word(), {})
            self.daemon.created(made.number)
            if before is not None:
                await fs.rename(parent, b"new", parent, path[-1].encode())
                self._removed(there, before)

        self._try(link)

    def patch(self, path: Path, *, at_end: bool) -> None:
        """Writes a word over the first, or behind the last."""
        try:
            before = self.see(path)
        except Unreadable:
            return
        if before is None or self._links[path]:
            return

        async def patch() -> None:
            fs = self.daemon.fs
            fh = await fs.open(await self._number(path), writes=True)
            await fs.write(fh, len(before) if at_end else 0, self.word())
            if not at_end:
                self.lose(before[:WORD])
            fs.release(fh)

        self._try(patch)

    def unlink(self, path: Path) -> None:
        try:
            before = self.see(path)
        except Unreadable:
            return
        if before is None:
            return

        async def unlink() -> None:
            number = await self._number(path)
            parent = await self.daemon.directory_of(path[:-1])
            await self.daemon.fs.unlink(parent, path[-1].encode())
            self._removed(number, before)

        self._try(unlink)

    def rename(self, old: Path, new: Path) -> None:
        try:
            source, target = self.see(old), self.see(new)
        except Unreadable:
            return
        if source is None or old == new:
            return

        async def rename() -> None:
            fs = self.daemon.fs
            await self._number(old)
            there = await self._number(new) if target is not None else 0
            one, two = [await self.daemon.directory_of(p[:-1]) for p in (old, new)]
            await fs.rename(one, old[-1].encode(), two, new[-1].encode())
            if target is not None:
                self._removed(there, target)

        self._try(rename)

    def rename_directory(self, old: str, new: str) -> None:
        async def rename() -> None:
            root = self.daemon.fs.tree.root
            await self.daemon.fs.rename(root, old.encode(), root, new.encode())

        self._try(rename)

    def remove_tree(self, directory: str, names: Sequence[str]) -> None:
        """As `rm -r` does it."""
        for name in names:
            self.unlink((directory, name))

        async def remove() -> None:
            fs = self.daemon.fs
            await fs.remove_directory(fs.tree.root, directory.encode())

        self._try(remove)

    def make_directory(self, directory: str) -> None:
        async def make() -> None:
            fs = self.daemon.fs
            await fs.make_directory(fs.tree.root, directory.encode(), {})

        self._try(make)

    def _removed(self, number: int, before: bytes) -> None:
        self.lose(before)
        for log in self.logs:
            log.is_nameless |= log.number == number

    def open_log(self, path: Path) -> None:
        async def open_() -> None:
            number = (await self.daemon.walk(path)).number
            if self.daemon.fs.attributes(number).is_link:
                return
            fh = await self.daemon.fs.open(number, writes=True)
            self.logs.append(Log(fh, number))

        self._try(open_)

    def write_log(self, log: Log) -> None:
        async def write() -> None:
            size = self.daemon.fs.attributes(log.number).size
            await self.daemon.fs.write(log.fh, size, made := self.word())
            if log.is_nameless:
                self.living.discard(made)

        self._try(write)

    def close_log(self, log: Log) -> None:
        self.logs.remove(log)
        self.daemon.loop.do(self.daemon.fs.release, log.fh)

    def _try(self, work: Callable[[], Awaitable[None]]) -> None:
        """Others may have been in the way, and the remote may be down."""
        words = self._words
        try:
            self.daemon.do(work)
        except (FileSystemError, RemoteError, TimeoutError) as error:
            self._check_foreseen(error)
            self.living -= {b"%07d." % n for n in range(words + 1, self._words + 1)}

    def _check_foreseen(self, error: Exception) -> None:
        if isinstance(error, (Unreachable, Throttled, TimeoutError)):
            assert self.daemon.is_down or self.daemon.reads_fail, repr(error)

    # -- the others

    def put(self, key: str) -> None:
        self._take_away(key)
        self.store.theirs.add(self.store.seed(key, self.word()))

    def vanish(self, key: str) -> None:
        if key in set(self.store.keys()):
            self._take_away(key)
            self.store.drop(key)

    def _take_away(self, key: str) -> None:
        self.foreign += 1
        if key in set(self.store.keys()):
            self.lose(self.store.data(key))

    # -- the daemon

    def crash(self) -> None:
        self.logs.clear()
        self.daemon.crash()

    def restart(self) -> None:
        while self.logs:
            self.close_log(self.logs[0])
        self.daemon.restart()

    # -- the end

    def finish(self) -> None:
        self.daemon.remote_is_well()
        while self.logs:
            self.close_log(self.logs[0])
        for _ in range(5):
            self.daemon.drain()
            if self.store.capabilities.tree_versions:
                self.daemon.advance(70.0)  # what the directories' versions prove is not listed
            else:
                self.daemon.expire()
            self._view()
            self.daemon.fold()  # each second, in a daemon
        self.check()

    def check(self) -> None:
        store, ledger = self.store, self.daemon.ledger
        objects = {key: store.data(key) for key in list(store.keys()) if not key.endswith("/")}
        assert not store.violations, store.violations
        unsent = list(ledger.unsent())
        assert all(is_base_gone(change) for change in unsent), unsent
        there = Counter(word for data in objects.values() for word in words_in(data))
        assert all(int(word[:-1]) for word in there), "bytes that nobody wrote"
        twice = [word for word, count in there.items() if count > 1]
        assert not twice, f"{twice} in {objects}"
        kept = {word for change in unsent for word in self._staged(change)}
        missing = self.living - there.keys() - kept
        assert not missing, f"{missing} not in {objects}"
        copies = [key for key in objects if "(conflict " in key]
        assert len(copies) <= self.foreign, copies
        stuck = {change.key for change in unsent}
        # As long as ours waits, a link of others' with its name is not seen, nor a file with ours.
        stuck |= {key + LINK_SUFFIX for key in stuck} | {k.removesuffix(LINK_SUFFIX) for k in stuck}
        wanted = {key: data for key, data in objects.items() if key not in stuck}
        view = {key: data for key, data in self._view().items() if key not in stuck}
        assert view == wanted

    def _staged(self, change: Change) -> set[bytes]:
        content = self.daemon.ledger.content_of(change)
        found: set[bytes] = set()
        for layer in content.layers if content is not None else ():
            for start, end in layer.extents:
                assert content is not None
                data = self.daemon.mounted.journal.read(content.id, layer.number, start, end)
                found.update(words_in(data))
        return found

    def _view(self) -> dict[str, bytes | None]:
        """All files as the user sees them; None for what can't be read."""
        found: dict[str, bytes | None] = {}
        waiting: list[Path] = [()]
        while waiting:
            path = waiting.pop()
            for name, is_directory in self._listed(path):
                if is_directory:
                    waiting.append((*path, name))
                    continue
                try:
                    data = self.see((*path, name))
                except Unreadable:
                    data = None
                key = "/".join((*path, name))
                found[key + LINK_SUFFIX * self._links.get((*path, name), False)] = data
        return found

    def _listed(self, path: Path) -> list[tuple[str, bool]]:
        return self.daemon.do(lambda: self._rows(path))

    async def _rows(self, path: Path) -> list[tuple[str, bool]]:
        directory = await self.daemon.directory_of(path)
        listing = (await self.daemon.fs.read_directory(directory)).listing
        return [(listing.name(i).decode(), listing.is_dir(i)) for i in range(len(listing))]


def words_in(data: bytes) -> list[bytes]:
    return [data[i : i + WORD] for i in range(0, len(data), WORD)]
