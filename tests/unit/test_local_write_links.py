"""file://, written to through links: nothing outside the tree is ever changed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mountd.errors import (
    DirectoryNotEmpty,
    NameNotAllowed,
    NotFound,
)
from mountd.remotes.base import ABSENT, Upload
from mountd.remotes.local import LocalStore
from mountd.types import Entry
from tests.fakes.body import BytesBody

NOTHING = Upload()
LEFTOVER = ".mountd-tmp-0123456789abcdef"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(str(root))


def write(
    store: LocalStore,
    key: str,
    data: bytes = b"ours",
    expect: str | None = None,
    upload: Upload = NOTHING,
) -> Entry:
    return store.put(key, BytesBody(data), expect, upload)


def test_a_symlink_to_a_file_inside_is_written_through_and_stays(
    root: Path, store: LocalStore
) -> None:
    (root / "d").mkdir()
    (root / "d" / "real").write_bytes(b"old")
    (root / "link").symlink_to("d/real")
    version = store.stat("link").version
    made = write(store, "link", b"new", version)
    assert (root / "link").is_symlink()
    assert (root / "d" / "real").read_bytes() == b"new"
    assert made == store.stat("link")
    assert sorted(os.listdir(root)) == ["d", "link"]
    assert os.listdir(root / "d") == ["real"]
    store.delete("link", made.version)
    assert (root / "d" / "real").read_bytes() == b"new"
    assert not (root / "link").is_symlink()


def outside_changes(store: LocalStore) -> list[Callable[[], object]]:
    version = store.stat("here").version
    return [
        lambda: write(store, "out/secret"),
        lambda: write(store, "out/new"),
        lambda: write(store, "file"),
        lambda: write(store, "file", expect=ABSENT),
        lambda: write(store, "dangling"),
        lambda: write(store, "../outside/new"),
        lambda: store.copy("here", version, "out/copied", None, NOTHING),
        lambda: store.copy("file", "", "copied", None, NOTHING),
        lambda: store.delete("out/secret", None),
        lambda: store.delete("file", None),
        lambda: store.make_dir("out/new/"),
        lambda: store.make_dir("../outside/new/"),
        lambda: store.remove_dir("out/empty/"),
        lambda: store.remove_dir("out/"),
        lambda: store.remove_dir("../outside/empty/"),
    ]


def test_nothing_outside_is_ever_changed(root: Path, store: LocalStore) -> None:
    outside = root.parent / "outside"
    (outside / "empty").mkdir()
    (root / "here").write_bytes(b"here")
    (root / "out").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "dangling").symlink_to(outside / "not-yet")
    for change in outside_changes(store):
        with pytest.raises((NotFound, NameNotAllowed)):
            change()
    assert sorted(os.listdir(outside)) == ["empty", "secret"]
    assert (outside / "secret").read_bytes() == b"secret"
    assert sorted(os.listdir(root)) == ["dangling", "file", "here", "out"]


def test_a_directory_that_becomes_a_link_meanwhile_leads_nowhere(
    root: Path, store: LocalStore
) -> None:
    (root / "d").mkdir()

    def swap(start: int, end: int) -> None:
        (root / "d").rename(root / "moved")
        (root / "d").symlink_to(root.parent / "outside")

    store.put("d/f", BytesBody(b"ours", swap), ABSENT, NOTHING)
    assert os.listdir(root.parent / "outside") == ["secret"]
    assert (root / "moved" / "f").read_bytes() == b"ours"


def test_a_link_to_a_directory_is_removed_without_what_it_points_to(
    root: Path, store: LocalStore
) -> None:
    (root / "d").mkdir()
    (root / "link").symlink_to("d")
    (root / "d" / "x").write_bytes(b"")
    with pytest.raises(DirectoryNotEmpty):
        store.remove_dir("link/")
    (root / "d" / "x").unlink()
    store.remove_dir("link/")
    assert os.listdir(root) == ["d"]


def test_a_tree_with_links_in_a_circle_has_an_end(root: Path, store: LocalStore) -> None:
    for name in ("a", "b"):
        (root / name).mkdir()
        (root / name / "file").write_bytes(b"")
    (root / "a" / "to-b").symlink_to("../b")
    (root / "b" / "to-a").symlink_to("../a")
    (root / "b" / "up").symlink_to("..")
    found = sorted(key for page in store.list_tree("") for key, _ in page)
    below = ["a/", "a/file", "a/to-b/", "a/to-b/file", "b/", "b/file", "b/to-a/", "b/to-a/file"]
    assert found == below
