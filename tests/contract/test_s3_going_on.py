"""Uploads in parts that broke off, and what the next try sends."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mountd.errors import Denied, Unreachable, VersionChanged
from mountd.remotes.base import ABSENT, MAX_TOKEN, RemoteStore
from tests.contract.s3_writing import BUCKET, MIB, UPLOAD, failure, opening, ops, uploads_left
from tests.contract.writing import content, write
from tests.fakes.body import BytesBody
from tests.servers.raw_s3 import raw_client
from tests.servers.s3.launch import S3Server

pytestmark = pytest.mark.server

PARTS = [bytes([number]) * (16 * MIB) for number in range(3)]
DATA = b"".join(PARTS) + b"end"  # four parts


@dataclass
class Trying:
    """One upload of DATA to `large`, as often as it takes."""

    server: S3Server
    store: RemoteStore
    tokens: list[str] = field(default_factory=list)

    @property
    def token(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def put(self, data: bytes = DATA, expect: str = ABSENT) -> None:
        self.server.clear_log()
        upload = replace(UPLOAD, resume=self.token, progress=self.tokens.append)
        write(self.store, "large", data, expect, upload)

    def break_off(self, sent: int = 2, **fault: Any) -> None:
        """Fails when that many parts have arrived."""
        self.server.faults({"op": "UploadPart", "skip": sent, **(fault or {"status": 500})})
        assert isinstance(failure(self.put), Unreachable)
        self.server.clear_faults()

    @property
    def sent_parts(self) -> int:
        return len(self.server.log(op="UploadPart", prefix="p/large"))

    @property
    def is_clean(self) -> bool:
        return not uploads_left(self.server) and self.token == ""


@pytest.fixture
def trying(s3_server: S3Server) -> Iterator[Trying]:
    with opening(s3_server) as make:
        store = make()
        store.delete("first", write(store, "first", b"1").version)
        yield Trying(s3_server, store)


def test_only_the_missing_parts_are_sent(trying: Trying) -> None:
    trying.break_off(sent=3)
    assert uploads_left(trying.server)
    assert 0 < len(trying.token) <= MAX_TOKEN
    trying.put()
    assert ops(trying.server)[:2] == ["HeadObject", "ListParts"]
    assert (trying.sent_parts, trying.is_clean) == (1, True)
    assert content(trying.store, "large") == DATA
    assert trying.store.identify("large").upload_id == UPLOAD.upload_id


def test_another_store_goes_on_where_the_first_one_ended(trying: Trying) -> None:
    trying.break_off(sent=3)
    trying.store.close()
    with opening(trying.server) as make:
        trying.store = make()
        trying.put()
        assert trying.sent_parts == 1
        assert content(trying.store, "large") == DATA
    assert trying.is_clean


def test_parts_are_listed_to_their_last_page(trying: Trying) -> None:
    trying.break_off(sent=3)
    trying.server.set_knobs(page_size=1)
    trying.put()
    assert ops(trying.server).count("ListParts") == 3
    assert (trying.sent_parts, trying.is_clean) == (1, True)


def test_a_part_that_is_not_what_is_staged_is_sent_again(trying: Trying) -> None:
    trying.break_off(sent=3)
    other = PARTS[0] + PARTS[2] + PARTS[2] + b"end"
    sent = [query for query in _parts_sent(trying.server) if "partNumber=2" not in query]
    trying.put(other)
    assert trying.sent_parts == 4 - len(set(sent))
    assert content(trying.store, "large") == other


def _parts_sent(server: S3Server) -> list[str]:
    """Queries of the parts that arrived."""
    return [entry.query for entry in server.log(op="UploadPart") if entry.status == 200]


def test_tags_that_are_no_checksums_prove_nothing(trying: Trying) -> None:
    store, trying.tokens = trying.store, []
    trying.server.set_knobs(opaque_etag=True)
    with opening(trying.server) as make:
        trying.store = make()
        trying.break_off(sent=3)
        trying.put()
        assert trying.sent_parts == 4
        assert content(store, "large") == DATA
    assert trying.is_clean


def test_an_upload_that_is_gone_is_begun_anew(trying: Trying) -> None:
    trying.break_off(sent=3)
    with closing(raw_client(trying.server)) as raw:
        query = {"uploadId": trying.token.split()[-1]}
        assert raw.request("DELETE", BUCKET, "p/large", query=query).status == 204
    trying.put()
    assert (trying.sent_parts, trying.is_clean) == (4, True)
    assert len(set(trying.tokens)) == 3  # the first, the second, and that nothing is left
    assert content(trying.store, "large") == DATA


@pytest.mark.parametrize("fault", [{"status": 403}, {"status": 501, "code": "NotImplemented"}])
def test_parts_that_cant_be_listed_are_thrown_away(trying: Trying, fault: dict[str, Any]) -> None:
    trying.break_off(sent=3)
    trying.server.faults({"op": "ListParts", **fault})
    trying.put()
    assert (trying.sent_parts, trying.is_clean) == (4, True)


def test_who_may_neither_list_nor_end_an_upload_begins_another(trying: Trying) -> None:
    # A policy that has PutObject alone: else the file could never be sent again.
    trying.break_off(sent=3)
    for op in ("ListParts", "AbortMultipartUpload"):
        trying.server.faults({"op": op, "status": 403})
    trying.put()
    assert (trying.sent_parts, trying.token) == (4, "")
    assert content(trying.store, "large") == DATA


def test_a_list_of_parts_that_does_not_come_is_asked_for_later(trying: Trying) -> None:
    trying.break_off(sent=3)
    token = trying.token
    trying.server.faults({"op": "ListParts", "status": 500})
    assert isinstance(failure(trying.put), Unreachable)
    assert trying.token == token
    trying.server.clear_faults()
    trying.put()
    assert (trying.sent_parts, trying.is_clean) == (1, True)


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 500, "error_as_200": True}])
def test_when_only_complete_failed_nothing_is_sent_again(
    trying: Trying, fault: dict[str, Any]
) -> None:
    trying.server.faults({"op": "CompleteMultipartUpload", "times": 1, **fault})
    assert isinstance(failure(trying.put), Unreachable)
    trying.put()
    assert (trying.sent_parts, trying.is_clean) == (0, True)
    assert content(trying.store, "large") == DATA


def test_a_complete_that_took_effect_is_not_sent_again(trying: Trying) -> None:
    trying.server.faults({"op": "CompleteMultipartUpload", "times": 1, "lose_reply": True})
    assert isinstance(failure(trying.put), Unreachable)
    assert isinstance(failure(trying.put), VersionChanged)
    assert "CompleteMultipartUpload" not in ops(trying.server)
    assert trying.store.identify("large").upload_id == UPLOAD.upload_id
    trying.store.abandon("large", trying.token)
    assert content(trying.store, "large") == DATA


def test_what_can_not_succeed_is_thrown_away_at_once(trying: Trying) -> None:
    trying.server.faults(
        {"op": "CompleteMultipartUpload", "status": 412, "code": "PreconditionFailed"}
    )
    assert isinstance(failure(trying.put), VersionChanged)
    assert trying.is_clean


def test_a_refusal_is_no_reason_to_throw_parts_away(trying: Trying) -> None:
    # The refusal ends the others: those that are under way by then are sent again.
    trying.server.faults({"op": "UploadPart", "skip": 3, "status": 403, "latency_ms": 2000.0})
    assert isinstance(failure(trying.put), Denied)
    trying.server.clear_faults()
    arrived = len(_parts_sent(trying.server))
    trying.put()
    assert (trying.sent_parts, trying.is_clean) == (4 - arrived, True)


def test_an_upload_can_be_abandoned_and_nothing_else_goes(trying: Trying) -> None:
    write(trying.store, "large", b"the version of before")
    version = trying.store.stat("large").version
    trying.server.faults({"op": "UploadPart", "skip": 1, "status": 500})
    assert isinstance(failure(lambda: trying.put(DATA, version)), Unreachable)
    trying.server.clear_faults()
    for token in (trying.token, trying.token, "", "s3-parts ", "s3-parts none", "of another"):
        trying.store.abandon("large", token)
    assert not uploads_left(trying.server)
    assert content(trying.store, "large") == b"the version of before"


def test_a_token_of_something_else_does_no_harm(trying: Trying) -> None:
    trying.tokens = ["gcs-session /upload/x"]
    trying.put()
    assert (trying.sent_parts, trying.is_clean) == (4, True)


def test_a_delta_ends_the_upload_of_before(trying: Trying) -> None:
    trying.break_off(sent=3)
    version = write(trying.store, "large", DATA).version
    upload = replace(UPLOAD, resume=trying.token, progress=trying.tokens.append)
    new = DATA[:-3] + b"END"
    same = [(0, len(DATA) - 3)]
    trying.store.put_delta("large", BytesBody(new), version, upload, "large", version, same)
    assert trying.is_clean
    assert content(trying.store, "large") == new
