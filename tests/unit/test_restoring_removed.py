"""What a successor does with files that have no name any more, and are open."""

from pathlib import Path

import pytest

from mountd.kept.record import Record
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files
from tests.unit.test_kept_record import GREETING
from tests.unit.test_restoring import go_on, note


@pytest.mark.parametrize("is_open", [True, False])
async def test_what_was_written_into_a_removed_file_goes_with_its_last_handle_also_over_a_crash(
    tmp_path: Path, is_open: bool
) -> None:
    store, record = MemoryStore(), Record(GREETING, b"")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        fs = mount.fs
        handle, _ = await fs.create(fs.tree.root, b"file", {})
        await fs.write(handle, 0, b"bytes")
        fs.files.describe(handle)
        await fs.unlink(fs.tree.root, b"file")
        if not is_open:
            # Killed between the two steps of the last release.
            record.released(handle)
        (content,) = record.contents().values()
        mount.crashes = True
    async with mounted_files(store, tmp_path, held=[content]) as mount:
        go_on(mount, record)
        assert (content in mount.journal.ledger.contents) == is_open
        if is_open:
            assert await mount.fs.read(handle, 0, 10) == b"bytes"
            mount.fs.release(handle)
        assert mount.journal.ledger.contents == {}


async def test_a_removed_file_is_open_in_a_successor_although_nobody_knows_its_directory(
    tmp_path: Path,
) -> None:
    store, record = MemoryStore(), Record(GREETING, b"")
    async with mounted_files(store, tmp_path) as mount:
        note(mount, record)
        fs = mount.fs
        above = await fs.make_directory(fs.tree.root, b"above", {})
        parent = fs.tree.directory(above.number)
        handle, _ = await fs.create(parent, b"file", {})
        await fs.write(handle, 0, b"bytes")
        fs.files.describe(handle)
        await fs.unlink(parent, b"file")
        await fs.remove_directory(fs.tree.root, b"above")
        fs.tree.forget(above.number, 1)
        (content,) = record.contents().values()
        mount.crashes = True
    async with mounted_files(store, tmp_path, held=[content]) as mount:
        go_on(mount, record)
        await mount.fs.write(handle, 5, b", more")
        assert await mount.fs.read(handle, 0, 20) == b"bytes, more"
        mount.fs.release(handle)
        assert mount.journal.ledger.contents == {}
