"""Metadata names on Azure, which takes few characters, come back exactly."""

from hypothesis import given
from hypothesis import strategies as st

from mountd.remotes.azure_http import plain_name, written_name


def test_metadata_names_are_those_that_people_expect() -> None:
    names = ("mountd-upload", "mtime", "mode", "user.x", "9", "a_b", "A", "-", "x--y")
    assert [written_name(name) for name in names] == [
        *("mountd_upload", "mtime", "mode", "user__2ex", "__39", "a__5fb", "__41", "__2d"),
        "x__2d_y",
    ]


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_metadata_names_come_back_exactly(name: str) -> None:
    written = written_name(name)
    assert plain_name(written) == name
    assert written.replace("_", "a").isalnum()
    assert not written[0].isdigit()
    assert written == written.lower()
