"""The folder of a journal: whose it is, its format, and on which boot of the machine we are."""

import fcntl
import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mountd_cache.durable_io import FileIO, make_private_dir
from mountd_cache.journal_store import JournalTooNew

FORMAT: Final = 1
_FORMAT_FILE: Final = "format"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def prepare(folder: Path, disk: FileIO) -> int:
    """Makes the folder and what is in it, and locks it until the descriptor returned is closed.

    Raises OSError (EWOULDBLOCK: another process has it), DirectoryNotPrivate, JournalTooNew:
    then nothing was changed.
    """
    make_private_dir(folder)
    lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _check_format(folder, disk)
        make_private_dir(folder / "log")
        make_private_dir(folder / "staging", apart=True)
        disk.fsync_dir(folder)
    except BaseException:
        os.close(lock_fd)
        raise
    return lock_fd


def this_boot() -> str:
    """Differs from boot to boot. Where the kernel doesn't tell, from process to process: then
    everything is verified each time."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return f"unknown-{os.getpid()}-{time.time_ns()}"


@contextmanager
def collector_off() -> Iterator[None]:
    """The garbage collector would look at all that is made in between again and again: loading
    100,000 changes took 5.5 s with it and 2 s without."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check_format(folder: Path, disk: FileIO) -> None:
    """Before anything is opened that could be changed by that."""
    path = folder / _FORMAT_FILE
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        disk.write_file(path, b"mountd journal, format %d\n" % FORMAT)
        return
    number = found.rstrip().rsplit(b" ", 1)[-1]
    if number.isdigit() and int(number) > FORMAT:
        raise JournalTooNew(
            f"{folder} was written by a later mountd (format {int(number)}, this one knows "
            f"{FORMAT}): use that one"
        )
