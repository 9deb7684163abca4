"""A name that is made and removed again and again, as sqlite does with its journal, while the
listing that the daemon keeps is always a step behind."""

from pathlib import Path

import pytest

from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import MountedFiles, mounted_files, names


async def sent(mounted: MountedFiles) -> None:
    assert mounted.queue is not None
    assert await mounted.queue.drain("", 10) == 0


async def make(mounted: MountedFiles, kind: str) -> None:
    fs = mounted.fs
    if kind == "directory":
        await fs.make_directory(fs.tree.root, b"x", {})
    else:
        await fs.create(fs.tree.root, b"x", {}, opens=False)


async def remove(mounted: MountedFiles, kind: str) -> None:
    fs = mounted.fs
    if kind == "directory":
        await fs.remove_directory(fs.tree.root, b"x")
    else:
        await fs.unlink(fs.tree.root, b"x")


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_what_came_and_went_before_the_listing_knew_does_not_come_back(
    tmp_path: Path, kind: str
) -> None:
    """A tombstone that the remote has taken hides a row of the kept listing until that is folded.
    What is made in its place, and removed before it was sent, must not take it away."""
    async with mounted_files(MemoryStore({"f": b"1"}), tmp_path, queue=True) as mounted:
        await names(mounted.fs)
        await make(mounted, kind)
        await sent(mounted)
        await mounted.fs.folding.fold_waiting()  # it has a row of its own now
        await remove(mounted, kind)
        await sent(mounted)
        await make(mounted, kind)
        await remove(mounted, kind)
        await sent(mounted)
        assert await names(mounted.fs) == ["f"]
        await mounted.fs.folding.fold_waiting()
        assert await names(mounted.fs) == ["f"]
        assert not mounted.journal.ledger.changes
