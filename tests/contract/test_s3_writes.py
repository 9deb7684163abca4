"""What S3's writes cost, and what they do when something goes wrong."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
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
from mountd.remotes.base import ABSENT, RemoteStore
from mountd.remotes.obstore_puts import MOST_BYTES
from tests.contract.s3_writing import (
    BUCKET,
    LARGE,
    MIB,
    OTHER,
    UPLOAD,
    MakeStore,
    failure,
    opening,
    ops,
    uploads_left,
)
from tests.contract.test_listing import entries
from tests.contract.writing import NOTHING, content, write
from tests.fakes.body import BytesBody
from tests.servers.raw_s3 import raw_client
from tests.servers.s3.launch import S3Server

pytestmark = pytest.mark.server


@pytest.fixture
def make_store(s3_server: S3Server) -> Iterator[MakeStore]:
    with opening(s3_server) as make:
        yield make


@pytest.fixture
def store(s3_server: S3Server, make_store: MakeStore) -> RemoteStore:
    """One that has proved what the server enforces; the log begins after that."""
    store = make_store()
    store.delete("first", write(store, "first", b"1").version)
    s3_server.clear_log()
    return store


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


def test_no_more_than_eight_parts_are_on_their_way(s3_server: S3Server, store: RemoteStore) -> None:
    s3_server.faults({"op": "UploadPart", "hold": True, "times": 8})
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(write, store, "large", bytes(160 * MIB))
        s3_server.wait_for_requests(8, op="UploadPart")
        assert len(s3_server.log(op="UploadPart")) == 8
        s3_server.release()
        assert put.result(20).size == 160 * MIB


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


def test_a_copy_keeps_the_content_type_and_what_others_put_beside_it(
    s3_server: S3Server, store: RemoteStore
) -> None:
    s3_server.put(BUCKET, "p/a", b"1", headers={"Content-Type": "text/x", "x-amz-meta-old": "1"})
    store.copy("a", store.stat("a").version, "c", ABSENT, UPLOAD)
    with closing(raw_client(s3_server)) as raw:
        headers = raw.request("HEAD", BUCKET, "p/c").headers
    assert headers["content-type"] == "text/x"
    assert headers["x-amz-meta-mountd-upload"] == "upload-1"
    assert headers["x-amz-meta-old"] == "1"


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
def test_a_write_that_fails_is_the_error_that_it_is(
    s3_server: S3Server, store: RemoteStore, fault: dict[str, Any], expected: type[RemoteError]
) -> None:
    s3_server.faults({"op": "PutObject", **fault})
    data = b"1" * (MOST_BYTES + 1)
    assert type(failure(lambda: write(store, "file", data))) is expected
    assert ops(s3_server) == ["PutObject"]
    # What obstore has sent first is sent once more, to learn which error it is.
    assert type(failure(lambda: write(store, "file", b"1"))) is expected
    assert ops(s3_server) == ["PutObject"] * 3
    assert s3_server.keys(BUCKET) == []


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 404}, ContainerMissing),
        ({"status": 404, "code": "NotOurs"}, Unreachable),
        ({"status": 404, "code": "NoSuchKey"}, VersionChanged),
        ({"status": 403}, Denied),
        ({"status": 409}, VersionChanged),
        ({"status": 503}, Throttled),
    ],
    ids=str,
)
def test_a_small_replacement_that_fails_is_the_error_that_it_is(
    s3_server: S3Server, store: RemoteStore, fault: dict[str, Any], expected: type[RemoteError]
) -> None:
    # obstore says 412 for any 404 to If-Match: a bucket or a proxy that is away is no conflict.
    made = write(store, "file", b"1")
    s3_server.faults({"op": "PutObject", **fault})
    overwrite = partial(write, store, "file", b"22", made.version)
    assert type(failure(overwrite)) is expected


def test_a_small_write_that_fails_once_is_made_by_the_second(
    s3_server: S3Server, store: RemoteStore
) -> None:
    for fault in ({"status": 500}, {"status": 503}, {"reset": True}):
        s3_server.faults({"op": "PutObject", "times": 1, **fault}, replace=True)
        made = write(store, "file", b"1")
        assert content(store, "file") == b"1"
        store.delete("file", made.version)


def test_a_small_write_whose_first_answer_is_lost_is_not_taken_for_somebody_elses(
    s3_server: S3Server, store: RemoteStore
) -> None:
    s3_server.faults({"op": "PutObject", "lose_reply": True, "times": 1})
    assert type(failure(lambda: write(store, "file", b"1", ABSENT, UPLOAD))) is Unreachable
    made = store.identify("file")
    assert made.upload_id == "upload-1"
    s3_server.faults({"op": "PutObject", "lose_reply": True, "times": 1})
    overwrite = partial(write, store, "file", b"22", made.entry.version, UPLOAD)
    assert type(failure(overwrite)) is Unreachable
    assert content(store, "file") == b"22"


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 403}], ids=str)
def test_a_small_write_whose_first_answer_is_lost_may_be_there_whatever_the_second_says(
    s3_server: S3Server, store: RemoteStore, fault: dict[str, Any]
) -> None:
    # Only after Unreachable does the queue look for what has landed, and remove it again.
    s3_server.faults({"op": "PutObject", "lose_reply": True, "times": 1})
    s3_server.faults({"op": "PutObject", "skip": 1, **fault}, replace=False)
    assert type(failure(lambda: write(store, "file", b"1", ABSENT, UPLOAD))) is Unreachable
    assert s3_server.keys(BUCKET) == ["p/file"]


def test_a_small_write_to_what_somebody_else_has_changed_is_refused(
    s3_server: S3Server, store: RemoteStore
) -> None:
    write(store, "file", b"theirs")
    for expect in (ABSENT, OTHER):
        assert type(failure(partial(write, store, "file", b"1", expect))) is VersionChanged
    assert type(failure(partial(write, store, "gone", b"1", OTHER))) is VersionChanged
    assert content(store, "file") == b"theirs"


def test_a_small_write_that_arrives_wrong_is_found_out_and_removed(
    s3_server: S3Server, store: RemoteStore
) -> None:
    write(store, "first", b"1")
    s3_server.faults({"op": "PutObject", "opaque_etag": True, "times": 1})
    assert type(failure(partial(write, store, "file", b"1"))) is Corrupt
    assert s3_server.keys(BUCKET) == ["p/first"]
    s3_server.clear_log()
    assert write(store, "file", b"1").size == 1
    assert ops(s3_server) == ["PutObject"]


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
    s3_server: S3Server, make_store: MakeStore
) -> None:
    s3_server.set_knobs(ignore_sha256=True, ignore_crc32c=True)
    store = make_store()
    write(store, "first", b"1")
    store.delete("first", None)
    s3_server.set_knobs(opaque_etag=True)
    assert type(failure(lambda: write(store, "file", b"1"))) is Corrupt
    assert type(failure(lambda: write(store, "large", LARGE))) is Corrupt
    assert s3_server.keys(BUCKET) == []
    assert not uploads_left(s3_server)


def test_parts_go_by_their_sha256_where_the_server_checks_it(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    s3_server.set_knobs(ignore_crc32c=True)
    store = make_store()
    store.delete("first", write(store, "first", b"1").version)
    s3_server.clear_log()
    s3_server.faults({"op": "UploadPart", "wants_md5": True, "times": 1})
    write(store, "large", LARGE)
    assert content(store, "large") == LARGE
    # The one that was refused told that an MD5 is wanted after all.
    assert [entry.status for entry in s3_server.log(op="UploadPart")].count(400) == 1
    s3_server.faults({"op": "UploadPart", "wants_md5": True})
    write(store, "second", LARGE)
    assert content(store, "second") == LARGE
    assert [entry.status for entry in s3_server.log(op="UploadPart")].count(400) == 1


def test_a_part_that_arrives_as_something_else_is_refused_and_sent_again(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    s3_server.set_knobs(ignore_crc32c=True)
    store = make_store()
    store.delete("first", write(store, "first", b"1").version)
    s3_server.clear_log()
    wrong = {"op": "UploadPart", "status": 400, "code": "XAmzContentSHA256Mismatch"}
    s3_server.faults({**wrong, "times": 1})
    write(store, "large", LARGE)
    assert content(store, "large") == LARGE
    s3_server.faults(wrong)
    assert type(failure(lambda: write(store, "second", LARGE))) is Corrupt
    assert s3_server.keys(BUCKET) == ["p/large"]
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
