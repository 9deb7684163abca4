"""Programs on a mounted local tree: what every remote's mount does the same."""

import errno
import hashlib
import mmap
import os
import random
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from mountd.fusefs.kernel import MAX_BACKGROUND, MAX_RATIO, READ_AHEAD_KB
from tests.mount.mounting import Mounted, mounted

pytestmark = pytest.mark.fuse

ODD = [
    "with space",
    "100%",
    "a+b",
    "#hash",
    "what?",
    "ünï",
    "e\u0301 and é",
    "😀",
    "tab\there",
    "x" * 255,
]


def run(*command: str, timeout: float = 60) -> str:
    done = subprocess.run(command, check=True, capture_output=True, timeout=timeout)
    return done.stdout.decode(errors="surrogateescape")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of all sorts: small, large, empty, odd names, deep."""
    root = tmp_path_factory.mktemp("tree")
    random_bytes = random.Random(1).randbytes
    (root / "empty.txt").write_bytes(b"")
    (root / "large.bin").write_bytes(random_bytes(9_000_001))
    (root / "deep/a/b/c").mkdir(parents=True)
    (root / "deep/a/b/c/leaf").write_text("leaf\n")
    (root / "nothing").mkdir()
    for i in range(30):
        (root / "deep" / f"{i:02d}.dat").write_bytes(random_bytes(1000 * i))
    (root / "odd").mkdir()
    for name in ODD:
        (root / "odd" / name).write_text(name)
    with zipfile.ZipFile(root / "some.zip", "w") as archive:
        archive.writestr("one", "1" * 10_000)
        archive.writestr("two", "2" * 10_000)
    return root


@pytest.fixture(scope="module")
def mount(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(f"file://{tree}", tmp_path_factory.mktemp("mount")) as found:
        yield found


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_every_file_reads_back_as_it_is(tree: Path, mount: Mounted) -> None:
    assert digests(mount.path) == digests(tree)


def test_find_ls_and_grep_see_the_same_tree(tree: Path, mount: Mounted) -> None:
    def found(root: Path) -> list[str]:
        return sorted(run("find", str(root), "-printf", "%P %y %s\n").splitlines())

    def files(lines: list[str]) -> list[str]:
        return [line for line in lines if " d " not in line]

    assert files(found(mount.path)) == files(found(tree))
    assert run("ls", "-laR", str(mount.path)).count("leaf") == 1
    assert run("ls", "-a", str(mount.path / "nothing")).split() == [".", ".."]
    assert run("grep", "-rl", "leaf", str(mount.path / "deep/a")).strip().endswith("c/leaf")


def test_cp_tar_and_rsync_bring_it_home(tree: Path, mount: Mounted, tmp_path: Path) -> None:
    run("cp", "-a", str(mount.path), str(tmp_path / "copy"))
    assert digests(tmp_path / "copy") == digests(tree)
    run("tar", "cf", str(tmp_path / "all.tar"), "-C", str(mount.path), ".")
    with tarfile.open(tmp_path / "all.tar") as archive:
        assert len([m for m in archive if m.isfile()]) == len(digests(tree))
    # Same size and time to the second: nothing to send.
    listed = run(
        "rsync", "-rtni", "--omit-dir-times", "--modify-window=1", f"{tree}/", f"{mount.path}/"
    )
    assert listed == ""


def test_mmap_and_seeks_read_the_right_bytes(tree: Path, mount: Mounted) -> None:
    expected = (tree / "large.bin").read_bytes()
    picks = random.Random(2)
    with (mount.path / "large.bin").open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            for _ in range(200):
                start = picks.randrange(len(expected) - 5000)
                assert mapped[start : start + 5000] == expected[start : start + 5000]
        for _ in range(200):
            start, length = picks.randrange(len(expected) + 10), picks.randrange(100_000)
            assert os.pread(file.fileno(), length, start) == expected[start : start + length]
    listed = run("python3", "-m", "zipfile", "-l", str(mount.path / "some.zip"))
    assert "one" in listed
    assert "two" in listed


def _digest(path: str) -> str:
    return hashlib.md5(Path(path).read_bytes()).hexdigest()


def test_eight_workers_read_at_once_as_a_data_loader_does(tree: Path, mount: Mounted) -> None:
    paths = [p for p in sorted(tree.rglob("*")) if p.is_file()] * 4
    with ProcessPoolExecutor(8) as pool:
        theirs = list(pool.map(_digest, [str(mount.path / p.relative_to(tree)) for p in paths]))
    assert theirs == [_digest(str(p)) for p in paths]


def test_attributes_make_sense(tree: Path, mount: Mounted) -> None:
    found = (mount.path / "large.bin").stat()
    assert (found.st_size, found.st_mode, found.st_nlink) == (9_000_001, 0o100644, 1)
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
    assert found.st_blocks == -(-9_000_001 // 512)
    assert found.st_mtime_ns == (tree / "large.bin").stat().st_mtime_ns
    assert (mount.path / "deep").stat().st_mode == 0o040755
    space = os.statvfs(mount.path)
    assert space.f_namemax == 255
    assert space.f_bavail * space.f_frsize > 1 << 40


def test_a_read_only_mount_takes_no_write_and_the_errno_says_so(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote/f").write_text("1")
    with mounted(f"file://{tmp_path}/remote", tmp_path, read_only=True) as mount:
        for attempt in (
            lambda: (mount.path / "new").write_text("x"),
            lambda: (mount.path / "f").write_text("x"),
            lambda: (mount.path / "dir").mkdir(),
            lambda: (mount.path / "f").unlink(),
            lambda: (mount.path / "f").rename(mount.path / "other"),
        ):
            with pytest.raises(OSError, match="Read-only file system"):
                attempt()
        assert (mount.path / "f").read_text() == "1"


def test_missing_names_and_wrong_kinds_give_true_errnos(mount: Mounted) -> None:
    with pytest.raises(FileNotFoundError):
        (mount.path / "missing").stat()
    with pytest.raises(NotADirectoryError):
        (mount.path / "empty.txt" / "x").stat()
    with pytest.raises(IsADirectoryError):
        (mount.path / "deep").read_bytes()


def test_xattrs_say_where_a_file_is(mount: Mounted) -> None:
    path = mount.path / "deep/05.dat"
    path.read_bytes()
    assert os.getxattr(path, "user.mountd.url").decode().endswith("/deep/05.dat")
    assert os.getxattr(path, "user.mountd.etag")
    assert os.getxattr(path, "user.mountd.state") in (b"cached", b"remote")
    assert set(os.listxattr(path)) >= {"user.mountd.state", "user.mountd.etag"}
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(path, "user.other")


def test_labels_and_acls_are_not_supported_so_that_ls_asks_once(mount: Mounted) -> None:
    for name in ("security.selinux", "security.capability", "system.posix_acl_access"):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
            os.getxattr(mount.path / "deep/05.dat", name)
        assert caught.value.errno == errno.EOPNOTSUPP


def test_the_status_is_readable_through_the_path_and_not_listed(mount: Mounted) -> None:
    text = (mount.path / ".mountd/status.json").read_text()
    assert f'"mountpoint": "{mount.path}"' in text
    assert ".mountd" not in os.listdir(mount.path)
    assert mount.status()["state"] == "ready"


def test_a_page_cached_file_is_read_again_without_the_daemon_asking_anybody(
    mount: Mounted,
) -> None:
    path = mount.path / "large.bin"
    first = path.read_bytes()
    before = mount.requests()
    assert path.read_bytes() == first
    assert mount.requests() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="writing below /sys takes root")
def test_the_kernels_levers_are_what_the_status_says(tree: Path, tmp_path: Path) -> None:
    # Several mounts: the kernel's own start-up raced the tuning in every second one.
    for i in range(4):
        with mounted(f"file://{tree}", tmp_path / str(i)) as found:
            device = os.stat(found.path).st_dev
            bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}")
            assert int((bdi / "read_ahead_kb").read_text()) == READ_AHEAD_KB
            levers = found.status()["kernel"]
            assert levers["read_ahead_kb"] == READ_AHEAD_KB
            assert int((bdi / "max_ratio").read_text()) == levers["max_ratio"] == MAX_RATIO
            assert levers["max_background"] == MAX_BACKGROUND  # fusectl mounted here or not
            assert levers["notes"] == []
