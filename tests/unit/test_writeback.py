"""Waiting for the queue when a mount goes down."""

from pathlib import Path

from mountd.config import Settings
from mountd.remotes.stack import RemoteStack
from mountd.running.writeback import WriteBack
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files


async def test_who_stops_a_mount_has_a_remote_that_denies_looked_at_once(tmp_path: Path) -> None:
    hurries: list[bool] = []
    settings = Settings(cache_dir=tmp_path)
    remote = RemoteStack(MemoryStore(), settings)
    async with mounted_files(remote.store, tmp_path / "cache") as mounted:
        write_back = WriteBack(mounted.journal, mounted.fs, remote, settings)
        write_back.hurry = lambda *, is_first: hurries.append(is_first)
        await write_back.drain(0.01)
    assert hurries == [True]
    remote.store.close()
