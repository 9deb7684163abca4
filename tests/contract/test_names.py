"""Names: every key that the remote can have is listed, stat'ed and read as it is."""

import pytest

from mountd.types import Kind
from tests.contract.conftest import OpenStore
from tests.contract.targets import Limit, Target, skip_if
from tests.contract.test_listing import entries
from tests.contract.test_reading import read

NFC, NFD = "caf\u00e9", "cafe\u0301"
ODD = [
    "a b",
    " lead and trail ",
    "100%",
    "%41",
    "%2F",
    "a+b",
    "a#b",
    "a?b",
    "a&b=c;d",
    "a:b@c",
    "a,b!c$d",
    "(a)[b]{c}",
    "a'b\"c",
    "a<b>c",
    "a*b|c",
    "a^b`c~",
    "\u00fcber stra\u00dfe",
    "\u6f22\u5b57",
    "emoji \U0001f600",
    "...",
    "..a",
    "a.",
    ".hidden",
    "-dash",
    "~tilde",
]
CONTROL = ["tab\there", "bell\x07", "del\x7f", "return\rhere"]


def check(target: Target, open_store: OpenStore, keys: list[str], directory: str = "d/") -> None:
    """Seeds the keys below `directory`, then lists, stats and reads each of them."""
    objects = {f"{directory}{key}": key.encode() + b"!" for key in keys}
    target.seed(objects)
    store = open_store()
    found = [entry for entry in entries(store, directory) if entry.kind is Kind.FILE]
    assert sorted(entry.name for entry in found) == sorted(keys)
    for entry in found:
        data = objects[f"{directory}{entry.name}"]
        assert store.stat(f"{directory}{entry.name}") == entry
        assert read(store, f"{directory}{entry.name}", 0, len(data), entry.version) == data


def test_odd_characters_in_file_names_are_kept(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_ODD_CHARACTERS)
    check(target, open_store, ODD)


def test_odd_characters_in_directory_names_are_kept(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_ODD_CHARACTERS)
    target.seed({f"d/{name}/x": name.encode() for name in ODD})
    store = open_store()
    assert sorted(entry.name for entry in entries(store, "d/")) == sorted(ODD)
    for name in ODD:
        (inside,) = entries(store, f"d/{name}/")
        size = len(name.encode())
        assert (inside.name, inside.kind, inside.size) == ("x", Kind.FILE, size)
        assert store.stat(f"d/{name}/").kind is Kind.DIRECTORY
        assert read(store, f"d/{name}/x", 0, size) == name.encode()


def test_composed_and_decomposed_names_stand_side_by_side(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.NAMES_NORMALISED)
    check(target, open_store, [NFC, NFD])


def test_names_of_255_bytes_are_kept(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NAME_BYTES_LIMIT)
    check(target, open_store, ["n" * 255, "\u00e9" * 127 + "x"])


def test_control_characters_are_kept(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_CONTROL_CHARACTERS)
    check(target, open_store, CONTROL)


def test_backslashes_are_kept(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_ODD_CHARACTERS, Limit.NO_BACKSLASHES)
    check(target, open_store, ["back\\slash", "\\", "a\\..\\b"])


def test_newlines_are_kept(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_CONTROL_CHARACTERS, Limit.NO_NEWLINES)
    check(target, open_store, ["new\nline", "\n"])


def test_case_is_kept(target: Target, open_store: OpenStore) -> None:
    check(target, open_store, ["Name", "name", "NAME"])


def test_a_key_can_be_a_file_and_a_directory(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_BOTH_FILE_AND_PREFIX)
    target.seed({"d/k": b"file", "d/k/x": b"below", "d/k/x/y": b"lower"})
    for page_size in (None, 1):
        store = open_store(page_size)
        assert sorted((entry.name, entry.kind) for entry in entries(store, "d/")) == [
            ("k", Kind.FILE),
            ("k", Kind.DIRECTORY),
        ]
        assert sorted((entry.name, entry.kind) for entry in entries(store, "d/k/")) == [
            ("x", Kind.FILE),
            ("x", Kind.DIRECTORY),
        ]
    assert read(store, "d/k", 0, 4) == b"file"
    assert read(store, "d/k/x", 0, 5) == b"below"
    assert store.stat("d/k/").kind is Kind.DIRECTORY


def test_double_slashes_are_directories_without_a_name(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.NO_DOUBLE_SLASH)
    target.seed({"d/a//b": b"one", "d/a///c": b"two", "d/a/z": b"three", "/lead": b"four"})
    store = open_store()
    assert sorted(entry.name for entry in entries(store)) == ["", "d"]
    assert sorted((entry.name, entry.kind) for entry in entries(store, "d/a/")) == [
        ("", Kind.DIRECTORY),
        ("z", Kind.FILE),
    ]
    assert sorted((entry.name, entry.kind) for entry in entries(store, "d/a//")) == [
        ("", Kind.DIRECTORY),
        ("b", Kind.FILE),
    ]
    assert [entry.name for entry in entries(store, "/")] == ["lead"]
    assert store.stat("d/a//").kind is Kind.DIRECTORY
    for key, data in {"d/a//b": b"one", "d/a///c": b"two", "/lead": b"four"}.items():
        assert read(store, key, 0, len(data)) == data


def test_dot_segments_are_names_like_others(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_DOT_SEGMENTS)
    objects = {"d/x/../y": b"one", "d/./z": b"two", "d/.": b"three", "../up": b"four", "y": b"no"}
    target.seed(objects)
    store = open_store()
    assert sorted(entry.name for entry in entries(store)) == ["..", "d", "y"]
    assert sorted((entry.name, entry.kind) for entry in entries(store, "d/")) == [
        (".", Kind.FILE),
        (".", Kind.DIRECTORY),
        ("x", Kind.DIRECTORY),
    ]
    assert [entry.name for entry in entries(store, "d/x/")] == [".."]
    assert [entry.name for entry in entries(store, "d/x/../")] == ["y"]
    for key, data in objects.items():
        assert store.stat(key).size == len(data)
        assert read(store, key, 0, len(data)) == data


@pytest.mark.parametrize("prefix", ["d", "d/x"])
def test_a_sibling_whose_name_begins_alike_is_not_inside(
    target: Target, open_store: OpenStore, prefix: str
) -> None:
    target.seed({f"{prefix}/in": b"1", f"{prefix}-side": b"2", f"{prefix}.side/y": b"3"})
    assert [entry.name for entry in entries(open_store(), f"{prefix}/")] == ["in"]
