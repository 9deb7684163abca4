"""nextcloud://: what is made of a server's answers, and of odd ones. No server."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import Corrupt, Denied, Throttled, Unreachable
from mountd.remotes.base import ABSENT, MAX_TOKEN, NameRules, Upload
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.nextcloud import NextcloudStore, Uploading, open_nextcloud
from mountd.remotes.nextcloud_chunks import CHUNK_BYTES, MAX_CHUNKS, chunk_bytes_for
from mountd.remotes.nextcloud_dav import check_sum, quota_in, sums_in
from mountd.remotes.nextcloud_features import PLAIN, features_in
from mountd.remotes.nextcloud_folders import Token, UploadFolders, machine
from mountd.remotes.webdav_xml import DavItem
from tests.fakes.body import BytesBody
from tests.servers.raw_http import RawServer, Step, answer, cut, raw_http

FOLDER = "mountd-0123abcd-" + "4" * 32


def capabilities(**files: object) -> bytes:
    told = {
        "version": {"string": "31.0.5", "major": 31},
        "capabilities": {
            "dav": {"chunking": "1.0", "bulkupload": "1.0"},
            "files": {"chunked_upload": {"max_size": 7, "max_parallel_count": 3}, **files},
            "notify_push": {"endpoints": {"websocket": "wss://cloud/push/ws"}},
        },
    }
    return json.dumps({"ocs": {"data": told}}).encode()


def test_the_capabilities_of_a_new_server_are_read() -> None:
    found = features_in(
        capabilities(
            forbidden_filenames=[".htaccess"],
            forbidden_filename_basenames=["con"],
            forbidden_filename_characters=["?"],
            forbidden_filename_extensions=[".filepart"],
        )
    )
    assert (found.version, found.is_chunked) == ("31.0.5", True)
    assert (found.max_chunk_bytes, found.max_chunks_at_once) == (7, 3)
    assert found.push_url == "wss://cloud/push/ws"
    assert found.names is not None
    for name in (".htaccess", ".HTAccess", "con", "CON.txt", "a?", "a.filepart", "x.part", "a\\b"):
        assert not found.names.allow(name), name
    for name in (".con", "icon", "a.party", "part", "a b", "\u00fc", "n" * 250):
        assert found.names.allow(name), name
    assert not found.names.allow("n" * 251)


def test_an_old_server_lists_its_forbidden_names_elsewhere() -> None:
    found = features_in(capabilities(blacklisted_files=[".htaccess"]))
    assert found.names is not None
    assert not found.names.allow(".htaccess")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"ocs": 3}',
        b'{"ocs": {"data": {"version": {"string": 3}}}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_nextcloud_is_plain_webdav(data: bytes) -> None:
    assert features_in(data) == PLAIN


def test_odd_values_count_as_not_said() -> None:
    found = features_in(
        capabilities(
            chunked_upload={"max_size": True, "max_parallel_count": "4"},
            forbidden_filenames=[3, "", {"a": 1}, "x"],
            forbidden_filename_extensions="abc",
        )
    )
    assert (found.max_chunk_bytes, found.max_chunks_at_once) == (None, None)
    assert found.names is not None
    assert found.names.names == {"x"}


def test_who_is_not_signed_in_was_not_told_everything() -> None:
    told = {"ocs": {"data": {"version": {"string": "31"}, "capabilities": {"core": {}}}}}
    assert not features_in(json.dumps(told).encode()).is_whole


def test_without_rules_every_name_of_255_bytes_is_allowed() -> None:
    assert NameRules().allow("n" * 255)
    assert not NameRules().allow("\u00fc" * 128)


# Sums, room, tokens


def test_sums_are_found_in_both_ways_of_writing_them() -> None:
    md5, sha1 = "D" * 32, "a" * 40
    assert sums_in(f"SHA1:{sha1} MD5:{md5}") == {"SHA1": sha1, "MD5": md5.lower()}
    assert sums_in(f"ADLER32:1234 XMD5:{md5}") == {}


def test_a_whole_file_with_another_sum_is_corrupt() -> None:
    good = "MD5:5d41402abc4b2a76b9719d911017c592"
    check_sum("GET f", {"oc-checksum": good}, b"hello")
    check_sum("GET f", {"oc-checksum": "ADLER32:00000000"}, b"hello")
    check_sum("GET f", {}, b"hello")
    with pytest.raises(Corrupt, match="MD5"):
        check_sum("GET f", {"oc-checksum": good}, b"hellx")


@pytest.mark.parametrize(
    ("free", "expected"), [("12", 12), ("0", 0), ("-1", None), ("-2", None), ("-3", None)]
)
def test_negative_room_is_no_limit(free: str, expected: int | None) -> None:
    more = {"{DAV:}quota-available-bytes": free, "{DAV:}quota-used-bytes": "7"}
    found = quota_in(DavItem("/", 200, True, None, 0, "", more))
    assert (found.free_bytes, found.used_bytes) == (expected, 7)


def test_a_token_is_read_back_and_no_other_text_is_one() -> None:
    for token in (Token(FOLDER, 1 << 20), Token(FOLDER, 1 << 24, MAX_CHUNKS, "f" * 32)):
        assert Token.parse(str(token)) == token
        assert len(str(token)) <= MAX_TOKEN
    for text in (
        "",
        f"nc2:{FOLDER}:1:0:",
        f"nc1:{FOLDER}:0:0:",
        f"nc1:{FOLDER}:1:1:",
        f"nc1:{FOLDER}:1:0:{'f' * 32}",
        f"nc1:../{FOLDER}:1:0:",
        f"nc1:{FOLDER}/x:1:0:",
        f"nc1:{FOLDER}:1:0:\n",
    ):
        assert Token.parse(text) is None, text


def test_chunks_grow_where_there_would_be_too_many() -> None:
    assert chunk_bytes_for(1, CHUNK_BYTES) == CHUNK_BYTES
    assert chunk_bytes_for(CHUNK_BYTES * MAX_CHUNKS, CHUNK_BYTES) == CHUNK_BYTES
    larger = chunk_bytes_for(CHUNK_BYTES * MAX_CHUNKS + 1, CHUNK_BYTES)
    assert larger > CHUNK_BYTES
    assert larger % (1 << 20) == 0


# Scripted servers

TOLD = answer(200, capabilities())
MD5_OF_DATA = "8d777f385d3dfec8815d20f7496026dc"
FOUND = (
    b'<d:multistatus xmlns:d="DAV:" xmlns:oc="http://owncloud.org/ns" '
    b'xmlns:nc="http://nextcloud.org/ns"><d:response><d:href>/remote.php/dav/files/ann/f</d:href>'
    b"<d:propstat><d:prop><d:resourcetype/><d:getcontentlength>4</d:getcontentlength><d:getetag>"
    b"&quot;v1&quot;</d:getetag><nc:upload_time>17</nc:upload_time><oc:fileid>8</oc:fileid>"
    b"</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response></d:multistatus>"
)
VERSION = f'"v1";4;MD5:{MD5_OF_DATA}'
PUT_HEADERS = {"OC-ETag": '"v1"', "ETag": '"v1-gzip"', "X-OC-MTime": "accepted"}
GOOD = answer(201, headers={**PUT_HEADERS, "X-Hash-MD5": MD5_OF_DATA})
BROKEN = answer(201, headers={**PUT_HEADERS, "X-Hash-MD5": "0" * 32})


@contextmanager
def scripted(*script: Step) -> Iterator[tuple[NextcloudStore, RawServer]]:
    with raw_http(*script) as server:
        settings = Settings(
            cache_dir=Path("/nonexistent"),
            endpoint=f"http://{server.authority}",
            request_timeout_s=5.0,
            max_transfers=4,
            credentials={"user": "ann", "password": "x"},
        )
        source = Source("nextcloud", "cloud", "", "nextcloud://cloud")
        store = open_nextcloud(source, settings, Uploading(1 << 20, (0.01,), (0.01, 0.01)))
        try:
            yield store, server
        finally:
            store.close()


def put(store: NextcloudStore, expect: str | None = ABSENT) -> str:
    return store.put(
        "f", BytesBody(b"data"), expect, Upload("id", 1_600_000_000_500_000_000)
    ).version


def test_a_small_file_is_one_request_with_length_mtime_and_sum() -> None:
    with scripted(TOLD, GOOD) as (store, server):
        assert put(store) == VERSION
    asked, sent = server.requests
    assert asked.headers["ocs-apirequest"] == "true"
    assert (sent.method, sent.target) == ("PUT", "/remote.php/dav/files/ann/f")
    assert sent.headers["content-length"] == "4"
    assert "transfer-encoding" not in sent.headers
    assert sent.headers["x-oc-mtime"] == "1600000000"
    assert sent.headers["oc-checksum"] == f"MD5:{MD5_OF_DATA}"
    assert sent.headers["if-none-match"] == "*"


def test_broken_bytes_are_replaced_at_once_and_never_pass_for_ours() -> None:
    with scripted(TOLD, BROKEN, GOOD, answer(207, FOUND)) as (store, server):
        assert put(store) == '"v1";4;t17i8'
    again = server.requests[2]
    assert again.headers["if-match"] == '"v1"'
    assert "oc-checksum" not in again.headers
    with scripted(TOLD, BROKEN, BROKEN) as (store, _), pytest.raises(Corrupt):
        put(store)


def test_broken_bytes_do_not_pass_for_ours_where_the_second_put_is_lost() -> None:
    """The first one stands there under our sum: the queue took it for what it had sent."""
    sum_ = f"<oc:checksums><oc:checksum>MD5:{MD5_OF_DATA}</oc:checksum></oc:checksums></d:prop>"
    found = answer(207, FOUND.replace(b"</d:prop>", sum_.encode(), 1))
    with scripted(TOLD, BROKEN, cut(answer(201), 10), found) as (store, _):
        with pytest.raises(Unreachable):
            put(store)
        identity = store.identify("f")
    assert identity.entry.version == VERSION
    assert identity.md5 == "0" * 32


def test_a_server_that_keeps_no_sum_is_asked_what_a_put_has_made() -> None:
    with scripted(TOLD, answer(201, headers=PUT_HEADERS), answer(207, FOUND)) as (store, _):
        assert put(store) == '"v1";4;t17i8'


def test_a_423_is_asked_again_and_a_lasting_one_is_locked() -> None:
    locked = answer(423)
    with scripted(TOLD, locked, answer(404), GOOD) as (store, server):
        put(store)
    assert [seen.method for seen in server.requests] == ["GET", "PUT", "PROPFIND", "PUT"]


def test_wrong_credentials_are_tried_once() -> None:
    with scripted(answer(401)) as (store, server):
        with pytest.raises(Denied):
            list(store.list(""))
        assert len(server.requests) == 1
        with pytest.raises(Denied):
            put(store)
    assert len(server.requests) == 1


def test_a_server_that_is_away_or_in_maintenance_is_asked_what_it_is_later() -> None:
    busy = answer(503, headers={"Retry-After": "7"})
    with scripted(busy, cut(answer(200), 10), TOLD, GOOD) as (store, server):
        with pytest.raises(Throttled) as raised:
            put(store)
        assert raised.value.retry_after_s == 7
        with pytest.raises(Unreachable):
            put(store)
        assert put(store) == VERSION
        assert put(store) == VERSION
    assert [seen.method for seen in server.requests] == ["GET", "GET", "GET", "PUT", "PUT"]


def rows(*folders: tuple[str, str]) -> bytes:
    """A listing of the uploads: names and dates."""
    items = "".join(
        f"<d:response><d:href>/up/{name}</d:href><d:propstat><d:prop><d:resourcetype>"
        f"<d:collection/></d:resourcetype><d:getlastmodified>{date}</d:getlastmodified></d:prop>"
        "<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
        for name, date in (("", "Sat, 03 Jan 2026 00:00:00 GMT"), *folders)
    )
    return f'<d:multistatus xmlns:d="DAV:">{items}</d:multistatus>'.encode()


def test_only_our_own_folders_of_more_than_a_day_are_swept() -> None:
    old, new = "Thu, 01 Jan 2026 23:00:00 GMT", "Fri, 02 Jan 2026 01:00:00 GMT"
    listing = rows(
        (f"mountd-0123abcd-{'1' * 32}/", old),
        (f"mountd-0123abcd-{'2' * 32}/", new),
        (f"mountd-99999999-{'3' * 32}/", old),
        ("web-file-upload-abc/", old),
    )
    date = {"Date": "Sat, 03 Jan 2026 00:00:00 GMT"}
    with raw_http(answer(200, headers=date), answer(207, listing), answer(204)) as server:
        pool = HttpPool(f"http://{server.authority}", {}, 2, 5.0)
        folders = UploadFolders(pool, "/up", "0123abcd")
        folders.sweep()
        folders.sweep()
        pool.close()
    assert [seen.method for seen in server.requests] == ["OPTIONS", "PROPFIND", "DELETE"]
    assert server.requests[2].target == f"/up/mountd-0123abcd-{'1' * 32}"


def test_this_machine_always_has_the_same_folders() -> None:
    assert machine() == machine()
    assert len(machine()) == 8
