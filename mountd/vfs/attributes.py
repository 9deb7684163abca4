"""chmod, chown, utimens: what is changed here travels with the file and is kept beside it.

`mode` is written as s3fs does, decimal and with the type's bits.
"""

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from mountd.errors import Stale
from mountd.vfs.file_clock import file_time_ns
from mountd.vfs.files import OpenFiles
from mountd.vfs.listing_rows import version_in
from mountd.vfs.namespace import THERE
from mountd.vfs.nodes import Node
from mountd.vfs.overlay import is_hidden, key_of_row
from mountd.vfs.row_attributes import BUT_MTIME, PARTIAL, XATTR
from mountd.vfs.tree import Tree
from mountd.vfs.writes import Writes
from mountd_cache.changes import Change, ChangeKind, ChangeState, Rows

_MOST_SHOWN: Final = 1024


@dataclass(slots=True)
class NewAttributes:
    """What setattr(2) asks for; None leaves a thing as it is. `mode` is permission bits. Not
    `frozen`, as `Change` is not."""

    size: Final[int | None] = None
    mode: Final[int | None] = None
    uid: Final[int | None] = None
    gid: Final[int | None] = None
    mtime_ns: Final[int | None] = None


def kept(
    mode: int | None, uid: int | None, gid: int | None, *, is_directory: bool
) -> dict[str, str]:
    """As attributes of a `Change`."""
    kind = stat.S_IFDIR if is_directory else stat.S_IFREG
    values = {"mode": None if mode is None else kind | mode, "uid": uid, "gid": gid}
    return {name: str(value) for name, value in values.items() if value is not None}


class SetAttributes:
    """Raises Stale, and OSError from the local disk; nothing is changed then."""

    def __init__(
        self,
        tree: Tree,
        files: OpenFiles,
        writes: Writes,
        *,
        wall_clock_ns: Callable[[], int] = file_time_ns,
    ) -> None:
        self._tree = tree
        self._ledger = tree.ledger
        self._files = files
        self._writes = writes
        self._journal = writes.journal
        self._now_ns = wall_clock_ns
        self._shown_ns: dict[int, int] = {}  # before a setxattr, by inode; oldest first

    def is_shown(self, node: Node) -> None:
        """The kernel has the time that is known now, and brings it after a setxattr, for which the
        file's own may be asked meanwhile."""
        change = self._ledger.by_number.get(node.number)
        self._shown_ns[node.number] = (change or self._as_listed(node)).mtime_ns
        if len(self._shown_ns) > _MOST_SHOWN:
            del self._shown_ns[next(iter(self._shown_ns))]

    def set(self, node: Node, new: NewAttributes) -> None:
        if node.parent is None:
            return  # the root is the mount's own
        content = self._writes.content_of(node.number)
        shown_ns = None if new.mtime_ns is None else self._shown_ns.pop(node.number, None)
        if new.mtime_ns is not None and content is not None:
            if content.mtime_ns != new.mtime_ns:
                self._journal.set_mtime(content.id, new.mtime_ns)
            if (new.mode, new.uid, new.gid) == (None, None, None):
                return
            new = replace(new, mtime_ns=None)
        if (new.mode, new.uid, new.gid, new.mtime_ns) == (None, None, None, None):
            return
        change = self._ledger.by_number.get(node.number)
        if change is None and not self._has_name(node):
            return  # nobody can look; the kernel brings its times late
        change = change or self._as_listed(node)
        is_alone = (new.mode, new.uid, new.gid) == (None, None, None)
        if is_alone and new.mtime_ns in (change.mtime_ns, shown_ns):
            # The kernel brings the time that it has after each setxattr, which may be no more than
            # when the bytes arrived: set by nobody, it is no reason to write the file anew.
            return
        self._change(change, new)

    def set_xattrs(self, node: Node, text: str) -> None:
        """All of a file's xattrs (user_xattrs.py); "" takes them away."""
        change = self._ledger.by_number.get(node.number)
        if change is None and not self._has_name(node):
            raise Stale(f"inode {node.number} has no name any more")
        change = change or self._as_listed(node)
        self._commit(change, {**change.attributes, XATTR: text}, change.mtime_ns)

    def _change(self, change: Change, new: NewAttributes) -> None:
        attributes = dict(change.attributes)
        attributes |= kept(new.mode, new.uid, new.gid, is_directory=change.is_directory)
        mtime_ns = change.mtime_ns if new.mtime_ns is None else new.mtime_ns
        if new.mtime_ns is not None and PARTIAL in attributes:
            attributes[PARTIAL] = BUT_MTIME
        self._commit(change, attributes, mtime_ns)

    def _commit(self, change: Change, attributes: Mapping[str, str], mtime_ns: int) -> None:
        if attributes == change.attributes and mtime_ns == change.mtime_ns:
            return
        now_ns = self._now_ns()
        # A directory's attributes are kept here only: most remotes have no place for them.
        clean = change.is_clean and change.is_directory
        state = ChangeState.CLEAN if clean else ChangeState.PENDING
        is_lost = self._writes.is_lost(change)
        made = Change(  # at once: `replace` costs 3 us more, and tar does this twice a file
            key=change.key,
            directory=change.directory,
            name=change.name,
            number=change.number,
            kind=change.kind,
            expect=change.expect,
            base=change.base,
            content=change.content,
            size=change.size,
            mtime_ns=mtime_ns,
            sequence=self._journal.next_sequence(),
            since_ns=now_ns if change.is_clean else change.since_ns,
            changed_ns=now_ns,
            state=change.state if is_lost else state,
            reason=change.reason if is_lost else "",
            conflict=change.conflict,
            attributes=attributes,
        )
        self._journal.commit(Rows(changes=(made,)))
        self._writes.queue.wake()

    def _has_name(self, node: Node) -> bool:
        assert node.parent is not None
        key = node.parent.key
        try:
            cached, row = self._tree.locate(node)
        except Stale:
            return False
        return not is_hidden(self._ledger, key, cached.listing, row)

    def _as_listed(self, node: Node) -> Change:
        """The change that says what the listing says."""
        cached, row = self._tree.locate(node)
        assert node.parent is not None
        at = self._tree.known.of(cached.listing.row(row))
        return Change(
            key=key_of_row(node.parent.key, cached.listing, row),
            directory=node.parent.key,
            name=at.name,
            number=node.number,
            kind=ChangeKind.DIRECTORY if at.is_dir else ChangeKind.FILE,
            expect=THERE if at.is_dir else version_in(at.version),
            size=at.size,
            mtime_ns=at.mtime_ns,
            state=ChangeState.CLEAN,
            attributes=self._tree.known.carried(at),
        )
