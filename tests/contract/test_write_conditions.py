"""`expect`: nothing is overwritten or deleted that isn't what the change was based on."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from mountd.errors import NotFound, VersionChanged
from mountd.remotes.base import ABSENT, RemoteStore
from mountd.types import Entry
from tests.contract.conftest import OpenStore
from tests.contract.targets import Limit, Target, skip_if
from tests.contract.writing import NOTHING, content, names, write
from tests.fakes.body import BytesBody

SOON_S = 20.0


def test_capabilities_say_what_is_enforced(target: Target, open_store: OpenStore) -> None:
    store = open_store()
    made = write(store, "file", b"1", ABSENT)
    store.delete("file", made.version)
    capabilities, limits = store.capabilities, target.limits
    if Limit.IGNORES_CONDITIONS not in limits:
        assert capabilities.conditional_put is (Limit.NO_CONDITIONAL_PUT not in limits)
        assert capabilities.conditional_delete is (Limit.NO_CONDITIONAL_DELETE not in limits)
    assert capabilities.server_copy is (Limit.NO_SERVER_COPY not in limits)
    keeps = limits.isdisjoint((Limit.NO_ATTRIBUTES, Limit.ONLY_UPLOAD_ID))
    assert capabilities.keeps_attributes is keeps


def test_a_file_that_changed_meanwhile_is_not_replaced(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.IGNORES_CONDITIONS)
    target.seed({"file": b"first"})
    store = open_store()
    old = store.stat("file").version
    target.overwrite("file", b"theirs, meanwhile")
    with pytest.raises(VersionChanged):
        write(store, "file", b"ours", old)
    assert content(store, "file") == b"theirs, meanwhile"
    write(store, "file", b"ours", store.stat("file").version)
    assert content(open_store(), "file") == b"ours"


def test_a_file_that_is_there_is_not_created(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.IGNORES_CONDITIONS)
    target.seed({"file": b"theirs", "empty": b""})
    store = open_store()
    for key in ("file", "empty"):
        with pytest.raises(VersionChanged):
            write(store, key, b"ours", ABSENT)
    assert content(store, "file") == b"theirs"
    assert content(store, "empty") == b""
    assert names(store) == ["empty", "file"]


def test_a_file_that_is_gone_is_not_replaced(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.IGNORES_CONDITIONS)
    target.seed({"d/file": b"first", "d/other": b"x"})
    store = open_store()
    old = store.stat("d/file").version
    target.remove("d/file")
    with pytest.raises(VersionChanged):
        write(store, "d/file", b"ours", old)
    assert names(store, "d/") == ["other"]


def test_a_large_file_is_held_to_its_condition_too(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.SLOW, Limit.IGNORES_CONDITIONS)
    target.seed({"file": b"first"})
    store = open_store()
    old = store.stat("file").version
    target.overwrite("file", b"theirs, meanwhile")
    large = bytes(20 << 20)
    for expect in (old, ABSENT):
        with pytest.raises(VersionChanged):
            write(store, "file", large, expect)
    assert content(store, "file") == b"theirs, meanwhile"
    assert names(store) == ["file"]


def test_without_an_expectation_whatever_is_there_is_replaced(
    target: Target, open_store: OpenStore
) -> None:
    target.seed({"file": b"theirs"})
    store = open_store()
    write(store, "file", b"ours", None)
    write(store, "new", b"new", None)
    assert (content(store, "file"), content(store, "new")) == (b"ours", b"new")


def test_a_file_that_changed_meanwhile_is_not_deleted(
    target: Target, open_store: OpenStore
) -> None:
    skip_if(target, Limit.IGNORES_CONDITIONS)
    target.seed({"file": b"first"})
    store = open_store()
    old = store.stat("file").version
    target.overwrite("file", b"theirs, meanwhile")
    with pytest.raises(VersionChanged):
        store.delete("file", old)
    assert content(store, "file") == b"theirs, meanwhile"
    target.remove("file")
    with pytest.raises(NotFound):
        store.delete("file", old)


class Together:
    """Lets the two bodies of a race be read only when both puts have begun."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2)

    def body(self, data: bytes) -> BytesBody:
        waited = threading.Event()

        def wait_once(start: int, end: int) -> None:
            if not waited.is_set():
                waited.set()
                self._barrier.wait(SOON_S)

        return BytesBody(data, wait_once)


def race(stores: list[RemoteStore], key: str, expect: str) -> list[bytes]:
    """Two puts at once with one expectation; the data of those that took effect.

    The data is new each time: where a version is a digest, the same bytes are the same version.
    """
    together = Together()
    one, three = os.urandom(8), os.urandom(24)

    def put(store: RemoteStore, data: bytes) -> Callable[[], Entry]:
        return lambda: store.put(key, together.body(data), expect, NOTHING)

    racing = {one: put(stores[0], one), three: put(stores[1], three)}
    won: list[bytes] = []
    with ThreadPoolExecutor(2) as pool:
        running: dict[bytes, Future[Entry]] = {
            data: pool.submit(call) for data, call in racing.items()
        }
        for data, future in running.items():
            try:
                future.result(SOON_S)
                won.append(data)
            except VersionChanged:
                pass
    return won


def test_of_two_who_create_a_file_at_once_one_wins(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_CONDITIONAL_PUT, Limit.IGNORES_CONDITIONS)
    stores = [open_store(), open_store()]
    for n in range(2 if Limit.SLOW in target.limits else 10):
        (won,) = race(stores, f"file-{n}", ABSENT)
        assert content(stores[0], f"file-{n}") == won


def test_of_two_who_replace_a_file_at_once_one_wins(target: Target, open_store: OpenStore) -> None:
    skip_if(target, Limit.NO_CONDITIONAL_PUT, Limit.IGNORES_CONDITIONS)
    stores = [open_store(), open_store()]
    version = write(stores[0], "file", b"before").version
    for _ in range(2 if Limit.SLOW in target.limits else 10):
        (won,) = race(stores, "file", version)
        assert content(stores[1], "file") == won
        version = stores[0].stat("file").version
