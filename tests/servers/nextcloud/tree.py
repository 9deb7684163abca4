"""The files of one account: nodes with ids, ETags that reach the root, sizes that add up."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import md5
from itertools import count

from tests.servers.nextcloud.refusals import refused
from tests.servers.s3.bodies import EMPTY_BODY, Body

_numbers = count(1)
_salt = os.urandom(8).hex()


def new_etag() -> str:
    """32 hexadecimal digits that no node ever had; without quotes."""
    return md5(f"{_salt}{next(_numbers)}".encode(), usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class Storage:
    """How the disk below behaves. `clock_s` not 0: time stands still there.

    `stat_etags`: a file's ETag is what Nextcloud makes of a local disk's stat, a hash of mtime in
    whole seconds, inode and size, and not even that is made anew while the mtime stays: two writes
    within a second, or of the same size with the same X-OC-MTime, have one ETag (measured on
    32.0.1). Otherwise every write gives a new one, as object storage does.
    """

    stat_etags: bool = True
    clock_s: int = 0

    def now_s(self) -> int:
        return self.clock_s or int(time.time())


class UserLock:
    """A lock of the files_lock app."""

    __slots__ = ("owner", "owner_name", "since_s", "timeout_s", "token")

    def __init__(self, owner: str, owner_name: str, timeout_s: int) -> None:
        self.owner = owner
        self.owner_name = owner_name
        self.since_s = int(time.time())
        self.timeout_s = timeout_s
        self.token = f"files_lock/{new_etag()}"


class Node:
    """A file or a folder (`children` is then a dict). `size` of a folder counts all below it.

    `mount_type` is "" or what nc:mount-type says for the mount that begins here; what is below a
    mount with `propagates` False changes without any ETag above it changing. `denied` holds the
    letters of oc:permissions that this node, and everything below it, lacks.
    """

    __slots__ = (
        "body",
        "checksum",
        "children",
        "created_s",
        "denied",
        "etag",
        "id",
        "lock",
        "mount_type",
        "mtime_s",
        "name",
        "parent",
        "propagates",
        "size",
        "uploaded_s",
    )

    def __init__(self, node_id: int, name: str, *, folder: bool) -> None:
        self.id = node_id
        self.name = name
        self.parent: Node | None = None
        self.children: dict[str, Node] | None = {} if folder else None
        self.body: Body = EMPTY_BODY
        self.size = 0
        self.etag = new_etag()
        self.mtime_s = int(time.time())
        self.created_s = 0
        self.uploaded_s = 0
        self.checksum = ""
        self.mount_type = ""
        self.propagates = True
        self.denied = ""
        self.lock: UserLock | None = None

    @property
    def is_folder(self) -> bool:
        return self.children is not None

    def entries(self) -> "dict[str, Node]":
        if self.children is None:
            raise refused(409, "not a collection")
        return self.children

    def lineage(self) -> "Iterator[Node]":
        """The node, its folder, and so on up to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def mount(self) -> str:
        """What nc:mount-type says."""
        return next((node.mount_type for node in self.lineage() if node.mount_type), "")

    def path(self) -> str:
        """Without a slash at either end; "" for the root."""
        return "/".join([node.name for node in self.lineage() if node.parent is not None][::-1])

    def walk(self) -> "Iterator[Node]":
        yield self
        for child in (self.children or {}).values():
            yield from child.walk()


class Tree:
    """One account's files. Paths are relative, without slashes at the ends."""

    def __init__(self, ids: "Iterator[int]", storage: Storage) -> None:
        self._ids = ids
        self._storage = storage
        self.root = Node(next(ids), "", folder=True)

    def find(self, path: str) -> Node | None:
        node = self.root
        if path:
            for name in path.split("/"):
                if node.children is None or name not in node.children:
                    return None
                node = node.children[name]
        return node

    def require(self, path: str) -> Node:
        node = self.find(path)
        if node is None:
            raise refused(404, f"File with name /{path} could not be located")
        return node

    def parent_of(self, path: str, *, missing: int = 409) -> tuple[Node, str]:
        """The folder that `path` is or would be in, and the name. `missing`: the status where
        there is none."""
        folder, _, name = path.rpartition("/")
        node = self.find(folder)
        if node is None or not node.is_folder:
            raise refused(missing, f"File with name /{folder} could not be located")
        return node, name

    def make_folder(self, parent: Node, name: str) -> Node:
        folder = Node(next(self._ids), name, folder=True)
        self.attach(folder, parent, name)
        return folder

    def make_folders(self, path: str) -> Node:
        node = self.root
        for name in path.split("/") if path else ():
            child = node.entries().get(name)
            node = self.make_folder(node, name) if child is None else child
        return node

    def write(self, parent: Node, name: str, body: Body, mtime_s: int | None = None) -> Node:
        """Makes a file or replaces a file's contents, which keeps its id."""
        node = parent.entries().get(name)
        if node is None:
            node = Node(next(self._ids), name, folder=False)
            node.mtime_s = 0
            self.attach(node, parent, name, quiet=True)
        elif node.is_folder:
            raise refused(409, "PUT is not allowed on non-files.")
        now_s = self._storage.now_s()
        grown = body.size - node.size
        node.body, node.size = body, body.size
        node.uploaded_s = now_s
        node.checksum = ""
        self._stamp(node, now_s)
        self.changed(node, grown)
        if mtime_s is not None:
            self.touch(node, mtime_s)
        return node

    def touch(self, node: Node, mtime_s: int) -> None:
        if node.is_folder:
            self.changed(node)
            node.mtime_s = mtime_s
        else:
            self._stamp(node, mtime_s)
            self.changed(node)

    def _stamp(self, node: Node, mtime_s: int) -> None:
        """A file's time and ETag, after a write or a touch."""
        if not self._storage.stat_etags:
            node.etag = new_etag()
        elif node.mtime_s != mtime_s:
            text = f"{mtime_s}/{node.id}/{node.size}"
            node.etag = md5(text.encode(), usedforsecurity=False).hexdigest()
        node.mtime_s = mtime_s

    def attach(self, node: Node, parent: Node, name: str, *, quiet: bool = False) -> None:
        node.name, node.parent = name, parent
        parent.entries()[name] = node
        if not quiet:
            self.changed(parent, node.size)

    def detach(self, node: Node) -> None:
        parent = node.parent
        if parent is None:
            raise refused(403, "the root stays")
        del parent.entries()[node.name]
        node.parent = None
        self.changed(parent, -node.size)

    def copy(self, source: Node, parent: Node, name: str) -> Node:
        made = self._copied(source)
        self.attach(made, parent, name)
        return made

    def _copied(self, source: Node) -> Node:
        made = Node(next(self._ids), source.name, folder=source.is_folder)
        made.body, made.size = source.body, source.size
        made.mtime_s = source.mtime_s
        if source.children is not None:
            made.children = {}
            for name, child in source.children.items():
                copied = self._copied(child)
                copied.parent = made
                made.children[name] = copied
        return made

    def changed(self, node: Node, grown: int = 0) -> None:
        """New ETags, sizes and times for `node`, if it is a folder, and all folders above it.

        Sizes are always right; where a mount doesn't propagate, no folder gets a new ETag.
        """
        line = [each for each in node.lineage() if each.is_folder]
        silent = any(not each.propagates for each in line)
        now_s = self._storage.now_s()
        for each in line:
            each.size += grown
            if not silent:
                each.etag = new_etag()
                each.mtime_s = max(each.mtime_s, now_s)
