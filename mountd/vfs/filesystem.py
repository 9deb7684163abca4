"""The file system without FUSE: tree and open files together, as fusefs calls them and as tests
do without a kernel."""

import time
from collections.abc import Callable

from mountd.errors import NoAttribute, Stale
from mountd.remotes.base import RemoteStore
from mountd.vfs.files import OpenFiles
from mountd.vfs.nodes import Attributes, Directory
from mountd.vfs.tree import Tree
from mountd_cache.block_cache import BlockCache
from mountd_cache.metadata_cache import CachedListing, MetadataCache

STATE, ETAG, URL = b"user.mountd.state", b"user.mountd.etag", b"user.mountd.url"
# A state of more blocks than this is told from this many, evenly spread: a 5 TB file has 5 million.
STATE_SAMPLES = 1024
# Names of the root that the kernel was told are not there. Beyond it the oldest is forgotten, and
# lives on in the kernel for what is left of its time.
ABSENT_NAMES = 4096


class FileSystem:
    """See the module. Coroutines raise what `Tree` and `OpenFiles` raise."""

    def __init__(
        self,
        store: RemoteStore,
        metadata: MetadataCache,
        blocks: BlockCache,
        *,
        ttl_s: float,
        wait_s: float,
        url: str,
        remote_is_well: Callable[[], bool] = lambda: True,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.tree = Tree(
            store,
            metadata,
            ttl_s=ttl_s,
            wait_s=wait_s,
            remote_is_well=remote_is_well,
            wall_clock=wall_clock,
        )
        self.blocks = blocks
        self.files = OpenFiles(store, self.tree, blocks)
        self._url = url
        self._absent: dict[bytes, None] = {}  # in the order of the answers

    async def read_directory(self, directory: Directory) -> CachedListing:
        """A directory's rows, for somebody who reads them all."""
        self.files.walk.listing(directory)  # the next listings travel beside this one
        cached = self.tree.fresh(directory) or await self.tree.listing(directory)
        self.files.walk.listed(directory, cached.listing)
        return cached

    def attributes(self, number: int) -> Attributes:
        """Never waits. An inode whose row is gone answers while a handle holds it open."""
        node = self.tree.node(number)
        try:
            return self.tree.attributes(node)
        except Stale:
            opened = self.files.opened(node)
            if opened is None:
                raise
            return Attributes(number, False, opened.size, opened.mtime_ns, opened.version, 1.0)

    def answered_absent(self, directory: Directory, name: bytes) -> None:
        """Notes that the kernel keeps that `name` is not in `directory`, so that `refresh` can
        name it: a name that is not there has no inode to be found by. Only for the root: another
        directory's entry is invalidated with all that is below it."""
        if directory is self.tree.root:
            self._absent[name] = None
            if len(self._absent) > ABSENT_NAMES:
                del self._absent[next(iter(self._absent))]

    def refresh(self, path: bytes) -> list[tuple[int, bytes]]:
        """Forgets that `path` (as shown below the mount) and what is below it is fresh; returns
        the (parent inode, name) pairs that the kernel has to forget. Never waits: what is not
        known here has nothing to forget."""
        directory = self.tree.root
        itself: list[tuple[int, bytes]] = []
        for name in filter(None, path.split(b"/")):
            itself = [(directory.number, name)]
            cached = self.tree.cache.get(directory.key)
            row = cached.listing.find(name) if cached is not None else -1
            if cached is None or row < 0 or not cached.listing.is_dir(row):
                self.tree.expire(directory.key)
                return itself
            directory = self.tree.subdirectory(directory, cached.listing, row)
        self.tree.expire_below(directory.key)
        if directory is self.tree.root:
            itself = [(directory.number, name) for name in self._absent]
            self._absent.clear()
        cached = self.tree.cache.get(directory.key)
        if cached is None:
            return itself
        held = self.tree.holds
        listing = cached.listing
        rows = (row for row in range(len(listing)) if held(listing.ino(row)))
        # The directory after its rows: with it the kernel forgets which names were not there.
        return [(directory.number, listing.name(row)) for row in rows] + itself

    def xattr_names(self, number: int) -> list[bytes]:
        attributes = self.attributes(number)
        return [URL] if attributes.is_dir else [STATE, ETAG, URL]

    def xattr(self, number: int, name: bytes) -> bytes:
        """An attribute of cli.md. NoAttribute for any other name."""
        node = self.tree.node(number)
        if isinstance(node, Directory):
            if name == URL:
                return f"{self._url}/{node.key}".encode("utf-8", "surrogatepass")
            raise NoAttribute(name)
        file = self.files.opened(node) or self.files.remote_file_of(node)
        if name == STATE:
            return self._state(file.digest, file.size)
        if name == ETAG:
            return file.version.encode("utf-8", "surrogatepass")
        if name == URL:
            return f"{self._url}/{file.key}".encode("utf-8", "surrogatepass")
        raise NoAttribute(name)

    def _state(self, digest: bytes, size: int) -> bytes:
        block_size, blocks = self.blocks.block_size, self.blocks.blocks
        count = -(-size // block_size)
        step = max(1, count // STATE_SAMPLES)
        sampled = range(0, count, step)
        here = sum(
            blocks.present(digest, i, 0, min(block_size, size - i * block_size)) for i in sampled
        )
        if here == len(sampled):
            return b"cached"
        return b"partly-cached" if here else b"remote"
