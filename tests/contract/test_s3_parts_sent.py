"""What the parts of a large S3 object go by, and when they are read."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from mountd.errors import Corrupt, VersionChanged
from mountd.remotes.base import ABSENT
from tests.contract.s3_writing import (
    BUCKET,
    LARGE,
    MIB,
    OTHER,
    UPLOAD,
    MakeStore,
    Memory,
    failure,
    opening,
    uploads_left,
)
from tests.contract.writing import NOTHING, content, write
from tests.fakes.body import BytesBody
from tests.servers.raw_s3 import raw_client
from tests.servers.s3.launch import S3Server

pytestmark = pytest.mark.server


@pytest.fixture
def make_store(s3_server: S3Server) -> Iterator[MakeStore]:
    with opening(s3_server) as make:
        yield make


def checksum_of(server: S3Server, key: str) -> str:
    with closing(raw_client(server)) as raw:
        mode = {"x-amz-checksum-mode": "ENABLED"}
        return raw.request("HEAD", BUCKET, key, headers=mode).headers.get(
            "x-amz-checksum-crc32c", ""
        )


@pytest.mark.parametrize(
    ("knobs", "checks"),
    [({}, True), ({"ignore_crc32c": True}, False), ({"wants_md5": True}, False)],
    ids=str,
)
def test_it_is_proved_whether_a_part_may_go_by_its_crc32c(
    s3_server: S3Server, make_store: MakeStore, knobs: dict[str, bool], checks: bool
) -> None:
    s3_server.set_knobs(**knobs)
    memory = Memory()
    write(make_store(memory), "file", b"1")
    (proven,) = memory.kept.values()
    assert proven.checks_crc32c is checks
    assert s3_server.keys(BUCKET) == ["p/file"]
    assert not uploads_left(s3_server)


@pytest.mark.parametrize("ignores", [False, True])
def test_parts_go_by_their_crc32c_where_the_server_checks_it(
    s3_server: S3Server, make_store: MakeStore, ignores: bool
) -> None:
    s3_server.set_knobs(ignore_crc32c=ignores)
    store = make_store()
    write(store, "large", LARGE)
    assert content(store, "large") == LARGE
    assert checksum_of(s3_server, "p/large").endswith("-3") is not ignores


def test_a_bucket_that_wants_an_md5_since_it_was_proved_gets_it_beside_the_crc32c(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    store = make_store()
    write(store, "file", b"1")
    s3_server.faults({"op": "UploadPart", "wants_md5": True})
    write(store, "large", LARGE)
    assert content(store, "large") == LARGE
    assert checksum_of(s3_server, "p/large").endswith("-3")


def test_a_part_whose_crc32c_is_another_is_sent_again(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    store = make_store()
    write(store, "file", b"1")
    wrong = {"op": "UploadPart", "status": 400, "code": "BadDigest"}
    s3_server.faults({**wrong, "times": 1})
    write(store, "large", LARGE)
    assert content(store, "large") == LARGE
    s3_server.faults(wrong)
    assert type(failure(lambda: write(store, "second", LARGE))) is Corrupt
    assert s3_server.keys(BUCKET) == ["p/file", "p/large"]
    assert not uploads_left(s3_server)


@pytest.mark.parametrize("was_checked", [True, False])
def test_an_upload_is_gone_on_with_by_the_checksums_that_it_was_begun_for(
    s3_server: S3Server, make_store: MakeStore, was_checked: bool
) -> None:
    s3_server.set_knobs(ignore_crc32c=not was_checked)
    tokens: list[str] = []
    upload = replace(UPLOAD, progress=tokens.append)
    first = make_store()
    write(first, "file", b"1")
    s3_server.faults({"op": "UploadPart", "skip": 2, "status": 500})
    failure(lambda: write(first, "large", LARGE, ABSENT, upload))
    s3_server.clear_faults()
    arrived = {entry.query for entry in s3_server.log(op="UploadPart", prefix="p/large")}
    assert arrived
    s3_server.set_knobs(ignore_crc32c=was_checked)
    second = make_store(Memory())  # proves anew
    write(second, "other", b"1")
    s3_server.set_knobs(ignore_crc32c=False)
    s3_server.clear_log()
    write(second, "large", LARGE, ABSENT, replace(upload, resume=tokens[-1]))
    assert len(s3_server.log(op="UploadPart")) == 1
    assert content(second, "large") == LARGE
    assert checksum_of(s3_server, "p/large").endswith("-3") is was_checked


def test_the_first_parts_are_read_while_the_upload_is_begun(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    store = make_store()
    write(store, "file", b"1")
    s3_server.faults({"op": "CreateMultipartUpload", "hold": True})
    read = threading.Semaphore(0)
    body = BytesBody(LARGE, lambda start, end: read.release())
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(store.put, "large", body, ABSENT, NOTHING)
        assert all(read.acquire(timeout=20) for _ in range(3))
        assert not s3_server.log(op="UploadPart", prefix="p/large")
        s3_server.clear_faults()
        s3_server.release()
        assert put.result(30).size == len(LARGE)
    assert content(store, "large") == LARGE
    assert not read.acquire(blocking=False)  # and only once


def test_what_is_still_being_read_as_the_upload_has_begun_is_not_read_twice(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    store = make_store()
    write(store, "file", b"1")
    read: list[int] = []

    def before(start: int, end: int) -> None:
        read.append(start)
        if read.count(0) == 1 and start == 0:
            # Those behind it are sent: so somebody waits for this one.
            s3_server.wait_for_requests(5, op="UploadPart", prefix="p/large")

    store.put("large", BytesBody(bytes(96 * MIB), before), ABSENT, UPLOAD)
    assert sorted(read) == [number * 16 * MIB for number in range(6)]


def test_an_object_of_such_parts_that_is_refused_is_made_without_their_crc32c(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    store = make_store()
    write(store, "file", b"1")
    tokens: list[str] = []
    upload = replace(UPLOAD, progress=tokens.append)
    s3_server.faults(
        {"op": "CompleteMultipartUpload", "status": 400, "code": "InvalidPart", "times": 1}
    )
    failure(lambda: write(store, "large", LARGE, ABSENT, upload))
    write(store, "large", LARGE, ABSENT, replace(upload, resume=tokens[-1]))
    assert content(store, "large") == LARGE
    assert checksum_of(s3_server, "p/large") == ""
    assert not uploads_left(s3_server)


def test_a_connection_that_stood_still_is_no_wish_for_an_md5(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    store = make_store()
    write(store, "file", b"1")
    still = {"op": "UploadPart", "status": 400, "code": "RequestTimeout"}
    s3_server.faults({**still, "times": 1})
    write(store, "large", LARGE)
    assert content(store, "large") == LARGE
    assert len(s3_server.log(op="UploadPart", prefix="p/large")) == 4
    s3_server.faults({"op": "UploadPart", "wants_md5": True})
    write(store, "second", LARGE)  # without one, until now
    assert len(s3_server.log(op="UploadPart", prefix="p/second")) > 3


def test_nobody_reads_on_of_what_is_not_to_be_sent(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    store = make_store()
    write(store, "file", b"1")
    going_on = threading.Event()
    reading: set[int] = set()

    def before(start: int, end: int) -> None:
        reading.add(start)
        assert going_on.wait(20)
        reading.discard(start)

    body = BytesBody(bytes(64 * MIB), before)
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(store.put, "file", body, OTHER, NOTHING)
        s3_server.wait_for_requests(1, op="HeadObject", prefix="p/file")
        going_on.set()
        assert isinstance(put.exception(30), VersionChanged)
    assert not reading
    assert not uploads_left(s3_server)
