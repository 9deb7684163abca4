"""What a copy is about: one file or symbolic link of one side. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from mountd.vfs.names import LINK_SUFFIX, TARGET_MAX_BYTES, may_be_link


@dataclass(frozen=True, slots=True)
class Item:
    """`path` is below the side's root, with slashes, and without the `.rclonelink` of a link that
    is a file on a remote (`is_object`). Versions as in `mountd.types`; a link's size is that of
    its target. `mode`: its permissions, where the side's listing tells them."""

    path: str
    size: int
    mtime_ns: int
    version: str
    is_link: bool = False
    is_object: bool = False
    mode: int | None = None

    @property
    def key(self) -> str:
        """By which the side's own store knows it."""
        return self.path + LINK_SUFFIX if self.is_link and self.is_object else self.path


def parents_of(path: str) -> Iterator[str]:
    """`a` and `a/b` of `a/b/c`, the longest first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def key_at(item: Item, *, local: bool) -> str:
    """The key that `item` has, or will have, on the side that is or is not a local directory."""
    return item.path + LINK_SUFFIX if item.is_link and not local else item.path


def with_links(items: dict[str, Item]) -> dict[str, Item]:
    """The files of a remote, by path, with those that stand for links as links; names.py says
    which these are."""
    links = [
        item
        for path, item in items.items()
        if path.endswith(LINK_SUFFIX) and is_link_file(item) and not _is_taken(item, items)
    ]
    for item in links:
        del items[item.path]
        path = item.path.removesuffix(LINK_SUFFIX)
        items[path] = Item(path, item.size, item.mtime_ns, item.version, True, True)
    return items


def is_link_file(item: Item) -> bool:
    """Whether a plain file of this name and size stands for a link on a remote."""
    name = item.path.rpartition("/")[2]
    return not item.is_link and 0 < item.size <= TARGET_MAX_BYTES and may_be_link(name)


def _is_taken(item: Item, items: dict[str, Item]) -> bool:
    return item.path.removesuffix(LINK_SUFFIX) in items
