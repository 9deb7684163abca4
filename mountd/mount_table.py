"""What is mounted where, from /proc/self/mountinfo (proc_pid_mountinfo(5)).

Reading it touches none of the mounts, so a dead or wedged one can't hang the reader.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FS_TYPE = "fuse.mountd"  # subtype=mountd
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. `device` is `major:minor`; `owner_uid` is a FUSE mount's `user_id`;
    `is_shared`: what is mounted on it shows up in its peers and slaves, too."""

    device: str
    path: str
    fs_type: str
    source: str
    options: str
    owner_uid: int | None
    is_shared: bool = False

    @property
    def is_ours(self) -> bool:
        return self.fs_type == FS_TYPE


def read_mounts() -> list[Mount]:
    """All mounts that this process sees, later ones on top of earlier ones."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())


def parse_mountinfo(data: bytes) -> list[Mount]:
    """Lines that don't look like mountinfo are left out."""
    mounts = []
    for line in data.splitlines():
        head, separator, tail = line.partition(b" - ")
        fields, rest = head.split(b" "), tail.split(b" ")
        if not separator or len(fields) < 6 or len(rest) < 2:
            continue
        super_options = _text(rest[2]) if len(rest) > 2 else ""
        owner = re.search(r"(?:^|,)user_id=(\d+)", super_options)
        mounts.append(
            Mount(
                device=_text(fields[2]),
                path=_text(fields[4]),
                fs_type=_text(rest[0]),
                source=_text(rest[1]),
                options=f"{_text(fields[5])},{super_options}",
                owner_uid=int(owner[1]) if owner else None,
                is_shared=any(field.startswith(b"shared:") for field in fields[6:]),
            )
        )
    return mounts


def mount_at(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The topmost mount exactly at `path`."""
    return next((mount for mount in reversed(mounts) if mount.path == path), None)


def mount_containing(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that `path` (absolute, no symlinks) lies in: longest prefix, topmost of equals."""
    best: Mount | None = None
    for mount in mounts:
        if is_below(path, mount.path) and (best is None or len(mount.path) >= len(best.path)):
            best = mount
    return best


def is_below(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or lies in it; by spelling, nothing is looked up."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _text(field: bytes) -> str:
    raw = _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)
    return raw.decode("utf-8", "surrogateescape")
