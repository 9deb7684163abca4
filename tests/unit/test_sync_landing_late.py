"""An upload of a killed daemon that reaches the remote after its successor has looked there."""

import threading

import pytest
from trio.testing import MockClock

from mountd.remotes.base import Body, Upload
from mountd.types import Entry
from tests.fakes.memory_journal import MemoryJournal, reopened
from tests.fakes.memory_store import MemoryStore
from tests.fakes.syncing import reached, syncing


@pytest.fixture
def clock(mock_clock: MockClock) -> MockClock:
    """`syncing` moves it on when nothing goes on."""
    return mock_clock


class Store(MemoryStore):
    """`ended`: a put has, in whatever."""

    ended = threading.Event()

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        try:
            return super().put(key, body, expect, upload)
        finally:
            self.ended.set()

    def all(self) -> dict[str, bytes]:
        keys = self.keys()
        return {key: self.data(key) for key in keys}


@pytest.mark.parametrize("was_there", [False, True])
@pytest.mark.parametrize("then", ["retried", "edited", "renamed", "removed", "made again"])
async def test_it_overwrites_nothing_where_the_remote_enforces_versions(
    clock: MockClock, then: str, was_there: bool
) -> None:
    store = Store({"a": b"before"} if was_there else {})
    journal, hang = MemoryJournal(), threading.Event()
    async with syncing(store, journal=journal) as s:
        late = s.faults.add("put", hang=hang, key="a")
        s.tree.save("a", b"late")
        await reached(late.reached)
    async with syncing(store, journal=reopened(journal)) as s:
        s.tree.seen.clear()
        if then == "edited":
            s.tree.write("a", b"r", 4)
        elif then == "renamed":
            s.tree.rename("a", "b")
        elif then in ("removed", "made again"):
            s.tree.unlink("a")
        await s.settled()
        if then == "made again":
            s.tree.save("a", b"new")
            await s.settled()
        before = store.all()
        store.ended.clear()
        hang.set()
        await reached(store.ended)
        await s.settled()
    # What nothing is at is filled, and is somebody's file from then on: see remotes.md.
    extra = {"a": b"late"} if "a" not in before and not was_there else {}
    assert store.all() == before | extra
