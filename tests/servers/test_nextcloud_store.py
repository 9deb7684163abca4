"""nextcloud:// and small files, names, room and listings, on the Nextcloud-shaped server."""

import threading
from collections.abc import Callable, Iterator

import pytest

from mountd.errors import (
    Corrupt,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, Quota, Upload
from mountd.remotes.nextcloud import NextcloudStore, Uploading
from tests.fakes.body import BytesBody
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.nextcloud.stores import opening

pytestmark = pytest.mark.server

MTIME_NS = 1_600_000_000_000_000_000
OpenStore = Callable[[], NextcloudStore]


@pytest.fixture
def open_store(nextcloud_server: NextcloudServer) -> Iterator[OpenStore]:
    waits_s = (0.02,) * 8
    with opening(nextcloud_server) as open_one:
        yield lambda: open_one(Uploading(1 << 20, waits_s, waits_s))


def put(store: NextcloudStore, key: str, data: bytes, expect: str | None = ABSENT) -> str:
    return store.put(key, BytesBody(data), expect, Upload("id", MTIME_NS)).version


def test_capabilities_are_asked_for_once_and_then_a_listing_is_one_request(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.mkdir("d")
    store = open_store()
    assert store.capabilities.name_rules is None
    for directory in ("", "d/", ""):
        list(store.list(directory))
    assert [entry.method for entry in nextcloud_server.log()] == ["GET"] + ["PROPFIND"] * 3
    able = store.capabilities
    # Its conditions know an ETag only, and that may be another content's, too.
    assert (able.conditional_put, able.conditional_delete) == (False, False)
    assert (able.strong_version, able.keeps_mtime) == (False, True)
    assert able.name_rules is not None
    assert store.features.version == "32.0.1"


def test_a_listing_that_is_not_read_to_its_end_holds_no_connection(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    # Of 4 that may be asked at once, and 2 more connections: as many listings hung for good.
    nextcloud_server.seed(paths=["small/a", *(f"large/{n}" for n in range(1500))], size=1)
    store = open_store()
    begun = [iter(store.list(name)) for name in ["small/"] * 8 + ["large/"] * 8]
    firsts = [len(next(pages)) for pages in begun]
    found = [first + sum(map(len, pages)) for first, pages in zip(firsts, begun, strict=True)]
    assert found == [1] * 8 + [1500] * 8


def test_another_process_knows_by_the_sum_what_was_sent(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    first = open_store()
    put(first, "f", b"data")
    assert first.identify("f").upload_id == "id"
    found = open_store().identify("f")
    assert (found.upload_id, found.md5) == ("", "8d777f385d3dfec8815d20f7496026dc")
    nextcloud_server.put("f", b"theirs")
    assert (first.identify("f").upload_id, first.identify("f").md5) == ("", "")


def test_a_whole_download_is_compared_with_its_sum_and_a_part_is_not(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    wrong = "MD5:" + "0" * 32
    nextcloud_server.put("f", b"data", checksum=wrong)
    store = open_store()
    version = store.stat("f").version
    assert store.read("f", 0, 3, version) == b"dat"
    with pytest.raises(Corrupt, match="MD5"):
        store.read("f", 0, 4, version)


def test_tags_that_a_web_server_has_rewritten_are_still_the_same_version(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(gzip_etags=True)
    store = open_store()
    version = put(store, "f", b"data")
    assert store.stat("f").version == version
    assert store.read("f", 0, 4, version) == b"data"
    assert put(store, "f", b"more", version) != version


@pytest.mark.parametrize("name", ["a.part", ".htaccess", "a\\b", "a\nb", "n" * 251])
def test_a_name_that_the_server_forbids_is_refused_without_sending_it(
    open_store: OpenStore, nextcloud_server: NextcloudServer, name: str
) -> None:
    store = open_store()
    list(store.list(""))
    nextcloud_server.clear_log()
    for call in (lambda: put(store, name, b"x"), lambda: store.make_dir(f"{name}/")):
        with pytest.raises(NameNotAllowed):
            call()
    assert nextcloud_server.log() == []
    rules = store.capabilities.name_rules
    assert rules is not None
    assert not rules.allow(name)


def test_room_is_told_and_its_lack_is_a_quota_error(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    put(store, "f", b"data")
    assert store.quota() == Quota(4, None)
    nextcloud_server.configure(quota_bytes=10)
    assert store.quota() == Quota(4, 6)
    with pytest.raises(QuotaExceeded):
        put(store, "g", b"too much")
    assert nextcloud_server.tree() == ["f"]


def test_a_directory_moves_in_one_request_and_its_files_stay_what_they_are(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    before = nextcloud_server.put("a/b/f", b"data")
    nextcloud_server.mkdir("taken")
    list(store.list(""))
    assert store.capabilities.native_move
    nextcloud_server.clear_log()
    store.move_dir("a/", "c/")
    assert [entry.method for entry in nextcloud_server.log()] == ["MOVE"]
    assert nextcloud_server.node("c/b/f") == before
    with pytest.raises(VersionChanged):
        store.move_dir("c/", "taken/")
    with pytest.raises(NotFound):
        store.move_dir("gone/", "new/")
    with pytest.raises(NotFound):
        store.move_dir("c/", "gone/new/")
    with pytest.raises(NameNotAllowed):
        store.move_dir("c/", "x.part/")
    for key in ("c/", "c/d/", ""):
        with pytest.raises(Unsupported):
            store.move_dir("c/", key)
    assert sorted(nextcloud_server.tree()) == ["c/", "c/b/", "c/b/f", "taken/"]


def test_what_is_deleted_is_in_the_trash(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    store.make_dir("d/")
    put(store, "d/f", b"data")
    store.delete("d/f", None)
    store.remove_dir("d/")
    assert [each["original"] for each in nextcloud_server.trash()] == ["d/f", "d"]


def test_of_many_who_replace_a_file_at_once_one_wins_and_the_others_are_told(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    version = put(store, "f", b"first")
    nextcloud_server.faults({"method": "PUT", "latency_ms": 20.0})
    outcomes: list[str | RemoteError] = []

    def write(number: int) -> None:
        try:
            outcomes.append(put(store, "f", b"%d" % number, version))
        except RemoteError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [each for each in outcomes if isinstance(each, str)]
    assert len(won) == 1
    assert all(isinstance(each, VersionChanged | str) for each in outcomes)
    assert store.stat("f").version == won[0]


def test_a_server_without_capabilities_is_served_as_plain_webdav(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.faults({"op": "Capabilities", "status": 404})
    nextcloud_server.mkdir("d")
    store = open_store()
    assert [entry.version for page in store.list("") for entry in page] == [""]
    version = put(store, "d/f", b"data")
    assert store.read("d/f", 0, 4, version) == b"data"
    assert put(store, "d/f", bytes(3 << 20), version) != version
    store.delete("d/f", None)
    store.remove_dir("d/")
    assert nextcloud_server.tree() == []
    assert not store.features.is_nextcloud
    assert nextcloud_server.log(tree="uploads") == []
    assert len(nextcloud_server.log(op="Capabilities")) == 1


def test_an_upload_without_a_length_never_goes_out(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    put(store, "empty", b"")
    put(store, "large", bytes(3 << 20))
    for entry in nextcloud_server.log(method="PUT"):
        assert entry.headers["content-length"].isdigit()
        assert "transfer-encoding" not in entry.headers
