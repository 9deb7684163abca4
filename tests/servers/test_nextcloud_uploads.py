"""The Nextcloud-shaped server: chunked uploads, bulk uploads, and what goes wrong with them."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from hashlib import md5, sha256

import pytest

from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.raw_nextcloud import Answer, RawDav, raw_dav

pytestmark = pytest.mark.server


@pytest.fixture
def dav(nextcloud_server: NextcloudServer) -> Iterator[RawDav]:
    with raw_dav(nextcloud_server) as client:
        yield client


def begin(dav: RawDav, server: NextcloudServer, *chunks: bytes, to: str = "big") -> str:
    """An upload with chunks 1, 2, ...; returns the destination's URL."""
    url = server.dav_url(to)
    assert dav.uploads("MKCOL", "u1", Destination=url).status == 201
    for number, data in enumerate(chunks, 1):
        answer = dav.uploads("PUT", f"u1/{number:05d}", data, Destination=url)
        assert answer.status == 201
    return url


def test_chunks_are_joined_in_the_order_of_their_names(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    url = begin(dav, nextcloud_server)
    for name in ("00002", "00001", "00010"):
        dav.uploads("PUT", f"u1/{name}", name.encode(), Destination=url)
    done = dav.uploads(
        "MOVE",
        "u1/.file",
        Destination=url,
        OC_Total_Length="15",
        X_OC_MTime="1600000000",
        OC_Checksum="SHA256:ab",
        X_Hash="md5",
    )
    assert done.status == 201
    assert done.headers["x-oc-mtime"] == "accepted"
    assert done.headers["x-hash-md5"] == md5(b"000010000200010").hexdigest()
    node = nextcloud_server.node("big")
    assert node
    assert (node.mtime_s, node.checksum, f'"{node.etag}"') == (
        1_600_000_000,
        "SHA256:ab",
        done.etag,
    )
    assert nextcloud_server.read("big") == b"000010000200010"
    assert nextcloud_server.uploads() == {}
    assert dav.uploads("MOVE", "u1/.file", Destination=url).status == 404


def test_assembling_over_a_file_keeps_its_id(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    before = nextcloud_server.put("big", b"old")
    url = begin(dav, nextcloud_server, b"new")
    done = dav.uploads("MOVE", "u1/.file", Destination=url)
    assert (done.status, done.headers["oc-fileid"]) == (204, before.oc_id)
    assert nextcloud_server.trash() == []


def test_what_has_come_of_an_upload_can_be_listed(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    begin(dav, nextcloud_server, b"abc", b"de")
    rows = dav.props("u1", "d:getcontentlength", depth="1", tree="uploads")
    found = {href.rpartition("/")[2]: row["d:getcontentlength"] for href, row in rows.items()}
    assert found == {"": None, ".file": "5", "00001": "3", "00002": "2"}
    assert len(dav.props("", "d:resourcetype", depth="1", tree="uploads")) == 2
    assert dav.uploads("DELETE", "u1").status == 204
    assert dav.uploads("PROPFIND", "u1").status == 404


def test_if_match_on_the_final_move_is_always_412_and_the_if_header_works(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    etag = f'"{nextcloud_server.put("big", b"old").etag}"'
    url = begin(dav, nextcloud_server, b"new")
    assert dav.uploads("MOVE", "u1/.file", Destination=url, If_Match=etag).status == 412
    assert dav.uploads("MOVE", "u1/.file", Destination=url, If_None_Match="*").status == 412
    assert dav.uploads("MOVE", "u1/.file", Destination=url, If=f'<{url}> (["o"])').status == 412
    assert dav.uploads("MOVE", "u1/.file", Destination=url, Overwrite="F").status == 412
    assert nextcloud_server.read("big") == b"old"
    assert dav.uploads("MOVE", "u1/.file", Destination=url, If=f"<{url}> ([{etag}])").status == 204


def test_a_wrong_total_is_400_and_too_much_is_507_early_and_late(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    url = begin(dav, nextcloud_server, bytes(50))
    assert dav.uploads("MOVE", "u1/.file", Destination=url, OC_Total_Length="51").status == 400
    nextcloud_server.configure(quota_bytes=49)
    assert dav.uploads("MOVE", "u1/.file", Destination=url).status == 507
    assert dav.uploads("PUT", "u1/2", b"x", Destination=url, OC_Total_Length="50").status == 507
    # MKCOL doesn't look.
    assert dav.uploads("MKCOL", "u2", Destination=url, OC_Total_Length="50").status == 201
    assert list(nextcloud_server.uploads()["u1"]["chunks"]) == ["00001"]


def test_a_long_assembly_is_504_then_423_then_done(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(assembly_s=3600.0, gateway_timeout_s=0.1)
    url = begin(dav, nextcloud_server, b"data")
    assert dav.uploads("MOVE", "u1/.file", Destination=url).status == 504
    assert dav.uploads("MOVE", "u1/.file", Destination=url).status == 423
    assert dav.files("GET", "big").status == 404
    nextcloud_server.configure(assembly_s=0.0)
    while nextcloud_server.uploads():
        pass
    assert dav.files("GET", "big").body == b"data"
    assert dav.uploads("MOVE", "u1/.file", Destination=url).status == 404


def test_an_assembly_within_the_gateways_timeout_answers_when_it_is_done(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(assembly_s=0.1)
    url = begin(dav, nextcloud_server, b"data")
    done = dav.uploads("MOVE", "u1/.file", Destination=url)
    node = nextcloud_server.node("big")
    assert node
    assert (done.status, done.etag) == (201, f'"{node.etag}"')


def test_an_expired_upload_is_404_at_the_move_and_at_a_chunk(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    url = begin(dav, nextcloud_server, b"data")
    assert nextcloud_server.expire_uploads() == 1
    assert dav.uploads("PUT", "u1/00002", b"x", Destination=url).status == 404
    assert dav.uploads("MOVE", "u1/.file", Destination=url).status == 404


def test_object_storage_takes_only_numbers_for_chunks(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(strict_chunks=True, min_chunk_bytes=2)
    url = begin(dav, nextcloud_server, b"1", b"22")
    for name in ("x", "0", "10001"):
        assert dav.uploads("PUT", f"u1/{name}", b"x", Destination=url).status == 400
    assert dav.uploads("MOVE", "u1/.file", Destination=url).status == 500


def test_a_cut_chunk_leaves_nothing_and_a_lost_answer_leaves_it(
    nextcloud_server: NextcloudServer, dav: RawDav
) -> None:
    url = begin(dav, nextcloud_server)
    nextcloud_server.faults(
        {"op": "PutChunk", "path": "1$", "times": 1, "cut_upload_after": 1000},
        {"op": "PutChunk", "path": "2$", "times": 1, "lose_reply": True},
    )
    for name in ("00001", "00002"):
        with (
            raw_dav(nextcloud_server) as other,
            pytest.raises((ConnectionError, http.client.HTTPException)),
        ):
            other.uploads("PUT", f"u1/{name}", bytes(200_000), Destination=url)
    assert nextcloud_server.uploads()["u1"]["chunks"] == {"00002": 200_000}


def test_of_two_puts_to_one_file_at_once_the_first_to_end_is_423(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    with socket.create_connection(("127.0.0.1", nextcloud_server.port)) as slow:
        head = (
            f"PUT /remote.php/dav/files/{nextcloud_server.user}/f HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: {dav.authorization}\r\nContent-Length: 4\r\n\r\n12"
        )
        slow.sendall(head.encode())
        nextcloud_server.wait_for_requests(1, op="Put")
        assert dav.files("PUT", "f", b"x").status == 423
        slow.sendall(b"34")
        assert b" 201 " in slow.recv(1000)
    assert nextcloud_server.read("f") == b"1234"


def test_parallel_puts_to_one_file_while_the_server_is_slow_are_423(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.faults({"op": "Put", "hold": True})
    answers: list[Answer] = []

    def put() -> None:
        with raw_dav(nextcloud_server) as client:
            answers.append(client.files("PUT", "f", b"x"))

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    nextcloud_server.wait_for_requests(4, op="Put")
    nextcloud_server.clear_faults()
    nextcloud_server.release()
    for thread in threads:
        thread.join(30)
    assert sorted(each.status for each in answers) == [201, 423, 423, 423]
    assert dav.files("PUT", "f", b"y").status == 204


BOUNDARY = "b-1"


def part(path: str, data: bytes, **headers: str) -> bytes:
    given = {
        "X-File-Path": path,
        "X-File-Mtime": "1600000000",
        "X-File-MD5": md5(data).hexdigest(),
        "Content-Length": str(len(data)),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"--{BOUNDARY}\r\n{head}\r\n".encode() + data + b"\r\n"


def bulk(dav: RawDav, *parts: bytes) -> Answer:
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    kind = f"multipart/related; boundary={BOUNDARY}"
    return dav.raw("POST", "/remote.php/dav/bulk", body, {"Content-Type": kind})


def test_a_bulk_upload_hides_the_errors_of_single_files_in_a_200(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.mkdir("d")
    answer = bulk(dav, part("/d/a", b"1\r\n2"), part("/no/b", b"2"), part("/d/ä", b"3"))
    assert answer.status == 200
    told = json.loads(answer.body)
    assert [told[path]["error"] for path in ("/d/a", "/no/b", "/d/ä")] == [False, True, False]
    node = nextcloud_server.node("d/a")
    assert node
    assert (told["/d/a"]["etag"], told["/d/a"]["fileid"]) == (node.etag, node.oc_id)
    assert node.mtime_s == 1_600_000_000
    assert nextcloud_server.read("d/a") == b"1\r\n2"


def test_a_wrong_md5_ends_a_bulk_upload_with_400_and_what_was_written_before(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    answer = bulk(dav, part("a", b"1"), part("b", b"2", X_File_MD5="00"), part("c", b"3"))
    assert answer.status == 400
    assert list(json.loads(answer.body)) == ["a"]
    assert nextcloud_server.tree() == ["a"]


def test_a_bulk_part_with_a_checksum_needs_no_md5_and_leaves_no_checksum(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.put("a", b"old", checksum="SHA256:old")
    right = "SHA256:" + sha256(b"1").hexdigest()
    assert bulk(dav, part("a", b"1", X_File_MD5="00", OC_Checksum=right)).status == 200
    assert dav.prop("a", "oc:checksums") is None
    assert bulk(dav, part("a", b"2", OC_Checksum=right)).status == 400
    assert nextcloud_server.read("a") == b"1"


def test_a_forbidden_extension_makes_a_bulk_upload_a_500_after_what_came_before(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    assert bulk(dav, part("a", b"1"), part("b.part", b"2"), part("c", b"3")).status == 500
    assert nextcloud_server.tree() == ["a"]


def test_no_bulk_upload_where_it_is_not_offered(
    dav: RawDav, nextcloud_server: NextcloudServer
) -> None:
    nextcloud_server.configure(bulkupload="")
    assert bulk(dav, part("a", b"1")).status == 501
    assert nextcloud_server.tree() == []
