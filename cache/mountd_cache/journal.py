"""The journal: what was written here and is not on the remote yet, kept through any crash.

Each step is appended to the operation log before it is visible in the ledger; bytes go to data
files before the record that names them. SQLite absorbs the log in checkpoints. So SIGKILL at any
instant loses nothing that was acknowledged, and a power cut nothing that `make_durable` covered.
docs/format.md says what is on the disk.
"""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from crc32c import crc32c
from typing_extensions import Buffer

from mountd_cache.changes import Base, Change, ChangeState, Content, Layer, Rows
from mountd_cache.durable_io import DISK, FileIO, make_private_dir
from mountd_cache.journal_state import Dirty, JournalState
from mountd_cache.journal_store import JournalStore, JournalTooNew, Meta, Update
from mountd_cache.log_format import SegmentTooNew
from mountd_cache.oplog import OpLog
from mountd_cache.proofs import Unproved
from mountd_cache.records import Cover, Freeze, Release, Synced, pack, pack_write
from mountd_cache.recovery import Recoverer, Recovery
from mountd_cache.sidecar import pack_sidecar
from mountd_cache.staging import FileKey, Staging

logger = logging.getLogger(__name__)

__all__ = ["Checkpoint", "Journal", "JournalTooNew", "Recovery", "SyncMark"]

_FORMAT: Final = b"mountd journal, format 1\n"
_WRITE_SIZE: Final = 37
_EPOCH_BITS: Final = 40  # numbers that one process can hand out
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class SyncMark:
    """What a `make_durable` covers: the log up to `lsn`, and the data files with their sidecars.
    `noted`: what `make_durable` wrote to the log about it."""

    lsn: int
    files: dict[FileKey, bytes]
    everything: bool
    gone: tuple[FileKey, ...]
    noted: Synced | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state at one record of the log, as far as the database does not have it."""

    lsn: int
    files: dict[FileKey, bytes]
    update: Update
    gone: tuple[FileKey, ...]


class Journal:
    """See the module. Unless said otherwise a method belongs to the loop's thread, takes
    microseconds, and raises OSError (ENOSPC, EIO): then nothing changed."""

    def __init__(
        self,
        *,
        state: JournalState,
        store: JournalStore,
        log: OpLog,
        staging: Staging,
        meta: Meta,
        disk: FileIO,
        lock_fd: int,
    ) -> None:
        """Use `open`."""
        self.ledger = state.ledger
        self.id = meta.id
        self.recovery = Recovery()
        self._state = state
        self._store = store
        self._log = log
        self._staging = staging
        self._meta = meta
        self._disk = disk
        self._lock_fd = lock_fd
        self._sequence = meta.epoch << _EPOCH_BITS
        self._fresh: dict[int, Content] = {}  # made, and in no record yet
        self._in_flight = Dirty()  # what a checkpoint that has not ended took along
        self._noted_lsn = 0  # of the last SYNCED record

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        disk: FileIO = DISK,
        boot_id: str | None = None,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> Self:
        """The journal in `folder`, which is made private and recovered. Blocks: under a second
        with 100,000 changes.

        Raises OSError (EWOULDBLOCK: another process has it open), DirectoryNotPrivate, and
        JournalTooNew, which leaves everything as it was.
        """
        started = time.monotonic()
        make_private_dir(folder)
        lock_fd = _lock(folder)
        try:
            journal = cls._open_locked(folder, disk, boot_id or _this_boot(), wall_clock())
        except SegmentTooNew as error:
            os.close(lock_fd)
            raise JournalTooNew(f"{error}: use the later mountd that wrote it") from error
        except BaseException:
            os.close(lock_fd)
            raise
        journal._lock_fd = lock_fd
        took_s = time.monotonic() - started
        found = journal.recovery
        journal.recovery = Recovery(found.torn, found.quarantined, found.replayed, took_s)
        return journal

    @classmethod
    def _open_locked(cls, folder: Path, disk: FileIO, boot_id: str, now_ns: int) -> Self:
        _check_format(folder, disk)
        for name in ("log", "staging"):
            make_private_dir(folder / name)
        disk.fsync_dir(folder)
        found = Recoverer(folder, disk=disk, boot_id=boot_id, now_ns=now_ns).run()
        meta = found.meta
        staging = Staging(folder / "staging", disk=disk)
        try:
            log = OpLog(
                folder / "log",
                disk=disk,
                next_lsn=found.next_lsn,
                epoch=meta.epoch,
                boot_id=boot_id,
                stale=found.stale,
            )
        except BaseException:
            found.store.close()
            raise
        journal = cls(
            state=found.state,
            store=found.store,
            log=log,
            staging=staging,
            meta=meta,
            disk=disk,
            lock_fd=-1,
        )
        journal.recovery = Recovery(found.torn, found.quarantined, found.replayed)
        try:
            for torn in found.lost:
                journal._log.append(pack(torn), reserve=True)
                journal._state.tear(torn)
            if found.rows != Rows():
                journal.commit(found.rows, reserve=True)
            journal._settle(must=found.damaged, wanted=found.boot_changed)
        except BaseException:
            journal.abandon()
            raise
        return journal

    def _settle(self, *, must: bool, wanted: bool) -> None:
        """Folds what was recovered into the database, so that it is not verified again."""
        if must or wanted:
            try:
                self._checkpoint(always=True)
            except OSError:
                # The log says the same, and the next checkpoint tries again.
                if must:
                    raise
                logger.warning("what was recovered is only in the log", exc_info=True)

    @property
    def staged_bytes(self) -> int:
        """Bytes in data files, those included that are about to be unlinked."""
        return self._state.staged_bytes

    # ---- changes

    def commit(self, rows: Rows, *, reserve: bool = False) -> None:
        """One atomic step. `reserve`: it may use the room that is kept back for steps that make
        room elsewhere. Raises ValueError where `rows` names bytes that don't exist."""
        self._check(rows)
        lsn = self._log.append(pack(rows), reserve=reserve)
        for content in rows.contents:
            self._fresh.pop(content.id, None)
        for id_ in rows.drop:
            self._staging.cool(id_)
        self._state.rows(lsn, rows)

    def next_sequence(self) -> int:
        """A number that was never returned before and is greater than all that were, also in
        former processes and after a power cut."""
        self._sequence += 1
        return self._sequence

    def new_content(self, base: Base | None, size: int, mtime_ns: int) -> Content:
        """A content with an id of its own and an empty data file, over `base` as far as `size`.
        It is nobody's until a `commit` names it; `discard` it where none does."""
        floor_end = min(base.size, size) if base is not None else 0
        layer = Layer(0, size, floor_end)
        content = Content(self.next_sequence(), base, [layer], mtime_ns, mtime_ns)
        sidecar = pack_sidecar(content, layer, "", self._meta.boot_id)
        self._staging.create((content.id, 0), sidecar)
        self._fresh[content.id] = content
        return content

    def discard(self, content: Content) -> None:
        """A new content that no commit named goes, with its file."""
        if self._fresh.pop(content.id, None) is not None:
            self._staging.cool(content.id)
            self._staging.unlink([(content.id, 0)])

    def write(self, content: int, offset: int, data: Buffer, mtime_ns: int) -> None:
        """`data` is at `offset` in the file. Where the disk is full a part of the bytes may have
        replaced others, as in any file."""
        view = data if isinstance(data, bytes) else memoryview(data).cast("B")
        if not view:
            return
        number = self.ledger.contents[content].layers[-1].number
        key = (content, number)
        end = offset + len(view)
        covers: list[Cover] = []
        proofs = self._state.proofs.get(key)
        if proofs is not None:
            for start, stop in proofs.replaced_by(offset, end):
                covers.append(Cover(start, stop, crc32c(self._staging.read(key, start, stop))))
        self._log.ensure(_WRITE_SIZE + 16 * len(covers))
        done = self._staging.write(key, offset, view)
        if done != len(view):
            self._finish(key, offset, memoryview(view), done, mtime_ns)
        self._note_write(key, offset, view, mtime_ns, covers)

    def freeze(self, content: int) -> int:
        """How many layers from the bottom have what is there now, for `Content.pieces`: they don't
        change any more. Each call after a write adds a layer that stays until it is released: to
        try an upload again, use the depth of before."""
        found = self.ledger.contents[content]
        if found.rest_adds_nothing(len(found.layers) - 1):
            return len(found.layers) - 1
        number = found.top.number + 1
        layer = Layer(number, found.size, found.size)
        key = self.ledger.owner.get(content, "")
        self._staging.create((content, number), pack_sidecar(found, layer, key, self._meta.boot_id))
        freeze = Freeze(content, number)
        try:
            self._log.append(pack(freeze))
        except OSError:
            self._staging.unlink([(content, number)])
            raise
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
        lsn = self._log.append(pack(release), reserve=True)
        if drop:
            self._staging.cool(content)
        self._state.release(lsn, release)

    # ---- any thread

    def read(self, content: int, layer: int, start: int, end: int) -> bytes:
        """Bytes of a data file. Any thread; blocks on the disk. Raises OSError, EIO where they are
        not there: of a layer that was dropped they are, while the content is pinned; those that
        a power cut took never are, until something is written there."""
        torn = self._state.torn.get((content, layer))
        if torn is not None and any(inside for _, _, inside in torn.pieces(start, end)):
            raise OSError(errno.EIO, "these bytes were torn by a power loss", f"{content}-{layer}")
        return self._staging.read((content, layer), start, end)

    def is_torn(self, content: int) -> bool:
        """Whether a power cut took bytes of it that were not written again, nor cut off."""
        found = self.ledger.contents[content]
        return any(
            inside
            for layer in found.layers
            for part in self._state.torn.get((content, layer.number), ())
            for _, _, inside in layer.extents.pieces(*part)
        )

    def pin(self, content: int) -> None:
        """Keeps the bytes of a content readable until `unpin`. Any thread. Raises OSError,
        KeyError where there is no such content."""
        found = self.ledger.contents.get(content) or self._fresh[content]
        self._staging.pin(content, [layer.number for layer in tuple(found.layers)])

    def unpin(self, content: int) -> None:
        """Ends one `pin`. Any thread."""
        self._staging.unpin(content)

    # ---- durability

    def begin_sync(self, contents: Collection[int] | None) -> SyncMark:
        """What is to be on the disk: the log as it is now, and these contents; None: all."""
        proofs = self._state.proofs
        if contents is None:
            keys = list(proofs)
        else:
            found = [self.ledger.contents[id_] for id_ in contents if id_ in self.ledger.contents]
            keys = [(content.id, layer.number) for content in found for layer in content.layers]
        files = self._sidecars([key for key in keys if key in proofs])
        return SyncMark(self._log.last_lsn, files, contents is None, tuple(self._state.gone))

    def make_durable(self, mark: SyncMark) -> None:
        """What the mark covers survives a power cut. In a worker thread; blocks; several at a time
        share the work. Raises OSError, and again at each call where the disk lost something."""
        self._staging.sync(mark.files, self._is_needed)
        lsn = max(mark.lsn, self._note_sync(mark))
        self._log.make_durable(lsn)
        self._staging.unlink(mark.gone)

    def end_sync(self, mark: SyncMark) -> None:
        """After `make_durable`. Never raises."""
        self._state.unlinked(mark.gone)
        if mark.noted is not None:
            self._state.synced(mark.noted)

    def begin_checkpoint(self) -> Checkpoint | None:
        """What the database is to get; None when it has everything. One at a time: where the last
        one did not end, it is in this one."""
        state = self._state
        if not state.dirty and not self._in_flight and not state.gone and not state.proofs:
            return None
        return self._take_checkpoint()

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """In a worker thread; blocks. Raises OSError; then the log still has everything."""
        self._staging.sync(checkpoint.files, self._is_needed)
        self._store.save(checkpoint.update)
        if checkpoint.gone:
            self._staging.unlink(checkpoint.gone)
            self._staging.forget_unlinked()
        self._log.trim(checkpoint.lsn)
        self._log.keep_spare()

    def end_checkpoint(self, checkpoint: Checkpoint) -> None:
        """After `write_checkpoint`. Never raises."""
        self._in_flight = Dirty()
        self._state.forget_proofs(checkpoint.lsn)
        self._state.forget_gone(checkpoint.gone)

    def close(self) -> None:
        """A last checkpoint, then everything is closed. Blocks. Raises OSError where it could not
        be written: the log has it then."""
        try:
            self._checkpoint(always=False)
        finally:
            self.abandon()

    def _checkpoint(self, *, always: bool) -> None:
        checkpoint = self._take_checkpoint() if always else self.begin_checkpoint()
        if checkpoint is not None:
            self.write_checkpoint(checkpoint)
            self.end_checkpoint(checkpoint)

    def _take_checkpoint(self) -> Checkpoint:
        state, ledger = self._state, self.ledger
        try:
            self._log.rotate()
        except OSError as error:  # a full disk: the segment goes on, its records are in both
            logger.info("the log could not be rotated: %s", error)
        dirty = Dirty(state.dirty.keys | self._in_flight.keys)
        dirty.contents = state.dirty.contents | self._in_flight.contents
        lsn = self._log.last_lsn
        gone = tuple(state.gone)
        update = Update(
            Meta(self.id, lsn, self._meta.epoch, self._meta.boot_id),
            [ledger.changes[key] for key in dirty.keys if key in ledger.changes],
            [key for key in dirty.keys if key not in ledger.changes],
            [ledger.contents[id_].copy() for id_ in dirty.contents if id_ in ledger.contents],
            [id_ for id_ in dirty.contents if id_ not in ledger.contents],
            gone,
            {key: torn for key, torn in state.torn.items() if key[0] in dirty.contents},
        )
        state.dirty, self._in_flight = Dirty(), dirty
        return Checkpoint(lsn, self._sidecars(list(state.proofs)), update, gone)

    def _note_sync(self, mark: SyncMark) -> int:
        """Says in the log that the data of a mark is on the disk, and returns the record's lsn.

        It gets there with the same fdatasync: a later write that replaces a part of these bytes,
        and reaches the disk while its record does not, must not make the rest look torn.
        """
        if not mark.files and mark.lsn <= self._noted_lsn:
            return 0
        marks = () if mark.everything else tuple((*key, mark.lsn) for key in mark.files)
        synced = Synced(self._log.durable_lsn, mark.lsn if mark.everything else 0, marks)
        try:
            lsn = self._log.append(pack(synced))
        except OSError as error:  # a full disk: then it is verified after a power cut
            logger.info("a sync could not be noted: %s", error)
            return 0
        mark.noted = synced
        self._noted_lsn = max(lsn, self._noted_lsn)
        return lsn

    def _sidecars(self, keys: list[FileKey]) -> dict[FileKey, bytes]:
        made = {}
        for content, number in keys:
            found = self.ledger.contents[content]
            layer = next(layer for layer in found.layers if layer.number == number)
            key = self.ledger.owner.get(content, "")
            made[content, number] = pack_sidecar(found, layer, key, self._meta.boot_id)
        return made

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

    def _is_needed(self, key: FileKey) -> bool:
        found = self.ledger.contents.get(key[0])
        return found is not None and any(layer.number == key[1] for layer in found.layers)

    def abandon(self) -> None:
        """Closes everything and writes nothing: `open` then finds what SIGKILL leaves."""
        self._staging.close()
        self._log.close()
        self._store.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)


def _lock(folder: Path) -> int:
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _check_format(folder: Path, disk: FileIO) -> None:
    """Before anything is opened that could be changed by that."""
    path = folder / "format"
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        disk.write_file(path, _FORMAT)
        return
    number = found.rstrip().rsplit(b" ", 1)[-1]
    if number.isdigit() and int(number) > 1:
        raise JournalTooNew(f"{folder} was written by a later mountd: use that one")


def _this_boot() -> str:
    """Differs from boot to boot. Where the kernel doesn't tell, from process to process: then
    everything is verified each time."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return f"unknown-{os.getpid()}-{time.time_ns()}"
