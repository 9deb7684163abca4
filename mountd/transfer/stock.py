"""What of a directory is on the local disk and what is not; and which of it is held.

In a worker thread, one at a time: 100,000 files take a second or two.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mountd.errors import NameNotAllowed, Stale
from mountd.transfer.holds import Holds
from mountd.vfs.files import OpenFiles, RemoteFile
from mountd.vfs.nodes import Directory, Node
from mountd_cache.block_files import BlockFiles
from mountd_cache.block_map import block_count, block_length
from mountd_cache.ledger import Ledger
from mountd_cache.listing import Listing
from mountd_cache.pin_record import HELD


@dataclass(frozen=True, slots=True)
class Stock:
    """One directory's own files. `held`: packed as `pin_record.HELD`. `missing_bytes` are to be
    fetched; `no_room_bytes` are of files that are not held, because they don't fit. `staged_files`
    were written here and are not sent yet: what comes of them is to be held then."""

    files: int = 0
    size_bytes: int = 0
    held: bytes = b""
    missing_files: int = 0
    missing_bytes: int = 0
    no_room_files: int = 0
    no_room_bytes: int = 0
    staged_files: int = 0


class Stocktaking:
    """`only` is everywhere the name of the one file that counts; None: all of the directory."""

    def __init__(
        self, files: OpenFiles, blocks: BlockFiles, ledger: Ledger, holds: Holds, block_size: int
    ) -> None:
        self.is_over = False  # set when the mount ends: nobody wants the rest of it
        self._block_size = block_size
        self._files = files
        self._blocks = blocks
        self._ledger = ledger
        self._holds = holds

    def take(self, parent: Directory, listing: Listing, only: bytes | None) -> Stock:
        """Holds what fits, in the order of the listing."""
        files = size = missing_files = missing_bytes = no_room_files = no_room_bytes = 0
        held: list[bytes] = []
        for file in self.rows(parent, listing, only):
            files += 1
            if file is None:
                continue
            size += file.size
            lacks = sum(end - start for start, end in self.gaps(file))
            if not self._holds.hold(file.digest, file.size):
                no_room_files += 1
                no_room_bytes += lacks
                continue
            held.append(HELD.pack(file.digest, file.size))
            missing_bytes += lacks
            missing_files += lacks > 0
        return Stock(
            *(files, size, b"".join(held)),
            *(missing_files, missing_bytes, no_room_files, no_room_bytes),
            self._staged(listing, only),
        )

    def _staged(self, listing: Listing, only: bytes | None) -> int:
        changes = self._ledger.by_number
        numbers = (
            listing.ino(row)
            for row in range(len(listing))
            if only is None or listing.name(row) == only
        )
        found = (changes.get(number) for number in numbers) if changes else iter(())
        return sum(change is not None and not change.is_directory for change in found)

    def missing(
        self, parent: Directory, listing: Listing, only: bytes | None, held: bytes
    ) -> list[tuple[RemoteFile, list[tuple[int, int]]]]:
        """Those of the held files that are not here, with the ranges that they lack."""
        ids = {file_id for file_id, _ in HELD.iter_unpack(held)}
        found = []
        for file in self.rows(parent, listing, only):
            if file is not None and file.digest in ids:
                gaps = list(self.gaps(file))
                if gaps:
                    found.append((file, gaps))
        return found

    def is_here(self, parent: Directory, listing: Listing) -> bool:
        """Whether each file of it is here, or was changed here."""
        return all(
            file is None or next(self.gaps(file), None) is None
            for file in self.rows(parent, listing, None)
        )

    def rows(
        self, parent: Directory, listing: Listing, only: bytes | None
    ) -> Iterator[RemoteFile | None]:
        """The files of a listing; None for one without bytes on the remote: it is empty, or all
        that there is of it was written here."""
        for row in range(len(listing)):
            if self.is_over:
                return
            if listing.is_dir(row) or (only is not None and listing.name(row) != only):
                continue
            number = listing.ino(row)
            change = self._ledger.by_number.get(number)
            try:
                if change is None:
                    file = self._files.file_of_row(parent, listing, row)
                elif change.content:
                    yield None  # what is staged is here; what comes of it has a listing of its own
                    continue
                else:
                    file = self._files.remote_file_of(Node(number, parent, row))
            except (NameNotAllowed, Stale):
                continue
            yield file if file.size else None

    def gaps(self, file: RemoteFile) -> Iterator[tuple[int, int]]:
        """The ranges that the disk lacks, in order, neighbours joined."""
        block_size = self._block_size
        first = last = -1
        for index in range(block_count(file.size, block_size)):
            base = index * block_size
            length = block_length(index, file.size, block_size)
            for start, end in self._blocks.missing(file.digest, index, 0, length, length):
                if base + start == last:
                    last = base + end
                    continue
                if last > 0:
                    yield first, last
                first, last = base + start, base + end
        if last > 0:
            yield first, last
