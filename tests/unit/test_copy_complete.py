"""`mountd copy --delete` and `--delete=force`: what has to be known of SOURCE before DEST loses
anything; and a file one of whose ranges ends in an unforeseen way."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from mountd.cli import main
from mountd.errors import NotFound
from mountd.transfer.crew import Tally
from mountd.transfer.fetch import Fetch
from mountd.transfer.items import Item
from mountd.transfer.local_target import LocalTarget
from mountd.transfer.plan import Copy
from mountd.transfer.record import Record
from mountd.transfer.side import Side, list_side
from mountd.types import Entry
from tests.fakes.memory_store import MemoryStore
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.s3.launch import S3Server

pytestmark = pytest.mark.usefixtures("own_places")

MIB = 1 << 20


def copy(*arguments: object) -> int:
    return main(["copy", *map(str, arguments)])


def files(root: Path) -> dict[str, bytes]:
    found = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


@pytest.mark.server
def test_a_folder_that_was_listed_and_then_is_not_found_keeps_everything_at_dest(
    nextcloud_server: NextcloudServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MOUNTD_PASSWORD", nextcloud_server.password)
    url = f"nextcloud://{nextcloud_server.user}@cloud/set"
    options = ["-o", f"endpoint={nextcloud_server.url}"]
    for name in ("a", "there/b", "tmp/c"):
        nextcloud_server.put(f"set/{name}", name.encode())
    out = tmp_path / "out"
    assert copy(url, out, *options) == 0
    everything = files(out)
    assert sorted(everything) == ["a", "there/b", "tmp/c"]
    (out / "extra").write_bytes(b"1")
    nextcloud_server.faults({"op": "Propfind", "path": "there", "status": 404})
    for verb in ("--delete", "--delete=force"):
        assert copy(url, out, *options, verb) == 1
        assert files(out) == {**everything, "extra": b"1"}
        said = capfd.readouterr()
        assert "there/: it was listed, and gone when" in said.err
        assert "nothing deleted" in said.out
    # What is left out anyhow may be gone.
    assert copy(url, out, *options, "--delete", "--exclude", "there") == 0
    assert files(out) == everything


def open_below(directory: Path) -> list[str]:
    """What this process has open there."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(f"{directory}/")]


def test_a_local_folder_that_goes_while_it_is_listed_keeps_everything_at_dest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("in/a", "in/d/b", "out/d/b", "out/extra"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    scan = os.scandir

    def scanned(path: str) -> object:
        if path == os.fspath(tmp_path / "in/d"):
            raise FileNotFoundError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scanned)
    assert copy(tmp_path / "in", tmp_path / "out", "--delete") == 1
    assert sorted(files(tmp_path / "out")) == ["a", "d/b", "extra"]
    assert "d/: it was listed, and gone when" in capfd.readouterr().err


def test_a_listing_that_ends_with_not_found_is_no_empty_one() -> None:
    class Cut(MemoryStore):
        """Is not found any more at its second page."""

        def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
            yield next(super().list_tree(directory))
            raise NotFound(directory)

    with pytest.raises(NotFound):
        list_side(Side("s", Cut({"a": b"1", "b": b"2"}, page_size=1)), links=False)


@pytest.mark.server
def test_force_deletes_nothing_for_a_name_in_a_bucket_that_may_be_misspelt(
    s3: S3Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    s3.put("b", "set/a", b"1")
    assert copy("s3://b/set", out) == 0
    assert copy("s3://b/sett", out, "--delete=force") == 2
    assert "a misspelt name is an empty folder" in capfd.readouterr().err
    assert copy("s3://gone/set", out, "--delete=force") == 4
    assert files(out) == {"a": b"1"}
    # Once there was something there: then it is empty by now.
    s3.delete("b", "set/a")
    assert copy("s3://b/set", out, "--delete") == 2
    assert copy("s3://b/set", out, "--delete=force") == 0
    assert files(out) == {}
    # A folder of its own, or the bucket itself, can't be misspelt.
    for name, source in (("marked/", "s3://b/marked"), ("", "s3://b")):
        if name:
            s3.put("b", name, b"")
        else:
            s3.delete("b", "marked/")
        (out / "b").write_bytes(b"2")
        assert copy(source, out, "--delete=force") == 0
        assert files(out) == {}


@pytest.mark.server
def test_force_deletes_nothing_for_a_folder_that_a_server_has_not(
    nextcloud_server: NextcloudServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOUNTD_PASSWORD", nextcloud_server.password)
    account = f"nextcloud://{nextcloud_server.user}@cloud"
    options = ["-o", f"endpoint={nextcloud_server.url}"]
    nextcloud_server.mkdir("empty")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_bytes(b"1")
    assert copy(f"{account}/emty", out, *options, "--delete=force") == 1
    assert files(out) == {"a": b"1"}
    assert copy(f"{account}/empty", out, *options, "--delete=force") == 0
    assert files(out) == {}


@pytest.mark.parametrize("panics", [RuntimeError("defect"), KeyboardInterrupt()])
def test_a_range_that_ends_in_an_unforeseen_way_ends_its_file_with_the_others(
    tmp_path: Path, panics: BaseException
) -> None:
    class Broken(MemoryStore):
        def read(self, key: str, start: int, end: int, version: str) -> bytes:
            if start:
                raise panics
            return super().read(key, start, end, version)

    out, tally = tmp_path / "out", Tally()
    store = Broken({"big": b"x" * 20 * MIB})
    item = Item("big", 20 * MIB, 0, store.stat("big").version)
    with Record.open(tmp_path, "a", "b") as record:
        target = LocalTarget(os.fspath(out))
        target.prepare()
        fetch = Fetch(Side("s", store), target, record, tally, verify=False)
        jobs = list(fetch.heavy([Copy(item, None)]))
        jobs[0]()
        assert open_below(out)
        for job in jobs[1:]:
            with suppress(type(panics)):
                job()
    assert list(tally.failures) == ["big"]
    assert not open_below(out)
    assert files(out).get("big") is None
