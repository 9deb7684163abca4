"""Warming on somebody's behalf, without a kernel: what is told, refused, and who ends it."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from mountd.errors import StartError
from mountd.transfer.asked import Asked
from mountd.transfer.subtree import find_place
from mountd.transfer.warm import Warmings
from mountd.types import Entry
from tests.fakes.keeping import kept_files, until
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import BLOCK, content

TREE = {"d/a": b"a" * 3 * BLOCK, "d/e/b": b"b" * 100, "d/empty": b"", "other": b"o" * BLOCK}


async def test_it_says_what_there_is_to_do_and_what_was_done(tmp_path: Path) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path) as kept:
        assert await content(kept.fs, "d/e/b") == b"b" * 100
        await until(lambda: kept.blocks.bytes_used)
        ask = Asked(kept.pins, kept.warmings).handlers()
        job = (await ask["warm"]({"paths": ["d", "gone"]}))["job"]
        told = await ask["warming"]({"job": job, "timeout_s": 10})
        assert told["state"] == "done"
        assert (told["files"], told["bytes"]) == (3, 3 * BLOCK + 100)
        assert told["missing_bytes"] == told["fetched_bytes"] == 3 * BLOCK
        assert told["fetched_files"] == 1
        assert told["failures"] == [("gone", "no such file")]
        assert kept.means.holds.held_bytes == 0
        store.calls.clear()
        assert await content(kept.fs, "d/a") == TREE["d/a"]
        assert store.calls["read"] == 0


async def test_its_end_does_not_push_out_its_beginning(tmp_path: Path) -> None:
    old = {f"old/{i:02}": bytes([i]) * BLOCK for i in range(20)}
    new = {f"new/{i:02}": bytes([i]) * BLOCK for i in range(15)}
    store = MemoryStore({**old, **new})
    async with kept_files(store, tmp_path, cache_bytes=20 * (BLOCK + 8192)) as kept:
        for name in old:
            await content(kept.fs, name)
        job = kept.warmings.begin([b"new"])
        found = kept.warmings.find(job)
        assert found is not None
        await found.ended.wait()
        assert found.as_dict()["state"] == "done"
        store.calls.clear()
        for name, data in new.items():
            assert await content(kept.fs, name) == data
        assert store.calls["read"] == 0


async def test_what_does_not_fit_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    store = MemoryStore(TREE)
    async with kept_files(store, tmp_path, cache_bytes=3 * BLOCK) as kept:
        found = kept.warmings.find(kept.warmings.begin([b"d"]))
        assert found is not None
        await found.ended.wait()
        told = found.as_dict()
        assert (told["state"], told["no_room_bytes"]) == ("refused", 3 * BLOCK)
        assert store.calls["read"] == 0
        assert kept.means.holds.held_bytes == 0


@pytest.mark.parametrize("is_told", [True, False])
async def test_it_ends_when_it_is_told_to_or_nobody_asks_any_more(
    tmp_path: Path, is_told: bool
) -> None:
    store = MemoryStore({f"d/{i:03}": b"x" * 100 for i in range(100)})
    async with kept_files(store, tmp_path) as kept, trio.open_nursery() as nursery:
        warmings = Warmings(kept.means, lease_s=60.0 if is_told else 1.0)
        await nursery.start(warmings.run)
        ask = Asked(kept.pins, warmings).handlers()
        for path in ("", "d"):
            directory = (await find_place(kept.fs, path.encode())).directory
            await kept.fs.tree.listing(directory)
        store.calls.clear()
        store.gate = threading.Event()
        job = warmings.begin([b"d"])
        found = warmings.find(job)
        assert found is not None
        # Who asks for it holds it, however long they take to begin on a busy machine.
        await until(lambda: warmings.find(job) and store.calls["read"] == 6)
        if is_told:
            await ask["warm_stop"]({"job": job})
        with trio.fail_after(10):
            await found.ended.wait()
        store.gate.set()
        assert found.as_dict()["state"] == "stopped"
        assert kept.means.holds.held_bytes == 0
        assert store.calls["read"] == 6
        nursery.cancel_scope.cancel()


async def test_what_is_below_many_folders_is_listed_side_by_side(tmp_path: Path) -> None:
    class Level(MemoryStore):
        """Lists none of the inner directories before all of them are asked for."""

        together = threading.Barrier(8)

        def list(self, directory: str) -> Iterator[Sequence[Entry]]:
            if directory.count("/") == 3:
                self.together.wait(10)
            return super().list(directory)

    store = Level({f"c/{i}/0/0": b"x" for i in range(8)})
    async with kept_files(store, tmp_path) as kept:
        found = kept.warmings.find(kept.warmings.begin([b"c"]))
        assert found is not None
        await found.ended.wait()
        told = found.as_dict()
        assert (told["state"], told["files"], told["failures"]) == ("done", 8, [])


async def test_nonsense_is_refused(tmp_path: Path) -> None:
    async with kept_files(MemoryStore(TREE), tmp_path) as kept:
        ask = Asked(kept.pins, kept.warmings).handlers()
        requests: list[tuple[str, dict[str, Any]]] = [
            ("warm", {}),
            ("warm", {"paths": []}),
            ("warm", {"paths": [7]}),
            ("warming", {"job": 7}),
            ("warming", {}),
            ("pin", {}),
            ("pin", {"path": "a\0b"}),
            ("pin", {"path": "../x"}),
            ("pin", {"path": "gone"}),
            ("pinned", {"path": "d"}),
            ("unpin", {"path": "d"}),
        ]
        for op, request in requests:
            with pytest.raises(StartError):
                await ask[op](request)
