"""Sessions of Google Cloud Storage that broke off, and what the next try sends."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mountd.errors import Unreachable, VersionChanged
from mountd.remotes.base import ABSENT, RemoteStore, Upload
from mountd.remotes.gcs import store_of
from mountd.remotes.gcs_credentials import BearerToken, GcsAccess
from mountd.remotes.gcs_upload import ONE_REQUEST_BYTES, SESSION_UNIT_BYTES
from tests.contract.targets_gcs import gcs_source
from tests.contract.writing import content, write
from tests.servers.gcs_fake import TOKEN, running_gcs_fake
from tests.servers.gcs_fake_state import GcsFake

pytestmark = pytest.mark.server

DATA = random.Random(0).randbytes(ONE_REQUEST_BYTES + 4 * SESSION_UNIT_BYTES + 1)
KEPT = 5 * SESSION_UNIT_BYTES
UPLOAD = Upload("the-id", 5, {"mode": "33188"})


@pytest.fixture
def fake() -> Iterator[GcsFake]:
    with running_gcs_fake() as fake:
        yield fake


@pytest.fixture
def store(fake: GcsFake) -> Iterator[RemoteStore]:
    access = GcsAccess(fake.endpoint, BearerToken(TOKEN), "", has_xml_api=True)
    store = store_of(access, gcs_source(fake.bucket, "d"), 5.0)
    yield store
    store.close()


def broken_off(fake: GcsFake, store: RemoteStore, expect: str = ABSENT) -> list[str]:
    """The tokens of an upload of DATA of which KEPT bytes have arrived."""
    tokens: list[str] = []
    fake.cut_after = [KEPT + 5, 5, 5, 5]
    with pytest.raises(Unreachable):
        write(store, "large", DATA, expect, replace(UPLOAD, progress=tokens.append))
    fake.cut_after = []
    assert len(fake.sessions) == len(tokens) == 1
    fake.changes.clear()
    return tokens


def go_on(store: RemoteStore, tokens: list[str], data: bytes = DATA, expect: str = ABSENT) -> None:
    upload = replace(UPLOAD, resume=tokens[-1], progress=tokens.append)
    write(store, "large", data, expect, upload)


def test_only_what_the_session_has_not_kept_is_sent(fake: GcsFake, store: RemoteStore) -> None:
    tokens = broken_off(fake, store)
    go_on(store, tokens)
    assert [request.method for request in fake.changes] == ["PUT", "PUT", "PUT"]
    assert sum(request.size for request in fake.changes) == len(DATA) - KEPT
    assert (tokens[-1], fake.sessions) == ("", {})
    assert content(store, "large") == DATA
    assert store.identify("large").upload_id == "the-id"


def test_another_condition_or_another_file_is_another_session(
    fake: GcsFake, store: RemoteStore
) -> None:
    tokens = broken_off(fake, store)
    version = write(store, "large", b"of before").version
    fake.changes.clear()
    go_on(store, tokens, DATA, version)
    assert [request.method for request in fake.changes] == ["DELETE", "POST", "PUT", "PUT"]
    assert (tokens[-1], fake.sessions) == ("", {})
    assert content(store, "large") == DATA


def test_bytes_that_are_not_what_is_staged_make_no_object(
    fake: GcsFake, store: RemoteStore
) -> None:
    tokens = broken_off(fake, store)
    other = b"x" + DATA[1:]
    with pytest.raises(Exception, match="large"):
        go_on(store, tokens, other)
    assert (tokens[-1], fake.sessions, fake.objects) == ("", {}, {})
    go_on(store, tokens, other)
    assert content(store, "large") == other


def test_a_session_that_is_gone_is_begun_anew(fake: GcsFake, store: RemoteStore) -> None:
    tokens = broken_off(fake, store)
    fake.sessions.clear()
    go_on(store, tokens)
    assert content(store, "large") == DATA
    assert tokens[-1] == ""


def test_an_object_that_came_meanwhile_is_not_overwritten(
    fake: GcsFake, store: RemoteStore
) -> None:
    tokens = broken_off(fake, store)
    fake.put("d/large", b"theirs")
    with pytest.raises(VersionChanged):
        go_on(store, tokens)
    assert (tokens[-1], fake.sessions) == ("", {})
    assert content(store, "large") == b"theirs"


def test_a_session_can_be_abandoned_and_nothing_else_goes(
    fake: GcsFake, store: RemoteStore
) -> None:
    version = write(store, "large", b"of before").version
    tokens = broken_off(fake, store, version)
    other = f"gcs-session x /storage/v1/b/{fake.bucket}/o/d%2Flarge"
    for token in (other, "", "s3-parts x", tokens[-1], tokens[-1]):
        store.abandon("large", token)
    assert fake.sessions == {}
    assert content(store, "large") == b"of before"
