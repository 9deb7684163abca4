"""CountingStore: what goes over the wire is counted."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from mountd.errors import Unreachable
from mountd.remotes.base import RemoteStore
from mountd.remotes.counting import CountingStore, TransferCounts
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore


def test_each_kind_of_request_and_the_bytes_read_are_counted() -> None:
    store = CountingStore(MemoryStore({"a": b"0123456789"}))
    store.stat("a")
    store.read("a", 2, 5, "")
    store.read("a", 0, 10, "")
    assert store.counts == TransferCounts(stat=1, get=2, down_bytes=13)


def test_a_request_that_fails_is_counted_but_its_bytes_are_not() -> None:
    faults = FaultStore(MemoryStore({"a": b"0123456789"}))
    faults.add(error=Unreachable("down"))
    store = CountingStore(faults)
    with pytest.raises(Unreachable):
        store.read("a", 0, 10, "")
    with pytest.raises(Unreachable):
        store.stat("a")
    with pytest.raises(Unreachable):
        list(store.list(""))
    assert store.counts == TransferCounts(stat=1, get=1, list=1)


@pytest.mark.parametrize(("files", "requests"), [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_each_page_of_a_listing_is_a_request(files: int, requests: int) -> None:
    store = CountingStore(MemoryStore({f"f{i}": b"" for i in range(files)}, page_size=2))
    assert sum(len(page) for page in store.list("")) == files
    assert store.counts.list == requests


def test_a_page_that_fails_is_a_request_too() -> None:
    faults = FaultStore(MemoryStore({f"f{i}": b"" for i in range(5)}, page_size=2))
    faults.add("list", Unreachable("cut"), after_pages=1)
    store = CountingStore(faults)
    with pytest.raises(Unreachable):
        list(store.list(""))
    assert store.counts.list == 2


def test_a_listing_nobody_began_to_read_is_no_request() -> None:
    store = CountingStore(MemoryStore())
    store.list("")
    assert store.counts.list == 0


def test_no_request_of_many_threads_is_lost() -> None:
    store = CountingStore(MemoryStore({"a": b"0123456789"}))

    def work(_: int) -> None:
        for _ in range(500):
            store.read("a", 0, 10, "")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert store.counts == TransferCounts(get=4000, down_bytes=40_000)


def test_it_is_a_store_that_passes_on_capabilities_and_close() -> None:
    faults = FaultStore(MemoryStore())
    store: RemoteStore = CountingStore(faults)
    assert store.capabilities == faults.capabilities
    store.close()
    assert faults.closed
