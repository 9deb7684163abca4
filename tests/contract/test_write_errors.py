"""A write that fails is the error that it is, and leaves what was there."""

import errno
from collections.abc import Callable

import pytest

from mountd.errors import NotFound, Unreachable, VersionChanged
from mountd.remotes.base import ABSENT, RemoteStore
from tests.contract.conftest import OpenStore
from tests.contract.targets import Broken, Limit, Target, skip_if
from tests.contract.test_errors import EXPECTED, broken_store
from tests.contract.writing import NOTHING, content, names, write
from tests.fakes.body import BytesBody
from tests.fakes.stopwatch import fastest_s

VERSION = '"0123456789abcdef0123456789abcdef"'
CALLS: list[tuple[str, Limit | None, Callable[[RemoteStore], object]]] = [
    ("put", None, lambda store: write(store, "d/file", b"1", None)),
    ("create", None, lambda store: write(store, "d/file", b"1", ABSENT)),
    ("replace", None, lambda store: write(store, "d/file", b"1", VERSION)),
    ("delete", None, lambda store: store.delete("d/file", None)),
    ("delete a version", None, lambda store: store.delete("d/file", VERSION)),
    ("identify", None, lambda store: store.identify("d/file")),
    ("make_dir", Limit.NO_MAKE_DIR, lambda store: store.make_dir("d/")),
    ("remove_dir", None, lambda store: store.remove_dir("d/")),
    (
        "copy",
        Limit.NO_SERVER_COPY,
        lambda store: store.copy("d/file", VERSION, "d/copied", ABSENT, NOTHING),
    ),
    ("list_tree", Limit.NO_TREE, lambda store: list(store.list_tree("d/"))),
]
BODY_ERRORS = [
    OSError(errno.EIO, "the local disk"),
    VersionChanged("the base moved on"),
    NotFound("the base is gone"),
    Unreachable("the base can't be read now"),
]


@pytest.mark.parametrize("how", list(Broken), ids=lambda how: how.name)
@pytest.mark.parametrize(
    ("limit", "call"), [row[1:] for row in CALLS], ids=[name for name, *_ in CALLS]
)
def test_a_broken_remote_is_told_from_a_missing_or_changed_file(
    target: Target, how: Broken, limit: Limit | None, call: Callable[[RemoteStore], object]
) -> None:
    if limit is not None:
        skip_if(target, limit)
    with broken_store(target, how) as store:

        def fails() -> None:
            with pytest.raises(EXPECTED[how]):
                call(store)

        assert fastest_s(fails, 6.0, tries=2) < 6.0


def failing_body(data: bytes, error: Exception, from_byte: int = 0) -> BytesBody:
    def fail(start: int, end: int) -> None:
        if end > from_byte:
            raise error

    return BytesBody(data, fail)


@pytest.mark.parametrize("error", BODY_ERRORS, ids=lambda error: type(error).__name__)
def test_what_a_body_raises_passes_through_and_nothing_is_left(
    target: Target, open_store: OpenStore, error: Exception
) -> None:
    target.seed({"old": b"what was there"})
    store = open_store()
    version = store.stat("old").version
    for key, expect in (("new", ABSENT), ("old", version)):
        with pytest.raises(type(error)) as raised:
            store.put(key, failing_body(b"never", error), expect, NOTHING)
        assert raised.value is error
    assert names(open_store()) == ["old"]
    assert content(store, "old") == b"what was there"
    write(store, "new", b"later")
    assert content(store, "new") == b"later"


def test_a_body_that_fails_late_leaves_nothing(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.SLOW)
    target.seed({"old": b"what was there"})
    store = open_store()
    version = store.stat("old").version
    error = VersionChanged("the base moved on")
    large = bytes(24 << 20)
    for key, expect in (("new", ABSENT), ("old", version)):
        with pytest.raises(VersionChanged) as raised:
            store.put(key, failing_body(large, error, from_byte=23 << 20), expect, NOTHING)
        assert raised.value is error
    assert names(open_store()) == ["old"]
    assert content(store, "old") == b"what was there"
