"""The files of one account: nodes with ids, ETags that reach the root, sizes that add up."""

import os
import time
from collections.abc import Iterator
from hashlib import md5
from itertools import count

from tests.servers.nextcloud.refusals import refused
from tests.servers.s3.bodies import EMPTY_BODY, Body

_numbers = count(1)
_salt = os.urandom(8).hex()


def new_etag() -> str:
    """32 hexadecimal digits that no node ever had; without quotes."""
    return md5(f"{_salt}{next(_numbers)}".encode(), usedforsecurity=False).hexdigest()


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

    def __init__(self, ids: "Iterator[int]") -> None:
        self._ids = ids
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

    def parent_of(self, path: str) -> tuple[Node, str]:
        """The folder that `path` is or would be in, and the name. 409 where there is none."""
        folder, _, name = path.rpartition("/")
        node = self.find(folder)
        if node is None or not node.is_folder:
            raise refused(409, "Files cannot be created in non-existent collections")
        return node, name

    def make_folder(self, parent: Node, name: str) -> Node:
        folder = Node(next(self._ids), name, folder=True)
        folder.created_s = folder.mtime_s
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
            self.attach(node, parent, name, quiet=True)
        elif node.is_folder:
            raise refused(409, "PUT is not allowed on non-files.")
        now_s = int(time.time())
        grown = body.size - node.size
        node.body, node.size = body, body.size
        node.mtime_s = now_s if mtime_s is None else mtime_s
        node.uploaded_s = now_s
        node.checksum = ""
        self.changed(node, grown, own=True)
        return node

    def attach(self, node: Node, parent: Node, name: str, *, quiet: bool = False) -> None:
        node.name, node.parent = name, parent
        parent.entries()[name] = node
        if not quiet:
            self.changed(parent, node.size, own=True)

    def detach(self, node: Node) -> None:
        parent = node.parent
        if parent is None:
            raise refused(403, "the root stays")
        del parent.entries()[node.name]
        node.parent = None
        self.changed(parent, -node.size, own=True)

    def copy(self, source: Node, parent: Node, name: str) -> Node:
        made = self._copied(source)
        self.attach(made, parent, name)
        return made

    def _copied(self, source: Node) -> Node:
        made = Node(next(self._ids), source.name, folder=source.is_folder)
        made.body, made.size = source.body, source.size
        made.mtime_s, made.checksum = source.mtime_s, source.checksum
        if source.children is not None:
            made.children = {}
            for name, child in source.children.items():
                copied = self._copied(child)
                copied.parent = made
                made.children[name] = copied
        return made

    def changed(self, node: Node, grown: int = 0, *, own: bool) -> None:
        """New ETags from `node` (with `own`: its own too) to the root, and their sizes and times.

        Sizes are always right; ETags stop where a mount doesn't propagate, and in it only files
        get new ones.
        """
        line = list(node.lineage())
        silent = next((i for i, each in enumerate(line) if not each.propagates), -1)
        now_s = int(time.time())
        for index, each in enumerate(line):
            if each.is_folder:
                each.size += grown
            if silent >= 0 and each.is_folder:
                continue
            if index or own:
                each.etag = new_etag()
            if each.is_folder and each.mtime_s < now_s:
                each.mtime_s = now_s
