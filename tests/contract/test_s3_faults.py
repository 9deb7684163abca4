"""What only a server that misbehaves on order can show, on the S3 store.

Nothing is retried by a store, so each fault must come out as its own error, in time.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from mountd.errors import (
    ContainerMissing,
    Corrupt,
    Denied,
    RemoteError,
    SignInRefused,
    Throttled,
    Unreachable,
    VersionChanged,
)
from mountd.remotes.base import RemoteStore
from mountd.remotes.s3 import open_s3
from tests.contract.targets_s3 import S3Login, s3_settings, s3_source
from tests.contract.test_listing import entries
from tests.contract.test_reading import read
from tests.fakes.stopwatch import fastest_s
from tests.servers.s3.launch import S3Server

pytestmark = pytest.mark.server

BUCKET = "faults"
DATA = bytes(range(256)) * 16
OpenStore = Callable[..., RemoteStore]


@pytest.fixture
def open_store(s3_server: S3Server) -> Iterator[OpenStore]:
    """Opens the store of a bucket with `d/data`; `timeout_s` is its request_timeout_s."""
    s3_server.put(BUCKET, "d/data", DATA)
    s3_server.put(BUCKET, "d//odd", DATA)
    opened: list[RemoteStore] = []

    def opener(timeout_s: float = 10.0, **login: str) -> RemoteStore:
        usual = S3Login(s3_server.endpoint, s3_server.access_key, s3_server.secret_key)
        settings = s3_settings(replace(usual, **login), timeout_s)
        opened.append(open_s3(s3_source(BUCKET, ""), settings))
        return opened[-1]

    yield opener
    for store in opened:
        store.close()


def failure(call: Callable[[], object]) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        call()
    return caught.value


# By obstore, and by our own request for a key that obstore can't say.
both_ways = pytest.mark.parametrize("key", ["d/data", "d//odd"])

BROKEN_ANSWERS: list[tuple[dict[str, Any], type[RemoteError]]] = [
    ({"cut_after_bytes": 100}, Unreachable),
    ({"cut_after_bytes": 0}, Unreachable),
    ({"cut_after_bytes": 100, "cut_with_reset": True}, Unreachable),
    ({"extra_length": 10}, Unreachable),
    ({"reset": True}, Unreachable),
    ({"wrong_content_range": True}, Corrupt),
    ({"ignore_range": True}, Corrupt),
    ({"status": 500}, Unreachable),
    ({"status": 502}, Unreachable),
    ({"status": 504}, Unreachable),
    ({"status": 403}, Denied),
    ({"status": 400, "code": "ExpiredToken"}, SignInRefused),
    ({"status": 404, "code": "NoSuchBucket"}, ContainerMissing),
    ({"status": 503}, Throttled),
    ({"status": 429}, Throttled),
]


@both_ways
@pytest.mark.parametrize(
    ("fault", "expected"), BROKEN_ANSWERS, ids=[str(fault) for fault, _ in BROKEN_ANSWERS]
)
def test_a_spoilt_read_is_the_error_that_it_is(
    s3_server: S3Server,
    open_store: OpenStore,
    key: str,
    fault: dict[str, Any],
    expected: type[RemoteError],
) -> None:
    store = open_store()
    version = store.stat(key).version
    s3_server.faults({"op": "GetObject", **fault})
    error = failure(lambda: store.read(key, 100, 1000, version))
    assert type(error) is expected
    s3_server.clear_faults()
    assert read(store, key, 100, 1000, version) == DATA[100:1000]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 503}, Throttled),
        ({"status": 429}, Throttled),
        ({"status": 500}, Unreachable),
        ({"reset": True}, Unreachable),
        ({"cut_after_bytes": 100}, Unreachable),
        ({"wrong_content_range": True}, Corrupt),
    ],
    ids=str,
)
def test_a_fault_that_has_passed_when_it_is_looked_into_is_still_told_apart(
    s3_server: S3Server,
    open_store: OpenStore,
    fault: dict[str, Any],
    expected: type[RemoteError],
) -> None:
    store = open_store()
    version = store.stat("d/data").version
    s3_server.faults({"op": "GetObject", "times": 1, **fault})
    assert type(failure(lambda: store.read("d/data", 100, 1000, version))) is expected


@both_ways
@pytest.mark.parametrize("status", [429, 503])
def test_throttling_says_how_long_to_wait(
    s3_server: S3Server, open_store: OpenStore, key: str, status: int
) -> None:
    store = open_store()
    s3_server.set_knobs(status=status, retry_after_s=7)
    calls: list[Callable[[], object]] = [
        lambda: store.read(key, 0, 1, ""),
        lambda: store.stat(key),
        lambda: entries(store, "d/"),
    ]
    for call in calls:
        error = failure(call)
        assert isinstance(error, Throttled)
        assert error.retry_after_s == 7.0


@both_ways
def test_a_hanging_server_ends_within_the_timeout(
    s3_server: S3Server, open_store: OpenStore, key: str
) -> None:
    store = open_store(timeout_s=1.0)
    s3_server.set_knobs(hang=True)
    calls: list[Callable[[], object]] = [
        lambda: store.read(key, 0, 1, ""),
        lambda: store.stat(key),
        lambda: entries(store, "d/"),
    ]
    asked = 0

    def hangs(call: Callable[[], object]) -> None:
        nonlocal asked
        asked += 1
        assert type(failure(call)) is Unreachable

    for call in calls:
        assert fastest_s(partial(hangs, call), 1.6) < 1.6
    # There is no time left in which to ask what the failure was.
    assert len(s3_server.log()) == asked


@both_ways
def test_a_body_that_trickles_ends_within_the_timeout(
    s3_server: S3Server, open_store: OpenStore, key: str
) -> None:
    store = open_store(timeout_s=1.0)
    s3_server.set_knobs(bandwidth_bytes_s=1000)

    def trickles() -> None:
        assert type(failure(lambda: store.read(key, 0, len(DATA), ""))) is Unreachable

    assert fastest_s(trickles, 1.6) < 1.6


def test_a_server_that_ignores_conditionals_is_found_out(
    s3_server: S3Server, open_store: OpenStore
) -> None:
    store = open_store()
    s3_server.set_knobs(ignore_conditionals=True)
    for key in ("d/data", "d//odd"):
        version = store.stat(key).version
        s3_server.put(BUCKET, key, b"x" * len(DATA))
        assert type(failure(lambda: store.read(key, 0, 10, version))) is VersionChanged  # noqa: B023


def test_ranges_answered_with_200_are_read_after_one_refusal(
    s3_server: S3Server, open_store: OpenStore
) -> None:
    store = open_store()
    version = store.stat("d/data").version
    s3_server.set_knobs(range_as_200=True)
    assert read(store, "d/data", 5, 25, version) == DATA[5:25]
    s3_server.clear_log()
    assert read(store, "d/data", 25, 99, version) == DATA[25:99]
    assert [entry.range for entry in s3_server.log()] == ["bytes=25-98"]


def test_a_good_read_is_one_request(s3_server: S3Server, open_store: OpenStore) -> None:
    store = open_store()
    version = store.stat("d/data").version
    s3_server.clear_log()
    assert read(store, "d/data", 5, 25, version) == DATA[5:25]
    assert [(entry.op, entry.range) for entry in s3_server.log()] == [("GetObject", "bytes=5-24")]


def test_a_listing_that_fails_on_its_second_page_raises(
    s3_server: S3Server, open_store: OpenStore
) -> None:
    s3_server.seed(BUCKET, prefix="many/", files=30)
    s3_server.set_knobs(page_size=10)
    store = open_store()
    for fault in ({"status": 500}, {"reset": True}, {"cut_after_bytes": 50}):
        s3_server.faults({"op": "ListObjectsV2", "skip": 1, **fault}, replace=True)
        pages = store.list("many/")
        assert len(next(pages)) == 10
        assert type(failure(lambda: next(pages))) is Unreachable  # noqa: B023
    s3_server.clear_faults()
    assert len(entries(store, "many/")) == 30


def test_the_first_page_is_there_before_the_second_is_asked_for(
    s3_server: S3Server, open_store: OpenStore
) -> None:
    s3_server.seed(BUCKET, prefix="many/", files=2500)
    store = open_store()
    s3_server.clear_log()
    pages = store.list("many/")
    assert s3_server.log() == []
    assert len(next(pages)) == 1000
    assert len(s3_server.log()) == 1
    assert sum(len(page) for page in pages) == 1500
    assert len(s3_server.log()) == 3


def test_an_expired_token_is_denied(s3_server: S3Server, open_store: OpenStore) -> None:
    store = open_store()
    version = store.stat("d/data").version
    s3_server.set_knobs(token_expired=True)
    for call in (
        lambda: store.read("d/data", 0, 1, version),
        lambda: store.stat("d/data"),
        lambda: entries(store, "d/"),
    ):
        assert isinstance(failure(call), Denied)


def test_a_clock_that_is_wrong_is_said_in_words(s3_server: S3Server, open_store: OpenStore) -> None:
    store = open_store()
    s3_server.faults({"status": 403, "code": "RequestTimeTooSkewed"})
    error = failure(lambda: entries(store, "d/"))
    assert type(error) is SignInRefused
    assert "the clock of this machine is wrong, or the remote's" in str(error)


def test_a_bucket_in_another_region_names_that(s3_server: S3Server) -> None:
    login = S3Login(s3_server.endpoint, s3_server.access_key, s3_server.secret_key)
    store = open_s3(s3_source(BUCKET, ""), replace(s3_settings(login), region="eu-west-9"))
    error = failure(lambda: entries(store, ""))
    store.close()
    assert type(error) is Denied
    assert str(error).endswith("the bucket is in region us-east-1; set -o region=us-east-1")


def test_a_server_that_went_away_is_unreachable_at_once(
    s3_server: S3Server, open_store: OpenStore
) -> None:
    store = open_store()
    version = store.stat("d/data").version
    s3_server.refuse_connections()

    def ask() -> None:
        for call in (
            lambda: store.read("d/data", 0, 1, version),
            lambda: store.stat("d/data"),
            lambda: entries(store, "d/"),
        ):
            assert type(failure(call)) is Unreachable

    assert fastest_s(ask, 1.0) < 1.0
    s3_server.accept_connections()
    assert read(store, "d/data", 0, 4, version) == DATA[:4]


def test_errors_never_show_the_secret(s3_server: S3Server, open_store: OpenStore) -> None:
    store = open_store(secret_access_key="VERYSECRET")
    for call in (lambda: store.read("d/data", 0, 1, ""), lambda: entries(store, "d/")):
        assert "VERYSECRET" not in repr(failure(call))
