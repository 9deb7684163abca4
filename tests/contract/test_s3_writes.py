"""What S3's writes cost, what they do when something goes wrong, and how conditions are proved."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    RemoteError,
    Throttled,
    Unreachable,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, RemoteStore, Upload
from mountd.remotes.object_store import PROBE_NAME
from mountd.remotes.s3 import open_s3
from mountd.remotes.s3_probe import Proven
from mountd.types import Kind
from tests.contract.targets_s3 import S3Login, s3_settings, s3_source
from tests.contract.test_listing import entries
from tests.contract.writing import MTIME_NS, NOTHING, content, write
from tests.fakes.body import BytesBody
from tests.servers.raw_s3 import raw_client
from tests.servers.s3.launch import S3Server

pytestmark = pytest.mark.server

BUCKET = "b"
MIB = 1 << 20
LARGE = bytes(range(256)) * (40 * MIB // 256)  # three parts
OTHER = '"0123456789abcdef0123456789abcdef"'
UPLOAD = Upload("upload-1", MTIME_NS, {"mode": "33188"})
MakeStore = Callable[..., RemoteStore]


class Memory:
    def __init__(self) -> None:
        self.kept: dict[str, Proven] = {}

    def recall(self, place: str) -> Proven | None:
        return self.kept.get(place)

    def keep(self, place: str, proven: Proven) -> None:
        self.kept[place] = proven


@pytest.fixture
def make_store(s3_server: S3Server) -> Iterator[MakeStore]:
    """Stores of the prefix `p` in an empty bucket."""
    s3_server.make_bucket(BUCKET)
    opened: list[RemoteStore] = []

    def make(memory: Memory | None = None, timeout_s: float = 10.0) -> RemoteStore:
        login = S3Login(s3_server.endpoint, s3_server.access_key, s3_server.secret_key)
        settings = s3_settings(login, timeout_s)
        opened.append(open_s3(s3_source(BUCKET, "p"), settings, memory=memory))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(s3_server: S3Server, make_store: MakeStore) -> RemoteStore:
    """One that has proved what the server enforces; the log begins after that."""
    store = make_store()
    store.delete("first", write(store, "first", b"1").version)
    s3_server.clear_log()
    return store


def ops(server: S3Server) -> list[str]:
    return [entry.op for entry in server.log()]


def uploads_left(server: S3Server) -> bool:
    with closing(raw_client(server)) as raw:
        return b"<Upload>" in raw.request("GET", BUCKET, query={"uploads": ""}).body


def failure(call: Callable[[], object]) -> RemoteError:
    with pytest.raises(RemoteError) as raised:
        call()
    return raised.value


# What it costs


def test_a_small_write_is_one_request(s3_server: S3Server, store: RemoteStore) -> None:
    made = write(store, "file", b"x" * MIB, ABSENT, UPLOAD)
    assert ops(s3_server) == ["PutObject"]
    replaced = write(store, "file", b"second", made.version, UPLOAD)
    assert ops(s3_server) == ["PutObject"] * 2
    store.delete("file", replaced.version)
    store.make_dir("d/")
    store.make_dir("d/")
    assert ops(s3_server)[2:] == ["DeleteObject", "PutObject", "PutObject"]


def test_the_first_write_proves_every_condition_and_leaves_nothing(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    stores = [make_store()] * 8
    assert not stores[0].capabilities.conditional_put
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: write(stores[n], f"file-{n}", b"1"), range(8)))
    assert stores[0].capabilities.conditional_put
    assert stores[0].capabilities.conditional_delete
    assert s3_server.keys(BUCKET) == [f"p/file-{n}" for n in range(8)]
    assert not uploads_left(s3_server)
    assert len(s3_server.log(op="CreateMultipartUpload")) == 1
    assert len(s3_server.log()) < 40


def test_a_large_file_goes_in_parts_and_is_looked_at_once(
    s3_server: S3Server, store: RemoteStore
) -> None:
    made = write(store, "large", LARGE, ABSENT, UPLOAD)
    found = ops(s3_server)
    assert found[:2] == ["HeadObject", "CreateMultipartUpload"]
    assert found[2:] == ["UploadPart"] * 3 + ["CompleteMultipartUpload", "HeadObject"]
    assert made == entries(store)[0]
    assert content(store, "large") == LARGE
    assert store.identify("large").upload_id == "upload-1"


def test_no_more_than_four_parts_are_on_their_way(s3_server: S3Server, store: RemoteStore) -> None:
    s3_server.faults({"op": "UploadPart", "hold": True, "times": 4})
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(write, store, "large", bytes(100 * MIB))
        s3_server.wait_for_requests(4, op="UploadPart")
        assert len(s3_server.log(op="UploadPart")) == 4
        s3_server.release()
        assert put.result(20).size == 100 * MIB


def test_a_file_that_is_too_large_for_a_copy_is_copied_in_parts(
    s3_server: S3Server, store: RemoteStore
) -> None:
    size = (5 << 30) + 1
    s3_server.seed(BUCKET, keys=["p/huge"], size=size, directories=0, files=0)
    source = store.stat("huge")
    made = store.copy("huge", source.version, "copied", ABSENT, UPLOAD)
    assert made == store.stat("copied")
    assert made.size == size
    assert len(s3_server.log(op="UploadPartCopy")) == 11
    for version, key in ((OTHER, "more"), (source.version, "copied")):
        with pytest.raises(VersionChanged):
            store.copy("huge", version, key, ABSENT, UPLOAD)
    assert not uploads_left(s3_server)


def test_a_copy_keeps_the_content_type_and_has_its_own_metadata(
    s3_server: S3Server, store: RemoteStore
) -> None:
    s3_server.put(BUCKET, "p/a", b"1", headers={"Content-Type": "text/x", "x-amz-meta-old": "1"})
    store.copy("a", store.stat("a").version, "c", ABSENT, UPLOAD)
    with closing(raw_client(s3_server)) as raw:
        headers = raw.request("HEAD", BUCKET, "p/c").headers
    assert headers["content-type"] == "text/x"
    assert headers["x-amz-meta-mountd-upload"] == "upload-1"
    assert "x-amz-meta-old" not in headers


# When something goes wrong


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 500}, Unreachable),
        ({"status": 503}, Throttled),
        ({"reset": True}, Unreachable),
        ({"status": 403}, Denied),
        ({"status": 409}, VersionChanged),
        ({"status": 409, "code": "OperationAborted"}, Throttled),
        ({"status": 400, "code": "BadDigest"}, Corrupt),
    ],
    ids=str,
)
def test_a_write_that_fails_is_the_error_that_it_is_and_is_sent_once(
    s3_server: S3Server, store: RemoteStore, fault: dict[str, Any], expected: type[RemoteError]
) -> None:
    s3_server.faults({"op": "PutObject", **fault})
    assert type(failure(lambda: write(store, "file", b"1"))) is expected
    assert ops(s3_server) == ["PutObject"]
    assert s3_server.keys(BUCKET) == []


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["put", "complete"])
def test_a_write_whose_answer_is_lost_may_have_happened_and_is_recognised(
    s3_server: S3Server, store: RemoteStore, data: bytes
) -> None:
    for op in ("PutObject", "CompleteMultipartUpload"):
        s3_server.faults({"op": op, "lose_reply": True})
    assert type(failure(lambda: write(store, "file", data, ABSENT, UPLOAD))) is Unreachable
    found = store.identify("file")
    assert (found.upload_id, found.entry.size) == ("upload-1", len(data))


def test_an_upload_that_is_gone_at_its_completion_may_have_been_completed(
    s3_server: S3Server, store: RemoteStore
) -> None:
    s3_server.faults({"op": "CompleteMultipartUpload", "status": 404, "code": "NoSuchUpload"})
    assert type(failure(lambda: write(store, "large", LARGE))) is Unreachable


@pytest.mark.parametrize("op", ["CompleteMultipartUpload", "CopyObject"])
@pytest.mark.parametrize(
    ("status", "expected"), [(500, Unreachable), (503, Throttled), (412, VersionChanged)]
)
def test_a_success_with_an_error_inside_is_the_error(
    s3_server: S3Server, store: RemoteStore, op: str, status: int, expected: type[RemoteError]
) -> None:
    version = write(store, "source", b"1").version
    code = {"code": "PreconditionFailed"} if status == 412 else {}
    s3_server.faults({"op": op, "status": status, "error_as_200": True, **code})
    if op == "CopyObject":
        error = failure(lambda: store.copy("source", version, "copied", ABSENT, UPLOAD))
    else:
        error = failure(lambda: write(store, "copied", LARGE))
    assert type(error) is expected
    assert s3_server.keys(BUCKET) == ["p/source"]
    assert not uploads_left(s3_server)


def test_a_part_that_fails_for_a_moment_is_sent_again(
    s3_server: S3Server, store: RemoteStore
) -> None:
    s3_server.faults({"op": "UploadPart", "status": 503, "times": 1, "skip": 1})
    s3_server.faults({"op": "UploadPart", "reset": True, "times": 1, "skip": 2})
    write(store, "large", LARGE)
    assert content(store, "large") == LARGE
    assert len(s3_server.log(op="UploadPart")) == 5


@pytest.mark.parametrize(
    ("fault", "expected"), [({"status": 500}, Unreachable), ({"status": 403}, Denied)], ids=str
)
def test_parts_that_can_not_be_sent_are_thrown_away(
    s3_server: S3Server, store: RemoteStore, fault: dict[str, Any], expected: type[RemoteError]
) -> None:
    s3_server.faults({"op": "UploadPart", **fault})
    assert type(failure(lambda: write(store, "large", LARGE))) is expected
    assert s3_server.keys(BUCKET) == []
    assert not uploads_left(s3_server)
    assert len(s3_server.log(op="UploadPart")) <= 9


def test_nothing_is_sent_in_vain_for_a_large_file_that_changed_meanwhile(
    s3_server: S3Server, store: RemoteStore
) -> None:
    write(store, "large", b"theirs")
    s3_server.clear_log()
    for expect in (ABSENT, OTHER):
        with pytest.raises(VersionChanged):
            write(store, "large", LARGE, expect)
    assert ops(s3_server) == ["HeadObject"] * 2


def test_a_change_while_the_parts_are_sent_is_not_overwritten(
    s3_server: S3Server, store: RemoteStore
) -> None:
    version = write(store, "large", b"ours").version
    s3_server.faults({"op": "UploadPart", "hold": True})
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(write, store, "large", LARGE, version)
        s3_server.wait_for_requests(3, op="UploadPart")
        s3_server.put(BUCKET, "p/large", b"theirs")
        s3_server.release()
        assert isinstance(put.exception(20), VersionChanged)
    assert content(store, "large") == b"theirs"
    assert not uploads_left(s3_server)


def test_closing_the_store_ends_a_large_put(s3_server: S3Server, store: RemoteStore) -> None:
    s3_server.faults({"op": "UploadPart", "hold": True})
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(write, store, "large", bytes(200 * MIB))
        s3_server.wait_for_requests(4, op="UploadPart")
        store.close()
        s3_server.clear_faults()
        s3_server.release()
        assert isinstance(put.exception(20), Unreachable)


def test_what_arrived_as_something_else_is_corrupt_and_taken_back(
    s3_server: S3Server, store: RemoteStore
) -> None:
    s3_server.set_knobs(opaque_etag=True)
    assert type(failure(lambda: write(store, "file", b"1"))) is Corrupt
    assert type(failure(lambda: write(store, "large", LARGE))) is Corrupt
    assert s3_server.keys(BUCKET) == []
    assert not uploads_left(s3_server)


def test_a_server_whose_etags_are_no_digests_is_fine(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    s3_server.set_knobs(opaque_etag=True)
    store = make_store()
    made = write(store, "file", b"1", ABSENT, UPLOAD)
    assert store.identify("file").md5 == ""
    write(store, "file", LARGE, made.version)
    assert content(store, "file") == LARGE


# How conditions are proved


def test_a_bucket_that_is_gone_is_no_change_of_a_file(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    s3_server.set_knobs(ignore_conditionals=True)
    store = make_store()
    version = write(store, "file", b"1").version
    s3_server.reset()
    for data in (b"2", LARGE):
        for expect in (version, ABSENT, None):
            with pytest.raises(ContainerMissing):
                write(store, "file", data, expect)
    with pytest.raises(ContainerMissing):
        store.delete("file", version)


def test_a_server_that_ignores_conditions_is_looked_at_before_each_write(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    s3_server.set_knobs(ignore_conditionals=True)
    store = make_store()
    version = write(store, "file", b"1").version
    assert not store.capabilities.conditional_put
    assert not store.capabilities.conditional_delete
    s3_server.clear_log()
    calls: list[Callable[[], object]] = [
        lambda: write(store, "file", b"2", ABSENT),
        lambda: write(store, "file", b"2", OTHER),
        lambda: write(store, "missing", b"2", OTHER),
        lambda: write(store, "file", LARGE, OTHER),
        lambda: store.delete("file", OTHER),
        lambda: store.copy("file", OTHER, "copied", ABSENT, NOTHING),
        lambda: store.copy("file", version, "file", OTHER, NOTHING),
    ]
    for call in calls:
        assert type(failure(call)) is VersionChanged
    assert set(ops(s3_server)) == {"HeadObject", "GetObject"}
    s3_server.clear_log()
    write(store, "new", b"1")
    assert ops(s3_server) == ["HeadObject", "PutObject"]
    assert content(store, "file") == b"1"
    store.make_dir("d/")
    store.make_dir("d/")
    write(store, "file", b"2", version)
    assert entries(store)[-1].kind is Kind.DIRECTORY


def test_of_a_large_file_only_the_completion_may_be_unconditional(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    s3_server.faults({"op": "CompleteMultipartUpload", "ignore_conditionals": True})
    store = make_store()
    version = write(store, "file", b"1").version
    assert not store.capabilities.conditional_put
    s3_server.clear_log()
    write(store, "file", b"2", version)
    assert ops(s3_server) == ["PutObject"]
    s3_server.faults({"op": "UploadPart", "hold": True})
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(write, store, "new", LARGE, ABSENT)
        s3_server.wait_for_requests(3, op="UploadPart")
        s3_server.put(BUCKET, "p/new", b"theirs")
        s3_server.release()
        assert isinstance(put.exception(20), VersionChanged)
    assert content(store, "new") == b"theirs"


def test_a_server_that_refuses_conditions_is_written_to_without(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    refusal = {"prefix": f"p/{PROBE_NAME}", "status": 501, "code": "NotImplemented"}
    s3_server.faults({"op": "PutObject", "times": 1, **refusal})
    s3_server.faults({"op": "CreateMultipartUpload", **refusal}, {"op": "CopyObject", **refusal})
    store = make_store()
    write(store, "file", b"1")
    assert not store.capabilities.conditional_put
    assert not store.capabilities.server_copy
    assert type(failure(lambda: write(store, "file", b"2"))) is VersionChanged


def test_who_may_not_delete_can_write(s3_server: S3Server, make_store: MakeStore) -> None:
    s3_server.faults({"op": "DeleteObject", "status": 403})
    store = make_store()
    write(store, "file", b"1")
    assert store.capabilities.conditional_put
    assert not store.capabilities.conditional_delete
    # What could not be removed is not shown.
    assert [entry.name for entry in entries(store)] == ["file"]
    assert [key for page in store.list_tree("") for key, _ in page] == ["file"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 403, "times": 2}, Denied),
        ({"status": 503}, Throttled),
        ({"status": 400, "code": "ExpiredToken", "skip": 3}, Denied),
        ({"reset": True, "skip": 2}, Unreachable),
    ],
    ids=str,
)
def test_a_proof_that_fails_is_the_writes_error_and_is_tried_again(
    s3_server: S3Server, make_store: MakeStore, fault: dict[str, Any], expected: type[RemoteError]
) -> None:
    memory = Memory()
    store = make_store(memory)
    s3_server.faults({"op": "PutObject", "times": 1, **fault})
    assert type(failure(lambda: write(store, "file", b"1"))) is expected
    assert memory.kept == {}
    assert s3_server.keys(BUCKET) == []
    write(store, "file", b"1")
    assert store.capabilities.conditional_put


def test_what_was_proved_is_remembered(s3_server: S3Server, make_store: MakeStore) -> None:
    memory = Memory()
    write(make_store(memory), "file", b"1")
    assert list(memory.kept) == [f"{s3_server.endpoint}/{BUCKET}"]
    s3_server.clear_log()
    again = make_store(memory)
    assert again.capabilities.conditional_put
    write(again, "other", b"1")
    assert ops(s3_server) == ["PutObject"]


def test_old_leftovers_of_proofs_are_removed_and_none_is_shown(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    old, new = (f"p/{PROBE_NAME}{letter * 32}" for letter in "ab")
    s3_server.put(BUCKET, old, b"", mtime_s=1_600_000_000)
    s3_server.put(BUCKET, new, b"")
    store = make_store()
    assert entries(store) == []
    write(store, "file", b"1")
    assert s3_server.keys(BUCKET) == [new, "p/file"]


def test_a_reading_store_proves_nothing(s3_server: S3Server, make_store: MakeStore) -> None:
    s3_server.put(BUCKET, "p/file", b"1")
    store = make_store()
    content(store, "file")
    store.identify("file")
    entries(store)
    assert {entry.method for entry in s3_server.log()} <= {"GET", "HEAD"}


def test_of_many_who_replace_a_file_one_wins_at_a_time(
    s3_server: S3Server, store: RemoteStore
) -> None:
    version = write(store, "file", b"0").version
    barrier = threading.Barrier(8)

    def replace(n: int) -> bool:
        barrier.wait(10)
        try:
            store.put("file", BytesBody(b"x" * (n + 2)), version, NOTHING)
        except VersionChanged:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(replace, range(8))) == 1
