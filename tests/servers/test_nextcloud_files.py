"""The Nextcloud-shaped server: files and folders, properties, ETags, conditions, names."""

import io
import tarfile
from collections.abc import Iterator

import pytest

from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.raw_nextcloud import RawDav, parse_multistatus, raw_dav
from tests.servers.s3.seeding import synthetic_bytes

pytestmark = pytest.mark.server


@pytest.fixture
def dav(nextcloud_server: NextcloudServer) -> Iterator[RawDav]:
    with raw_dav(nextcloud_server) as client:
        yield client


def test_a_file_comes_back_with_the_etag_id_and_mtime_of_its_put(dav: RawDav) -> None:
    put = dav.files("PUT", "a ä.txt", b"hello", X_OC_MTime="1700000000.7")
    assert put.status == 201
    assert put.headers["x-oc-mtime"] == "accepted"
    got = dav.files("GET", "a ä.txt")
    assert (got.status, got.body, got.etag) == (200, b"hello", put.etag)
    assert got.headers["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    [(href, found)] = dav.props("a ä.txt", "d:getetag", "oc:fileid", "oc:id", "oc:size").items()
    assert href.endswith("/a%20%c3%a4.txt")
    assert found["d:getetag"] == put.etag == put.headers["etag"]
    assert found["oc:id"] == put.headers["oc-fileid"]
    assert put.headers["oc-fileid"].startswith(f"{int(found['oc:fileid'] or 0):08d}")
    assert found["oc:size"] == "5"
    again = dav.files("PUT", "a ä.txt", b"hello")
    assert again.status == 204
    assert again.etag != put.etag
    assert again.headers["oc-fileid"] == put.headers["oc-fileid"]


def test_a_change_deep_down_gives_every_ancestor_a_new_etag(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("a/b/c.txt", b"1")
    nextcloud_server.put("z/y.txt", b"1")
    before = {path: dav.prop(path, "d:getetag") for path in ("", "a", "a/b", "z")}
    dav.files("PUT", "a/b/c.txt", b"22")
    after = {path: dav.prop(path, "d:getetag") for path in before}
    assert {path for path in before if before[path] != after[path]} == {"", "a", "a/b"}
    assert dav.prop("a", "oc:size") == "2"


def test_a_mount_that_does_not_propagate_changes_no_folders_etag(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.mount("ext", "external")
    nextcloud_server.put("ext/d/f", b"1")
    before = {path: dav.prop(path, "d:getetag") for path in ("", "ext", "ext/d", "ext/d/f")}
    nextcloud_server.put("ext/d/f", b"2", mtime_s=1_700_000_000)
    nextcloud_server.put("ext/d/g", b"2")
    after = {path: dav.prop(path, "d:getetag") for path in before}
    assert [path for path in before if before[path] != after[path]] == ["ext/d/f"]
    assert dav.prop("ext/d/f", "nc:mount-type") == "external"
    assert dav.prop("", "nc:mount-type") == ""
    nextcloud_server.mount("team", "group", propagates=True)
    root = dav.prop("", "d:getetag")
    nextcloud_server.put("team/f", b"2")
    assert dav.prop("", "d:getetag") != root
    assert "M" in (dav.prop("team/f", "oc:permissions") or "")


def test_depth_1_lists_and_infinity_is_taken_for_1(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.seed("d", directories=2, files=3, size=10)
    shallow = dav.props("d", "d:resourcetype", depth="1")
    assert len(shallow) == 3
    assert dav.props("d", "d:resourcetype", depth="infinity") == shallow
    assert [found["d:resourcetype"] for found in shallow.values()] == ["collection"] * 3
    assert all(href.endswith("/") for href in shallow)
    assert len(dav.props("d", "d:resourcetype", depth="0")) == 1


def test_properties_that_are_not_there_are_listed_with_404_unless_minimal(dav: RawDav) -> None:
    dav.files("PUT", "f", b"")
    names = ("oc:checksums", "nc:lock", "d:quota-available-bytes", "nc:nonsense")
    [found] = dav.props("f", *names).values()
    assert found == dict.fromkeys(names)
    body = b'<propfind xmlns="DAV:"><prop><getetag/><nonsense/></prop></propfind>'
    minimal = dav.files("PROPFIND", "f", body, Depth="0", Prefer="return=minimal")
    assert [list(found) for found in parse_multistatus(minimal.body).values()] == [["d:getetag"]]


def test_conditional_puts_and_deletes_are_412_when_they_do_not_hold(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(stat_etags=False)
    assert dav.files("PUT", "f", b"1", If_Match='"x"').status == 412
    first = dav.files("PUT", "f", b"1", If_None_Match="*")
    assert first.status == 201
    assert dav.files("PUT", "f", b"2", If_None_Match="*").status == 412
    assert dav.files("PUT", "f", b"2", If_Match=first.etag.strip('"')).status == 412
    second = dav.files("PUT", "f", b"2", If_Match=first.etag)
    assert second.status == 204
    assert dav.files("DELETE", "f", If_Match=first.etag).status == 412
    assert dav.files("GET", "f", If_None_Match=second.etag).status == 304
    assert dav.files("DELETE", "f", If_Match=second.etag).status == 204


def test_a_folder_matches_no_etag(dav: RawDav) -> None:
    dav.files("MKCOL", "d")
    etag = dav.prop("d", "d:getetag")
    assert etag
    assert dav.files("DELETE", "d", If_Match=etag).status == 412


def test_ranges_and_if_range(dav: RawDav, nextcloud_server: NextcloudServer) -> None:
    etag = dav.files("PUT", "f", b"0123456789").etag
    part = dav.files("GET", "f", Range="bytes=2-4", If_Range=etag)
    assert (part.status, part.body) == (206, b"234")
    assert part.headers["content-range"] == "bytes 2-4/10"
    assert dav.files("GET", "f", Range="bytes=2-4", If_Range='"old"').status == 200
    assert dav.files("GET", "f", Range="bytes=10-").status == 416
    assert dav.files("GET", "f", Range="bytes=4-2").status == 416
    assert dav.files("GET", "f", Range="bytes=0-1,4-5").status == 200
    assert dav.files("GET", "f", Range="bytes=-3").body == b"789"
    first_byte = dav.files("GET", "f", Range="bytes=0-0")
    assert (first_byte.status, first_byte.headers["content-range"]) == (206, "bytes 0-9/10")
    nextcloud_server.configure(zero_end_is_open=False)
    assert dav.files("GET", "f", Range="bytes=0-0").body == b"0"
    dav.files("PUT", "empty", b"", Content_Length="0")
    assert dav.files("GET", "empty", Range="bytes=0-0").status == 200
    assert dav.files("GET", "f", Range="bytes=0-1", If_Match='"old"').status == 412


def test_a_wrong_checksum_is_stored_and_a_put_without_one_clears_it(dav: RawDav) -> None:
    assert dav.files("PUT", "f", b"1", OC_Checksum="SHA256:00").status == 201
    assert dav.prop("f", "oc:checksums") == "SHA256:00"
    assert dav.files("GET", "f").headers["oc-checksum"] == "SHA256:00"
    dav.files("PUT", "f", b"1")
    assert dav.prop("f", "oc:checksums") is None


def test_x_hash_gives_the_servers_own_hash(dav: RawDav) -> None:
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    answer = dav.files("PUT", "f", b"hello", X_Hash="sha256")
    assert answer.headers["x-hash-sha256"] == digest


def test_missing_parents_are_404_or_409_unless_a_put_shall_make_them(dav: RawDav) -> None:
    assert dav.files("PUT", "a/b/f", b"1").status == 404
    assert dav.files("MKCOL", "a/b").status == 409
    assert dav.files("MKCOL", "a/b", X_NC_WebDAV_Auto_Mkcol="1").status == 409
    assert dav.files("PUT", "a/b/f", b"1", X_NC_WebDAV_Auto_Mkcol="1").status == 201
    assert dav.files("MKCOL", "a/b").status == 405
    assert dav.files("PUT", "a/b", b"1").status == 409


def test_move_keeps_the_id_also_over_a_file_and_409_without_a_parent(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    first = dav.files("PUT", "a", b"1").headers["oc-fileid"]
    dav.files("PUT", "b", b"2")
    to = nextcloud_server.dav_url("b")
    assert dav.files("MOVE", "a", Destination=to, Overwrite="F").status == 412
    moved = dav.files("MOVE", "a", Destination=to)
    assert (moved.status, moved.headers["oc-fileid"]) == (204, first)
    assert [each["original"] for each in nextcloud_server.trash()] == ["b"]
    gone = nextcloud_server.dav_url("no/b")
    assert dav.files("MOVE", "b", Destination=gone).status == 409
    assert dav.files("MOVE", "b", Destination=nextcloud_server.dav_url("b")).status == 403
    dav.files("MKCOL", "d")
    inside = nextcloud_server.dav_url("d/e")
    assert dav.files("MOVE", "d", Destination=inside).status == 409
    assert nextcloud_server.tree() == ["b", "d/"]


def test_the_if_header_compares_with_the_destination(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    dav.files("PUT", "a", b"1")
    etag = dav.files("PUT", "b", b"2").etag
    to = nextcloud_server.dav_url("b")
    assert dav.files("MOVE", "a", Destination=to, If=f'<{to}> (["old"])').status == 412
    fresh = nextcloud_server.dav_url("c")
    assert dav.files("MOVE", "a", Destination=fresh, If=f'<{fresh}> (Not ["x"])').status == 404
    assert dav.files("MOVE", "a", Destination=to, If=f"<{to}> ([{etag}])").status == 204


def test_copy_makes_new_ids_all_the_way_down(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("d/e/f", b"data")
    to = nextcloud_server.dav_url("copy")
    assert dav.files("COPY", "d", Destination=to).status == 201
    assert nextcloud_server.read("copy/e/f") == b"data"
    original, copied = nextcloud_server.node("d/e/f"), nextcloud_server.node("copy/e/f")
    assert original
    assert copied
    assert original.fileid != copied.fileid
    assert dav.prop("", "oc:size") == "8"


def patch_of(time: str) -> bytes:
    return (
        f'<d:propertyupdate xmlns:d="DAV:"><d:set><d:prop><d:lastmodified>{time}'
        "</d:lastmodified></d:prop></d:set></d:propertyupdate>"
    ).encode()


def test_proppatch_sets_the_mtime_and_takes_the_sum_away(dav: RawDav) -> None:
    dav.files("PUT", "f", b"1", OC_Checksum="MD5:c4ca4238a0b923820dcc509a6f75849b")
    asked = ("d:getetag", "oc:fileid", "nc:upload_time", "oc:checksums")
    etag, *before = (dav.prop("f", name) for name in asked)
    assert dav.files("PROPPATCH", "f", patch_of("1600000000")).status == 207
    assert dav.prop("f", "d:getlastmodified") == "Sun, 13 Sep 2020 12:26:40 GMT"
    assert dav.prop("f", "d:getetag") != etag
    assert [dav.prop("f", name) for name in asked[1:]] == [*before[:2], None]


def test_proppatch_heeds_conditions(dav: RawDav) -> None:
    dav.files("PUT", "f", b"1")
    patch = patch_of("1600000000")
    assert dav.files("PROPPATCH", "f", patch, If_Match='"x"').status == 412
    assert dav.files("PROPPATCH", "f", patch, If='(["x"])').status == 412
    assert dav.files("PROPPATCH", "none", patch).status == 404
    assert dav.files("PROPPATCH", "none", patch, If_Match='"x"').status == 412
    etag = dav.prop("f", "d:getetag") or ""
    minimal = dav.files("PROPPATCH", "f", patch, If_Match=etag, Prefer="return=minimal")
    assert (minimal.status, minimal.body) == (204, b"")


def test_proppatch_sets_the_mtime_of_a_file_that_may_only_be_read(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    dav.files("PUT", "f", b"1")
    nextcloud_server.deny("f", "W")
    etag = dav.prop("f", "d:getetag")
    assert b"200 OK" in dav.files("PROPPATCH", "f", patch_of("1600000000")).body
    assert dav.prop("f", "d:getlastmodified") == "Sun, 13 Sep 2020 12:26:40 GMT"
    assert dav.prop("f", "d:getetag") == etag


def test_proppatch_takes_seconds_alone(dav: RawDav) -> None:
    dav.files("PUT", "f", b"1", X_OC_MTime="1700000000")
    for odd in ("Tue, 06 Nov 2018 11:07:03 GMT", "86400", "-5"):
        assert dav.files("PROPPATCH", "f", patch_of(odd)).status == 500
    for none in ("", "0"):
        assert b"403 Forbidden" in dav.files("PROPPATCH", "f", patch_of(none)).body
    assert dav.prop("f", "d:getlastmodified") == "Tue, 14 Nov 2023 22:13:20 GMT"


def test_deletes_land_in_the_trash_and_can_be_restored(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    fileid = nextcloud_server.put("d/f", b"1").fileid
    assert dav.files("DELETE", "d").status == 204
    rows = dav.props(
        "trash", "nc:trashbin-filename", "nc:trashbin-original-location", depth="1", tree="trashbin"
    )
    [(href, found)] = list(rows.items())[1:]
    assert found == {"nc:trashbin-filename": "d", "nc:trashbin-original-location": "d"}
    name = href.rstrip("/").rpartition("/")[2]
    back = nextcloud_server.dav_url(f"restore/{name}", tree="trashbin")
    assert dav.trash("MOVE", f"trash/{name}", Destination=back).status == 201
    node = nextcloud_server.node("d/f")
    assert node
    assert node.fileid == fileid


@pytest.mark.parametrize(
    ("name", "status", "old_status"),
    [
        ("x.part", 400, 423),
        ("y" * 250, 201, 500),
        ("\u00e4" * 125, 201, 500),
        ("y" * 251, 400, 400),
        ("a\\b", 400, 400),
        ("a\nb", 400, 400),
        (".htaccess", 400, 403),
        ("a:b*", 201, 201),
    ],
)
def test_names_that_nextcloud_refuses(
    dav: RawDav, nextcloud_server: NextcloudServer, name: str, status: int, old_status: int
) -> None:
    assert dav.files("PUT", name, b"1").status == status
    nextcloud_server.configure(version="24.0.5.1")
    nextcloud_server.mkdir("old")
    assert dav.files("PUT", f"old/{name}", b"1").status == old_status


def test_an_mtime_in_the_first_day_of_1970_is_500_with_the_file_written(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    for wrong in ("0", "86400", "abc"):
        assert dav.files("PUT", "f", wrong.encode(), X_OC_MTime=wrong).status == 500
        assert nextcloud_server.read("f") == wrong.encode()
    assert dav.files("PUT", "f", b"1", X_OC_MTime="86401").status == 204


def test_on_a_local_disk_two_writes_of_one_size_and_mtime_have_one_etag(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    first = dav.files("PUT", "f", b"one", X_OC_MTime="1700000000", OC_Checksum="SHA256:1")
    root = dav.prop("", "d:getetag")
    again = dav.files("PUT", "f", b"two", X_OC_MTime="1700000000", OC_Checksum="SHA256:2")
    assert again.etag == first.etag
    assert dav.prop("f", "oc:checksums") == "SHA256:2"
    assert dav.prop("", "d:getetag") != root
    longer = dav.files("PUT", "f", b"three", X_OC_MTime="1700000000")
    assert longer.etag != first.etag
    assert dav.files("PUT", "f", b"three", X_OC_MTime="1700000001").etag != longer.etag


def test_on_a_local_disk_two_writes_in_one_second_have_one_etag(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(clock_s=1_700_000_000)
    first = dav.files("PUT", "f", b"one")
    assert dav.files("PUT", "f", b"other", If_Match=first.etag).etag == first.etag
    assert dav.files("PUT", "f", b"third", If_Match=first.etag).status == 204
    nextcloud_server.configure(clock_s=1_700_000_001)
    assert dav.files("PUT", "f", b"third").etag != first.etag


def test_a_decomposed_name_is_stored_composed(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    assert dav.files("PUT", "u\u0308", b"1").status == 201
    assert nextcloud_server.tree() == ["\u00fc"]
    assert dav.files("GET", "u\u0308").body == b"1"


def test_quota_is_507_with_a_length_and_bypassed_without(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(quota_bytes=100)
    assert dav.files("PUT", "f", bytes(101)).status == 507
    assert dav.files("PUT", "f", bytes(60)).status == 201
    assert dav.prop("", "d:quota-available-bytes") == "40"
    dav.files("DELETE", "f")
    assert dav.prop("", "d:quota-available-bytes") == "40"
    assert dav.files("PUT", "g", b"", Content_Length="0").status == 201
    chunked = b"c8\r\n" + bytes(200) + b"\r\n0\r\n\r\n"
    target = f"/remote.php/dav/files/{nextcloud_server.user}/h"
    assert dav.raw("PUT", target, chunked, {"Transfer-Encoding": "chunked"}).status == 201
    assert dav.prop("", "d:quota-available-bytes") == "0"
    assert dav.files("MKCOL", "d").status == 507


def test_what_the_permissions_lack_is_403(dav: RawDav, nextcloud_server: NextcloudServer) -> None:
    nextcloud_server.put("ro/f", b"1")
    nextcloud_server.put("own", b"1")
    assert dav.prop("ro", "oc:permissions") == "RGDNVCK"
    assert dav.prop("ro/f", "oc:permissions") == "RGDNVW"
    nextcloud_server.deny("ro", "DNVWCK")
    assert dav.prop("ro/f", "oc:permissions") == "RG"
    to = nextcloud_server.dav_url("ro/own")
    for answer in (
        dav.files("PUT", "ro/f", b"2"),
        dav.files("PUT", "ro/new", b"2"),
        dav.files("MKCOL", "ro/d"),
        dav.files("DELETE", "ro/f"),
        dav.files("MOVE", "own", Destination=to),
    ):
        assert answer.status == 403
    assert nextcloud_server.read("ro/f") == b"1"


def test_a_user_lock_is_423_and_names_its_owner(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("d/f", b"1")
    assert dav.files("LOCK", "d/f").status == 501
    nextcloud_server.configure(files_lock=True)
    nextcloud_server.lock("d/f", "bob", owner_name="Bob B.")
    refused = dav.files("PUT", "d/f", b"2")
    assert refused.status == 423
    assert "Bob B." in refused.message()
    assert dav.files("DELETE", "d").status == 423
    [found] = dav.props("d/f", "nc:lock", "nc:lock-owner-displayname").values()
    assert found == {"nc:lock": "1", "nc:lock-owner-displayname": "Bob B."}
    nextcloud_server.lock("d/f", "")
    assert dav.files("LOCK", "d/f", X_User_Lock="1").status == 200
    assert dav.files("PUT", "d/f", b"2").status == 204


def test_a_folder_comes_as_tar_where_it_is_asked_for(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.seed("d", directories=2, files=2, size=1000)
    answer = dav.files("GET", "d", Accept="application/x-tar")
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        found = archive.extractfile("d/d00001/f000001.bin")
        assert found
        assert found.read() == synthetic_bytes("d/d00001/f000001.bin", 0, 1000)
        assert len(archive.getmembers()) == 7
