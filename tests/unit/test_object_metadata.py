"""The texts that go with an object."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.remotes.base import Upload
from mountd.remotes.object_metadata import (
    attributes_of,
    content_type_of,
    copied,
    metadata_of,
    mtime_ns_of,
    mtime_text,
)

SECOND_NS = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "mtime_ns"),
    [
        ("1600000000.123456789", 1_600_000_000 * SECOND_NS + 123_456_789),
        ("1600000000", 1_600_000_000 * SECOND_NS),
        ("1600000000.5", 1_600_000_000 * SECOND_NS + 500_000_000),
        ("-0.5", -500_000_000),
        ("1.1234567891234", SECOND_NS + 123_456_789),
        ("2020-09-13T12:26:40.123456789Z", 1_600_000_000 * SECOND_NS + 123_456_000),
        ("2020-09-13T14:26:40+02:00", 1_600_000_000 * SECOND_NS),
        ("", None),
        ("yesterday", None),
        ("999999999999999", None),
        ("\u0661", None),
    ],
)
def test_an_mtime_is_read_as_other_programs_write_it(text: str, mtime_ns: int | None) -> None:
    assert mtime_ns_of({"mtime": text}) == mtime_ns


@given(st.integers(1 - 2**63, 2**63 - 1))
def test_an_mtime_comes_back_exactly(mtime_ns: int) -> None:
    assert mtime_ns_of({"mtime": mtime_text(mtime_ns)}) == mtime_ns


def test_an_upload_that_says_nothing_leaves_nothing() -> None:
    assert metadata_of(Upload()) == {}
    assert metadata_of(Upload("id", 5 * SECOND_NS, {"mode": "33188"})) == {
        "mountd-upload": "id",
        "mtime": "5.000000000",
        "mode": "33188",
    }


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("a/page.html", "text/html"),
        ("x.tar.gz", ""),
        ("no-ending", ""),
        ("http://host/a.png", "image/png"),
        ("dir.html/", ""),
    ],
)
def test_a_content_type_is_that_of_the_ending(key: str, kind: str) -> None:
    assert content_type_of(key) == kind


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("33188", 0o100644),  # s3fs, and we
        ("0100644", 0o100644),
        ("100644", 0o100644),  # rclone
        ("100755", 0o100755),
        ("41471", 0o120777),
        ("0755", 0o755),
        ("493", 0o755),
        ("0", 0),
        ("99999", None),
        ("0999", None),
        ("0177777", None),  # no type that a file has
        ("-1", None),
        ("rwxr-xr-x", None),
        ("\u0663\u0663\u0661\u0668\u0668", None),
        ("9" * 500, None),
        ("", None),
    ],
)
def test_a_mode_is_read_as_other_programs_write_it(text: str, mode: int | None) -> None:
    assert attributes_of({"mode": text}) == ({} if mode is None else {"mode": str(mode)})


def test_an_owner_that_is_none_is_left_out() -> None:
    assert attributes_of({"uid": "0012", "gid": "4294967294"}) == {"uid": "12", "gid": "4294967294"}
    assert attributes_of({"uid": "4294967295", "gid": "-1", "other": "x"}) == {}
    assert attributes_of({"xattr": "a\nb"}) == {}
    assert attributes_of({"xattr": "%7B%7D", "uid": "root"}) == {"xattr": "%7B%7D"}


@given(st.dictionaries(st.sampled_from(["mode", "uid", "gid", "xattr"]), st.text()))
def test_whatever_the_metadata_says_no_nonsense_comes_out(metadata: dict[str, str]) -> None:
    found = attributes_of(metadata)
    assert attributes_of(found) == found
    assert all(value.isascii() and value.isprintable() for value in found.values())


def test_a_copy_has_what_its_source_had_but_for_what_is_said_anew() -> None:
    source = {
        "mountd-upload": "old",
        "mtime": "5.000000000",
        "mode": "1",
        "uid": "7",
        "x": "theirs",
    }
    assert copied({**source, "odd": "\xe4"}, Upload("new", 0, {"mode": "33188", "uid": ""})) == {
        "mountd-upload": "new",
        "mtime": "5.000000000",
        "mode": "33188",
        "x": "theirs",
    }


def test_a_copy_takes_its_sources_where_nothing_was_set_here() -> None:
    source = {"mode": "33261", "mtime": "2.000000000", "foreign": "x"}
    ours = Upload("", 1_000_000_000, {"mode": "33188", "uid": "1"}, frozenset(("mode", "uid")))
    kept = copied(source, ours)
    assert kept == {"mode": "33261", "uid": "1", "mtime": "1.000000000", "foreign": "x"}
    kept = copied(source, replace(ours, unset=frozenset(("mtime",))))
    assert kept == {"mode": "33188", "uid": "1", "mtime": "2.000000000", "foreign": "x"}
