"""file:// on a disk that is not mounted: nothing there was deleted."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mountd.errors import ContainerMissing, NotFound, Unreachable, VersionChanged
from mountd.remotes.base import ABSENT, Upload
from mountd.remotes.local import LocalStore
from mountd.remotes.local_root import RootDisk
from tests.fakes.body import BytesBody


@dataclass
class Disk:
    """What the kernel says of the root."""

    is_mounted: bool = True
    error: int = 0

    def is_mount(self, root: str) -> bool:
        return self.is_mounted

    def identity(self, root: str) -> tuple[int, int]:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return 1 + self.is_mounted, 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def store_on(root: Path, disk: Disk) -> LocalStore:
    mark = root.parent / "mark"
    there = RootDisk(str(root), mark, is_mount=disk.is_mount, identity=disk.identity)
    return LocalStore(str(root), disk=there)


CALLS: list[Callable[[LocalStore], object]] = [
    lambda store: list(store.list("")),
    lambda store: list(store.list("d/")),
    lambda store: store.stat("f"),
    lambda store: store.identify("f"),
    lambda store: store.read("f", 0, 1, "v"),
    lambda store: store.put("f", BytesBody(b"1"), ABSENT, Upload()),
    lambda store: store.put("d/f", BytesBody(b"1"), ABSENT, Upload()),
    lambda store: store.copy("f", "v", "g", ABSENT, Upload()),
    lambda store: store.delete("f", "v"),
    lambda store: store.make_dir("d/"),
    lambda store: store.remove_dir("d/"),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("in_this_process", [True, False])
def test_an_empty_mount_point_is_a_disk_that_is_away_and_no_empty_directory(
    root: Path, call: Callable[[LocalStore], object], in_this_process: bool
) -> None:
    disk = Disk()
    store = store_on(root, disk)
    assert list(store.list("")) == [[]]
    disk.is_mounted = False
    if not in_this_process:
        store = store_on(root, disk)
    with pytest.raises(ContainerMissing, match="its disk is not mounted"):
        call(store)
    assert os.listdir(root) == []
    disk.is_mounted = True
    assert list(store.list("")) == [[]]


def test_a_directory_that_never_was_a_mount_point_may_be_empty(root: Path) -> None:
    store = store_on(root, Disk(is_mounted=False))
    assert list(store.list("")) == [[]]
    with pytest.raises(NotFound):
        store.stat("f")


def test_an_empty_mount_point_is_meant_as_soon_as_somebody_removes_the_mark(root: Path) -> None:
    disk = Disk()
    store = store_on(root, disk)
    assert list(store.list("")) == [[]]
    disk.is_mounted = False
    with pytest.raises(ContainerMissing, match=f"remove {root.parent / 'mark'}"):
        list(store.list(""))
    (root.parent / "mark").unlink()
    assert list(store.list("")) == [[]]


def test_files_that_were_moved_from_a_disk_to_its_mount_point_count(root: Path) -> None:
    disk = Disk()
    assert list(store_on(root, disk).list("")) == [[]]
    disk.is_mounted = False
    (root / "f").write_bytes(b"1")
    assert store_on(root, disk).stat("f").size == 1
    (root / "f").unlink()
    assert list(store_on(root, disk).list("")) == [[]]


@pytest.mark.parametrize("error", [errno.ESTALE, errno.ENOTCONN, errno.EIO])
def test_a_root_that_is_dead_is_unreachable_whatever_is_asked(root: Path, error: int) -> None:
    (root / "f").write_bytes(b"1")
    disk = Disk()
    store = store_on(root, disk)
    version = store.stat("f").version
    disk.error = error
    with pytest.raises(Unreachable):
        store.read("f", 0, 1, version)
    with pytest.raises(Unreachable):
        store.identify("missing")
    disk.error = 0
    with pytest.raises(VersionChanged):
        store.read("f", 0, 1, "another")
