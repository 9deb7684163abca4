"""nextcloud:// and large files: every step of a chunked upload that can go wrong."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mountd.errors import (
    Denied,
    Locked,
    LockedByUser,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Throttled,
    Unreachable,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, Upload
from mountd.remotes.nextcloud import NextcloudStore, Uploading
from mountd.remotes.nextcloud_folders import Token
from mountd.types import Entry
from tests.conftest import ExpectedLog
from tests.fakes.body import BytesBody
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.nextcloud.stores import opening
from tests.servers.raw_nextcloud import raw_dav

pytestmark = pytest.mark.server

CHUNK = 64 << 10
DATA = os.urandom(5 * CHUNK + 1234)
MTIME_NS = 1_600_000_000_987_000_000
MTIME_S = 1_600_000_000
OpenStore = Callable[..., NextcloudStore]


@pytest.fixture
def open_store(nextcloud_server: NextcloudServer) -> Iterator[OpenStore]:
    with opening(nextcloud_server) as open_one:

        def opener(timeout_s: float = 5.0, tries: int = 3) -> NextcloudStore:
            pauses_s = (*(0.02,) * tries, 1000.0)
            return open_one(Uploading(CHUNK, pauses_s), timeout_s=timeout_s)

        yield opener


class Told:
    """What `Upload.progress` heard; `upload` is the next try's."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.has_chunk = threading.Event()

    def _heard(self, token: str) -> None:
        self.tokens.append(token)
        heard = Token.parse(token)
        if heard is not None and heard.done:
            self.has_chunk.set()

    @property
    def last(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    @property
    def upload(self) -> Upload:
        return Upload("id", MTIME_NS, resume=self.last, progress=self._heard)


def send(store: NextcloudStore, told: Told | None = None, expect: str | None = ABSENT) -> Entry:
    upload = told.upload if told is not None else Upload("id", MTIME_NS)
    return store.put("big", BytesBody(DATA), expect, upload)


def chunks_sent(server: NextcloudServer) -> list[str]:
    """The numbers of the chunks whose PUT was answered well, since the log was cleared."""
    log = server.log(method="PUT", tree="uploads")
    return sorted(entry.path.rpartition("/")[2] for entry in log if entry.status in (201, 204))


def arrived(server: NextcloudServer, entry: Entry) -> None:
    """The file is whole, is what the entry says, and nothing stayed behind."""
    node = server.node("big")
    assert node is not None
    assert server.read("big") == DATA
    version = f'"{node.etag}";{len(DATA)};MD5:{hashlib.md5(DATA).hexdigest()}'
    assert entry == Entry("big", entry.kind, len(DATA), MTIME_S * 10**9, version)
    assert node.mtime_s == MTIME_S
    assert server.uploads() == {}


def test_a_large_file_goes_in_chunks_each_with_destination_length_and_total(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    arrived(nextcloud_server, send(store))
    for entry in nextcloud_server.log(tree="uploads"):
        if entry.method in ("MKCOL", "PUT", "MOVE"):
            assert entry.headers["destination"] == nextcloud_server.dav_url("big")
            assert entry.headers["oc-total-length"] == str(len(DATA))
        if entry.method == "PUT":
            assert int(entry.headers["content-length"]) <= CHUNK
    assert chunks_sent(nextcloud_server) == [f"{number:05}" for number in range(1, 7)]
    assert store.identify("big").md5 != ""


def test_the_sum_of_the_whole_is_told_before_the_move(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    sums: list[str] = []

    def completing(md5: str) -> None:
        sums.append(md5)
        assert nextcloud_server.log(method="MOVE") == []

    upload = Upload("id", MTIME_NS, progress=lambda token: None, completing=completing)
    entry = open_store().put("big", BytesBody(DATA), ABSENT, upload)
    arrived(nextcloud_server, entry)
    assert sums == [hashlib.md5(DATA).hexdigest()]


def test_many_chunks_keep_to_the_connections_of_a_small_server(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.set_knobs(latency_ms=20.0)
    send(open_store())
    log = nextcloud_server.log(method="PUT", tree="uploads")
    assert 1 < len({entry.connection_id for entry in log}) <= 4 + 2  # two are for small looks


@pytest.mark.parametrize("effect", [{"reset": True}, {"cut_upload_after": 1000}, {"status": 502}])
def test_a_chunk_that_is_cut_is_sent_again(
    open_store: OpenStore, nextcloud_server: NextcloudServer, effect: dict[str, Any]
) -> None:
    store = open_store()
    nextcloud_server.faults({"op": "PutChunk", "path": "00003$", "times": 1, **effect})
    arrived(nextcloud_server, send(store))


def test_a_chunk_whose_answer_is_lost_is_sent_again_and_counted_once(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.faults({"op": "PutChunk", "times": 2, "lose_reply": True})
    arrived(nextcloud_server, send(open_store()))


@pytest.mark.parametrize(
    "effect", [{"reset": True}, {"lose_reply": True}, {"status": 502}, {"status": 423}]
)
def test_a_move_that_says_nothing_is_settled_by_looking(
    open_store: OpenStore, nextcloud_server: NextcloudServer, effect: dict[str, Any]
) -> None:
    store = open_store()
    nextcloud_server.faults({"op": "Assemble", "times": 1, **effect})
    arrived(nextcloud_server, send(store))
    moves = nextcloud_server.log(op="Assemble")
    assert len(moves) == (1 if "lose_reply" in effect else 2)


def test_a_504_while_the_server_assembles_waits_for_the_file(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store(tries=200)
    nextcloud_server.configure(assembly_s=0.5, gateway_timeout_s=0.1)
    arrived(nextcloud_server, send(store))
    statuses = [entry.status for entry in nextcloud_server.log(op="Assemble")]
    assert statuses[0] == 504
    assert set(statuses[1:]) <= {423, 404}


def test_a_replaced_file_is_assembled_under_its_old_versions_condition(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    old = nextcloud_server.put("big", b"old")
    store = open_store()
    entry = send(store, expect=store.stat("big").version)
    arrived(nextcloud_server, entry)
    node = nextcloud_server.node("big")
    assert node is not None
    assert node.fileid == old.fileid


@pytest.mark.parametrize("before", [b"", b"old"])
def test_what_somebody_put_there_meanwhile_stays(
    open_store: OpenStore, nextcloud_server: NextcloudServer, before: bytes
) -> None:
    if before:
        nextcloud_server.put("big", before)
    told = Told()

    def theirs(start: int, end: int) -> None:
        if start == 3 * CHUNK:
            nextcloud_server.put("big", b"theirs")

    store = open_store()
    expect = store.stat("big").version if before else ABSENT
    with pytest.raises(VersionChanged):
        store.put("big", BytesBody(DATA, theirs), expect, told.upload)
    assert nextcloud_server.read("big") == b"theirs"
    assert nextcloud_server.uploads() == {}
    assert told.last == ""


def test_what_was_to_be_replaced_and_went_is_a_changed_version(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("big", b"old")
    store = open_store()

    def gone(start: int, end: int) -> None:
        if start == 3 * CHUNK:
            nextcloud_server.delete("big")

    with pytest.raises(VersionChanged):
        store.put("big", BytesBody(DATA, gone), store.stat("big").version, Upload())
    assert nextcloud_server.node("big") is None
    assert nextcloud_server.uploads() == {}


def test_no_move_in_doubt_believes_in_a_foreign_file_of_the_same_size(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    nextcloud_server.faults({"op": "Assemble", "times": 1, "status": 504})
    seen: list[object] = []

    def theirs(start: int, end: int) -> None:
        if start == 5 * CHUNK and not seen:
            seen.append(nextcloud_server.put("big", bytes(len(DATA)), mtime_s=MTIME_S))

    with pytest.raises(VersionChanged):
        store.put("big", BytesBody(DATA, theirs), ABSENT, Upload("id", MTIME_NS))
    assert nextcloud_server.read("big") == bytes(len(DATA))


def test_no_room_is_said_before_the_bytes_go_and_at_assembly(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(quota_bytes=len(DATA) - 1)
    store = open_store()
    with pytest.raises(QuotaExceeded):
        send(store)
    assert nextcloud_server.log(op="PutChunk") == []
    assert nextcloud_server.uploads() == {}
    nextcloud_server.configure(quota_bytes=-3)
    nextcloud_server.faults({"op": "Assemble", "status": 507})
    with pytest.raises(QuotaExceeded):
        send(store)
    assert nextcloud_server.uploads() == {}


def test_a_missing_directory_is_said_before_the_bytes_go(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    with pytest.raises(NotFound):
        open_store().put("no/big", BytesBody(DATA), ABSENT, Upload())
    assert nextcloud_server.log(op="PutChunk") == []
    assert nextcloud_server.uploads() == {}


def broken_off(store: NextcloudStore, server: NextcloudServer, told: Told, at: int = 4) -> None:
    """An upload of which the chunks from `at` on don't arrive."""
    server.faults({"op": "PutChunk", "path": f"0000[{at}-9]$", "reset": True})
    with pytest.raises(Unreachable):
        send(store, told)
    server.clear_faults()
    server.clear_log()


def test_no_more_chunks_go_side_by_side_than_the_server_asks_for(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(max_parallel_chunks=1)
    gone_before: list[int] = []

    def before_read(start: int, end: int) -> None:
        gone_before.append(len(nextcloud_server.log(op="PutChunk")))

    body = BytesBody(DATA, before_read)
    open_store().put("big", body, ABSENT, Upload("id", MTIME_NS))
    assert gone_before == list(range(6))
    assert nextcloud_server.read("big") == DATA


def test_another_process_sends_only_what_is_missing(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    told = Told()
    broken_off(open_store(), nextcloud_server, told)
    arrived(nextcloud_server, send(open_store(), told))
    assert chunks_sent(nextcloud_server) == ["00004", "00005", "00006"]
    assert nextcloud_server.log(op="MakeUpload") == []
    assert told.last == ""


def test_a_chunk_that_is_there_in_part_is_sent_again(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    told = Told()
    store = open_store()
    broken_off(store, nextcloud_server, told)
    folder = next(iter(nextcloud_server.uploads()))
    with raw_dav(nextcloud_server) as other:
        other.uploads("PUT", f"{folder}/00002", b"torn")
    nextcloud_server.clear_log()
    arrived(nextcloud_server, send(store, told))
    assert chunks_sent(nextcloud_server) == ["00002", "00004", "00005", "00006"]


def test_chunks_of_other_bytes_are_thrown_away(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    told = Told()
    store = open_store()
    broken_off(store, nextcloud_server, told)
    other = b"x" + DATA[1:]
    store.put("big", BytesBody(other), ABSENT, told.upload)
    assert nextcloud_server.read("big") == other
    assert nextcloud_server.uploads() == {}


def test_without_a_listener_nothing_stays_of_an_upload_that_fails(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.faults({"op": "PutChunk", "path": "00004$", "reset": True})
    with pytest.raises(Unreachable):
        send(open_store())
    assert nextcloud_server.uploads() == {}


@pytest.mark.parametrize("token", ["", "nc1:x", "s3:abc", "nc1:mountd-00000000-" + "0" * 32])
def test_a_token_that_means_nothing_is_passed_over(
    open_store: OpenStore, nextcloud_server: NextcloudServer, token: str
) -> None:
    store = open_store()
    store.abandon("big", token)
    entry = store.put("big", BytesBody(DATA), ABSENT, Upload("id", MTIME_NS, resume=token))
    arrived(nextcloud_server, entry)


def test_an_expired_folder_is_made_anew(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    told = Told()
    store = open_store()
    broken_off(store, nextcloud_server, told)
    nextcloud_server.expire_uploads()
    arrived(nextcloud_server, send(store, told))
    assert len(chunks_sent(nextcloud_server)) == 6


def test_a_folder_that_expires_while_chunks_go_is_made_anew(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    expired: list[int] = []

    def expire(start: int, end: int) -> None:
        if start == 3 * CHUNK and not expired:
            expired.append(nextcloud_server.expire_uploads())

    entry = open_store().put("big", BytesBody(DATA, expire), ABSENT, Upload("id", MTIME_NS))
    assert expired == [1]
    arrived(nextcloud_server, entry)


def test_what_is_abandoned_goes_and_is_not_begun_anew(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    told = Told()
    store = open_store()

    def give_up(start: int, end: int) -> None:
        if start == 3 * CHUNK:
            store.abandon("big", told.last)

    with pytest.raises(Unreachable):
        store.put("big", BytesBody(DATA, give_up), ABSENT, told.upload)
    assert nextcloud_server.uploads() == {}
    assert nextcloud_server.node("big") is None


def test_maintenance_is_throttled_and_the_chunks_stay(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    told = Told()
    store = open_store()

    def close_down(start: int, end: int) -> None:
        if start == 4 * CHUNK:
            assert told.has_chunk.wait(20)
            nextcloud_server.configure(maintenance=True)

    with pytest.raises(Throttled):
        store.put("big", BytesBody(DATA, close_down), ABSENT, told.upload)
    nextcloud_server.configure(maintenance=False)
    nextcloud_server.clear_log()
    arrived(nextcloud_server, send(store, told))
    assert 0 < len(chunks_sent(nextcloud_server)) < 6


def test_a_file_that_stays_locked_is_locked_and_its_chunks_stay(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    told = Told()
    store = open_store(tries=1)
    nextcloud_server.faults({"op": "Assemble", "status": 423})
    with pytest.raises(Locked) as raised:
        send(store, told)
    assert not isinstance(raised.value, LockedByUser)
    nextcloud_server.clear_faults()
    nextcloud_server.clear_log()
    arrived(nextcloud_server, send(store, told))
    assert chunks_sent(nextcloud_server) == []


def test_a_persons_lock_is_told_with_their_name(
    open_store: OpenStore, nextcloud_server: NextcloudServer, expected_log: ExpectedLog
) -> None:
    expected_log("locked by 'Bob B.'")
    nextcloud_server.put("big", b"old")
    nextcloud_server.configure(files_lock=True)
    nextcloud_server.lock("big", "bob", owner_name="Bob B.")
    store = open_store()
    old = store.stat("big").version
    with pytest.raises(LockedByUser, match=r"Bob B\."):
        send(store, expect=old)
    with pytest.raises(LockedByUser, match=r"Bob B\."):
        store.put("big", BytesBody(b"small"), old, Upload())
    assert nextcloud_server.read("big") == b"old"


def test_a_server_with_object_storage_behind_it_takes_our_chunks(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(strict_chunks=True, min_chunk_bytes=CHUNK)
    arrived(nextcloud_server, send(open_store()))


def test_a_server_that_offers_no_chunks_gets_the_file_whole(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(chunking="")
    store = open_store()
    entry = send(store)
    assert nextcloud_server.read("big") == DATA
    assert (entry.size, entry.mtime_ns) == (len(DATA), MTIME_S * 10**9)
    assert entry == store.stat("big")
    assert nextcloud_server.log(tree="uploads") == []


def test_a_refused_password_is_tried_once_however_many_chunks_wait(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    assert list(store.list("")) == [[]]
    nextcloud_server.faults({"op": "MakeUpload", "status": 401})
    nextcloud_server.clear_log()
    with pytest.raises(Denied):
        send(store)
    assert [entry.status for entry in nextcloud_server.log(tree="uploads")].count(401) == 1


def test_after_every_single_failure_of_an_upload_the_next_try_makes_it(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    """Each request of the upload in turn is cut, before and after it took effect."""
    for effect in ("reset", "lose_reply"):
        for skipped in range(10):
            nextcloud_server.reset()
            told, store = Told(), open_store()
            nextcloud_server.faults({"tree": "uploads", "skip": skipped, "times": 1, effect: True})
            try:
                entry = send(store, told)
            except RemoteError:
                entry = send(store, told)
            assert nextcloud_server.read("big") == DATA
            assert entry.size == len(DATA)
            store.close()
