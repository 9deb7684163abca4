"""webdav:// writes against the real servers: what is proved about each, and connections that are
cut in the middle."""

import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import NameNotAllowed, NotFound, Unreachable, VersionChanged
from mountd.remotes.base import ABSENT, Upload
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.webdav import WebdavStore, open_webdav
from mountd.remotes.webdav_changes import DavChanges
from mountd.remotes.webdav_leftovers import Leftovers
from mountd.remotes.webdav_probe import Enforced, Probe, Proof
from mountd.remotes.webdav_read import DavReader
from tests.fakes.body import BytesBody
from tests.servers.apache import running_apache
from tests.servers.cutting_proxy import cutting_proxy
from tests.servers.dav import PASSWORD, USER, DavServer
from tests.servers.rclone import running_rclone_webdav
from tests.servers.wsgidav import running_wsgidav

pytestmark = pytest.mark.server

OLD = b"old " * 25_000
NEW = b"new!" * 100_000
Run = Callable[[Path], AbstractContextManager[DavServer]]
RUNS: dict[str, Run] = {
    "apache": running_apache,
    "wsgidav": running_wsgidav,
    "rclone": running_rclone_webdav,
}


@pytest.fixture(scope="module", params=RUNS)
def named(request: pytest.FixtureRequest) -> Iterator[tuple[str, DavServer]]:
    with (
        tempfile.TemporaryDirectory(prefix="mountd-writes-") as directory,
        RUNS[request.param](Path(directory)) as server,
    ):
        yield request.param, server


@pytest.fixture
def server(named: tuple[str, DavServer]) -> DavServer:
    return named[1]


@pytest.fixture
def place(server: DavServer, request: pytest.FixtureRequest) -> Path:
    """A directory of its own for each test."""
    directory = server.files / f"{request.node.originalname}-{uuid.uuid4().hex[:8]}"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


@pytest.fixture
def open_at(place: Path) -> Iterator[Callable[[str], WebdavStore]]:
    opened: list[WebdavStore] = []

    def opener(authority: str) -> WebdavStore:
        source = Source("webdav+http", authority, place.name, "webdav+http://x")
        opened.append(open_webdav(source, settings()))
        return opened[-1]

    yield opener
    for store in opened:
        store.close()


OpenAt = Callable[[str], WebdavStore]


def settings() -> Settings:
    return Settings(
        cache_dir=Path("/nonexistent"),
        request_timeout_s=20.0,
        credentials={"user": USER, "password": PASSWORD},
    )


def put(store: WebdavStore, key: str, data: bytes, expect: str | None = ABSENT) -> str:
    return store.put(key, BytesBody(data), expect, Upload(f"id of {len(data)}")).version


def content(store: WebdavStore, key: str) -> bytes:
    entry = store.stat(key)
    return bytes(store.read(key, 0, entry.size, entry.version))


def listed(store: WebdavStore) -> list[str]:
    return sorted(entry.name for page in store.list("") for entry in page)


# What each server does. Where one of these fails, a new release does better or worse.
PROVED = {
    "apache": Proof(Enforced(other=True, gone=True, taken=True), True, None, True, False, True),
    "wsgidav": Proof(Enforced(other=True, taken=True), True, None, True, False, False),
    "rclone": Proof(Enforced(gone=True, taken=True), False, None, True, True, True),
}


def test_what_each_server_enforces_is_proved_and_nothing_stays(
    named: tuple[str, DavServer], place: Path
) -> None:
    name, server = named
    headers = {"Authorization": "Basic dGVzdGVyOmNvcnJlY3QgaG9yc2U="}
    pool = HttpPool(server.url, headers, 4, 5.0)
    changes = DavChanges(pool, f"/{place.name}")
    finds = DavReader(pool, f"/{place.name}", Leftovers())
    assert Probe(finds, changes, "", pool.deadline_s()).run() == PROVED[name]
    pool.close()
    assert [path.name for path in place.iterdir() if path.name != ".DAV"] == []


def test_nothing_is_proved_before_the_first_write(
    server: DavServer, place: Path, open_at: OpenAt
) -> None:
    with cutting_proxy(server) as proxy:
        store = open_at(proxy.authority)
        assert listed(store) == []
        before = store.capabilities
        assert not before.keeps_mtime
        assert before.server_copy
        assert len(proxy.heads) == 1
        put(store, "a", b"1")
        first = len(proxy.heads)
        put(store, "b", b"1")
        methods = [head.split()[0] for head in proxy.heads[first:]]
    assert methods == ["PUT", "PROPFIND", "MOVE"]


@pytest.mark.parametrize("over", [True, False], ids=["over a file", "new"])
def test_an_upload_that_is_cut_tears_nothing(
    server: DavServer, place: Path, open_at: OpenAt, over: bool
) -> None:
    with cutting_proxy(server) as proxy:
        store, reader = open_at(proxy.authority), open_at(server.authority)
        put(store, "other", b"so that everything is proved")
        expect = put(store, "file", OLD) if over else ABSENT
        proxy.cut(b"PUT", 150_000)
        with pytest.raises(Unreachable):
            put(store, "file", NEW, expect)
        assert proxy.happened.is_set()
        if over:
            assert content(reader, "file") == OLD
            assert store.stat("file").version == expect
        assert listed(reader) == (["file", "other"] if over else ["other"])
        put(store, "file", NEW, expect)
        assert content(reader, "file") == NEW
    assert [name for name in os.listdir(place) if name.startswith(".mountd")] == []


def test_readers_see_the_old_or_the_new_file_while_it_is_replaced_slowly(
    server: DavServer, place: Path, open_at: OpenAt
) -> None:
    store, reader = open_at(server.authority), open_at(server.authority)
    version = put(store, "file", OLD)
    seen: list[bytes] = []

    def look(start: int, end: int) -> None:
        seen.append(content(reader, "file"))

    large = BytesBody(bytes(3 << 20), look)
    store.put("file", large, version, Upload())
    assert len(seen) == 3
    assert set(seen) == {OLD}
    assert content(reader, "file") == bytes(3 << 20)


def test_a_move_whose_answer_is_lost_can_be_told_by_its_upload_id(
    server: DavServer, place: Path, open_at: OpenAt
) -> None:
    with cutting_proxy(server) as proxy:
        store = open_at(proxy.authority)
        version = put(store, "file", OLD)
        proxy.lose_answer(b"MOVE")
        with pytest.raises(Unreachable):
            store.put("file", BytesBody(NEW), version, Upload("mine"))
        assert proxy.happened.is_set()
        found = store.identify("file")
        assert (found.upload_id, found.entry.size, found.md5) == ("mine", len(NEW), "")
        assert content(store, "file") == NEW
        with pytest.raises(VersionChanged):
            put(store, "file", b"once more", version)
    other = open_at(server.authority)
    assert other.identify("file").upload_id == ""


def test_a_file_is_identified_as_ours_only_while_it_is(
    server: DavServer, place: Path, open_at: OpenAt
) -> None:
    store, other = open_at(server.authority), open_at(server.authority)
    version = store.put("file", BytesBody(b"1"), ABSENT, Upload("mine")).version
    assert store.identify("file").upload_id == "mine"
    put(other, "file", b"theirs", version)
    assert store.identify("file").upload_id == ""


def test_names_that_a_server_would_misread_are_refused_and_hit_no_other_file(
    named: tuple[str, DavServer], place: Path, open_at: OpenAt
) -> None:
    name, server = named
    store = open_at(server.authority)
    put(store, "a", b"the bystander")
    for key in ("a?b", "a;b"):
        if PROVED[name].odd_names:
            put(store, key, b"odd", None)
            assert content(store, key) == b"odd"
        else:
            with pytest.raises(NameNotAllowed):
                put(store, key, b"odd", None)
    assert content(store, "a") == b"the bystander"


def test_a_first_write_below_a_misread_directory_hits_no_other_file(
    named: tuple[str, DavServer], place: Path, open_at: OpenAt
) -> None:
    name, server = named
    store = open_at(server.authority)
    (place / "a").write_bytes(b"the bystander")
    store.make_dir("a?b/")
    if PROVED[name].odd_names:
        put(store, "a?b/file", b"odd")
        assert content(store, "a?b/file") == b"odd"
    else:
        with pytest.raises(NameNotAllowed):
            put(store, "a?b/file", b"odd")
    assert content(store, "a") == b"the bystander"
    assert listed(store) == ["a", "a?b"]


def test_a_directory_is_never_taken_for_a_file(
    server: DavServer, place: Path, open_at: OpenAt
) -> None:
    store = open_at(server.authority)
    store.make_dir("d/")
    inside = put(store, "d/inside", b"1")
    for expect in (ABSENT, None, inside):
        with pytest.raises((NameNotAllowed, VersionChanged)):
            put(store, "d", b"over it", expect)
        with pytest.raises((NameNotAllowed, VersionChanged)):
            store.copy("d/inside", inside, "d", expect, Upload())
        with pytest.raises((NotFound, VersionChanged)):
            store.delete("d", expect)
    assert content(store, "d/inside") == b"1"


def test_a_leftover_of_yesterday_is_removed_with_a_write_and_a_young_one_is_not(
    server: DavServer, place: Path, open_at: OpenAt
) -> None:
    names = [f".mountd-{kind}-{digit * 32}" for kind in ("tmp", "probe") for digit in "0f"]
    for name in names:
        (place / name).write_bytes(b"left")
        if "0" in name:
            os.utime(place / name, (1_000_000_000, 1_000_000_000))
    store = open_at(server.authority)
    assert listed(store) == []
    for n in range(3):
        put(store, f"file-{n}", b"1")
    left = sorted(name for name in os.listdir(place) if name.startswith(".mountd"))
    assert left == sorted(name for name in names if "f" * 32 in name)
    store.delete("file-0", None)
    assert listed(store) == ["file-1", "file-2"]


def test_a_directory_with_nothing_but_leftovers_is_empty(
    server: DavServer, place: Path, open_at: OpenAt
) -> None:
    store = open_at(server.authority)
    store.make_dir("d/")
    store.make_dir("d/e/")
    put(store, "d/e/file", b"1")
    (place / "d/e" / f".mountd-tmp-{'0' * 32}").write_bytes(b"left")
    store.delete("d/e/file", None)
    store.remove_dir("d/e/")
    assert listed(store) == ["d"]
    assert list((place / "d").glob("e*")) == []


def test_many_first_writers_prove_once(server: DavServer, place: Path, open_at: OpenAt) -> None:
    with cutting_proxy(server) as proxy:
        store = open_at(proxy.authority)
        threads = [threading.Thread(target=put, args=(store, f"file-{n}", b"1")) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert listed(store) == [f"file-{n}" for n in range(6)]
        probes = [h for h in proxy.heads if h.startswith("PUT") and ".mountd-probe-" in h]
    assert len(probes) <= 6
