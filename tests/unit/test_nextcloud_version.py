"""What a version on a Nextcloud is made of, and which answers prove it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.remotes.http_range import is_tag, tag_of
from mountd.remotes.nextcloud_version import (
    CHECKSUMS,
    FILE_ID,
    UPLOAD_TIME,
    has_lost_its_sum,
    is_of_nextcloud,
    proves,
    version_in,
    version_made,
)
from mountd.remotes.webdav_xml import DavItem, MultistatusReader

MD5 = "8d777f385d3dfec8815d20f7496026dc"
TWO_SUMS = f"MD5:{MD5} SHA1:a17c9aaa61e80a1bf71d0d850af4e5baa9800bbd"
ROW = (
    '<d:multistatus xmlns:d="DAV:" xmlns:oc="http://owncloud.org/ns"><d:response><d:href>/f</d:href>'
    "<d:propstat><d:prop><oc:checksums>{}</oc:checksums></d:prop>"
    "<d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response></d:multistatus>"
)


def item(sums: str = "", uploaded: str = "", file_id: str = "", etag: str = '"e"') -> DavItem:
    more = {CHECKSUMS: sums, UPLOAD_TIME: uploaded, FILE_ID: file_id}
    return DavItem(
        "/f", 200, False, 4, 0, etag, {name: text for name, text in more.items() if text}
    )


def test_each_sum_of_a_listing_is_in_the_version_and_a_get_tells_them_in_one_header() -> None:
    elements = "".join(f"<oc:checksum>{each}</oc:checksum>" for each in TWO_SUMS.split())
    reader = MultistatusReader(frozenset((CHECKSUMS, "{http://owncloud.org/ns}checksum")))
    (row,) = [*reader.feed(ROW.format(elements).encode()), *reader.end()]
    assert row.more[CHECKSUMS] == TWO_SUMS
    version = version_in(item(TWO_SUMS))
    headers = {"etag": '"e"', "oc-checksum": TWO_SUMS}
    assert proves(version, headers, 4, is_whole=False)
    for other in (f"MD5:{MD5}", TWO_SUMS.replace("a", "b"), ""):
        assert not proves(version, {**headers, "oc-checksum": other}, 4, is_whole=True)
    assert not proves(version, headers, 5, is_whole=False)
    assert not proves(version, headers, None, is_whole=False)


def test_what_a_put_has_made_is_what_a_listing_shows() -> None:
    made = version_made('"e"', 4, MD5)
    assert made == version_in(item(f"MD5:{MD5}", "1700000000", "7"))
    assert tag_of(made) == '"e"'
    assert version_made("", 4, MD5) == ""


def test_without_a_sum_only_a_whole_answer_needs_no_look() -> None:
    version = version_in(item("", "1700000000", "7"))
    assert version != version_in(item("", "1700000001", "7"))
    assert version != version_in(item("", "1700000000", "8"))
    assert not proves(version, {"etag": '"e"'}, 4, is_whole=False)
    assert proves(version, {"etag": '"e"'}, 4, is_whole=True)
    # Another upload, with a sum, of one mtime and size.
    assert not proves(version, {"etag": '"e"', "oc-checksum": f"MD5:{MD5}"}, 4, is_whole=True)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ('"e";4;t5i7', True),
        ('"e";5;t5i7', False),
        ('"other";4;t5i7', False),
        (f'"e";4;MD5:{"0" * 32}', False),
        ("4-1700000000", False),
    ],
)
def test_a_sum_that_was_not_kept_is_told_from_another_file(found: str, expected: bool) -> None:
    assert has_lost_its_sum(found, version_made('"e"', 4, MD5)) is expected


def test_a_server_without_tags_has_size_and_mtime_and_another_webdav_its_tag() -> None:
    assert not is_tag(version_in(item(etag="")))
    assert not is_of_nextcloud('"a tag; of; another"')
    assert proves('"a;b"', {"etag": '"a;b"'}, None, is_whole=False)


@given(st.text(), st.text())
def test_whatever_a_server_says_a_version_begins_with_its_tag(sums: str, uploaded: str) -> None:
    version = version_in(item(sums, uploaded))
    assert tag_of(version) == '"e"'
    assert is_of_nextcloud(version)
    assert version.isprintable()
    assert len(version) < 1000
