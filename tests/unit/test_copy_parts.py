"""The hands of a copy, each by itself: a full disk, a target that changes, odd names, Nextcloud."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mountd.cli import main
from mountd.errors import NameNotAllowed, RemoteError, Unreachable, VersionChanged
from mountd.remotes import call
from mountd.transfer.crew import Lane, Rate, Tally, work
from mountd.transfer.fetch import Fetch
from mountd.transfer.items import Item
from mountd.transfer.local_target import LocalTarget, partial_name
from mountd.transfer.plan import Copy
from mountd.transfer.record import Record
from mountd.transfer.run import Outlook, Run, Wish
from mountd.transfer.side import Side, list_local
from mountd.transfer.window import FIRST, Window
from tests.fakes.faulty_disk import FaultyDisk, no_room
from tests.fakes.memory_store import MemoryStore
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.s3.launch import S3Server


class Silent:
    """An audience that hears nothing."""

    def will(self, outlook: Outlook) -> None:
        self.outlook = outlook

    def going(self, outlook: Outlook, tally: Tally, rate: Rate) -> None:
        pass


def copies_of(store: MemoryStore) -> list[Copy]:
    entries = [row for page in store.list_tree("") for row in page]
    return [
        Copy(Item(key, entry.size, entry.mtime_ns, entry.version), None)
        for key, entry in entries
        if not entry.kind
    ]


def test_a_full_disk_stops_the_copy_and_leaves_no_half_file(tmp_path: Path) -> None:
    store, disk, tally = MemoryStore(), FaultyDisk(), Tally()
    for number in range(200):
        store.seed(f"{number}", b"x" * 100)
    out = tmp_path / "out"
    target = LocalTarget(os.fspath(out), disk)
    target.prepare()
    disk.fail("pwrite", "", no_room)
    with Record.open(tmp_path, "a", "b") as record:
        fetch = Fetch(Side("memory", store), target, record, tally, verify=False)
        work([Lane(fetch.light(copies_of(store)), 2)], tally, lambda: None)
        fetch.flush()
    assert tally.stop.is_set()
    assert 0 < len(tally.failures) < 5
    assert all(getattr(e, "errno", 0) == errno.ENOSPC for e in tally.failures.values())
    assert os.listdir(out) == []


def test_what_cant_be_brought_to_the_disk_gets_no_name(tmp_path: Path) -> None:
    store, disk, tally = MemoryStore(), FaultyDisk(), Tally()
    store.seed("a", b"x")
    target = LocalTarget(os.fspath(tmp_path / "out"), disk)
    target.prepare()
    disk.fail("sync_file_system", "", no_room)
    with Record.open(tmp_path, "a", "b") as record:
        fetch = Fetch(Side("memory", store), target, record, tally, verify=False)
        work([Lane(fetch.light(copies_of(store)), 2)], tally, lambda: None)
        fetch.flush()
    assert list(tally.failures) == ["a"]
    assert list_local(os.fspath(tmp_path / "out")).items == {}


def test_a_large_file_that_somebody_else_put_meanwhile_is_fetched_once_and_left(
    tmp_path: Path,
) -> None:
    store, out = MemoryStore({"big": bytes(9 << 20)}), tmp_path / "out"
    out.mkdir()

    class Puts(Silent):
        def will(self, outlook: Outlook) -> None:
            (out / "big").write_bytes(b"theirs")

    with Record.open(tmp_path, "a", "b") as record:
        target = Side("out", MemoryStore(), os.fspath(out))
        run = Run(Side("s", store), target, record, Wish(), Puts())
        run.go()
    assert isinstance(run.tally.failures["big"], VersionChanged)
    assert (out / "big").read_bytes() == b"theirs"
    assert store.calls["read"] == 2


def test_a_remote_that_is_gone_ends_the_copy_after_a_few_files(tmp_path: Path) -> None:
    store, tally = MemoryStore(), Tally()
    for number in range(200):
        store.seed(f"{number}", b"x")
    copies = copies_of(store)
    store.fail_always(Unreachable("gone"))
    target = LocalTarget(os.fspath(tmp_path / "out"))
    target.prepare()
    with Record.open(tmp_path, "a", "b") as record:
        fetch = Fetch(Side("memory", store), target, record, tally, verify=False)
        work([Lane(fetch.light(copies), 2)], tally, lambda: None)
    assert tally.stop.is_set()
    assert 8 <= len(tally.failures) < 20


@pytest.mark.parametrize("expected", [True, False])
def test_a_target_that_changed_since_its_listing_stays(tmp_path: Path, expected: bool) -> None:
    target = LocalTarget(os.fspath(tmp_path))
    (tmp_path / "a").write_bytes(b"listed")
    item = Item("a", 4, 0, "v")
    expect = list_local(os.fspath(tmp_path)).items["a"].version if expected else ""
    (tmp_path / "a").write_bytes(b"theirs!")
    fd = target.open_partial(item)
    target.write(fd, b"ours", 0)
    finished = target.finished(fd, item, 5, expect)
    os.close(fd)
    with pytest.raises(VersionChanged):
        target.place(finished)
    # Also where it comes to be in the last moment: a name that is there is not taken.
    with pytest.raises(VersionChanged):
        target.make_link(item, b"x", expect)
    with pytest.raises(VersionChanged):
        target.delete(replace(item, version=expect))
    assert (tmp_path / "a").read_bytes() == b"theirs!"


def test_a_partial_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/d").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    target = LocalTarget(os.fspath(tmp_path / "out"))
    with pytest.raises(NameNotAllowed):
        target.open_partial(Item("d/a", 1, 0, "v"))
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_partial_file_that_is_another_name_of_a_file_is_not_written_to(tmp_path: Path) -> None:
    item = Item("a", 4, 0, "v")
    (tmp_path / "secret").write_bytes(b"keep")
    os.link(tmp_path / "secret", tmp_path / partial_name(item))
    target = LocalTarget(os.fspath(tmp_path))
    fd = target.open_partial(item)
    target.write(fd, b"ours", 0)
    os.close(fd)
    assert (tmp_path / "secret").read_bytes() == b"keep"


def test_an_upload_whose_source_changes_is_sent_once_more_as_it_is_then(tmp_path: Path) -> None:
    source, target = MemoryStore(), MemoryStore()
    source.seed("a", b"old")
    with Record.open(tmp_path, "a", "b") as record:
        run = Run(Side("s", source), Side("t", target), record, Wish(), Changes(source))
        run.go()
    assert run.tally.failures == {}
    assert target.data("a") == b"newer"


class Changes(Silent):
    """Changes the source between the plan and the copy."""

    def __init__(self, source: MemoryStore) -> None:
        self._source = source

    def will(self, outlook: Outlook) -> None:
        self._source.seed("a", b"newer")


def test_what_somebody_else_put_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    source, target = MemoryStore(), MemoryStore()
    source.seed("a", b"ours")
    with Record.open(tmp_path, "a", "b") as record:
        run = Run(Side("s", source), Side("t", target), record, Wish(), Changes(target))
        run.go()
    assert isinstance(run.tally.failures["a"], RemoteError)
    assert target.data("a") == b"newer"


def test_a_file_larger_than_the_free_space_is_refused(
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    s3_server.seed("b", keys=["p/huge"], size=1 << 44)
    out = tmp_path / "out"
    cache = f"cache_dir={tmp_path / 'cache'}"
    assert main(["copy", "s3://b/p", os.fspath(out), "-o", cache]) == 1
    assert "do not fit" in capfd.readouterr().err
    assert not out.exists()


def test_nextcloud_gets_its_folders_and_keeps_times(
    nextcloud_server: NextcloudServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOUNTD_PASSWORD", nextcloud_server.password)
    url = f"nextcloud://{nextcloud_server.user}@cloud/new/place"
    options = ["-o", f"endpoint={nextcloud_server.url},cache_dir={tmp_path / 'cache'}"]
    local = tmp_path / "in"
    (local / "d/e").mkdir(parents=True)
    for name in ("a", "d/b", "d/e/c"):
        (local / name).write_bytes(name.encode())
        os.utime(local / name, (5, 1_500_000_000.5))
    assert main(["copy", os.fspath(local), url, *options]) == 0
    assert nextcloud_server.read("new/place/d/e/c") == b"d/e/c"
    nextcloud_server.clear_log()
    assert main(["copy", os.fspath(local), url, *options]) == 0
    assert {entry.method for entry in nextcloud_server.log()} <= {"PROPFIND", "GET"}
    out = tmp_path / "out"
    assert main(["copy", url, os.fspath(out), *options, "--verify"]) == 0
    assert (out / "d/e/c").read_bytes() == b"d/e/c"
    assert (out / "a").stat().st_mtime == 1_500_000_000
    nextcloud_server.put("new/place/d/e/extra", b"1")
    assert main(["copy", os.fspath(local), url, *options, "--delete"]) == 0
    assert nextcloud_server.node("new/place/d/e/extra") is None


def test_the_rate_is_that_of_the_last_seconds() -> None:
    now = [0.0]
    rate = Rate(lambda: now[0])
    assert rate.now(0) == 0.0
    for second in range(1, 31):
        now[0] = float(second)
        found = rate.now(100 * second if second <= 10 else 1000)
    assert found == 0.0
    assert rate.elapsed_s == 30


def test_requests_that_take_long_make_room_for_each_other() -> None:
    now = [0.0]
    window = Window(64, lambda: now[0])
    for _ in range(100):
        with window.slot():
            now[0] += 0.1
    assert window.allowed == 64
    with window.slot(), window.slot(), window.slot():
        now[0] += 20  # three that were under way together
    assert window.allowed == 32
    for _ in range(10):
        with window.slot():
            now[0] += 20
    assert window.allowed == 1
    assert Window(2).allowed == 2 < FIRST


def test_a_range_that_does_not_come_in_time_is_read_in_small_pieces(tmp_path: Path) -> None:
    class Slow(MemoryStore):
        """Brings a MiB in the time of a request, and no more."""

        def read(self, key: str, start: int, end: int, version: str) -> bytes:
            into = call.reads_into.get()
            if end - start > 1 << 20:
                assert into is not None
                into[:4] = b"half"
                raise Unreachable("timed out", answered=True)
            assert into is None  # the pieces would lie over each other
            return super().read(key, start, end, version)

    data = os.urandom((9 << 20) + 5)
    with Record.open(tmp_path, "a", "b") as record:
        target = Side("out", MemoryStore(), os.fspath(tmp_path / "out"))
        run = Run(Side("s", Slow({"big": data})), target, record, Wish(), Silent())
        run.go()
    assert run.tally.failures == {}
    assert (tmp_path / "out/big").read_bytes() == data


@pytest.mark.parametrize(("count", "syncs"), [(3, 0), (200, 1)])
def test_names_are_brought_to_the_disk_by_directory_or_all_at_once_where_there_are_many(
    tmp_path: Path, count: int, syncs: int
) -> None:
    disk = FaultyDisk()
    target = LocalTarget(os.fspath(tmp_path / "out"), disk)
    paths = [f"d/{number}/f" for number in range(count)]
    target.prepare()
    for path in paths:
        (tmp_path / "out" / path).parent.mkdir(parents=True)
    target.sync_names(paths)
    assert disk.calls.get("sync_file_system", 0) == syncs
    # Each directory, the one above them, the root and what the root is in.
    assert disk.calls.get("fsync_dir", 0) == (0 if syncs else count + 3)
