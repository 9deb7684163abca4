"""Are the data files what the journal says? After a crash, before anybody reads them."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mountd_cache.changes import Content, Layer
from mountd_cache.durable_io import TEMP_PREFIX, FileIO
from mountd_cache.extent_map import ExtentMap
from mountd_cache.journal_state import JournalState
from mountd_cache.proofs import Proofs, Unproved, is_proved
from mountd_cache.quarantine import SetAside
from mountd_cache.sidecar import PAGE, BadSidecar, unpack_sidecar
from mountd_cache.staging import SPARE, FileKey, data_name, parse_data_name, spare_number

_NO_PROOFS: Final = Proofs()


@dataclass(slots=True)
class Findings:
    """`torn`: parts of files that can't be proved. `lost`: contents with bytes that were on
    the disk and are not. `empty`: files to be made, of layers whose bytes don't count. `orphans`:
    files with data that no content has. `useless`: files without data. `spares`: empty ones that
    may become others."""

    torn: dict[FileKey, ExtentMap] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    empty: list[tuple[Content, Layer]] = field(default_factory=list)
    orphans: list[SetAside] = field(default_factory=list)
    useless: list[Path] = field(default_factory=list)
    spares: list[Path] = field(default_factory=list)


class DataCheck:
    """One look at the data files. `sizes`: whether a file can have become shorter."""

    def __init__(self, folder: Path, state: JournalState, disk: FileIO, *, sizes: bool) -> None:
        self._folder = folder
        self._fd = -1
        self._state = state
        self._disk = disk
        self._sizes = sizes
        self._findings = Findings()
        # 100,000 files: 0.1 s
        self._files = set(os.listdir(folder))

    def run(self) -> Findings:
        """Raises OSError."""
        self._take_back_spares()
        self._fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._check_files()
        finally:
            os.close(self._fd)
        for key, proofs in self._state.proofs.items():
            if key[0] not in self._findings.lost:
                self._prove(key, proofs)
        self._find_orphans()
        return self._findings

    def _take_back_spares(self) -> None:
        """A spare that has bytes was a layer's file already when the power went, and the new name
        was lost."""
        for name in [name for name in self._files if name.startswith(SPARE)]:
            path = self._folder / name
            if os.stat(path).st_size <= PAGE:
                continue
            key = _key_in(path)
            if key is None or data_name(key) in self._files:
                continue
            if self._state.ledger.has_layer(key) or key in self._state.gone:
                self._disk.rename(path, self._folder / data_name(key))
                self._files.remove(name)
                self._files.add(data_name(key))

    def _check_files(self) -> None:
        wanted = {
            f"{content.id}-{layer.number}.data": (content, layer)  # data_name, for 100,000
            for content in self._state.ledger.contents.values()
            for layer in content.layers
        }
        suspects = wanted.keys() if self._sizes else wanted.keys() - self._files
        for name in suspects:
            self._check_file(name, *wanted[name])
        self._files.difference_update(wanted)

    def _check_file(self, name: str, content: Content, layer: Layer) -> None:
        size = None
        if name in self._files:
            size = os.stat(name, dir_fd=self._fd).st_size
            if size >= PAGE + layer.extents.end:
                return
        key = (content.id, layer.number)
        if not layer.extents and key not in self._state.proofs:
            return  # maybe it never had a file: the first write makes one
        # What is missing was never fsynced if each byte of it still needs a proof, or lacks one.
        proofs = self._state.proofs.get(key, _NO_PROOFS)
        volatile = ExtentMap(self._state.torn.get(key, ()))
        for start, end in (part for _, left in proofs.volatile() for part in left):
            volatile.add(start, end)
        at = max(0, (size or 0) - PAGE)
        missing = [(max(at, start), end) for start, end in layer.extents if end > at]
        if any(not volatile.covers(start, end) for start, end in missing):
            self._findings.lost.add(content.id)
        elif size is None:
            self._findings.empty.append((content, layer))

    def _prove(self, key: FileKey, proofs: Proofs) -> None:
        """Finds the writes to a file whose bytes are not there. What was cut off doesn't count."""
        content = self._state.ledger.contents[key[0]]
        extents = next(layer.extents for layer in content.layers if layer.number == key[1])
        wanted = []
        for write, left in proofs.volatile():
            parts = [(at, end) for part in left for at, end, has in extents.pieces(*part) if has]
            if parts:
                wanted.append((write, left, parts))
        if not wanted:
            return
        torn = ExtentMap()
        for write, left, parts in wanted:
            if not self._is_proved(key, write, left):
                for start, end in parts:
                    torn.add(start, end)
        if torn:
            self._findings.torn[key] = torn

    def _is_proved(self, key: FileKey, write: Unproved, left: list[tuple[int, int]]) -> bool:
        try:
            fd = self._disk.open_file(self._folder / data_name(key))
        except FileNotFoundError:
            return False
        try:
            return is_proved(write, left, _Reader(self._disk, fd))
        except EOFError:
            return False
        finally:
            self._disk.close(fd)

    def _find_orphans(self) -> None:
        gone = self._state.gone
        self._state.unlinked([key for key in gone if data_name(key) not in self._files])
        for name in sorted(self._files):
            path, key = self._folder / name, parse_data_name(name)
            if key is not None and key in self._state.gone:
                continue
            is_ours = key is not None or name.startswith((TEMP_PREFIX, SPARE))
            size = os.stat(path).st_size if is_ours and path.is_file() else None
            if size == 0 and spare_number(name) is not None and not path.is_symlink():
                self._findings.spares.append(path)
            elif size is not None and size <= PAGE:
                self._findings.useless.append(path)
            else:
                why = "no change in the journal has it; " + describe(path)
                self._findings.orphans.append(SetAside(path, why))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Bytes of an open data file. Raises EOFError where it ends before."""

    disk: FileIO
    fd: int

    def __call__(self, start: int, end: int) -> bytes:
        found = self.disk.pread(self.fd, end - start, start + PAGE)
        if len(found) != end - start:
            raise EOFError
        return found


def _key_in(path: Path) -> FileKey | None:
    """Of which layer a data file says that it is."""
    try:
        with open(path, "rb") as file:
            found = unpack_sidecar(file.read(PAGE))
        return int(found["content"]), int(found["layer"])
    except (OSError, BadSidecar, KeyError, TypeError, ValueError):
        return None


def describe(path: Path) -> str:
    """What a data file says that it is, for people."""
    try:
        with open(path, "rb") as file:
            found = unpack_sidecar(file.read(PAGE))
    except (OSError, BadSidecar) as error:
        return f"what it says about itself can't be read: {error}"
    shown = {name: found.get(name) for name in ("key", "size", "base", "extents")}
    return f"written here, data from offset {PAGE} on: {shown}"
