"""Which cache folder a mount uses, kept beside its control socket: when the daemon is dead, what
`-o cache_dir` said is nowhere else, and what waits for the remote is there."""

import logging
import os
from pathlib import Path

from mountd.control.runtime_dir import SUFFIX, is_dir_of, runtime_dir, socket_path

NOTE_SUFFIX = ".folder"
_LONGEST_BYTES = 4096  # a path (PATH_MAX)

log = logging.getLogger(__name__)


def write_note(socket_path: Path, folder: Path) -> None:
    """Replaces the note of the mount whose socket that is. Where it can't, the mount works
    without."""
    note = _note_of(socket_path)
    fresh = note.with_name(f".{note.name}.{os.getpid()}")
    try:
        fresh.touch(mode=0o600)
        fresh.write_bytes(os.fsencode(folder))
        os.rename(fresh, note)
    except OSError as error:
        log.debug("%s could not be written: %s", note, error)


def remove_note(socket_path: Path) -> None:
    """For a mount that has left nothing."""
    try:
        _note_of(socket_path).unlink(missing_ok=True)
    except OSError as error:
        log.debug("the note of %s could not be removed: %s", socket_path, error)


def noted_folder(mountpoint: str) -> Path | None:
    """The cache folder of who served this absolute mount point last, of this user."""
    return _read(_note_of(socket_path(mountpoint)))


def noted_cache_dirs() -> list[Path]:
    """Those of all notes of this user. Others' notes are not believed, not even by root."""
    try:
        notes = sorted(runtime_dir().glob(f"*{NOTE_SUFFIX}"))
    except OSError:
        return []
    folders = (_read(note) for note in notes)
    return list(dict.fromkeys(folder.parent for folder in folders if folder is not None))


def _note_of(socket_path: Path) -> Path:
    return socket_path.with_name(socket_path.name.removesuffix(SUFFIX) + NOTE_SUFFIX)


def _read(note: Path) -> Path | None:
    if not is_dir_of(note.parent, os.geteuid()):
        return None
    try:
        with note.open("rb") as file:
            found = file.read(_LONGEST_BYTES)
    except OSError:
        return None
    return Path(os.fsdecode(found)) if found.startswith(b"/") and b"\0" not in found else None
