"""Values that every room understands.

Keys. A key names an object below the mounted prefix, without a leading slash: `a/b.txt`. A
directory's key ends with a slash (`a/`), and the root is the empty string; so `a//` is the
directory with the empty name inside `a`, which object stores can have. Keys are the remote's own
spelling; what the kernel can't carry is escaped in `vfs.names`, nowhere else.

Versions. A version is an opaque, non-empty string that changes whenever the content does: an ETag
as the remote writes it, a generation, or `size-mtime_ns` where there is nothing better. Only the
store that made it looks inside; everybody else compares for equality. A listing and a stat of the
same state give the same string.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Kind(IntEnum):
    """What an entry is. The numbers are written to the metadata cache: never change one."""

    FILE = 0
    DIRECTORY = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory, as a remote lists it.

    `name` is the last segment of the key, undecorated: it may be empty, `.` or `..`, and a file
    and a directory of one name may stand side by side. `mtime_ns` is nanoseconds since the epoch
    (0: unknown). A directory has size 0, and version "" unless the remote gives it a token that
    changes when anything below changes.

    `attributes`: what the remote keeps beside the bytes, of `mode` (decimal, with the bits of the
    file's type), `uid`, `gid` (decimal) and `xattr` (vfs/user_xattrs.py); ASCII. `mtime` is among
    them where `mtime_ns` is only when the object arrived. None: it didn't say; {}: it has none.
    `denied`: what the remote doesn't let us do with it, of these letters: w its bytes changed, d
    deleted, n renamed in its directory, v moved out of it; c files and k directories made in it.
    Entries are compared without them, because most listings don't say.

    `identity`: which file it is, whatever its name and its bytes, where the remote tells ("": it
    doesn't): the same after somebody moved it, and of no other file.
    """

    name: str
    kind: Kind
    size: int
    mtime_ns: int
    version: str
    attributes: Mapping[str, str] | None = field(default=None, compare=False)
    identity: str = field(default="", compare=False)
