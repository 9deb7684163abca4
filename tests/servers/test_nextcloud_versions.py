"""nextcloud:// on a local disk, where different contents of a file may have one ETag."""

import hashlib
from collections.abc import Callable, Iterator

import pytest

from mountd.errors import VersionChanged
from mountd.remotes.base import ABSENT, Upload
from mountd.remotes.nextcloud import NextcloudStore, Uploading
from tests.fakes.body import BytesBody
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.nextcloud.stores import opening

pytestmark = pytest.mark.server

MTIME_S = 1_600_000_000
CHUNK = 64 << 10
OpenStore = Callable[[], NextcloudStore]


@pytest.fixture
def open_store(nextcloud_server: NextcloudServer) -> Iterator[OpenStore]:
    with opening(nextcloud_server) as open_one:
        yield lambda: open_one(Uploading(CHUNK, (0.02,), (0.02,)))


def sum_of(data: bytes) -> str:
    return f"SHA1:{hashlib.sha1(data, usedforsecurity=False).hexdigest()}"


class Theirs:
    """Writes of one client, all with one mtime: of one size they have one ETag."""

    def __init__(self, server: NextcloudServer, key: str, *, with_sum: bool) -> None:
        self._server = server
        self._key = key
        self._with_sum = with_sum
        self._now_s = 1_700_000_000

    def put(self, data: bytes) -> str:
        """The ETag. Each one is of another second."""
        self._now_s += 1
        self._server.configure(clock_s=self._now_s)
        checksum = sum_of(data) if self._with_sum else ""
        return self._server.put(self._key, data, mtime_s=MTIME_S, checksum=checksum).etag


@pytest.fixture(params=[True, False], ids=["with a sum", "without a sum"])
def theirs(nextcloud_server: NextcloudServer, request: pytest.FixtureRequest) -> Theirs:
    return Theirs(nextcloud_server, "d/f", with_sum=request.param)


def test_what_has_the_same_etag_and_size_is_another_version(
    open_store: OpenStore, theirs: Theirs
) -> None:
    store = open_store()
    etag = theirs.put(b"first bytes")
    first = store.stat("d/f")
    assert theirs.put(b"other bytes") == etag
    other = store.stat("d/f")
    assert other.version != first.version
    (listed,) = (entry for page in store.list("d/") for entry in page)
    assert listed == other == open_store().stat("d/f") == store.identify("d/f").entry


def test_no_range_is_of_other_bytes_with_the_same_etag(
    open_store: OpenStore, theirs: Theirs
) -> None:
    store = open_store()
    theirs.put(b"first bytes")
    first = store.stat("d/f").version
    assert store.read("d/f", 0, 6, first) == b"first "
    theirs.put(b"other bytes")
    for start, end in ((0, 1), (6, 11), (3, 8)):
        with pytest.raises(VersionChanged):
            store.read("d/f", start, end, first)


def test_a_range_is_one_request_where_its_file_has_a_sum_and_else_a_look_follows(
    open_store: OpenStore, theirs: Theirs, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    theirs.put(b"first bytes")
    version = store.stat("d/f").version
    nextcloud_server.clear_log()
    assert store.read("d/f", 3, 8, version) == b"st by"
    assert store.read("d/f", 0, 11, version) == b"first bytes"
    methods = [entry.method for entry in nextcloud_server.log()]
    assert methods == (["GET", "GET"] if "SHA1" in version else ["GET", "PROPFIND", "GET"])


@pytest.mark.parametrize("size", [5, 3 * CHUNK], ids=["small", "in chunks"])
def test_nothing_replaces_or_deletes_other_bytes_with_the_same_etag(
    open_store: OpenStore, theirs: Theirs, nextcloud_server: NextcloudServer, size: int
) -> None:
    store = open_store()
    theirs.put(b"first")
    first = store.stat("d/f").version
    theirs.put(b"other")
    with pytest.raises(VersionChanged):
        store.put("d/f", BytesBody(bytes(size)), first, Upload("id", MTIME_S * 10**9))
    with pytest.raises(VersionChanged):
        store.delete("d/f", first)
    assert nextcloud_server.read("d/f") == b"other"


def test_what_came_with_the_same_etag_while_chunks_went_stays(
    open_store: OpenStore, theirs: Theirs, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    theirs.put(b"first")

    def meanwhile(start: int, end: int) -> None:
        if start == 2 * CHUNK:
            theirs.put(b"other")

    body = BytesBody(bytes(3 * CHUNK), meanwhile)
    with pytest.raises(VersionChanged):
        store.put("d/f", body, store.stat("d/f").version, Upload("id", MTIME_S * 10**9))
    assert nextcloud_server.read("d/f") == b"other"
    assert nextcloud_server.uploads() == {}


@pytest.mark.parametrize("size", [5, 3 * CHUNK], ids=["small", "in chunks"])
def test_our_own_uploads_within_a_second_are_versions_that_listings_show(
    open_store: OpenStore, nextcloud_server: NextcloudServer, size: int
) -> None:
    nextcloud_server.configure(clock_s=1_700_000_000)
    store = open_store()
    version = ABSENT
    for byte in (b"a", b"b", b"c"):
        upload = Upload("id", MTIME_S * 10**9)
        made = store.put("f", BytesBody(byte * size), version, upload)
        assert made.version != version
        assert made == store.stat("f")
        assert store.identify("f").upload_id == "id"
        version = made.version
    assert nextcloud_server.read("f") == b"c" * size


def test_an_assembly_whose_answer_is_lost_is_known_although_the_etag_stayed(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    upload = Upload("id", MTIME_S * 10**9)
    first = store.put("f", BytesBody(b"a" * 3 * CHUNK), ABSENT, upload)
    for byte in (b"b", b"b"):
        nextcloud_server.faults({"op": "Assemble", "times": 1, "lose_reply": True})
        first = store.put("f", BytesBody(byte * 3 * CHUNK), first.version, upload)
        assert nextcloud_server.read("f") == byte * 3 * CHUNK
        assert first == store.stat("f")


def test_an_mtime_that_the_server_can_not_take_is_left_out(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    for mtime_s in (-5, 0, 1, 86_400):
        for size in (5, 3 * CHUNK):
            key = f"f{mtime_s}-{size}"
            made = store.put(key, BytesBody(bytes(size)), ABSENT, Upload("id", mtime_s * 10**9))
            assert made == store.stat(key)
            assert made.mtime_ns > 10**18
    assert store.capabilities.keeps_mtime
    made = store.put("f", BytesBody(b"1"), ABSENT, Upload("id", 86_401 * 10**9))
    assert made.mtime_ns == 86_401 * 10**9
