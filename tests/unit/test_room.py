"""What statfs knows of the remote's room, without ever waiting for it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from mountd.config import Settings
from mountd.errors import Unreachable, Unsupported
from mountd.remotes.base import Capabilities, Quota
from mountd.remotes.optional_doors import move_dir_in, prepare_changes_in, quota_of
from mountd.remotes.stack import RemoteStack
from mountd.running.room import TRUE_FOR_S, Room
from tests.fakes.memory_store import MemoryStore


class Roomy(MemoryStore):
    """A store that tells its room, and moves directories by writing down that it did."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.moves: list[tuple[str, str]] = []
        self.fails = False
        self.prepared = 0

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, tells_quota=True, native_move=True)

    def quota(self) -> Quota:
        self.asked += 1
        if self.fails:
            raise Unreachable("away")
        return Quota(self.asked, 100)

    def move_dir(self, source: str, key: str) -> None:
        self.moves.append((source, key))

    def prepare_changes(self) -> None:
        self.prepared += 1


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.001)


async def test_the_room_is_asked_for_once_a_minute_and_only_if_somebody_looks() -> None:
    store, now_s = Roomy(), [0.0]
    room = Room(store, lambda: now_s[0])
    assert room.now() is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.keep)
        await until(room.now)
        assert room.now() == Quota(1, 100)
        now_s[0] = TRUE_FOR_S - 1
        assert room.now() == Quota(1, 100)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert store.asked == 1
        now_s[0] = TRUE_FOR_S
        store.fails = True
        assert room.now() == Quota(1, 100)
        await until(lambda: store.asked == 2)
        assert room.now() == Quota(1, 100)
        nursery.cancel_scope.cancel()


async def test_a_remote_that_tells_no_room_is_not_asked() -> None:
    room = Room(MemoryStore())
    with trio.fail_after(5):
        await room.keep()
    assert room.now() is None


def test_the_optional_doors_are_there_through_every_wrapper(tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path)
    store = Roomy()
    stack = RemoteStack(store, settings)
    assert quota_of(stack.store) == Quota(1, 100)
    move_dir_in(stack.store, "a/", "b/")
    assert store.moves == [("a/", "b/")]
    prepare_changes_in(stack.store)
    assert store.prepared == 1
    plain = RemoteStack(MemoryStore(), settings).store
    prepare_changes_in(plain)
    with pytest.raises(Unsupported):
        quota_of(plain)
    with pytest.raises(Unsupported):
        move_dir_in(plain, "a/", "b/")
