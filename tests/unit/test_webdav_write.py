"""The writing half of the WebDAV store against scripted answers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import (
    Corrupt,
    Denied,
    DirectoryNotEmpty,
    Locked,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Throttled,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, Upload
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.request_body import SentBody
from mountd.remotes.webdav import WebdavStore, open_webdav
from mountd.remotes.webdav_changes import DavChanges
from mountd.remotes.webdav_leftovers import Leftovers, directory_of, is_own, temporary_beside
from mountd.remotes.webdav_probe import Enforced, is_odd
from tests.fakes.body import BytesBody
from tests.servers.raw_http import RawServer, Step, answer, cut, raw_http
from tests.unit.test_webdav_faults import DATE, ETAG, multistatus, response

MET, UNMET, GONE = answer(204), answer(412), answer(404)
OTHER_DATE = "Sun, 09 Sep 2001 01:46:40 GMT"


@contextmanager
def changing(*script: Step) -> Iterator[tuple[DavChanges, HttpPool, RawServer]]:
    with raw_http(*script) as server:
        pool = HttpPool(f"http://{server.authority}", {}, 4, 5.0)
        try:
            yield DavChanges(pool, "/dav"), pool, server
        finally:
            pool.close()


Change = Callable[[DavChanges, float], object]
CHANGES: dict[str, Change] = {
    "put": lambda dav, until_s: dav.put("d/f", SentBody.of(b"data"), {}, until_s),
    "move": lambda dav, until_s: dav.move("d/s", "d/f", until_s, overwrite=True),
    "copy": lambda dav, until_s: dav.copy("d/s", "d/f", until_s),
    "delete": lambda dav, until_s: dav.delete("d/f", until_s),
    "make_collection": lambda dav, until_s: dav.make_collection("d/f/", until_s),
}
each_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@each_change
@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((401, Denied), (403, Denied), (404, NotFound), (409, NotFound), (423, Locked)),
        *((400, NameNotAllowed), (413, Unsupported), (429, Throttled), (503, Throttled)),
        *((507, QuotaExceeded), (501, Unsupported), (500, Unreachable), (502, Unreachable)),
    ],
)
def test_a_status_is_its_error_whatever_is_changed(
    change: Change, status: int, error: type[RemoteError]
) -> None:
    with changing(answer(status, b"sorry")) as (dav, pool, server):
        with pytest.raises(error):
            change(dav, pool.deadline_s())
        assert len(server.requests) == 1


@each_change
def test_a_condition_that_was_not_met_is_no_error(change: Change) -> None:
    with changing(UNMET) as (dav, pool, _):
        assert not change(dav, pool.deadline_s())


@each_change
def test_a_change_that_failed_in_part_failed(change: Change) -> None:
    locked = multistatus(response("/dav/d/", status="200 OK"), response("/dav/d/f")).data
    part = multistatus(response("/dav/d/f", status="423 Locked"))
    for step, error in ((part, Locked), (Step(locked), Unreachable)):
        with changing(step) as (dav, pool, _), pytest.raises(error):
            change(dav, pool.deadline_s())


@each_change
def test_no_change_goes_to_another_server(change: Change) -> None:
    with raw_http(answer(201)) as elsewhere:
        away = answer(307, headers={"Location": f"http://{elsewhere.authority}/dav/d/f"})
        with changing(away) as (dav, pool, _), pytest.raises(Unreachable, match="another server"):
            change(dav, pool.deadline_s())
        assert elsewhere.connections == 0


def test_a_destination_is_a_whole_encoded_url_and_a_condition_has_both_forms_of_a_tag() -> None:
    with changing(answer(201)) as (dav, pool, server):
        condition = dav.condition("\u00fc/a b#1", ETAG)
        dav.move("s", "\u00fc/a b#1", pool.deadline_s(), overwrite=False, condition=condition)
        dav.copy("s", "c", pool.deadline_s())
    moved, copied = (request.headers for request in server.requests)
    assert moved["destination"] == f"http://{server.authority}/dav/%C3%BC/a%20b%231"
    assert moved["overwrite"] == copied["overwrite"] == "F"
    assert moved["if"] == '</dav/%C3%BC/a%20b%231> (["v1"]) ([W/"v1"])'
    assert copied["depth"] == "0"


@pytest.mark.parametrize("key", ["a/../b", "a//b", ".", "d/" + "n" * 256, "x\0y"])
def test_a_name_that_no_server_takes_is_refused_without_a_request(key: str) -> None:
    with changing(answer(201)) as (dav, pool, server):
        for call in (
            lambda: dav.check_name(key),
            lambda: dav.make_collection(key + "/", pool.deadline_s()),
        ):
            with pytest.raises(NameNotAllowed):
                call()
    assert server.requests == []


# A server that replaces a file at once, as Nextcloud does: the answers to a whole probe.

OC = answer(201, headers={"OC-ETag": ETAG, "OC-FileId": "7", "X-OC-MTime": "accepted"})
FOUND = multistatus(response("/any", ETAG, size=4))
DATED = multistatus(response("/any", ETAG, size=4).replace(DATE, OTHER_DATE))
DESTINATIONS = (MET, FOUND, MET, FOUND, MET, MET)
MOVES = (UNMET, UNMET, UNMET, FOUND, FOUND, MET, FOUND)
DELETES = (FOUND, UNMET, MET)
CLEANED = (GONE, GONE, GONE)


def probed(puts: Sequence[Step] = (FOUND, UNMET, OC, UNMET, UNMET)) -> Sequence[Step]:
    return (OC, DATED, *DESTINATIONS, OC, OC, *puts, *MOVES, *DELETES, *CLEANED)


@contextmanager
def nextcloud(*script: Step, after: Sequence[Step]) -> Iterator[tuple[WebdavStore, RawServer]]:
    with raw_http(*script, *after) as server:
        source = Source("webdav+http", server.authority, "dav", "webdav+http://x/dav")
        store = open_webdav(source, Settings(cache_dir=Path("/x"), request_timeout_s=5.0))
        try:
            yield store, server
        finally:
            store.close()


def put(store: WebdavStore, expect: str | None) -> str:
    upload = Upload("id", 1_600_000_000_500_000_000)
    return store.put("f", BytesBody(b"data"), expect, upload).version


def test_where_a_put_is_whole_a_file_is_put_to_its_own_name() -> None:
    with nextcloud(*probed(), after=(OC, FOUND)) as (store, server):
        assert put(store, ETAG) == ETAG
        assert store.capabilities.conditional_put
        assert store.capabilities.conditional_delete
        assert store.capabilities.keeps_mtime
    sent = server.requests[len(probed())]
    assert (sent.method, sent.target, sent.body) == ("PUT", "/dav/f", b"data")
    assert (sent.headers["if-match"], sent.headers["x-oc-mtime"]) == (ETAG, "1600000000")
    assert len(server.requests) == len(probed()) + 2


def test_a_whole_put_of_a_new_file_is_on_the_condition_that_nothing_is_there() -> None:
    with nextcloud(*probed(), after=(OC, FOUND)) as (store, server):
        put(store, ABSENT)
    assert server.requests[len(probed())].headers["if-none-match"] == "*"


def test_a_whole_put_that_is_refused_is_a_changed_version() -> None:
    with nextcloud(*probed(), after=(UNMET, FOUND)) as (store, _), pytest.raises(VersionChanged):
        put(store, '"v0"')


def test_what_replaced_a_whole_put_at_once_is_not_taken_for_ours() -> None:
    theirs = multistatus(response("/dav/f", '"theirs"', size=99))
    with nextcloud(*probed(), after=(OC, theirs, theirs)) as (store, _):
        assert put(store, ABSENT) == ETAG
        assert store.identify("f").upload_id == ""


def test_a_whole_put_that_arrived_short_is_corrupt() -> None:
    short = multistatus(response("/dav/f", ETAG, size=3))
    with nextcloud(*probed(), after=(OC, short)) as (store, _), pytest.raises(Corrupt):
        put(store, ABSENT)


def test_conditions_that_a_put_ignores_are_looked_at_first() -> None:
    ignores = (FOUND, OC, OC, OC, OC)
    other = multistatus(response("/dav/f", '"v2"', size=4))
    with nextcloud(*probed(ignores), after=(other,)) as (store, server):
        with pytest.raises(VersionChanged):
            put(store, ETAG)
        assert not store.capabilities.conditional_put
        assert server.requests[-1].method == "PROPFIND"


def test_a_move_that_does_not_arrive_is_never_used() -> None:
    script = (answer(201), DATED, MET, GONE, GONE)
    moves = pytest.raises(Unsupported, match="Destination")
    with nextcloud(*script, after=()) as (store, server), moves:
        put(store, ABSENT)
    assert [seen.method for seen in server.requests].count("MOVE") == 1


def test_what_is_full_can_still_be_emptied() -> None:
    full = answer(507)
    with nextcloud(full, *CLEANED, FOUND, MET, after=()) as (store, server):
        store.delete("f", ETAG)
    assert (server.requests[-1].method, server.requests[-1].target) == ("DELETE", "/dav/f")
    assert "if" not in server.requests[-1].headers


def test_an_unanswered_first_probe_says_unreachable_and_is_made_again() -> None:
    lost = cut(answer(201), 10)
    with nextcloud(lost, *(lost,) * 3, *probed(), after=(OC, FOUND)) as (store, _):
        with pytest.raises(Unreachable):
            put(store, ABSENT)
        assert put(store, ABSENT) == ETAG


def test_a_directory_that_fills_up_between_look_and_delete_stays() -> None:
    empty = multistatus(response("/dav/d/", '"t1"'))
    filled = multistatus(response("/dav/d/", '"t2"'), response("/dav/d/new"))
    script = nextcloud(*probed(), after=(empty, UNMET, filled))
    with script as (store, server), pytest.raises(DirectoryNotEmpty):
        store.remove_dir("d/")
    deleted = server.requests[-2]
    assert (deleted.method, deleted.target) == ("DELETE", "/dav/d/")
    assert deleted.headers["if"] == '</dav/d/> (["t1"]) ([W/"t1"])'


def test_the_mounted_directory_is_not_removed() -> None:
    with nextcloud(MET, after=()) as (store, server), pytest.raises(Unsupported):
        store.remove_dir("")
    assert server.requests == []


def test_a_tree_is_not_listed() -> None:
    with nextcloud(MET, after=()) as (store, _), pytest.raises(Unsupported):
        store.list_tree("")


# Pure parts


def test_own_names_are_told_from_others() -> None:
    assert is_own(temporary_beside("d/f").removeprefix("d/"))
    assert is_own(".mountd-probe-" + "0" * 32)
    for name in (".mountd-tmp-", ".mountd-tmp-xyz", "a.mountd-tmp-" + "0" * 32, ".mountd"):
        assert not is_own(name)


def test_the_directory_of_a_key() -> None:
    assert [directory_of(key) for key in ("f", "d/", "d/f", "d/e/", "")] == ["", "", "d/", "d/", ""]


def test_only_old_leftovers_of_a_known_age_are_taken() -> None:
    leftovers = Leftovers()
    day_ns = 24 * 3600 * 10**9
    leftovers.seen("young", 10 * day_ns, 11 * day_ns)
    leftovers.seen("old", 10 * day_ns, 11 * day_ns + 1)
    leftovers.seen("undated", 0, 11 * day_ns)
    leftovers.seen("unclocked", 10 * day_ns, 0)
    leftovers.add("old")
    assert leftovers.take(5) == ["old"]
    assert leftovers.take(5) == []


def test_odd_keys() -> None:
    assert all(is_odd(key) for key in ("a?b", "d;e/f", "tab\there", "\x7f"))
    assert not any(is_odd(key) for key in ("a b", "100%", "#1", "d/e", "\u00fc", ""))


def test_a_version_that_is_no_tag_is_never_left_to_the_server() -> None:
    everything = Enforced(other=True, gone=True, taken=True)
    assert everything.covers(ETAG)
    assert everything.covers(ABSENT)
    assert not everything.covers("20-100")
    assert not everything.covers(None)
