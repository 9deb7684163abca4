"""The WebDAV store against answers that no decent server gives."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from typing_extensions import Buffer

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import (
    Corrupt,
    CredentialsError,
    Denied,
    Locked,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Throttled,
    Unreachable,
    Unsupported,
    UsageError,
)
from mountd.remotes.base import ABSENT, Capabilities, RemoteStore, Upload
from mountd.remotes.nextcloud import open_nextcloud
from mountd.remotes.registry import open_store
from mountd.remotes.retry import RetryingStore
from mountd.remotes.webdav import WebdavStore, open_webdav
from mountd.types import Entry, Kind
from tests.conftest import ExpectedLog
from tests.fakes.body import BytesBody
from tests.fakes.no_writes import NoWrites
from tests.fakes.stopwatch import fastest_s
from tests.servers.raw_http import RawServer, Step, answer, cut, raw_http

ETAG = '"v1"'
DATE = "Thu, 01 Jan 1970 00:01:40 GMT"


def store_at(
    authority: str, timeout_s: float = 5.0, credentials: Mapping[str, str] | None = None
) -> WebdavStore:
    settings = Settings(
        cache_dir=Path("/nonexistent"), request_timeout_s=timeout_s, credentials=credentials or {}
    )
    return open_webdav(Source("webdav+http", authority, "dav", "webdav+http://x/dav"), settings)


@contextmanager
def scripted(*script: Step, timeout_s: float = 5.0) -> Iterator[tuple[WebdavStore, RawServer]]:
    with raw_http(*script) as server:
        store = store_at(server.authority, timeout_s)
        try:
            yield store, server
        finally:
            store.close()


def response(href: str, etag: str = ETAG, status: str = "200 OK", size: int = 20) -> str:
    kind = "<d:collection/>" if href.endswith("/") else ""
    return (
        f"<d:response><d:href>{href}</d:href><d:propstat><d:prop>"
        f"<d:resourcetype>{kind}</d:resourcetype><d:getcontentlength>{size}</d:getcontentlength>"
        f"<d:getlastmodified>{DATE}</d:getlastmodified><d:getetag>{etag}</d:getetag></d:prop>"
        f"<d:status>HTTP/1.1 {status}</d:status></d:propstat></d:response>"
    )


def multistatus(*responses: str) -> Step:
    body = f'<d:multistatus xmlns:d="DAV:">{"".join(responses)}</d:multistatus>'
    return answer(207, body.encode())


def part(body: bytes, content_range: str, etag: str | None = ETAG) -> Step:
    headers = {"Content-Range": content_range, "Last-Modified": DATE}
    return answer(206, body, headers | ({"ETag": etag} if etag else {}))


class CountingCalls(NoWrites):
    """A store that counts what it is asked to read."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self.reads = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    def stat(self, key: str) -> Entry:
        return self._store.stat(key)

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        return self._store.list(directory)

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        self.reads += 1
        return self._store.read(key, start, end, version)

    def close(self) -> None:
        self._store.close()


def listed(store: WebdavStore, directory: str = "") -> list[Entry]:
    return [entry for page in store.list(directory) for entry in page]


READS: dict[str, Callable[[WebdavStore], object]] = {
    "stat": lambda store: store.stat("f"),
    "list": listed,
    "read": lambda store: store.read("f", 0, 4000, ETAG),
}
each_call = pytest.mark.parametrize("call", READS.values(), ids=READS.keys())


def test_a_stat_is_one_propfind_of_depth_0() -> None:
    with scripted(multistatus(response("/dav/f"))) as (store, server):
        assert store.stat("f") == Entry("f", Kind.FILE, 20, 100_000_000_000, ETAG)
    assert [(seen.method, seen.target) for seen in server.requests] == [("PROPFIND", "/dav/f")]
    assert server.requests[0].headers["depth"] == "0"
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_a_read_is_one_conditional_range_and_the_connection_is_kept() -> None:
    with scripted(part(b"hello", "bytes 3-7/20")) as (store, server):
        assert store.read("f", 3, 8, ETAG) == b"hello"
        assert store.read("f", 3, 8, ETAG) == b"hello"
    assert server.connections == 1
    for request in server.requests:
        assert request.headers["range"] == "bytes=3-7"
        assert request.headers["if-match"] == ETAG


@each_call
@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((401, Denied), (403, Denied), (404, NotFound), (410, NotFound), (423, Locked)),
        *((429, Throttled), (503, Throttled), (507, QuotaExceeded), (405, Unsupported)),
        *((500, Unreachable), (502, Unreachable), (504, Unreachable)),
    ],
)
def test_a_status_is_its_error_whoever_asks(
    call: Callable[[WebdavStore], object], status: int, error: type[RemoteError]
) -> None:
    with scripted(answer(status, b"sorry")) as (store, server):
        with pytest.raises(error):
            call(store)
        assert len(server.requests) == 1  # and in particular no 401 is tried again


def test_who_may_not_write_is_told_of_the_folder_and_not_of_a_probe() -> None:
    with scripted(answer(403)) as (store, server), pytest.raises(Denied) as refused:
        store.put("d/f", BytesBody(b"1"), ABSENT, Upload())
    assert server.requests[0].target.startswith("/dav/d/.mountd-probe-")
    assert str(refused.value) == f"PUT http://{server.authority}/dav/d/: HTTP 403"


def test_a_server_that_answers_with_a_failure_is_tried_more_often_than_a_dead_one() -> None:
    def attempts_until_given_up(store: WebdavStore) -> int:
        counted = CountingCalls(store)
        patient = RetryingStore(counted, 60, wait=lambda event, delay_s: None)
        with pytest.raises(Unreachable):
            patient.read("f", 0, 5, ETAG)
        return counted.reads

    cuts = [cut(part(b"hello", "bytes 0-4/20"), 2), part(b"hel", "bytes 0-4/20")]
    for failure in (answer(500), answer(502), answer(504), *cuts):
        with scripted(*[failure] * 6) as (store, _):
            assert attempts_until_given_up(store) == 6
    with raw_http() as server:
        authority = server.authority
    assert attempts_until_given_up(store_at(authority)) == 3


def test_a_cut_listing_says_that_the_server_answered() -> None:
    whole = multistatus(response("/dav/"), response("/dav/a"))
    body = whole.data.partition(b"\r\n\r\n")[2]
    for step in (cut(whole, 40), answer(207, body[:-30])):
        with scripted(step) as (store, _), pytest.raises(Unreachable) as caught:
            listed(store)
        assert caught.value.answered


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_told(status: int) -> None:
    slow_down = answer(status, headers={"Retry-After": "7"})
    with scripted(slow_down) as (store, _), pytest.raises(Throttled) as caught:
        store.stat("f")
    assert caught.value.retry_after_s == 7.0


@each_call
def test_a_server_that_hangs_is_unreachable_in_time(
    call: Callable[[WebdavStore], object],
) -> None:
    with scripted(Step(b"", hang=True), timeout_s=0.3) as (store, _):

        def hangs() -> None:
            with pytest.raises(Unreachable):
                call(store)

        assert fastest_s(hangs, 3.0, tries=3) < 3.0


@each_call
@pytest.mark.parametrize("what", ["head", "body"])
def test_a_server_that_drips_is_unreachable_in_time(
    call: Callable[[WebdavStore], object], what: str
) -> None:
    # Each byte comes well within the timeout, so only a limit on the whole call can end this.
    head = b"HTTP/1.1 200 OK\r\nX-Slow: "
    if what == "body":
        head = b"HTTP/1.1 200 OK\r\n\r\n" if call is READS["read"] else b"HTTP/1.1 207 OK\r\n\r\n"
    with scripted(Step(head + b" " * 5000, drip_s=0.02), timeout_s=0.7) as (store, _):

        def drips() -> None:
            with pytest.raises((Unreachable, Corrupt)):
                call(store)

        assert fastest_s(drips, 3.0, tries=3) < 3.0


def test_nobody_there_is_unreachable() -> None:
    with raw_http(answer(200)) as server:
        authority = server.authority
    with pytest.raises(Unreachable):
        store_at(authority).stat("f")


def test_a_redirect_to_another_server_is_not_followed() -> None:
    with raw_http(answer(200)) as other:
        away = answer(302, headers={"Location": f"http://{other.authority}/login"})
        with scripted(away) as (store, _), pytest.raises(Unreachable, match="redirected to"):
            store.stat("f")
        assert other.connections == 0


def test_a_redirect_on_the_same_server_is_followed_with_the_same_method() -> None:
    moved = answer(301, headers={"Location": "/elsewhere/f"})
    with scripted(moved, multistatus(response("/elsewhere/f"))) as (store, server):
        assert store.stat("f").size == 20
    assert [seen.method for seen in server.requests] == ["PROPFIND", "PROPFIND"]


def test_a_redirect_in_a_circle_ends() -> None:
    moved = answer(301, headers={"Location": "/dav/f"})
    with scripted(moved) as (store, _), pytest.raises(Unreachable, match="circle"):
        store.stat("f")


# Listings


def test_a_listing_leaves_out_itself_strangers_and_duplicates(
    expected_log: ExpectedLog, caplog: pytest.LogCaptureFixture
) -> None:
    expected_log("left out 3 hrefs elsewhere")
    entries = [response(f"/dav/{name}") for name in ("", "a", "b/", "a", "../c", "b/deep")]
    with scripted(multistatus(*entries, response("/etc/passwd"))) as (store, _):
        found = listed(store)
    assert [(entry.name, entry.kind) for entry in found] == [
        ("a", Kind.FILE),
        ("b", Kind.DIRECTORY),
    ]
    assert "left out 3 hrefs" in caplog.text


@pytest.mark.parametrize("missing_bytes", [1, 40, 300])
def test_a_cut_listing_is_unreachable(missing_bytes: int) -> None:
    whole = multistatus(response("/dav/"), response("/dav/a"))
    with scripted(cut(whole, missing_bytes)) as (store, _), pytest.raises(Unreachable):
        listed(store)


def test_a_listing_whose_cut_is_hidden_by_the_framing_is_unreachable() -> None:
    body = multistatus(response("/dav/"), response("/dav/a")).data.partition(b"\r\n\r\n")[2]
    with scripted(answer(207, body[:-30])) as (store, _), pytest.raises(Unreachable):
        listed(store)


def test_a_late_cut_leaves_no_part_of_a_listing() -> None:
    whole = multistatus(response("/dav/"), *(response(f"/dav/{n}") for n in range(1500)))
    with scripted(cut(whole, 30)) as (store, _), pytest.raises(Unreachable):
        next(iter(store.list("")))


@pytest.mark.parametrize(
    ("status", "error"),
    [("403 Forbidden", Denied), ("500 Oops", Unreachable), ("423 Locked", Locked)],
)
def test_one_failing_entry_fails_the_listing(status: str, error: type[RemoteError]) -> None:
    entries = (response("/dav/"), response("/dav/a"), response("/dav/b", status=status))
    with scripted(multistatus(*entries)) as (store, _), pytest.raises(error):
        listed(store)


def test_an_entry_without_a_size_fails_the_listing() -> None:
    nameless = response("/dav/a").replace("getcontentlength", "getcontentlanguage")
    with scripted(multistatus(response("/dav/"), nameless)) as (store, _), pytest.raises(Corrupt):
        listed(store)


def test_an_answer_without_the_collection_is_not_an_empty_directory() -> None:
    with scripted(multistatus()) as (store, _), pytest.raises(Corrupt):
        listed(store)
    elsewhere = multistatus(response("/"), response("/a"))  # a proxy that takes /dav away
    with scripted(elsewhere) as (store, _), pytest.raises(Corrupt, match="proxy"):
        listed(store)


def test_an_entity_bomb_is_corrupt() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><d:multistatus xmlns:d="DAV:">&a;</d:multistatus>'
    with scripted(answer(207, bomb)) as (store, _), pytest.raises(Corrupt):
        listed(store)


def test_a_login_page_is_not_a_directory() -> None:
    with scripted(answer(200, b"<html>Sign in</html>")) as (store, _), pytest.raises(Corrupt):
        listed(store)


def test_a_listing_that_is_given_up_frees_its_connection() -> None:
    whole = multistatus(response("/dav/"), *(response(f"/dav/{n}") for n in range(3000)))
    with scripted(whole, multistatus(response("/dav/f"))) as (store, _):
        pages = store.list("")
        next(pages)
        pages.close()  # type: ignore[attr-defined]
        assert store.stat("f").size == 20


# Reads


def test_a_tag_that_turns_strong_is_the_same_version() -> None:
    weak, strong = (multistatus(response("/dav/f", tag)) for tag in ('W/"v1"', '"v1"'))
    with scripted(weak, strong) as (store, _):
        assert store.stat("f").version == store.stat("f").version


def test_many_threads_share_one_store() -> None:
    found: list[bytes] = []
    with scripted(part(b"hello", "bytes 0-4/20")) as (store, server):

        def read_some() -> None:
            for _ in range(20):
                found.append(bytes(store.read("f", 0, 5, ETAG)))

        threads = [threading.Thread(target=read_some) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert found == [b"hello"] * 160
    assert server.connections <= 8


# Opening


def test_credentials_become_a_header() -> None:
    for credentials, header in (
        ({"user": "ann", "password": "pä:ss"}, "Basic YW5uOnDDpDpzcw=="),
        ({"token": "abc"}, "Bearer abc"),
    ):
        with raw_http(multistatus(response("/dav/f"))) as server:
            store = store_at(server.authority, credentials=credentials)
            store.stat("f")
            store.close()
        assert server.requests[0].headers["authorization"] == header


def test_a_user_without_a_password_is_told_at_once() -> None:
    with pytest.raises(CredentialsError, match="MOUNTD_PASSWORD"):
        store_at("127.0.0.1:9", credentials={"user": "ann"})


CAPABILITIES = "/ocs/v2.php/cloud/capabilities?format=json"


def test_nextcloud_addresses_are_mapped_and_its_folder_tags_are_versions() -> None:
    root = "/remote.php/dav/files/ann%20b/a%20c/"
    capabilities = answer(
        200, b'{"ocs": {"data": {"version": {"string": "31.0.0"}, "capabilities": {"files": {}}}}}'
    )
    with raw_http(capabilities, multistatus(response(root, '"tree"'))) as server:
        settings = Settings(
            cache_dir=Path("/nonexistent"),
            endpoint=f"http://{server.authority}/",
            credentials={"user": "ann b", "password": "x"},
        )
        store = open_store(Source("nextcloud", "cloud", "a c", "nextcloud://cloud/a c"), settings)
        assert store.stat("").version == '"tree"'
        store.close()
    assert [seen.target for seen in server.requests] == [CAPABILITIES, root]


def test_nextcloud_needs_a_user() -> None:
    settings = Settings(cache_dir=Path("/nonexistent"))
    with pytest.raises(CredentialsError, match="mountd login nextcloud cloud"):
        open_nextcloud(Source("nextcloud", "cloud", "", "nextcloud://cloud"), settings)


def test_an_endpoint_that_is_no_url_is_a_usage_error() -> None:
    settings = Settings(cache_dir=Path("/nonexistent"), endpoint="cloud.example.org")
    with pytest.raises(UsageError, match="https://HOST"):
        open_webdav(Source("webdav", "cloud", "", "webdav://cloud"), settings)
