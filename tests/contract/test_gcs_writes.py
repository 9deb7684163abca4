"""Writes to GCS: what goes over the wire, and what is left when something goes wrong."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from mountd.errors import (
    Corrupt,
    Denied,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Throttled,
    Unreachable,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, RemoteStore, Upload
from mountd.remotes.gcs import store_of
from mountd.remotes.gcs_credentials import BearerToken, GcsAccess
from mountd.remotes.gcs_upload import ONE_REQUEST_BYTES, SESSION_UNIT_BYTES
from tests.contract.targets_gcs import gcs_source
from tests.contract.writing import MTIME_NS, NOTHING, content, names, write
from tests.fakes.body import BytesBody
from tests.servers.gcs_fake import TOKEN, running_gcs_fake
from tests.servers.gcs_fake_state import GcsFake, Refused

pytestmark = pytest.mark.server

LARGE = random.Random(0).randbytes(ONE_REQUEST_BYTES + SESSION_UNIT_BYTES + 1)


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


def methods(fake: GcsFake) -> list[str]:
    return [request.method for request in fake.changes]


def test_a_small_file_is_one_request_with_its_sum_and_all_that_goes_with_it(
    fake: GcsFake, store: RemoteStore
) -> None:
    upload = Upload("the-id", MTIME_NS, {"mode": "33188", "user.Name_x": "y"})
    made = write(store, "page.html", b"<p>", ABSENT, upload)
    assert methods(fake) == ["POST"]
    found = fake.objects["d/page.html"]
    assert made.version == str(found.generation)
    assert (found.data, found.resource["contentType"]) == (b"<p>", "text/html")
    assert found.resource["metadata"] == {
        "mountd-upload": "the-id",
        "mtime": "1600000000.123456000",
        "mode": "33188",
        "user.Name_x": "y",
    }


@pytest.mark.parametrize(
    "size",
    [
        ONE_REQUEST_BYTES + 1,
        ONE_REQUEST_BYTES + SESSION_UNIT_BYTES,
        ONE_REQUEST_BYTES + SESSION_UNIT_BYTES + 1,
    ],
)
def test_a_large_file_is_a_session_of_two_parts(
    fake: GcsFake, store: RemoteStore, size: int
) -> None:
    data = LARGE[:size]
    made = write(store, "large", data, ABSENT, Upload("the-id"))
    assert methods(fake) == ["POST", "PUT", "PUT"]
    assert [request.size for request in fake.changes[1:]][1] <= SESSION_UNIT_BYTES
    assert "x-goog-hash" in fake.changes[2].headers
    assert (made.size, content(store, "large")) == (size, data)
    assert store.identify("large").upload_id == "the-id"
    assert fake.sessions == {}


def test_a_part_of_which_only_a_beginning_was_kept_goes_on_from_there(
    fake: GcsFake, store: RemoteStore
) -> None:
    fake.keep_bytes = SESSION_UNIT_BYTES
    write(store, "large", LARGE)
    assert methods(fake) == ["POST", "PUT", "PUT", "PUT"]
    assert fake.changes[2].headers["content-range"].startswith(f"bytes {SESSION_UNIT_BYTES}-")
    assert content(store, "large") == LARGE


def test_a_connection_that_is_cut_again_and_again_is_gone_on_with(
    fake: GcsFake, store: RemoteStore
) -> None:
    fake.cut_after = [SESSION_UNIT_BYTES * n + 5 for n in (1, 4, 2, 3)]
    write(store, "large", LARGE)
    assert fake.cut_after == []
    assert content(store, "large") == LARGE
    parts = [request.headers["content-range"] for request in fake.changes if request.size > 1000]
    starts = [int(part.removeprefix("bytes ").partition("-")[0]) for part in parts]
    assert starts == [SESSION_UNIT_BYTES * n for n in (0, 1, 5, 7, 10)]


def test_a_session_that_never_gets_on_is_unreachable(fake: GcsFake, store: RemoteStore) -> None:
    fake.cut_after = [5] * 10
    with pytest.raises(Unreachable):
        write(store, "large", LARGE)
    assert len(fake.cut_after) == 7
    assert (fake.sessions, fake.objects) == ({}, {})


def test_the_last_part_is_sent_once(fake: GcsFake, store: RemoteStore) -> None:
    def cut_the_end(start: int, end: int) -> None:
        if end == len(LARGE):
            fake.cut_after = [0]

    with pytest.raises(Unreachable):
        store.put("large", BytesBody(LARGE, cut_the_end), ABSENT, NOTHING)
    assert methods(fake) == ["POST", "PUT", "PUT", "DELETE"]


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_a_file_that_arrives_damaged_is_refused_by_its_sum(
    fake: GcsFake, store: RemoteStore, data: bytes
) -> None:
    before = write(store, "file", b"before")
    fake.spoil = True
    with pytest.raises(Corrupt):
        write(store, "file", data, before.version)
    assert content(store, "file") == b"before"


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_a_damaged_file_that_the_server_did_not_notice_is_removed_again(
    fake: GcsFake, store: RemoteStore, data: bytes
) -> None:
    fake.spoil = fake.blind = True
    with pytest.raises(Corrupt):
        write(store, "file", data)
    assert fake.objects == {}


def test_a_file_that_changes_while_a_session_runs_is_not_replaced(
    fake: GcsFake, store: RemoteStore
) -> None:
    version = write(store, "large", b"before").version

    def meanwhile(start: int, end: int) -> None:
        if end == len(LARGE):
            fake.put("d/large", b"theirs, meanwhile")

    with pytest.raises(VersionChanged):
        store.put("large", BytesBody(LARGE, meanwhile), version, NOTHING)
    assert content(store, "large") == b"theirs, meanwhile"


@pytest.mark.parametrize("error", [OSError("the disk"), Unreachable("the base")])
def test_a_body_that_fails_ends_its_session(
    fake: GcsFake, store: RemoteStore, error: Exception
) -> None:
    asked: list[int] = []

    def fail(start: int, end: int) -> None:
        asked.append(start)
        if start >= ONE_REQUEST_BYTES // 2:
            raise error

    with pytest.raises(type(error)) as raised:
        store.put("large", BytesBody(LARGE, fail), ABSENT, NOTHING)
    assert raised.value is error
    assert asked == sorted(set(asked)), "the body was asked again"
    assert methods(fake)[-1] == "DELETE"
    assert (fake.sessions, fake.objects) == ({}, {})


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (403, "forbidden", Denied),
        (403, "rateLimitExceeded", Throttled),
        (403, "quotaExceeded", QuotaExceeded),
        (403, "storageQuotaExceeded", QuotaExceeded),
        (429, "rateLimitExceeded", Throttled),
        (503, "backendError", Throttled),
        (500, "backendError", Unreachable),
        (412, "conditionNotMet", VersionChanged),
    ],
)
@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_a_refusal_is_told_by_its_reason(
    fake: GcsFake,
    store: RemoteStore,
    data: bytes,
    status: int,
    reason: str,
    expected: type[RemoteError],
) -> None:
    fake.refuse = Refused(status, reason)
    with pytest.raises(expected) as raised:
        write(store, "file", data)
    assert type(raised.value) is expected
    assert fake.objects == {}


def test_a_session_that_is_gone_does_not_say_that_a_file_is(
    fake: GcsFake, store: RemoteStore
) -> None:
    def forget(start: int, end: int) -> None:
        fake.sessions.clear()

    with pytest.raises(Unreachable):
        store.put("large", BytesBody(LARGE, forget), ABSENT, NOTHING)


def test_a_lost_answer_is_unreachable_and_the_file_says_who_wrote_it(
    fake: GcsFake, store: RemoteStore
) -> None:
    fake.lose_answer = True
    with pytest.raises(Unreachable):
        write(store, "file", b"ours", ABSENT, Upload("the-id"))
    assert methods(fake) == ["POST"]
    assert store.identify("file").upload_id == "the-id"
    fake.lose_answer = True
    with pytest.raises(Unreachable):
        store.delete("file", store.stat("file").version)
    assert names(store) == []


def test_a_copy_keeps_how_a_browser_shows_it(fake: GcsFake, store: RemoteStore) -> None:
    shown = {"contentType": "image/png", "contentEncoding": "gzip", "cacheControl": "no-store"}
    fake.put("d/source", b"1", {**shown, "metadata": {"old": "1"}})
    version = store.stat("source").version
    store.copy("source", version, "plain", ABSENT, NOTHING)
    store.copy("source", version, "told", ABSENT, Upload("the-id"))
    assert fake.objects["d/plain"].resource == {**shown, "metadata": {"old": "1"}}
    assert fake.objects["d/told"].resource == {
        **shown,
        "metadata": {"old": "1", "mountd-upload": "the-id"},
    }


def test_a_copy_may_take_several_requests(fake: GcsFake, store: RemoteStore) -> None:
    fake.put("d/source", LARGE)
    made = store.copy("source", store.stat("source").version, "copied", ABSENT, Upload("the-id"))
    assert methods(fake) == ["POST", "POST"]
    assert store.identify("copied").entry == made
    assert content(store, "copied") == LARGE


def test_a_source_or_target_that_changes_at_the_last_moment_is_not_copied(
    fake: GcsFake, store: RemoteStore
) -> None:
    for changed in ("source", "target"):
        for name in ("source", "target"):
            fake.put(f"d/{name}", name.encode())
        versions = [store.stat(name).version for name in ("source", "target")]
        fake.before_change = lambda: fake.put(f"d/{changed}", b"theirs")  # noqa: B023
        with pytest.raises(VersionChanged):
            store.copy("source", versions[0], "target", versions[1], NOTHING)
        assert fake.objects[f"d/{changed}"].data == b"theirs"
        assert fake.objects["d/target"].data in (b"target", b"theirs")


def test_a_file_that_should_not_be_there_is_not_deleted(store: RemoteStore) -> None:
    write(store, "file", b"1")
    with pytest.raises(VersionChanged):
        store.delete("file", ABSENT)
    with pytest.raises(NotFound):
        store.delete("missing", ABSENT)
    assert names(store) == ["file"]


def test_the_mtime_of_other_programs_is_shown(fake: GcsFake, store: RemoteStore) -> None:
    second_ns = int(datetime(2026, 1, 31, 10, 15, tzinfo=UTC).timestamp()) * 1_000_000_000
    for name, metadata in {
        "rclone": {"mtime": "2026-01-31T10:15:00.123456789Z"},
        "gsutil": {"goog-reserved-file-mtime": "1769854500"},
    }.items():
        fake.put(f"d/{name}", b"1", {"metadata": metadata})
    assert store.stat("rclone").mtime_ns == second_ns + 123_456_000
    assert store.stat("gsutil").mtime_ns == second_ns


@pytest.mark.parametrize("name", ["new\nline", "return\r", "\udcff", "n" * 1023])
def test_a_name_that_google_does_not_take_is_not_sent(
    fake: GcsFake, store: RemoteStore, name: str
) -> None:
    with pytest.raises(NameNotAllowed):
        write(store, name, b"1")
    assert fake.changes == []
