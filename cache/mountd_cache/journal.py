"""The journal: what was written here and is not on the remote yet, kept through any crash.

Each step is appended to the operation log before it is visible in the ledger; bytes go to data
files before the record that names them. SQLite absorbs the log in checkpoints. So SIGKILL at any
instant loses nothing that was acknowledged, and a power cut nothing that `make_durable` covered.
docs/format.md says what is on the disk.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from crc32c import crc32c
from typing_extensions import Buffer

from mountd_cache.changes import Base, Change, ChangeState, Content, Layer, Rows
from mountd_cache.durability import Checkpoint, Durability, SyncMark
from mountd_cache.durable_io import DISK, FileIO
from mountd_cache.journal_folder import collector_off, prepare, this_boot
from mountd_cache.journal_store import JournalTooNew
from mountd_cache.log_format import SegmentTooNew
from mountd_cache.oplog import OpLog
from mountd_cache.proofs import Unproved
from mountd_cache.records import Cover, Dated, Freeze, Release, fits_dated, pack, pack_write
from mountd_cache.recovery import Recovered, Recovery, recover
from mountd_cache.sidecar import pack_sidecar
from mountd_cache.staging import RECYCLE_FROM, FileKey, Staging

logger = logging.getLogger(__name__)

__all__ = ["Checkpoint", "Journal", "JournalTooNew", "Recovery", "SyncMark"]

_WRITE_SIZE: Final = 37
_EPOCH_BITS: Final = 40  # numbers that one process can hand out


class Journal:
    """See the module. Unless said otherwise a method belongs to the loop's thread, takes
    microseconds, and raises OSError (ENOSPC, EIO): then nothing changed."""

    def __init__(self, found: Recovered, *, log: OpLog, staging: Staging, lock_fd: int) -> None:
        """Use `open`."""
        self.ledger = found.state.ledger
        self.id = found.meta.id
        self.recovery = found.recovery
        self._state = found.state
        self._store = found.store
        self._log = log
        self._staging = staging
        self._boot_id = found.meta.boot_id
        self._durability = Durability(
            state=found.state, store=found.store, log=log, staging=staging, meta=found.meta
        )
        self._lock_fd = lock_fd
        self._sequence = found.meta.epoch << _EPOCH_BITS
        self._fresh: dict[int, Content] = {}  # made, and in no record yet

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        disk: FileIO = DISK,
        boot_id: str | None = None,
        wall_clock: Callable[[], int] = time.time_ns,
        recycle_from: int = RECYCLE_FROM,
        held: Collection[int] = (),
    ) -> Self:
        """The journal in `folder`, which is made private and recovered. Blocks: 1.4 s with
        100,000 changes that all have contents. `wall_clock`: nanoseconds since the epoch.
        `recycle_from`: see Staging. `held`: contents that are still somebody's although no change
        names them.

        Raises OSError (EWOULDBLOCK: another process has it open), DirectoryNotPrivate, and
        JournalTooNew, which leaves everything as it was.
        """
        started = time.monotonic()
        lock_fd = prepare(folder, disk)
        try:
            with collector_off():
                boot_id = boot_id or this_boot()
                found = recover(
                    folder, disk=disk, boot_id=boot_id, now_ns=wall_clock(), held=frozenset(held)
                )
                staging = Staging(
                    folder / "staging",
                    disk=disk,
                    recycle_from=recycle_from,
                    spares=found.spares,
                )
                journal = cls._begin(folder, found, disk, lock_fd, staging)
        except SegmentTooNew as error:
            os.close(lock_fd)
            raise JournalTooNew(f"{error}: use the later mountd that wrote it") from error
        except BaseException:
            os.close(lock_fd)
            raise
        journal.recovery = replace(journal.recovery, took_s=time.monotonic() - started)
        return journal

    @classmethod
    def _begin(
        cls, folder: Path, found: Recovered, disk: FileIO, lock_fd: int, staging: Staging
    ) -> Self:
        """Begins a new log after what was found, and writes down what recovery decided."""
        try:
            log = OpLog(
                folder / "log",
                disk=disk,
                next_lsn=found.next_lsn,
                epoch=found.meta.epoch,
                boot_id=found.meta.boot_id,
                stale=found.stale,
            )
        except BaseException:
            found.store.close()
            raise
        journal = cls(found, log=log, staging=staging, lock_fd=lock_fd)
        try:
            for torn in found.lost:
                log.append(pack(torn), reserve=True)
                found.state.tear(torn)
            if found.rows != Rows():
                journal.commit(found.rows, reserve=True)
            if found.damaged or found.boot_changed:
                journal._settle(must=found.damaged)
        except BaseException:
            journal._close_files()
            raise
        return journal

    def _settle(self, *, must: bool) -> None:
        """Folds what was recovered into the database, so that it is not verified again."""
        try:
            self._durability.checkpoint(always=True)
        except OSError:
            if must:  # a damaged log can't be read twice
                raise
            logger.warning("what was recovered is only in the log for now", exc_info=True)

    @property
    def staged_bytes(self) -> int:
        """Bytes in data files, those included that are about to be unlinked."""
        return self._state.staged_bytes

    @property
    def unsent_bytes(self) -> int:
        """The same without those that are about to be unlinked."""
        return self._state.unsent_bytes

    @property
    def freed_bytes(self) -> int:
        """How many bytes of data files were given back to the disk since the start."""
        return self._state.freed_bytes

    # ---- changes

    def commit(self, rows: Rows, *, reserve: bool = False) -> None:
        """One atomic step. `reserve`: it may use the room that is kept back for steps that make
        room elsewhere. Raises ValueError where `rows` names bytes that don't exist."""
        self._check(rows)
        self._log.append(pack(rows), reserve=reserve)
        for content in rows.contents:
            self._fresh.pop(content.id, None)
        for id_ in rows.drop:
            self._staging.cool(id_)
        self._state.rows(rows)

    def next_sequence(self) -> int:
        """A number that was never returned before and is greater than all that were, also in
        former processes and after a power cut."""
        self._sequence += 1
        return self._sequence

    def new_content(self, base: Base | None, size: int, mtime_ns: int) -> Content:
        """A content with an id of its own, over `base` as far as `size`. It is nobody's until a
        `commit` names it; `discard` it where none does."""
        floor_end = min(base.size, size) if base is not None else 0
        layer = Layer(0, size, floor_end)
        content = Content(self.next_sequence(), base, [layer], mtime_ns, mtime_ns)
        self._fresh[content.id] = content
        return content

    def discard(self, content: Content) -> None:
        """A new content that no commit named goes."""
        self._fresh.pop(content.id, None)

    def write(self, content: int, offset: int, data: Buffer, mtime_ns: int) -> None:
        """`data` is at `offset` in the file. Where the disk is full a part of the bytes may have
        replaced others, as in any file."""
        view = data if isinstance(data, bytes) else memoryview(data).cast("B")
        if not view:
            return
        layer = self.ledger.contents[content].layers[-1]
        key = (content, layer.number)
        end = offset + len(view)
        covers: list[Cover] = []
        proofs = self._state.proofs.get(key)
        if proofs is not None:
            for start, stop in proofs.replaced_by(offset, end):
                covers.append(Cover(start, stop, crc32c(self._staging.read(key, start, stop))))
        self._log.ensure(_WRITE_SIZE + 16 * len(covers))
        # A file that is not there although it has bytes was lost, and is not made again.
        done = self._staging.write(key, offset, view, None if layer.extents else self._sidecar(key))
        if done != len(view):
            self._finish(key, offset, memoryview(view), done, mtime_ns)
        self._note_write(key, offset, view, mtime_ns, covers)

    def make_ready(self, content: int) -> bool:
        """A step towards the data file that the first write to it makes, where that has not come
        yet; whether there is another. Never raises."""
        found = self.ledger.contents.get(content)
        if found is None or found.top.extents:
            return False
        key = (content, found.top.number)
        try:
            return self._staging.make_ready(key, self._sidecar(key))
        except OSError:  # the write tries again, and tells
            return False

    def set_mtime(self, content: int, mtime_ns: int) -> None:
        """The kernel sends one for each file that was written, at its close: 5 us; as rows 33."""
        dated = Dated(content, mtime_ns)
        if fits_dated(mtime_ns):
            self._log.append(pack(dated))
            self._state.date(dated)
        else:
            copy = self.ledger.contents[content].copy()
            copy.mtime_ns = mtime_ns
            self.commit(Rows(contents=(copy,)))

    def freeze(self, content: int) -> int:
        """How many layers from the bottom have what is there now, for `Content.pieces`: they don't
        change any more. Each call after a write adds a layer that stays until it is released: to
        try an upload again, use the depth of before."""
        found = self.ledger.contents[content]
        if found.rest_adds_nothing(len(found.layers) - 1):
            return len(found.layers) - 1
        freeze = Freeze(content, found.top.number + 1)
        self._log.append(pack(freeze))
        self._state.freeze(freeze)
        return len(found.layers) - 1

    def rest_adds_nothing(self, content: int, depth: int) -> bool:
        """Whether nothing was written since the lowest `depth` layers were frozen."""
        return self.ledger.contents[content].rest_adds_nothing(depth)

    def release_frozen(
        self, content: int, depth: int, base: Base, changes: tuple[Change, ...]
    ) -> None:
        """The lowest `depth` layers are on the remote, as `base`. Where the rest adds nothing the
        content goes as a whole, and `changes` must not name it; else they do. One atomic step,
        which also works on a full disk."""
        found = self.ledger.contents[content]
        drop = found.rest_adds_nothing(depth)
        if depth >= len(found.layers):
            raise ValueError(f"content {content} has no {depth} frozen layers")
        if drop and any(change.content == content for change in changes):
            raise ValueError(f"content {content} goes, but a change names it")
        release = Release(content, depth, base, drop, changes)
        self._log.append(pack(release), reserve=True)
        if drop:
            self._staging.cool(content)
        self._state.release(release)

    # ---- any thread

    def read(self, content: int, layer: int, start: int, end: int) -> bytes:
        """Bytes of a data file. Any thread; blocks on the disk. Raises OSError, EIO where they are
        not there: of a layer that was dropped they are, while the content is pinned; those that
        a power cut took never are, until something is written there."""
        self._check_torn(content, layer, start, end)
        return self._staging.read((content, layer), start, end)

    def read_once(self, content: int, layer: int, start: int, end: int) -> bytes | bytearray:
        """As `read`, of what is only sent: large pieces leave no pages of theirs in memory."""
        self._check_torn(content, layer, start, end)
        return self._staging.read_once((content, layer), start, end)

    def _check_torn(self, content: int, layer: int, start: int, end: int) -> None:
        torn = self._state.torn.get((content, layer))
        if torn is not None and any(inside for _, _, inside in torn.pieces(start, end)):
            raise OSError(errno.EIO, "these bytes were torn by a power loss", f"{content}-{layer}")

    def is_torn(self, content: int, depth: int | None = None) -> bool:
        """Whether a power cut took bytes of it that were not written again, nor cut off. `depth`:
        of the state that its lowest `depth` layers are. KeyError where there is no such content."""
        return self._state.is_torn(content, depth)

    def pin(self, content: int) -> None:
        """Keeps the bytes of a content readable until `unpin`. Any thread. Raises OSError,
        KeyError where there is no such content."""
        found = self.ledger.contents.get(content) or self._fresh[content]
        # A layer without bytes may have no file; what it gets is kept from then on.
        has_file = [layer.number for layer in tuple(found.layers) if layer.extents]
        self._staging.pin(content, has_file)

    def unpin(self, content: int) -> None:
        """Ends one `pin`. Any thread."""
        self._staging.unpin(content)

    # ---- durability

    def begin_sync(self, contents: Collection[int] | None) -> SyncMark:
        """What is to be on the disk: the log as it is now, and these contents; None: all."""
        return self._durability.begin_sync(contents)

    def make_durable(self, mark: SyncMark) -> None:
        """What the mark covers survives a power cut. In a worker thread; blocks; several at a time
        share the work. Raises OSError, and again at each call where the disk lost something."""
        self._durability.make_durable(mark)

    def make_data_durable(self, mark: SyncMark) -> None:
        """The bytes that the mark covers are on the disk; what the log says of them need not be.
        So a record that is appended now is never there without them. As `make_durable`, and there
        is nothing to end."""
        self._durability.make_data_durable(mark)

    def end_sync(self, mark: SyncMark) -> None:
        """After `make_durable`. Never raises."""
        self._durability.end_sync(mark)

    def begin_checkpoint(self) -> Checkpoint | None:
        """What the database is to get; None when it has everything, or while another one is being
        written. Where the last one failed, what it had is in this one."""
        return self._durability.begin_checkpoint()

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """In a worker thread; blocks. Raises OSError; then the log still has everything."""
        self._durability.write_checkpoint(checkpoint)

    def end_checkpoint(self, checkpoint: Checkpoint) -> None:
        """After `write_checkpoint`. Never raises."""
        self._durability.end_checkpoint(checkpoint)

    def close(self) -> None:
        """A last checkpoint, then everything is closed. Blocks. Raises OSError where it could not
        be written: the log has it then."""
        try:
            if self._lock_fd >= 0:
                self._durability.checkpoint()
        finally:
            self.abandon()

    def _check(self, rows: Rows) -> None:
        """A record that names bytes that don't exist must never be written."""
        known = self.ledger.contents
        for content in rows.contents:
            old = known.get(content.id) or self._fresh.get(content.id)
            numbers = {layer.number for layer in old.layers} if old is not None else set()
            if not content.layers or not numbers.issuperset(la.number for la in content.layers):
                raise ValueError(f"content {content.id} was not made by new_content or freeze")
        put = {content.id for content in rows.contents}
        for change in rows.changes:
            exists = change.content in put or (
                change.content in known and change.content not in rows.drop
            )
            if change.content and not exists and change.state is not ChangeState.FAILED:
                raise ValueError(f"{change.key!r}: there is no content {change.content}")

    def _sidecar(self, key: FileKey) -> Callable[[], bytes]:
        content = self.ledger.contents[key[0]]
        owner = self.ledger.owner.get(key[0], "")
        return lambda: pack_sidecar(content, content.top, owner, self._boot_id)

    def _note_write(
        self, key: FileKey, offset: int, data: Buffer, mtime_ns: int, covers: list[Cover]
    ) -> None:
        crc = crc32c(data)
        length = len(memoryview(data))
        # `write` made sure of the room; only a sync's record can have taken it since.
        record = pack_write(*key, offset, length, mtime_ns, crc, covers)
        lsn = self._log.append(record, reserve=True)
        self._state.write(Unproved(lsn, offset, offset + length, crc), key, mtime_ns, covers)

    def _finish(
        self, key: FileKey, offset: int, data: memoryview, done: int, mtime_ns: int
    ) -> None:
        """Writes the rest. Where that fails, what was replaced is noted: those bytes are new."""
        try:
            while done < len(data):
                more = self._staging.write(key, offset + done, data[done:])
                if not more:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                done += more
        except OSError:
            extents = self.ledger.contents[key[0]].top.extents
            if any(inside for _, _, inside in extents.pieces(offset, offset + done)):
                self._note_write(key, offset, data[:done], mtime_ns, [])
            raise

    def abandon(self) -> None:
        """Closes everything and writes nothing: `open` then finds what SIGKILL leaves. Does nothing
        where it was closed before."""
        if self._lock_fd >= 0:
            self._close_files()
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _close_files(self) -> None:
        self._staging.close()
        self._log.close()
        self._store.close()
