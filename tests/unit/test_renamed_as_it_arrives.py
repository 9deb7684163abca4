"""A directory that was removed and made anew is renamed just as the remote gets the new one."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import trio

from mountd.types import Entry
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files, names, walk
from tests.fakes.syncing import reached
from tests.unit.test_folding import drained
from tests.unit.test_writing import directory, make, rename


class LateStore(MemoryStore):
    """What is in a tree is as it was when it was asked for, and is answered with `answers`; that a
    directory was removed, with `confirms`."""

    def __init__(self) -> None:
        super().__init__({"p/x": b"old", "top": b"0"}, real_directories=True)
        self.asked, self.answers = threading.Event(), threading.Event()
        self.removed, self.confirms = threading.Event(), threading.Event()

    def remove_dir(self, key: str) -> None:
        super().remove_dir(key)
        self.removed.set()
        assert self.confirms.wait(30)

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        try:
            pages = [*super().list_tree(directory)]
        finally:
            self.asked.set()
            assert self.answers.wait(30)
        return iter(pages)


async def test_a_directory_that_arrives_while_it_is_listed_to_be_renamed_is_not_denied(
    tmp_path: Path,
) -> None:
    store = LateStore()
    async with mounted_files(store, tmp_path, queue=True) as mounted:
        fs, queue = mounted.fs, mounted.queue
        assert queue is not None
        await walk(fs, "p/x")
        await fs.unlink(await directory(fs, "p"), b"x")
        await drained(mounted)
        await fs.remove_directory(fs.tree.root, b"p")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.drain)
            await reached(store.removed)
            await fs.make_directory(fs.tree.root, b"p", {})
            await make(fs, "p/f", b"new")
            nursery.start_soon(rename, fs, "p", "q")
            await reached(store.asked)
            store.confirms.set()
            await drained(mounted)
            assert mounted.journal.ledger.changes["p/"].is_clean, "it has arrived"
            store.answers.set()
        await drained(mounted)
        assert (await names(fs), await names(fs, "q")) == (["q", "top"], ["f"])
        assert {"q/f", "top"} == {key for key in list(store.keys()) if key[-1:] != "/"}
