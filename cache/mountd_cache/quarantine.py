"""Where files go that nobody understands: never deleted, and a line says what each one is."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mountd_cache.durable_io import FileIO, make_private_dir

README: Final = "README.txt"
_HEAD: Final = """mountd could not use these files when it started, and did not delete them.
They may be the only copy of data. What each of them is:

"""


@dataclass(frozen=True, slots=True)
class SetAside:
    """A file and why it is to go. `keep`: a copy of it goes, it stays where it is."""

    path: Path
    why: str
    keep: bool = False


def quarantine(
    folder: Path, files: list[SetAside], notes: list[str], *, disk: FileIO, now_ns: int
) -> tuple[Path, ...]:
    """Moves the files to a new directory below `folder`; where each of them is now.

    They are there, and README.txt says what they are, also after a power cut. Raises OSError;
    called again it goes on with what is left.
    """
    make_private_dir(folder)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ns / 1e9))
    target = folder / stamp
    count = 0
    while target.exists():
        count += 1
        target = folder / f"{stamp}-{count}"
    make_private_dir(target)
    disk.fsync_dir(folder.parent)
    disk.fsync_dir(folder)
    lines = [f"{file.path.name}: {file.why}" for file in files] + notes
    text = _HEAD + "\n".join(line.replace("\n", "\\n") for line in lines) + "\n"
    disk.write_file(target / README, text.encode("utf-8", "backslashreplace"))
    moved = []
    for file in files:
        if file.keep:
            disk.write_file(target / file.path.name, file.path.read_bytes())
        else:
            disk.rename(file.path, target / file.path.name)
        moved.append(target / file.path.name)
    disk.fsync_dir(target)
    for parent in {file.path.parent for file in files if not file.keep}:
        disk.fsync_dir(parent)
    return tuple(moved) if moved else (target / README,)
