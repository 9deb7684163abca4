"""Who keeps a mount busy, from /proc. Links are read, never followed: no call reaches the mount."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mountd.mount_table import is_below, read_mounts

_LINKS = ("cwd", "root", "exe")


@dataclass(frozen=True, slots=True)
class Holder:
    """One process and one path below the mount that it uses."""

    pid: int
    command: str
    path: str


def find_holders(mountpoint: str, limit: int = 5) -> list[Holder]:
    """Up to `limit` processes, ours left out. Other users' are seen only by root."""
    found: list[Holder] = []
    for entry in sorted(Path("/proc").iterdir(), key=lambda path: path.name):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        path = next((path for path in _used_paths(entry) if is_below(path, mountpoint)), None)
        if path is not None:
            found.append(Holder(int(entry.name), _command(entry), path))
            if len(found) == limit:
                break
    return found


def describe_holders(mountpoint: str) -> str:
    """`pid 12 (bash) at /storage/a, ...`, mounts below it, or why nothing is named."""
    words = [f"pid {one.pid} ({one.command}) at {one.path}" for one in find_holders(mountpoint)]
    for mount in read_mounts():
        if mount.path != mountpoint and is_below(mount.path, mountpoint):
            words.append(f"a mount at {mount.path}")
    if words:
        return ", ".join(words[:5])
    if os.geteuid() != 0:
        return "a process of another user, which only root can see"
    return "a process in another namespace, perhaps a container"


def _used_paths(process: Path) -> Iterator[str]:
    """Paths as the kernel spells them; a process that ends meanwhile has none."""
    links = [process / name for name in _LINKS]
    with suppress(OSError):  # gone, or another user's
        links += [process / "fd" / name for name in os.listdir(process / "fd")]
    for link in links:
        try:
            yield os.readlink(link).removesuffix(" (deleted)")
        except OSError:
            continue
    try:
        maps = (process / "maps").read_bytes()
    except OSError:
        return
    for line in maps.splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[5].startswith(b"/"):
            yield os.fsdecode(fields[5].replace(b"\\012", b"\n")).removesuffix(" (deleted)")


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
