"""nextcloud:// and large files: what goes beside what, and what is asked before the first chunk."""

import hashlib
import threading
from collections.abc import Callable, Iterator

import pytest

from mountd.errors import VersionChanged
from mountd.remotes.base import ABSENT, Upload
from mountd.remotes.nextcloud import NextcloudStore, Uploading
from tests.fakes.body import BytesBody
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.nextcloud.stores import opening

pytestmark = pytest.mark.server

CHUNK = 64 << 10
DATA = bytes(range(256)) * (6 * CHUNK // 256)
OpenStore = Callable[[], NextcloudStore]


@pytest.fixture
def open_store(nextcloud_server: NextcloudServer) -> Iterator[OpenStore]:
    with opening(nextcloud_server) as open_one:
        yield lambda: open_one(Uploading(CHUNK))


def put(store: NextcloudStore, body: BytesBody) -> None:
    made = store.put("big", body, ABSENT, Upload("id", 1_600_000_000 * 10**9))
    assert made.version.endswith(hashlib.md5(DATA).hexdigest())


def ops(server: NextcloudServer) -> list[str]:
    return [entry.op for entry in server.log()]


def test_where_changes_were_prepared_only_what_must_be_goes_before_the_first_chunk(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    store.prepare_changes()
    store.prepare_changes()
    assert ops(nextcloud_server) == ["Capabilities"]
    nextcloud_server.clear_log()
    put(store, BytesBody(DATA))
    beside = ("Unknown", "ListUpload")  # OPTIONS, too: the sweep, which nothing waits for
    asked = [op for op in ops(nextcloud_server) if op not in beside]
    first = asked.index("PutChunk")
    assert sorted(asked[:first]) == ["MakeUpload", "Propfind", "Propfind"]


def test_an_upload_waits_for_no_look_for_old_folders(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.faults({"op": "ListUpload", "hold": True})
    put(open_store(), BytesBody(DATA))
    asked = nextcloud_server.wait_for_requests(1, op="ListUpload")
    assert [entry.status for entry in asked] == [0]
    assert nextcloud_server.read("big") == DATA
    nextcloud_server.release()


def test_the_folder_is_made_while_the_destination_is_looked_at(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    store.prepare_changes()
    nextcloud_server.clear_log()
    nextcloud_server.faults({"op": "Propfind", "hold": True, "times": 2})
    sending = threading.Thread(target=put, args=(store, BytesBody(DATA)), daemon=True)
    sending.start()
    found = nextcloud_server.wait_for_requests(3)
    assert sorted(entry.op for entry in found) == ["MakeUpload", "Propfind", "Propfind"]
    nextcloud_server.release()
    sending.join(20.0)
    assert nextcloud_server.read("big") == DATA


def test_what_is_in_the_way_is_known_before_the_bytes_go_and_leaves_no_folder(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("big", b"theirs")
    told: list[str] = []
    upload = Upload("id", progress=told.append)
    with pytest.raises(VersionChanged):
        open_store().put("big", BytesBody(DATA), ABSENT, upload)
    assert "PutChunk" not in ops(nextcloud_server)
    assert nextcloud_server.uploads() == {}
    assert told[-1] == ""


def test_a_body_is_read_from_its_front_to_its_end_also_where_the_first_chunk_takes_long(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    """A `StagedBody` adds its sum up so, which settles what a lost answer leaves open."""
    began: list[int] = []
    ended: list[int] = []
    others = threading.Event()

    def before_read(start: int, end: int) -> None:
        began.append(start)
        if start:
            others.set()
        else:
            assert not others.wait(0.3)
        ended.append(start)

    put(open_store(), BytesBody(DATA, before_read))
    assert began == ended == list(range(0, len(DATA), CHUNK))


def test_a_chunk_is_sent_while_the_next_are_read(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    def before_read(start: int, end: int) -> None:
        if start == 3 * CHUNK:
            nextcloud_server.wait_for_requests(3, op="PutChunk")

    put(open_store(), BytesBody(DATA, before_read))
    assert ops(nextcloud_server).count("PutChunk") == 6
