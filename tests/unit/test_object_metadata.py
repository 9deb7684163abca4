"""The texts that go with an object."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.remotes.base import Upload
from mountd.remotes.object_metadata import (
    content_type_of,
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


@given(st.integers(-(10**19), 10**19))
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
