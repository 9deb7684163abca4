"""How S3 stores prove which conditions a server enforces, and what they do where it doesn't."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from mountd.errors import (
    ContainerMissing,
    Denied,
    RemoteError,
    SignInRefused,
    Throttled,
    Unreachable,
    VersionChanged,
)
from mountd.remotes.base import ABSENT
from mountd.remotes.object_store import PROBE_NAME
from mountd.remotes.rest import RestAnswer
from mountd.remotes.s3_credentials import s3_access
from mountd.remotes.s3_payload import Payload
from mountd.remotes.s3_probe import Prover
from mountd.remotes.s3_rest import S3Rest
from mountd.types import Kind
from tests.contract.s3_writing import (
    BUCKET,
    LARGE,
    OTHER,
    MakeStore,
    Memory,
    failure,
    opening,
    ops,
    uploads_left,
)
from tests.contract.targets_s3 import S3Login, s3_settings
from tests.contract.test_listing import entries
from tests.contract.writing import NOTHING, content, write
from tests.servers.s3.launch import S3Server

pytestmark = pytest.mark.server


@pytest.fixture
def make_store(s3_server: S3Server) -> Iterator[MakeStore]:
    with opening(s3_server) as make:
        yield make


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
    assert len(s3_server.log(op="CreateMultipartUpload")) == 3
    assert len(s3_server.log()) < 56


@pytest.mark.parametrize(
    ("knobs", "checks"),
    [({}, True), ({"ignore_sha256": True}, False), ({"wants_md5": True}, False)],
    ids=str,
)
def test_it_is_proved_whether_a_part_needs_an_md5_beside_its_sha256(
    s3_server: S3Server, make_store: MakeStore, knobs: dict[str, bool], checks: bool
) -> None:
    s3_server.set_knobs(**knobs)
    memory = Memory()
    write(make_store(memory), "file", b"1")
    (proven,) = memory.kept.values()
    assert proven.checks_sha256 is checks
    assert not uploads_left(s3_server)


class HangsUp(S3Rest):
    """A server that answers a wrong checksum by closing the connection."""

    def send(self, *arguments: Any, payload: Payload | None = None, **others: Any) -> RestAnswer:
        answer = super().send(*arguments, payload=payload, **others)
        if b"SHA256Mismatch" in answer.body or b"BadDigest" in answer.body:
            raise Unreachable("the server hung up")
        return answer


def test_a_server_that_hangs_up_on_a_wrong_checksum_can_be_written_to(s3_server: S3Server) -> None:
    s3_server.make_bucket(BUCKET)
    login = S3Login(s3_server.endpoint, s3_server.access_key, s3_server.secret_key)
    access = s3_access(s3_settings(login, 10.0))
    with closing(HangsUp(access.place(BUCKET), access.credentials, 10.0)) as rest:
        proven = Prover(rest, "p/").proven()
    assert not proven.checks_sha256
    assert not proven.checks_crc32c
    assert proven.put_if_match
    assert not uploads_left(s3_server)


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


def test_who_may_not_write_is_told_of_the_folder_and_not_of_a_probe(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    s3_server.faults({"method": "PUT", "status": 403, "code": "AccessDenied"})
    error = failure(lambda: write(make_store(), "file", b"1"))
    assert (type(error), str(error)) == (Denied, f"s3://{BUCKET}/p/: AccessDenied (403)")
    s3_server.faults({"method": "PUT", "reset": True}, replace=True)
    error = failure(lambda: write(make_store(), "file", b"1"))
    assert (type(error), PROBE_NAME in str(error)) == (Unreachable, False)


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
        ({"status": 400, "code": "ExpiredToken", "skip": 3}, SignInRefused),
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
