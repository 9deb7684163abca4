"""Names, when writing: every key that can be read can be written, listed and deleted."""

from mountd.types import Kind
from tests.contract.conftest import OpenStore
from tests.contract.targets import Limit, Target, skip_if
from tests.contract.test_listing import entries
from tests.contract.test_names import CONTROL, NFC, NFD, ODD
from tests.contract.writing import content, make_parents, names, write


def check(target: Target, open_store: OpenStore, keys: list[str], directory: str = "d/") -> None:
    """Writes the keys below `directory`, reads them back and deletes them."""
    store, other = open_store(), open_store()
    make_parents(store, directory)
    made = {key: write(store, directory + key, key.encode() + b"!") for key in keys}
    found = {entry.name: entry for entry in entries(other, directory)}
    assert sorted(found) == sorted(keys)
    for key, entry in made.items():
        assert (entry.name, entry.version) == (key, found[key].version)
        assert content(other, directory + key) == key.encode() + b"!"
    replaced = write(store, directory + keys[0], b"replaced", made[keys[0]].version)
    store.delete(directory + keys[0], replaced.version)
    for key in keys[1:]:
        store.delete(directory + key, made[key].version)
    if store.capabilities.real_directories:
        while directory:
            store.remove_dir(directory)
            directory = directory[: directory.rstrip("/").rfind("/") + 1]
    assert entries(other) == []


def is_writable(target: Target, name: str) -> bool:
    return Limit.NO_QUERY_CHARACTERS not in target.limits or not {"?", ";"} & set(name)


def test_odd_characters_in_written_names_are_kept(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_ODD_CHARACTERS)
    check(target, open_store, [name for name in ODD if is_writable(target, name)])


def test_files_are_written_below_odd_directories(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_ODD_CHARACTERS)
    for name in ("100%/a#b", "a b?c", "\u00fcber/\u6f22"):
        if not is_writable(target, name):
            continue
        check(target, open_store, ["x", "y z"], f"{name}/")


def test_written_names_are_not_normalised(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NAMES_NORMALISED)
    check(target, open_store, [NFC, NFD])


def test_names_of_255_bytes_are_written(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NAME_BYTES_LIMIT)
    check(target, open_store, ["n" * 255, "\u00e9" * 127 + "x"])


def test_control_characters_are_written(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_CONTROL_CHARACTERS, Limit.NO_QUERY_CHARACTERS)
    check(target, open_store, CONTROL)


def test_backslashes_are_written(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_ODD_CHARACTERS, Limit.NO_BACKSLASHES)
    check(target, open_store, ["back\\slash", "\\", "a\\..\\b"])


def test_newlines_are_written(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_CONTROL_CHARACTERS, Limit.NO_NEWLINES, Limit.NO_QUERY_CHARACTERS)
    check(target, open_store, ["new\nline", "\n"])


def test_a_file_is_written_beside_a_directory_of_its_name(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.NO_BOTH_FILE_AND_PREFIX)
    target.seed({"d/k/x": b"below"})
    store = open_store()
    version = write(store, "d/k", b"file").version
    write(store, "d/k/y", b"below, too")
    assert sorted((entry.name, entry.kind) for entry in entries(store, "d/")) == [
        ("k", Kind.FILE),
        ("k", Kind.DIRECTORY),
    ]
    store.delete("d/k", version)
    assert names(store, "d/") == ["k"]
    assert names(store, "d/k/") == ["x", "y"]


def test_keys_with_empty_and_dot_segments_are_written(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.NO_DOUBLE_SLASH, Limit.NO_DOT_SEGMENTS)
    store = open_store()
    for key in ("d/a//b", "/lead", "d/x/../y", "d/./z", "d/."):
        version = write(store, key, key.encode()).version
        assert store.stat(key).version == version
        assert content(open_store(), key) == key.encode()
        store.delete(key, version)
    assert entries(store) == []
