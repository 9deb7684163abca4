"""What `read` gives: exactly the bytes asked for, or an error."""

import pytest

from mountd.errors import Corrupt, NotFound, Unreachable, VersionChanged
from mountd.remotes.base import RemoteStore
from tests.contract.conftest import OpenStore
from tests.contract.targets import Target

DATA = bytes(range(256)) * 40


def read(store: RemoteStore, key: str, start: int, end: int, version: str | None = None) -> bytes:
    with memoryview(
        store.read(key, start, end, store.stat(key).version if version is None else version)
    ) as view:
        return bytes(view)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        pytest.param(0, len(DATA), id="whole"),
        pytest.param(0, 1, id="first byte"),
        pytest.param(len(DATA) - 1, len(DATA), id="last byte"),
        pytest.param(100, 4196, id="middle"),
        pytest.param(len(DATA) - 300, len(DATA), id="tail"),
    ],
)
def test_a_range_is_exactly_its_bytes(
    target: Target, open_store: OpenStore, start: int, end: int
) -> None:
    target.seed({"d/data.bin": DATA})
    assert read(open_store(), "d/data.bin", start, end) == DATA[start:end]


def test_an_object_of_one_byte_is_read(target: Target, open_store: OpenStore) -> None:
    target.seed({"one": b"1"})
    assert read(open_store(), "one", 0, 1) == b"1"


def test_an_object_of_megabytes_is_read_in_ranges(target: Target, open_store: OpenStore) -> None:
    data = DATA * 410
    target.seed({"big": data})
    store = open_store()
    version = store.stat("big").version
    step = 1 << 20
    parts = [
        read(store, "big", start, min(start + step, len(data)), version)
        for start in range(0, len(data), step)
    ]
    assert b"".join(parts) == data


def test_what_is_read_is_a_read_only_buffer_of_bytes(target: Target, open_store: OpenStore) -> None:
    target.seed({"data": DATA})
    store = open_store()
    view = memoryview(store.read("data", 10, 20, store.stat("data").version))
    assert (view.nbytes, view.itemsize, view.ndim, view.readonly) == (10, 1, 1, True)


def test_without_a_version_whatever_is_there_is_read(target: Target, open_store: OpenStore) -> None:
    target.seed({"data": b"first"})
    store = open_store()
    assert read(store, "data", 0, 5, "") == b"first"
    target.overwrite("data", b"later")
    assert read(store, "data", 0, 5, "") == b"later"


@pytest.mark.parametrize("span", [(0, 6), (4, 9), (5, 6), (100, 200)])
@pytest.mark.parametrize("with_version", [True, False])
def test_a_read_past_the_end_is_never_short(
    target: Target, open_store: OpenStore, span: tuple[int, int], with_version: bool
) -> None:
    target.seed({"data": b"12345"})
    store = open_store()
    version = store.stat("data").version if with_version else ""
    with pytest.raises((VersionChanged, Corrupt, Unreachable)):
        store.read("data", *span, version)


def test_a_missing_object_is_not_found(target: Target, open_store: OpenStore) -> None:
    target.seed({"d/there": b"1"})
    store = open_store()
    with pytest.raises(NotFound):
        store.stat("d/missing")
    with pytest.raises(NotFound):
        store.read("d/missing", 0, 1, "")
    with pytest.raises(NotFound):
        store.read("no/such/directory/missing", 0, 1, "")


def test_an_object_that_is_removed_is_not_found(target: Target, open_store: OpenStore) -> None:
    target.seed({"gone": b"12345", "stays": b"1"})
    store = open_store()
    version = store.stat("gone").version
    target.remove("gone")
    with pytest.raises(NotFound):
        store.stat("gone")
    # A precondition on what is not there may be answered first.
    with pytest.raises((NotFound, VersionChanged)):
        store.read("gone", 0, 1, version)
