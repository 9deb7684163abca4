"""`user.mountd.pin` and `user.mountd.warm` of a path: see vfs/keeping.py for who calls."""

from mountd.errors import NoAttribute, NoEntry, NotPossible
from mountd.transfer.pinned_tree import PinnedTree, PinState
from mountd.transfer.pins import Pins
from mountd.transfer.warm import Warmings
from mountd.vfs.keeping import PIN
from mountd.vfs.nodes import Node
from mountd.vfs.tree import Tree

# setxattr(2) holds the inode for so long at most: nobody looks anything up in it meanwhile.
_COUNTS_FOR_S = 5.0
_MOST_REMEMBERED = 1000


class KeepingByXattr:
    """What `Keeping` promises."""

    def __init__(self, tree: Tree, pins: Pins, warmings: Warmings) -> None:
        self._tree = tree
        self._pins = pins
        self._warmings = warmings
        self._jobs: dict[bytes, int] = {}

    def get(self, node: Node, name: bytes) -> bytes:
        path = self._path_of(node)
        if name == PIN:
            tree = self._pins.above(path)
            if tree is None:
                raise NoAttribute(name)
            return _said(tree)
        job = self._warmings.find(self._jobs.get(path, 0))
        if job is None:
            raise NoAttribute(name)
        told = job.as_dict()
        if told["state"] == "done":
            return b"failed" if told["failed"] else b"1"
        if told["state"] in ("refused", "stopped"):
            return str(told["state"]).encode()
        return _percent(told["bytes"], told["missing_bytes"] - told["fetched_bytes"])

    async def set(self, node: Node, name: bytes, value: bytes) -> None:
        wanted = value.strip().rstrip(b"\0")
        if wanted not in (b"0", b"1"):
            raise NotPossible(f"{name!r} takes 1 or 0")
        if wanted == b"0":
            try:
                await self.remove(node, name)
            except NoAttribute:
                return
        elif name == PIN:
            await self._pins.pin(self._path_of(node), wait_s=_COUNTS_FOR_S)
        else:
            self._warm(self._path_of(node))

    async def remove(self, node: Node, name: bytes) -> None:
        path = self._path_of(node)
        if name == PIN:
            if self._pins.above(path) is None:
                raise NoAttribute(name)
            try:
                await self._pins.unpin(path)
            except NoEntry as error:  # a directory above it is pinned
                raise NotPossible(str(error)) from error
        else:
            job = self._jobs.pop(path, None)
            if job is None:
                raise NoAttribute(name)
            self._warmings.stop(job)

    def _warm(self, path: bytes) -> None:
        running = self._warmings.find(self._jobs.get(path, 0))
        if running is not None and not running.ended.is_set():
            return
        # Who sets an xattr doesn't stay to ask.
        self._jobs[path] = self._warmings.begin([path], is_leased=False)
        if len(self._jobs) > _MOST_REMEMBERED:
            del self._jobs[next(iter(self._jobs))]

    def _path_of(self, node: Node) -> bytes:
        """As shown below the mount. Raises Stale."""
        names: list[bytes] = []
        while node.parent is not None:
            change = self._tree.ledger.by_number.get(node.number)
            if change is not None:
                names.append(change.name)
            else:
                cached, row = self._tree.locate(node)
                names.append(cached.listing.name(row))
            node = node.parent
        return b"/".join(reversed(names))


def _said(tree: PinnedTree) -> bytes:
    if tree.state is PinState.HERE:
        return b"1"
    if tree.state is PinState.NO_ROOM:
        return b"no room"
    return _percent(tree.totals.size_bytes, tree.missing_bytes)


def _percent(size: int, missing: int) -> bytes:
    """Never 100: that is 1."""
    return b"%d%%" % min(99, (size - missing) * 100 // size if size else 0)
