"""Modes, owners and times through a mounted bucket: kept for whoever mounts it next."""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.mount.proving import wait_until_proved
from tests.servers.s3.launch import S3Server

pytestmark = [pytest.mark.fuse, pytest.mark.server]

Mount = Callable[..., Mounted]
MTIME_NS = 1_234_567_890_123_456_789


@pytest.fixture
def mount(s3_server: S3Server, tmp_path: Path) -> Iterator[Mount]:
    """Mounts s3://b; unmounts when it is called again (a remount). `cache`: the cache's folder."""
    with ExitStack() as stack:

        def again(cache: str = "cache", **options: object) -> Mounted:
            stack.close()
            options["cache_dir"] = tmp_path / cache
            return stack.enter_context(
                mounted("s3://b", tmp_path, environment=s3_server.environment(), **options)
            )

        yield again


def flush(mount: Mounted) -> None:
    mount.cli("flush", str(mount.path), "--timeout", "25")


def test_chmod_x_is_there_for_another_machine_and_after_a_remount(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.make_bucket("b")
    script = mount().path / "run.sh"
    script.write_text("#!/bin/sh\necho it runs\n")
    script.chmod(0o750)
    os.chown(script, 1234, 5678)
    os.utime(script, ns=(MTIME_NS, MTIME_NS))
    wanted = script.stat()
    for cache, metadata in (("cache", "fast"), ("other", "full"), ("other", "fast")):
        found = (mount(cache, metadata=metadata).path / "run.sh").stat()
        assert stat.S_IMODE(found.st_mode) == 0o750, (cache, metadata)
        assert (found.st_uid, found.st_gid) == (1234, 5678)
        assert found.st_mtime_ns == wanted.st_mtime_ns == MTIME_NS
    assert subprocess.run([script], capture_output=True, check=True).stdout == b"it runs\n"


def test_an_xattr_leaves_a_file_the_time_that_it_came_with(
    s3_server: S3Server, mount: Mount
) -> None:
    """Listings say when it arrived, and that is what the kernel brings after a setxattr."""
    headers = {"x-amz-meta-mtime": f"{MTIME_NS // 10**9}.{MTIME_NS % 10**9:09d}"}
    for name in ("f", "g"):
        s3_server.put("b", name, b"bytes", headers=headers)
    path = mount(metadata="fast").path
    os.setxattr(path / "f", "user.own", b"1")
    (path / "g").rename(path / "h")
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    mount("cache", metadata="fast")
    found = mount("other", metadata="full").path
    assert os.getxattr(found / "f", "user.own") == b"1"
    assert [(found / name).stat().st_mtime_ns for name in "fh"] == [MTIME_NS, MTIME_NS]


def test_ls_costs_lists_with_fast_and_a_head_for_each_file_once_with_full(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.seed("b", directories=0, files=500, size=10)
    counts: list[tuple[int, int]] = []
    for cache, metadata in (("a", "fast"), ("b", "full"), ("b", "full")):
        path = mount(cache, metadata=metadata).path
        s3_server.clear_log()
        for _ in range(2):
            done = subprocess.run(["ls", "-l", path], capture_output=True, check=True, text=True)
            assert len(done.stdout.splitlines()) == 501
        lists, heads = s3_server.log(op="ListObjectsV2"), s3_server.log(op="HeadObject")
        assert len(lists) + len(heads) == len(s3_server.log())
        counts.append((len(lists), len(heads)))
    assert counts[0][1] == 0
    assert counts[0][0] <= 1
    assert counts[1][1] == 500
    assert counts[2][1] == 0


def test_chmod_is_one_copy_and_keeps_what_others_put_beside_the_bytes(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.make_bucket("b")
    s3_server.put("b", "f", b"bytes", headers={"x-amz-meta-theirs": "1", "x-amz-meta-uid": "77"})
    s3_server.put("b", "first", b"")
    found = mount()
    (found.path / "first").write_bytes(b"what the server enforces is proved now")
    flush(found)
    wait_until_proved(s3_server)
    s3_server.clear_log()
    (found.path / "f").chmod(0o700)
    flush(found)
    assert sorted(entry.op for entry in s3_server.log()) == ["CopyObject", "HeadObject"]
    again = mount("other", metadata="full").path / "f"
    assert (stat.S_IMODE(again.stat().st_mode), again.stat().st_uid) == (0o700, 77)
    assert again.read_bytes() == b"bytes"


@pytest.mark.parametrize("command", [["cp", "-a"], ["rsync", "-a"]], ids=["cp", "rsync"])
def test_a_copied_tree_is_the_same_on_another_machine(
    s3_server: S3Server, mount: Mount, tmp_path: Path, command: list[str]
) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not here")
    s3_server.make_bucket("b")
    source = tmp_path / "source"
    source.mkdir()
    for mode in (0o600, 0o644, 0o755, 0o440):
        path = source / f"{mode:o}"
        path.write_bytes(b"x" * mode)
        os.utime(path, ns=(MTIME_NS, MTIME_NS + mode))
        path.chmod(mode)
    path = mount().path
    subprocess.run([*command, f"{source}/.", f"{path}/tree"], check=True, timeout=60)
    copied = mount("other", metadata="full").path / "tree"
    for original in source.iterdir():
        was, now = original.stat(), (copied / original.name).stat()
        assert (now.st_mode, now.st_mtime_ns) == (was.st_mode, was.st_mtime_ns), original.name
        assert (copied / original.name).read_bytes() == original.read_bytes()


def errno_of(function: Callable[..., object], *arguments: object) -> int:
    with pytest.raises(OSError, match=r".") as caught:
        function(*arguments)
    assert caught.value.errno is not None
    return caught.value.errno


def test_xattrs_are_kept_on_the_remote(s3_server: S3Server, mount: Mount, tmp_path: Path) -> None:
    s3_server.make_bucket("b")
    path = mount().path / "f"
    path.write_bytes(b"bytes")
    odd = os.fsdecode(b"user.\xff\n \xc3\xa4")
    os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    assert errno_of(os.setxattr, path, "user.a", b"2", os.XATTR_CREATE) == errno.EEXIST
    os.setxattr(path, "user.a", b"2", os.XATTR_REPLACE)
    assert errno_of(os.setxattr, path, "user.b", b"2", os.XATTR_REPLACE) == errno.ENODATA
    os.setxattr(path, odd, bytes(range(256)))
    assert errno_of(os.getxattr, path, "user.none") == errno.ENODATA
    assert errno_of(os.removexattr, path, "user.none") == errno.ENODATA
    assert errno_of(os.setxattr, path, "user.large", bytes(4000)) == errno.E2BIG
    assert errno_of(os.setxattr, path, "user.mountd.other", b"") == errno.EPERM
    assert errno_of(os.setxattr, path, "user.", b"") == errno.EINVAL
    assert errno_of(os.setxattr, path, "trusted.a", b"") == errno.EOPNOTSUPP
    assert errno_of(os.setxattr, path, "security.a", b"") == errno.EOPNOTSUPP
    assert errno_of(os.setxattr, path.parent, "user.a", b"") == errno.EOPNOTSUPP
    subprocess.run(["cp", "-a", path, path.parent / "copied"], check=True, timeout=60)
    path.rename(path.parent / "moved")
    for cache in ("cache", "other"):
        folder = mount(cache).path
        for name in ("copied", "moved"):
            assert os.getxattr(folder / name, "user.a") == b"2", (cache, name)
            assert os.getxattr(folder / name, odd) == bytes(range(256))
            assert {"user.a", odd} <= set(os.listxattr(folder / name))
            assert "user.mountd.etag" in os.listxattr(folder / name)
    folder = mount("third", read_only=True).path
    s3_server.clear_log()
    for _ in range(3):
        assert os.getxattr(folder / "moved", "user.a") == b"2"
    assert len(s3_server.log(op="HeadObject")) == 1
    assert errno_of(os.setxattr, folder / "moved", "user.a", b"") == errno.EROFS
    assert errno_of(os.removexattr, folder / "moved", "user.a") == errno.EROFS


def test_programs_copy_attributes_and_what_the_mount_says_itself_stays(
    s3_server: S3Server, mount: Mount, tmp_path: Path
) -> None:
    """rsync ended with 23, and the others complained of each file."""
    s3_server.make_bucket("b")
    folder = mount().path
    (folder / "f").write_bytes(b"bytes")
    os.setxattr(folder / "f", "user.a", b"1")
    (tmp_path / "f").write_bytes(b"other")
    for command in (
        ["cp", "--preserve=all", "f", "copied"],
        ["rsync", "-aX", "f", "synced"],
        ["rsync", "-aX", f"{tmp_path}/f", "f"],  # which takes away what its source has not
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), command
    for name in ("copied", "synced"):
        assert os.getxattr(folder / name, "user.a") == b"1"
        assert os.getxattr(folder / name, "user.mountd.url") == f"s3://b/{name}".encode()
    assert [x for x in os.listxattr(folder / "f") if "mountd" not in x] == []


def test_xattrs_that_have_no_place_are_refused(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    with mounted(f"file://{tmp_path}/remote", tmp_path) as found:
        (found.path / "f").write_bytes(b"x")
        assert errno_of(os.setxattr, found.path / "f", "user.a", b"") == errno.EOPNOTSUPP
        assert errno_of(os.getxattr, found.path / "f", "user.a") == errno.ENODATA


def test_modes_of_a_local_tree_are_real(tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    remote.mkdir()
    for name, mode in (("private", 0o600), ("usual", 0o644), ("run.sh", 0o755)):
        (remote / name).write_bytes(b"x")
        (remote / name).chmod(mode)
    with mounted(f"file://{remote}", tmp_path) as found:
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in found.path.iterdir()}
        assert modes == {"private": 0o600, "usual": 0o644, "run.sh": 0o755}
        os.close(os.open(found.path / "secret", os.O_CREAT | os.O_WRONLY, 0o600))
        inode = (remote / "run.sh").stat().st_ino
        (found.path / "run.sh").chmod(0o500)
        os.utime(found.path / "usual", ns=(MTIME_NS, MTIME_NS))
        flush(found)
        assert stat.S_IMODE((remote / "secret").stat().st_mode) == 0o600
        assert stat.S_IMODE((remote / "run.sh").stat().st_mode) == 0o500
        assert (remote / "run.sh").stat().st_ino == inode  # not a byte of it moved
        assert (remote / "usual").stat().st_mtime_ns == MTIME_NS
        (remote / "private").chmod(0o640)
        found.cli("refresh", str(found.path))
        assert stat.S_IMODE((found.path / "private").stat().st_mode) == 0o640


def test_a_strangers_metadata_give_nobody_rights_and_odd_numbers_are_ignored(
    s3_server: S3Server, mount: Mount
) -> None:
    said = {"mode": "35309", "uid": "0", "gid": "4294967295", "mtime": "-999999999"}
    odd = {"mode": "-1", "uid": "-5", "gid": "1e3", "mtime": "99999999999999"}
    for name, metadata in (("set-uid", said), ("odd", odd)):
        headers = {f"x-amz-meta-{key}": value for key, value in metadata.items()}
        s3_server.put("b", name, b"#!/bin/sh\n", headers=headers)
    at = mount(metadata="full").path
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    (options,) = (line.split()[5].split(",") for line in mounts if line.split()[4] == str(at))
    assert {"nosuid", "nodev"} <= set(options)
    found, usual = (at / "set-uid").stat(), (at / "odd").stat()
    assert (found.st_uid, found.st_gid) == (0, os.getgid())
    assert stat.S_IMODE(found.st_mode) == 0o4755
    assert found.st_mtime < 0
    assert (stat.S_IMODE(usual.st_mode), usual.st_uid) == (0o644, os.getuid())
