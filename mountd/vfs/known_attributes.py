"""What is known of files' attributes, beside what the kept listings say."""

from collections.abc import Mapping

from mountd.remotes.base import RemoteStore
from mountd.vfs.row_attributes import Told, carried
from mountd_cache.listing import Row


class KnownAttributes:
    """`told`: by inode, what asking.py was told and has not put into the listings yet."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self.told: dict[int, Told] = {}
        self.root_text = ""  # what the root's row would have

    @property
    def must_be_asked(self) -> bool:
        """Whether the remote keeps attributes and tells them only for each file by itself."""
        able = self._store.capabilities
        return able.keeps_attributes and not able.lists_attributes

    @property
    def are_kept(self) -> bool:
        """Whether the remote has a place for modes and owners; else they are only here."""
        able = self._store.capabilities
        return able.keeps_attributes or able.keeps_modes

    @property
    def keeps_xattrs(self) -> bool:
        """Whether a file's own xattrs have a place on the remote."""
        return self._store.capabilities.keeps_attributes

    def carried(self, row: Row) -> Mapping[str, str]:
        """A row's attributes as a change carries them."""
        return {} if row.is_dir else self.carried_text(self.of(row).attributes)

    def carried_text(self, text: str) -> Mapping[str, str]:
        """As `carried`, of a file's row with that text."""
        return carried(text) if text or self.must_be_asked else {}

    def of(self, row: Row) -> Row:
        """A row with what was told."""
        told = self.told.get(row.ino) if self.told else None
        if told is None:
            return row
        mtime_ns = row.mtime_ns if told.mtime_ns is None else told.mtime_ns
        return row._replace(attributes=told.text, mtime_ns=mtime_ns)
