"""What a remote denies, in rows and as the kernel is told."""

import pytest

from mountd.types import Entry, Kind
from mountd.vfs.listing_rows import merged
from mountd.vfs.overlay import folded
from mountd.vfs.row_attributes import carried, denied_in, packed, shown_in, with_denied
from mountd_cache.changes import Change, ChangeKind, ChangeState
from mountd_cache.ledger import Ledger


def entry(denied: str | None, version: str = "v") -> Entry:
    attributes = None if denied is None else {"denied": denied} if denied else {}
    return Entry("f", Kind.FILE, 1, 5, version, attributes)


@pytest.mark.parametrize(
    ("denied", "is_read_only"),
    [("", False), ("w", True), ("dnv", False), ("c", False), ("k", False), ("dnvck", True)],
)
def test_what_takes_no_change_is_shown_read_only(denied: str, is_read_only: bool) -> None:
    assert shown_in(packed({"denied": denied})).is_read_only == is_read_only


def test_rights_are_the_remotes_and_travel_with_no_change() -> None:
    text = packed({"denied": "wd", "mode": "33188"})
    assert carried(text) == {"mode": "33188"}
    assert denied_in(text) == {"w", "d"}
    assert with_denied("", text) == packed({"denied": "wd"})
    assert with_denied(packed({"mode": "1"}), "") == packed({"mode": "1"})


def test_rights_that_are_given_back_are_seen_and_keep_the_number() -> None:
    old = merged([entry("w")], None, lambda n: 7, False)
    assert denied_in(old.attributes(0)) == {"w"}
    new = merged([entry("")], old, lambda n: 8, False)
    assert (new.attributes(0), new.ino(0)) == ("", 7)


def test_a_file_that_was_sent_is_denied_what_it_was() -> None:
    old = merged([entry("d")], None, lambda n: 7, False)
    state = ChangeState.CLEAN
    change = Change("f", "", b"f", 7, ChangeKind.FILE, expect="v2", size=2, state=state)
    new = folded(Ledger(), "", old, [change])
    assert new.version(0) == "v2"
    assert denied_in(new.attributes(0)) == {"d"}
