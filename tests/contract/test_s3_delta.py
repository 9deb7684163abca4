"""What a small edit of a large object costs on S3, and what becomes of it when something fails."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mountd.errors import RemoteError, Throttled, Unreachable, Unsupported, VersionChanged
from mountd.remotes.base import RemoteStore
from mountd.remotes.object_store import PROBE_NAME
from tests.contract.s3_writing import BUCKET, MakeStore, failure, opening, ops, uploads_left
from tests.contract.test_delta import EDIT, MIB, NEW, OLD, SAME, UPLOAD, WatchedBody
from tests.contract.writing import content, write
from tests.servers.s3.launch import S3Server

pytestmark = pytest.mark.server


@pytest.fixture
def make_store(s3_server: S3Server) -> Iterator[MakeStore]:
    with opening(s3_server) as make:
        yield make


def delta(store: RemoteStore, version: str, body: WatchedBody | None = None) -> str:
    body = body or WatchedBody(NEW)
    return store.put_delta("file", body, version, UPLOAD, "file", version, SAME).version


def written(store: RemoteStore, server: S3Server) -> str:
    version = write(store, "file", OLD).version
    server.clear_log()
    return version


def test_an_edit_is_a_part_that_is_sent_between_two_that_are_copied(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    store = make_store()
    version = written(store, s3_server)
    assert store.capabilities.put_delta
    delta(store, version)
    assert sorted(ops(s3_server)) == sorted(
        [
            *("CreateMultipartUpload", "UploadPartCopy", "UploadPart", "UploadPartCopy"),
            *("CompleteMultipartUpload", "HeadObject"),
        ]
    )
    assert sum(entry.bytes_received for entry in s3_server.log()) < 6 * MIB
    assert s3_server.read(BUCKET, "p/file")[EDIT[0] : EDIT[1]] == b"e" * 4096


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"op": "UploadPartCopy", "status": 503}, Throttled),
        ({"op": "UploadPartCopy", "status": 500, "error_as_200": True}, Unreachable),
        ({"op": "UploadPart", "reset": True}, Unreachable),
        ({"op": "CompleteMultipartUpload", "status": 412, "code": "PreconditionFailed"}, None),
    ],
)
def test_after_a_failure_there_is_nothing_new(
    s3_server: S3Server,
    make_store: MakeStore,
    rule: dict[str, Any],
    error: type[RemoteError] | None,
) -> None:
    store = make_store()
    version = written(store, s3_server)
    s3_server.faults(rule)
    assert type(failure(lambda: delta(store, version))) is (error or VersionChanged)
    s3_server.clear_faults()
    assert store.stat("file").version == version
    assert not uploads_left(s3_server)


def test_parts_are_tried_again(s3_server: S3Server, make_store: MakeStore) -> None:
    store = make_store()
    version = written(store, s3_server)
    s3_server.faults(
        {"op": "UploadPartCopy", "status": 500, "times": 1},
        {"op": "UploadPart", "reset": True, "times": 1},
    )
    delta(store, version)
    assert content(store, "file") == NEW


def test_a_server_that_copies_parts_of_any_version_gets_the_whole_file(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    s3_server.faults({"op": "UploadPartCopy", "ignore_conditionals": True})
    store = make_store()
    version = written(store, s3_server)
    assert not store.capabilities.put_delta
    assert store.capabilities.conditional_put
    assert type(failure(lambda: delta(store, version))) is Unsupported
    assert ops(s3_server) == []


def proofs_end() -> None:
    """What proofs have made is gone."""
    for thread in threading.enumerate():
        if thread.name == "proof":
            thread.join(10)


def test_the_first_edit_sends_its_parts_during_the_proof_and_ends_after_it(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    version = written(make_store(), s3_server)
    new = make_store()
    delta(new, version)
    assert content(new, "file") == NEW
    assert new.capabilities.conditional_put
    log = s3_server.log()
    completed = next(
        at
        for at, entry in enumerate(log)
        if (entry.op, entry.key) == ("CompleteMultipartUpload", "p/file")
    )
    proofs = [
        at
        for at, entry in enumerate(log)
        if entry.op in ("UploadPartCopy", "CompleteMultipartUpload") and PROBE_NAME in entry.key
    ]
    assert proofs
    assert max(proofs) < completed
    proofs_end()
    assert s3_server.keys(BUCKET) == ["p/file"]
    assert not uploads_left(s3_server)


def test_where_the_proof_finds_that_parts_of_any_version_are_copied_the_first_edit_leaves_nothing(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    version = written(make_store(), s3_server)
    s3_server.faults({"op": "UploadPartCopy", "ignore_conditionals": True})
    new = make_store()
    assert type(failure(lambda: delta(new, version))) is Unsupported
    ended = [entry.key for entry in s3_server.log(op="CompleteMultipartUpload")]
    assert "p/file" not in ended
    assert new.stat("file").version == version
    proofs_end()
    assert not uploads_left(s3_server)


def test_a_proof_that_fails_during_an_edit_is_its_error_and_leaves_nothing(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    version = written(make_store(), s3_server)
    s3_server.faults({"op": "PutObject", "status": 503})
    new = make_store()
    assert type(failure(lambda: delta(new, version))) is Throttled
    proofs_end()
    s3_server.clear_faults()
    assert new.stat("file").version == version
    assert not uploads_left(s3_server)
    delta(new, version)
    assert content(new, "file") == NEW
    proofs_end()


def test_what_would_mostly_be_sent_is_left_to_put(
    s3_server: S3Server, make_store: MakeStore
) -> None:
    store = make_store()
    version = written(store, s3_server)
    edits = [(0, 9 * MIB), (10 * MIB, 11 * MIB), (12 * MIB, 14 * MIB)]
    body = WatchedBody(NEW)
    with pytest.raises(Unsupported):
        store.put_delta("file", body, version, UPLOAD, "file", version, edits)
    assert ops(s3_server) == []
    assert body.sent == 0
