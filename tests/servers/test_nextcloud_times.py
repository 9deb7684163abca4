"""nextcloud://: the time of a file that is there already."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mountd.errors import Locked, Throttled, Unreachable, Unsupported, VersionChanged
from mountd.remotes.base import ABSENT, Upload
from mountd.remotes.nextcloud import NextcloudStore, Uploading
from mountd.remotes.nextcloud_times import MOST_REFUSALS
from mountd.types import Entry
from tests.conftest import ExpectedLog
from tests.fakes.body import BytesBody
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.nextcloud.stores import opening

pytestmark = pytest.mark.server

THEN_S = 1_500_000_000
NEW_S = 1_600_000_000
OpenStore = Callable[[], NextcloudStore]


@pytest.fixture
def open_store(nextcloud_server: NextcloudServer) -> Iterator[OpenStore]:
    with opening(nextcloud_server) as open_one:
        yield lambda: open_one(Uploading(64 << 10, (0.02,), (0.02,)))


def put(store: NextcloudStore, data: bytes = b"bytes", key: str = "f") -> Entry:
    return store.put(key, BytesBody(data), ABSENT, Upload("put", THEN_S * 10**9))


def touch(store: NextcloudStore, version: str, mtime_s: float = NEW_S, *, key: str = "f") -> Entry:
    return store.copy(key, version, key, version, Upload("touched", int(mtime_s * 10**9)))


def mtime_of(server: NextcloudServer) -> int:
    found = server.node("f")
    return int(found.mtime_s) if found is not None else 0


def until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 25
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def asked(server: NextcloudServer) -> list[str]:
    return [entry.method for entry in server.log()]


def test_a_time_is_set_by_one_conditional_request_between_two_looks(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    made = put(store)
    before = nextcloud_server.node("f")
    nextcloud_server.clear_log()
    touched = touch(store, made.version, NEW_S + 0.75)
    assert asked(nextcloud_server) == ["PROPFIND", "PROPPATCH", "PROPFIND"]
    [patch] = nextcloud_server.log(op="Proppatch")
    assert before is not None
    assert patch.headers["if-match"] == f'"{before.etag}"'
    assert touched.mtime_ns == NEW_S * 10**9
    assert touched == open_store().stat("f")
    assert touched.version != made.version
    assert nextcloud_server.read("f") == b"bytes"
    found = store.identify("f")
    assert (found.entry, found.upload_id) == (touched, "touched")


def test_a_file_that_has_the_time_already_is_looked_at_and_no_more(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    made = put(store)
    nextcloud_server.clear_log()
    assert touch(store, made.version, THEN_S + 0.5).version == made.version
    assert asked(nextcloud_server) == ["PROPFIND"]


def test_somebody_elses_newer_version_keeps_its_time(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    made = put(store)
    theirs = nextcloud_server.put("f", b"newer", mtime_s=THEN_S + 5)
    with pytest.raises(VersionChanged):
        touch(store, made.version)
    assert nextcloud_server.node("f") == theirs


def test_what_comes_between_the_look_and_the_request_keeps_its_time(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    made = put(store)
    nextcloud_server.faults({"op": "Proppatch", "times": 1, "status": 412})
    with pytest.raises(VersionChanged):
        touch(store, made.version)


def test_a_request_that_has_an_effect_and_no_answer_is_known_by_a_look(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    made = put(store)
    nextcloud_server.faults({"op": "Proppatch", "times": 1, "lose_reply": True})
    with pytest.raises(Unreachable):
        touch(store, made.version)
    found = store.identify("f")
    assert (found.upload_id, found.entry.mtime_ns) == ("touched", NEW_S * 10**9)


def test_a_time_that_the_server_fails_at_again_and_again_is_given_up_and_told_once(
    open_store: OpenStore, nextcloud_server: NextcloudServer, expected_log: ExpectedLog
) -> None:
    expected_log("failed 8 times to set the time of 'f', which is kept here only.*HTTP 500")
    store = open_store()
    made = put(store)
    other = put(store, key="other")
    nextcloud_server.faults({"op": "Proppatch", "status": 500})
    for _ in range(MOST_REFUSALS - 1):
        with pytest.raises(Unreachable):
            touch(store, made.version)
    with pytest.raises(Unsupported):
        touch(store, made.version)
    assert store.stat("f") == made
    for _ in range(MOST_REFUSALS - 1):  # it is a file's number
        with pytest.raises(Unreachable):
            touch(store, other.version, key="other")
    nextcloud_server.clear_faults()
    assert touch(store, other.version, key="other").mtime_ns == NEW_S * 10**9
    assert touch(store, made.version).mtime_ns == NEW_S * 10**9


def test_a_server_that_fails_at_times_does_not_keep_a_renamed_file_from_arriving(
    open_store: OpenStore, nextcloud_server: NextcloudServer, expected_log: ExpectedLog
) -> None:
    expected_log("failed 8 times to set the time of 'g'")
    store = open_store()
    made = put(store)
    nextcloud_server.faults({"op": "Proppatch", "status": 500})
    upload = Upload("renamed", NEW_S * 10**9)
    for _ in range(MOST_REFUSALS - 1):
        with pytest.raises(Unreachable):
            store.copy("f", made.version, "g", ABSENT, upload)
    assert store.copy("f", made.version, "g", ABSENT, upload).mtime_ns == THEN_S * 10**9
    assert nextcloud_server.read("g") == b"bytes"


@pytest.mark.parametrize("fault", [{"status": 503}, {"reset": True}])
def test_a_time_is_not_given_up_because_the_server_is_away(
    open_store: OpenStore, nextcloud_server: NextcloudServer, fault: dict[str, Any]
) -> None:
    store = open_store()
    made = put(store)
    nextcloud_server.faults({"op": "Proppatch", **fault})
    for _ in range(MOST_REFUSALS + 1):
        with pytest.raises((Throttled, Unreachable)):
            touch(store, made.version)
    nextcloud_server.clear_faults()
    assert touch(store, made.version).mtime_ns == NEW_S * 10**9


def test_a_request_that_never_came_is_not_taken_for_done(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    made = put(store)
    nextcloud_server.faults({"op": "Proppatch", "times": 1, "status": 503})
    with pytest.raises(Throttled):
        touch(store, made.version)
    assert store.identify("f").upload_id == "put"


def test_other_bytes_with_the_same_time_are_not_taken_for_ours(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    made = put(store)
    nextcloud_server.faults({"op": "Proppatch", "times": 1, "lose_reply": True})
    with pytest.raises(Unreachable):
        touch(store, made.version)
    nextcloud_server.configure(clock_s=2_000_000_000)
    nextcloud_server.put("f", b"other", mtime_s=NEW_S)
    assert store.identify("f").upload_id == ""


@pytest.mark.parametrize("mtime_s", [0, -5, 86_400])
def test_a_time_that_the_server_answers_with_500_is_not_sent(
    open_store: OpenStore, nextcloud_server: NextcloudServer, mtime_s: int
) -> None:
    store = open_store()
    made = put(store)
    with pytest.raises(Unsupported):
        touch(store, made.version, mtime_s)
    assert nextcloud_server.log(op="Proppatch") == []


@pytest.mark.parametrize("status", [0, 403])
def test_who_may_not_write_sets_no_time_and_has_no_failed_upload(
    open_store: OpenStore, nextcloud_server: NextcloudServer, status: int
) -> None:
    store = open_store()
    made = put(store)
    if status:
        nextcloud_server.faults({"op": "Proppatch", "times": 1, "status": status})
    else:
        nextcloud_server.deny("f", "W")
    with pytest.raises(Unsupported):
        touch(store, made.version)
    facts = nextcloud_server.node("f")
    assert facts is not None
    assert facts.mtime_s == THEN_S


def test_a_file_that_is_being_written_is_locked(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    made = put(store)
    nextcloud_server.faults({"op": "Proppatch", "times": 1, "status": 423})
    with pytest.raises(Locked):
        touch(store, made.version)


def test_a_copy_has_the_time_that_it_is_given(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    store = open_store()
    made = put(store)
    copied = store.copy("f", made.version, "g", ABSENT, Upload("copy", NEW_S * 10**9))
    assert copied == open_store().stat("g")
    assert copied.mtime_ns == NEW_S * 10**9
    assert nextcloud_server.read("g") == b"bytes"
    assert store.stat("f") == made
    same = store.copy("f", made.version, "h", ABSENT, Upload("copy", THEN_S * 10**9))
    assert same.mtime_ns == THEN_S * 10**9
    assert len(nextcloud_server.log(op="Proppatch")) == 1


def test_what_comes_in_the_second_of_the_upload_while_the_time_is_set_is_not_taken_for_ours(
    open_store: OpenStore, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(clock_s=2_000_000_000)
    store = open_store()
    made = put(store)
    nextcloud_server.faults({"op": "Propfind", "skip": 1, "times": 1, "hold": True})
    with ThreadPoolExecutor(1) as thread:
        touched = thread.submit(touch, store, made.version)
        nextcloud_server.wait_for_requests(1, op="Proppatch")
        until(lambda: mtime_of(nextcloud_server) == NEW_S)
        nextcloud_server.put("f", b"THEIR", mtime_s=NEW_S + 9)
        nextcloud_server.release()
        with pytest.raises(Unsupported):
            touched.result()
    assert store.identify("f").upload_id == ""
