"""What a conflict copy is called, and how uploads are told apart."""

from collections.abc import Callable
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.remotes.base import KeyLimit
from mountd.sync.conflict import conflict_name
from mountd.sync.upload_id import UploadId

WHEN = datetime(2026, 1, 31, 10, 15, 0)


def named(name: str, *taken: str, host: str = "HOST") -> str:
    made = conflict_name(name, host, WHEN, lambda made: made in taken)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("name.ext", "name (conflict HOST 2026-01-31 10.15.00).ext"),
        ("name", "name (conflict HOST 2026-01-31 10.15.00)"),
        (".bashrc", ".bashrc (conflict HOST 2026-01-31 10.15.00)"),
        ("a.tar.gz", "a.tar (conflict HOST 2026-01-31 10.15.00).gz"),
        ("a.not an extension", "a.not an extension (conflict HOST 2026-01-31 10.15.00)"),
    ],
)
def test_the_stamp_stands_before_the_extension(name: str, expected: str) -> None:
    assert named(name) == expected


def test_a_taken_name_is_numbered() -> None:
    first = named("a.txt")
    second = named("a.txt", first)
    assert second == "a (conflict HOST 2026-01-31 10.15.00) 2.txt"
    assert named("a.txt", first, second).endswith(" 3.txt")


def test_a_host_name_never_makes_a_directory() -> None:
    assert "/" not in named("a", host="a/b")


@given(st.text(st.characters(exclude_characters="/\x00"), min_size=1, max_size=300))
def test_a_name_fits_and_is_cut_between_characters(name: str) -> None:
    made = named(name)
    assert len(made.encode("utf-8", "surrogatepass")) <= 255
    stem = made[: made.index(" (conflict HOST")]
    assert name.startswith(stem)


@given(
    st.text(st.characters(exclude_characters="/\x00"), min_size=1, max_size=60),
    st.integers(970, 1030),
    st.integers(0, 3),
)
def test_a_key_with_it_fits_the_remote_wherever_the_word_does(
    name: str, deep: int, taken: int
) -> None:
    limit = KeyLimit(1024, above="p" * (deep - 3) + "/")
    names: list[str] = []
    for _ in range(taken + 1):
        made = conflict_name(
            name, "HOST", WHEN, lambda m: m in names, lambda m: limit.allows(f"d/{m}")
        )
        if made is None:
            assert deep + len("(conflict) 2") > 1024
            return
        assert limit.allows(f"d/{made}")
        assert "(conflict" in made
        assert made not in names
        names.append(made)


def test_as_much_of_the_stem_goes_as_the_key_needs() -> None:
    def fits(most: int) -> Callable[[str], bool]:
        return lambda made: len(made.encode()) <= most

    def made(most: int) -> str | None:
        return conflict_name("äöü.txt", "HOST", WHEN, lambda m: False, fits(most))

    mark = "(conflict HOST 2026-01-31 10.15.00)"
    assert made(46) == f"äöü {mark}.txt"
    assert made(45) == f"äö {mark}.txt"
    assert made(39) == f"ä {mark}"
    assert made(37) == mark
    assert made(20) == "äö (conflict).txt"
    assert made(10) == "(conflict)"
    assert made(9) is None


@given(
    st.text("0123456789abcdef-", min_size=1),
    st.integers(0, 2**63),
    st.integers(-1, 2**31),
    st.integers(0, 2**63),
    st.none() | st.integers(0, 2**63),
    st.integers(-(2**62), 2**62),
)
def test_an_upload_id_is_read_back(
    journal: str, content: int, layer: int, sequence: int, size: int | None, mtime_ns: int
) -> None:
    said = content, layer, size, mtime_ns if size is not None else 0
    id_ = UploadId.of(journal, "d/a", 5_000_000_000, sequence, *said)
    assert UploadId.parse(str(id_)) == id_
    assert str(id_).isascii()


@pytest.mark.parametrize(
    "text", ["", "x", "a-b-c-d-e-f", "-1-2-3-k-4", "j-1-2-3-k-", "j-1-2-3-k-4.5", "j-1-2-3-k-4.5.x"]
)
def test_what_is_no_upload_id_is_none(text: str) -> None:
    assert UploadId.parse(text) is None


def test_an_upload_is_ours_only_from_this_journal_at_its_key_and_since_we_fell_behind() -> None:
    id_ = UploadId.of("j", "a", 5_000_000_000, 7, 3, 0)
    assert id_.was_sent_here("j", "a", 5_000_000_000)
    assert not id_.was_sent_here("other", "a", 0)
    assert not id_.was_sent_here("j", "copied by somebody", 0)
    assert not id_.was_sent_here("j", "a", 5_001_000_000)
    again = UploadId.of("j", "a", 9_000_000_000, 7, 3, 0)
    assert again.is_same_state(id_)


def test_an_upload_is_what_is_there_only_with_its_size_and_the_time_that_went_with_it() -> None:
    id_ = UploadId.of("j", "a", 5_000_000_000, 7, 3, 0, 10, 4_500_000_000)
    assert id_.can_be(10, 4_500_000_000)
    assert id_.can_be(10, 4_000_000_000)  # a server that keeps seconds
    assert id_.can_be(10, None)  # one that tells no time
    assert not id_.can_be(11, 4_500_000_000)
    assert not id_.can_be(10, 9_000_000_000)
    assert UploadId.of("j", "a", 5_000_000_000, 7, 3, 0, 10).can_be(10, 9_000_000_000)
    of_an_earlier_release = UploadId.parse("j-3-0-7-e8b7be43-5000")
    assert of_an_earlier_release is not None
    assert of_an_earlier_release.can_be(11, 9_000_000_000)
    assert of_an_earlier_release.is_same_state(id_)
