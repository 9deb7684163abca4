"""A bucket under a path: counts of requests, remounts, foreign changes, odd keys."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mount.mounting import Mounted, mounted
from tests.mount.proving import file_keys
from tests.servers.s3.launch import S3Server
from tests.servers.s3.seeding import synthetic_bytes

pytestmark = [pytest.mark.fuse, pytest.mark.server]

Mount = Callable[..., Mounted]
MIB = 1 << 20


@pytest.fixture
def mount(s3_server: S3Server, tmp_path: Path) -> Iterator[Mount]:
    """Mounts s3://b; unmounts at the end, or when it is called again (a remount)."""
    with ExitStack() as stack:

        def again(source: str = "s3://b", **options: object) -> Mounted:
            stack.close()
            return stack.enter_context(
                mounted(source, tmp_path, environment=s3_server.environment(), **options)
            )

        yield again


def find(root: Path) -> list[str]:
    done = subprocess.run(["find", str(root)], check=True, capture_output=True, timeout=60)
    return sorted(done.stdout.decode().splitlines())


def test_files_of_all_sizes_read_back(s3_server: S3Server, mount: Mount) -> None:
    sizes = [0, 1, 16384, 100_000, MIB, MIB + 1, 9 * MIB + 5]
    for size in sizes:
        s3_server.seed("b", keys=[f"d/{size}"], size=size)
    path = mount().path
    for size in sizes:
        assert (path / f"d/{size}").read_bytes() == synthetic_bytes(f"d/{size}", 0, size)


def test_a_listed_tree_costs_one_list_per_directory_and_none_after_a_remount(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.seed("b", directories=10, files=20, size=10)
    first = mount()
    s3_server.clear_log()
    tree = find(first.path)
    assert len(tree) == 1 + 10 + 200
    assert len(s3_server.log(op="ListObjectsV2")) <= 11
    assert find(first.path) == tree
    assert len(s3_server.log(op="ListObjectsV2")) <= 11
    s3_server.clear_log()
    second = mount()
    s3_server.wait_for_requests(1, op="ListObjectsV2")  # its one look whether the remote is there
    s3_server.clear_log()
    assert find(second.path) == tree
    assert s3_server.log() == []


def test_a_warm_file_is_read_after_a_remount_without_a_request(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.seed("b", keys=["f"], size=5 * MIB)
    body = synthetic_bytes("f", 0, 5 * MIB)
    first = mount()
    assert (first.path / "f").read_bytes() == body
    _wait_for_kept(first, 5 * MIB)
    second = mount()
    s3_server.clear_log()
    assert (second.path / "f").read_bytes() == body
    assert s3_server.log(op="GetObject") == []
    assert os.getxattr(second.path / "f", "user.mountd.state") == b"cached"


def test_with_the_server_gone_a_remount_comes_up_and_serves_what_is_cached(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.seed("b", keys=["d/f", "d/g"], size=100_000)
    first = mount()
    assert (first.path / "d/f").read_bytes() == synthetic_bytes("d/f", 0, 100_000)
    _wait_for_kept(first, 100_000)
    s3_server.refuse_connections()
    try:
        second = mount(metadata_ttl_s=0, request_timeout_s=5)
        assert sorted(os.listdir(second.path / "d")) == ["f", "g"]
        assert (second.path / "d/f").read_bytes() == synthetic_bytes("d/f", 0, 100_000)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
            (second.path / "d/g").read_bytes()
        assert caught.value.errno == errno.EIO
        assert second.status()["remote"]["state"] == "unreachable"
    finally:
        s3_server.accept_connections()


def test_random_reads_take_one_request_each_and_few_bytes(
    s3_server: S3Server, mount: Mount
) -> None:
    size = 4 << 30
    s3_server.seed("b", keys=["big"], size=size)
    path = mount().path / "big"
    offsets = [(i * 1_234_567_891) % (size - 4096) // 4096 * 4096 for i in range(1, 60)]
    with path.open("rb", buffering=0) as file:
        s3_server.clear_log()
        for offset in offsets:
            assert os.pread(file.fileno(), 4096, offset) == synthetic_bytes(
                "big", offset, offset + 4096
            )
    gets = s3_server.log(op="GetObject")
    assert len(gets) == len(offsets)
    assert sum(entry.bytes_sent for entry in gets) <= 8 * 4096 * len(offsets)


def test_a_sequential_read_fetches_each_byte_once_and_in_parallel(
    s3_server: S3Server, mount: Mount
) -> None:
    size = 64 * MIB
    s3_server.seed("b", keys=["f"], size=size)
    path = mount().path / "f"
    s3_server.clear_log()
    assert path.read_bytes() == synthetic_bytes("f", 0, size)
    gets = s3_server.log(op="GetObject")
    assert sum(entry.bytes_sent for entry in gets) == size
    assert len({entry.connection_id for entry in gets}) > 3


def test_a_foreign_change_of_an_open_file_is_estale_never_a_mix(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.put("b", "f", b"A" * (80 * MIB))
    path = mount().path / "f"
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) == b"A" * 4096
        s3_server.put("b", "f", b"B" * (80 * MIB))
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
            os.pread(file.fileno(), MIB, 70 * MIB)
        assert caught.value.errno == errno.ESTALE
    # The failed read made the directory known to be old; the kernel's own entry lives on for its
    # timeout, so a new look by name is what `mountd refresh` is for.


def test_refresh_shows_a_foreign_change_at_once(s3_server: S3Server, mount: Mount) -> None:
    s3_server.put("b", "d/f", b"old")
    found = mount(metadata_ttl_s=3600)
    path = found.path / "d/f"
    assert path.read_bytes() == b"old"
    before = path.stat().st_ino
    s3_server.put("b", "d/f", b"newer")
    s3_server.put("b", "d/g", b"")
    assert path.stat().st_size == 3
    found.cli("refresh", str(found.path / "d"))
    assert path.read_bytes() == b"newer"
    assert path.stat().st_ino != before
    assert sorted(os.listdir(found.path / "d")) == ["f", "g"]


def test_after_the_ttl_a_foreign_change_is_seen(s3_server: S3Server, mount: Mount) -> None:
    s3_server.put("b", "f", b"old")
    path = mount(metadata_ttl_s=0.05).path
    assert (path / "f").read_bytes() == b"old"
    s3_server.put("b", "f", b"newer")
    s3_server.put("b", "g", b"")
    _wait_until(lambda: (path / "f").read_bytes() == b"newer")
    _wait_until(lambda: sorted(os.listdir(path)) == ["f", "g"])  # `f` may be seen before the TTL


def test_opening_a_small_file_that_changed_within_the_ttl_gives_the_new_one(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.put("b", "f", b"old")
    path = mount(metadata_ttl_s=3600).path / "f"
    assert path.stat().st_size == 3
    s3_server.put("b", "f", b"newer")
    assert path.read_bytes() == b"newer"


def test_odd_keys_are_all_shown_and_read(s3_server: S3Server, mount: Mount) -> None:
    keys = ["a//b", "x/../y", "./dot", "both", "both/below", "dir/", "/lead", "sp ace/100%/a+b"]
    keys += ["new\nline", "#q?", "é", "e\u0301", "😀/😀", "ü" * 200 + ".txt", "deep/" * 40 + "leaf"]
    for key in keys:
        s3_server.put("b", key, key.encode())
    path = mount().path
    found = {p.read_bytes().decode() for p in path.rglob("*") if p.is_file()}
    assert found == set(keys) - {"dir/"}
    assert (path / "dir").is_dir()
    assert (path / "both/below").read_text() == "both/below"
    assert (path / "both␛file").read_text() == "both"


def test_conditions_are_proved_while_the_first_change_waits_and_not_for_readers(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.put("b", "there", b"1")
    found = mount(write_back_s=600)
    path = found.path
    assert (path / "there").read_bytes() == b"1"
    assert not s3_server.log(op="PutObject")
    (path / "new").write_bytes(b"2")
    _wait_until(lambda: bool(s3_server.log(op="CompleteMultipartUpload")))
    _wait_until(lambda: s3_server.keys("b") == ["there"])  # what proved it is gone again
    s3_server.clear_log()
    found.cli("flush", str(path), "--timeout", "25")
    assert s3_server.keys("b") == ["new", "there"]
    assert [entry.op for entry in s3_server.log() if entry.method != "GET"] == ["PutObject"]


def test_flush_sends_what_is_still_open_and_only_then_returns(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.put("b", "there", b"1")
    found = mount(write_back_s=600)
    with (found.path / "log").open("wb", buffering=0) as file:
        file.write(b"first")
        found.cli("flush", str(found.path / "log"), "--timeout", "25")
        assert s3_server.read("b", "log") == b"first"
        file.write(b", second")
        found.cli("flush", str(found.path), "--timeout", "25")
        assert s3_server.read("b", "log") == b"first, second"


def test_a_file_over_five_terabytes_does_not_overflow(s3_server: S3Server, mount: Mount) -> None:
    size = 6 * 10**12
    s3_server.seed("b", keys=["huge"], size=size)
    path = mount().path / "huge"
    assert path.stat().st_size == size
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 9000, size - 5000) == synthetic_bytes(
            "huge", size - 5000, size
        )


def test_a_directory_of_100_000_entries_is_listed_whole(s3_server: S3Server, mount: Mount) -> None:
    s3_server.seed("b", directories=1, files=100_000, size=1)
    found = mount()
    (only,) = os.listdir(found.path)
    with os.scandir(found.path / only) as entries:
        assert sum(1 for entry in entries if entry.is_file()) == 100_000
    assert found.requests()["list"] <= 103


def test_a_prefix_is_mounted_by_itself_and_a_missing_one_is_empty(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.put("b", "one/two/f", b"x")
    s3_server.put("b", "one/twofold", b"not below one/two")
    assert find(mount("s3://b/one/two").path)[1:] == [str(mount("s3://b/one/two").path / "f")]
    assert os.listdir(mount("s3://b/missing").path) == []


def test_a_bare_scheme_lists_the_buckets(s3_server: S3Server, mount: Mount) -> None:
    s3_server.put("b", "f", b"in b")
    s3_server.put("other", "f", b"in other")
    path = mount("s3://").path
    assert sorted(os.listdir(path)) == ["b", "other"]
    assert (path / "other/f").read_bytes() == b"in other"


def test_beside_buckets_nothing_is_made_and_they_are_neither_renamed_nor_removed(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.put("b", "f", b"in b")
    mounted = mount("s3://")
    path = mounted.path
    calls: tuple[Callable[[], object], ...] = (
        (path / "new").touch,
        (path / "bucket").mkdir,
        lambda: (path / "link").symlink_to("b"),
        lambda: (path / "b").rename(path / "c"),
        lambda: (path / "b/f").rename(path / "f"),
    )
    for call in calls:
        with pytest.raises(PermissionError):
            call()
    (path / "b/f").unlink()
    with pytest.raises(PermissionError):
        (path / "b").rmdir()
    (path / "b/new").write_bytes(b"x")
    mounted.cli("flush", str(path))
    assert file_keys(s3_server) == ["new"]


def _wait_for_kept(found: Mounted, size: int) -> None:
    _wait_until(lambda: found.status()["cache"]["bytes"] >= size)


def _wait_until(condition: Callable[[], bool]) -> None:
    import time

    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_path_that_is_too_long_for_the_bucket_is_refused_when_it_is_made(
    s3_server: S3Server, mount: Mount
) -> None:
    s3_server.make_bucket("b")
    found = mount("s3://b/prefix")  # 7 of the 1,024 bytes
    deep = found.path / ("d" * 250) / ("e" * 250) / ("f" * 250)
    deep.mkdir(parents=True)  # 753
    room = 1024 - 7 - 753
    assert room > 255
    deepest = deep / "g" / "hh"  # 758
    deepest.mkdir(parents=True)
    (deepest / "n").write_text("n")
    (found.path / "top").write_text("top")
    wide = deep / ("w" * 200)  # 954
    wide.mkdir()
    calls: tuple[Callable[[], object], ...] = (
        lambda: (wide / ("x" * 64)).touch(),
        lambda: (wide / ("x" * 63)).mkdir(),
        lambda: (wide / ("x" * 53)).symlink_to("y"),
        lambda: (found.path / "top").rename(wide / ("x" * 64)),
        lambda: (deep / "g").rename(wide / ("g" * 59)),
    )
    for call in calls:
        with pytest.raises(OSError, match=r".") as caught:
            call()
        assert caught.value.errno == errno.ENAMETOOLONG
    assert sorted(os.listdir(wide)) == []
    (deep / "g").rename(wide / ("g" * 58))  # with /hh/n as long as can be
    (wide / ("x" * 63)).write_text("longest")
    found.cli("flush", str(found.path), "--timeout", "25")
    below = f"prefix/{wide.relative_to(found.path)}"
    assert s3_server.read("b", f"{below}/{'x' * 63}") == b"longest"
    assert s3_server.read("b", f"{below}/{'g' * 58}/hh/n") == b"n"
    assert found.status()["queue"]["failed"] == 0
