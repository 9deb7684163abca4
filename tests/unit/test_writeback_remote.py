"""durability = "remote": what close(2) and fsync(2) wait for."""

import threading
from pathlib import Path

import trio

from mountd.config import Settings
from mountd.errors import Unreachable
from mountd.remotes.stack import RemoteStack
from mountd.running.on_remote import OnRemote
from mountd.running.writeback import WriteBack
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import mounted_files


async def test_who_waits_for_a_file_that_is_renamed_meanwhile_waits_for_it_at_its_new_name(
    tmp_path: Path,
) -> None:
    memory = MemoryStore()
    store = FaultStore(memory)
    settings = Settings(cache_dir=tmp_path, write_back_s=0.0, request_timeout_s=30.0)
    remote = RemoteStack(store, settings)
    gate = threading.Event()
    slow = store.add("put", Unreachable("cut"), key="f", hang=gate)
    async with mounted_files(remote.store, tmp_path / "cache") as mounted, trio.open_nursery() as n:
        fs = mounted.fs
        write_back = WriteBack(mounted.journal, fs, remote, settings)
        await n.start(write_back.run)
        waits = OnRemote(
            *(mounted.journal, write_back.queue, fs), wait_s=30.0, remote_is_up=lambda: True
        )
        fh, _ = await fs.create(fs.tree.root, b"f", {})
        await fs.write(fh, 0, b"precious")
        on_remote: list[list[str]] = []

        async def close() -> None:
            await waits.file(fh)
            on_remote.append([*memory.keys()])

        async with trio.open_nursery() as closing:
            closing.start_soon(close)
            await trio.to_thread.run_sync(slow.reached.wait, 10)
            await fs.rename(fs.tree.root, b"f", fs.tree.root, b"g")
            gate.set()
        assert on_remote == [["g"]]
        assert memory.data("g") == b"precious"
        n.cancel_scope.cancel()
    remote.store.close()
