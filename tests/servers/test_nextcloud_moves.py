"""A file of a Nextcloud that gets another name by one MOVE, and what keeps it from that."""

from collections.abc import Iterator

import pytest

from mountd.errors import NotFound, Unsupported, VersionChanged
from mountd.remotes.nextcloud import NextcloudStore
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.nextcloud.stores import opening

pytestmark = pytest.mark.server


@pytest.fixture
def store(nextcloud_server: NextcloudServer) -> Iterator[NextcloudStore]:
    with opening(nextcloud_server) as open_store:
        yield open_store()


def version_of(store: NextcloudStore, key: str) -> str:
    return store.identify(key).entry.version


@pytest.mark.parametrize(("key", "looks"), [("g ü#%", 2), ("d/g", 3)])
def test_it_keeps_its_id_and_version_and_is_one_move(
    store: NextcloudStore, nextcloud_server: NextcloudServer, key: str, looks: int
) -> None:
    before = nextcloud_server.put("f", b"data", mtime_s=1_700_000_000)
    nextcloud_server.mkdir("d")
    version = version_of(store, "f")
    assert store.capabilities.moves_files
    nextcloud_server.clear_log()
    made = store.move_file("f", version, key)
    sent = [entry.method for entry in nextcloud_server.log()]
    assert sorted(sent) == ["MOVE"] + ["PROPFIND"] * looks
    after = nextcloud_server.node(key)
    assert after is not None
    assert (after.fileid, after.etag) == (before.fileid, before.etag)
    assert (made.version, made.mtime_ns) == (version, 1_700_000_000 * 10**9)
    assert nextcloud_server.trash() == []
    with pytest.raises(NotFound):
        store.move_file("f", version, key)


def test_another_version_and_a_taken_name_and_a_missing_directory_are_told(
    store: NextcloudStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("f", b"data")
    version = version_of(store, "f")
    nextcloud_server.put("g", b"theirs")
    with pytest.raises(VersionChanged):
        store.move_file("f", version, "g")
    with pytest.raises(NotFound):
        store.move_file("f", version, "missing/f")
    nextcloud_server.put("f", b"newer")
    with pytest.raises(VersionChanged):
        store.move_file("f", version, "h")
    assert nextcloud_server.tree() == ["f", "g"]
    assert nextcloud_server.read("g") == b"theirs"


@pytest.mark.parametrize("ends", [("away/f", "away/g"), ("away/f", "g"), ("h", "away/g")])
def test_what_is_in_another_storage_is_not_moved(
    store: NextcloudStore, nextcloud_server: NextcloudServer, ends: tuple[str, str]
) -> None:
    nextcloud_server.put("away/f", b"data")
    nextcloud_server.put("h", b"data")
    nextcloud_server.mount("away", "external")
    with pytest.raises(Unsupported):
        store.move_file(ends[0], version_of(store, ends[0]), ends[1])
    assert nextcloud_server.tree() == ["away/", "away/f", "h"]


def test_its_tag_goes_with_the_move_so_what_changes_after_the_look_stays(
    nextcloud_server: NextcloudServer, store: NextcloudStore
) -> None:
    nextcloud_server.put("f", b"data")
    version = version_of(store, "f")
    nextcloud_server.clear_log()
    store.move_file("f", version, "g")
    (sent,) = (entry for entry in nextcloud_server.log() if entry.method == "MOVE")
    tag = version.split(";")[0]
    assert tag in sent.headers["if"]
    assert sent.headers["overwrite"] == "F"
