"""The read side without a kernel: freshness, versions, failures, names; over a fake remote."""

import threading
from pathlib import Path

import pytest
import trio

from mountd.errors import NoEntry, NotFound, Stale, Unreachable
from mountd.vfs.nodes import Directory
from tests.conftest import ExpectedLog
from tests.fakes.dict_blocks import until
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import BLOCK, Clock, content, file_system, names, walk

BODY = bytes(range(256)) * 4096  # 16 blocks


async def test_a_tree_is_listed_and_read(tmp_path: Path) -> None:
    store = MemoryStore({"a.txt": b"alpha", "d/big.bin": BODY, "d/e/empty": b""})
    async with file_system(store, tmp_path) as fs:
        assert await names(fs) == ["a.txt", "d"]
        assert await names(fs, "d") == ["big.bin", "e"]
        assert await content(fs, "a.txt") == b"alpha"
        assert fs.blocks.counters.misses == 1  # fetched when it was opened
        assert await content(fs, "d/big.bin") == BODY
        assert await content(fs, "d/big.bin", piece=5000) == BODY
        assert await content(fs, "d/e/empty") == b""


async def test_within_the_ttl_nothing_is_asked_again_and_after_it_once(tmp_path: Path) -> None:
    store, clock = MemoryStore({"a": b"1", "b": b"2"}), Clock()
    async with file_system(store, tmp_path, clock=clock) as fs:
        for _ in range(5):
            assert await names(fs) == ["a", "b"]
            with pytest.raises(NoEntry):
                await walk(fs, "missing")
        assert store.calls["list"] == 1
        clock.now_s += 61
        assert await names(fs) == ["a", "b"]
        await walk(fs, "a")
        assert store.calls["list"] == 2


async def test_many_who_want_a_directory_share_one_listing(tmp_path: Path) -> None:
    store = MemoryStore({f"{i}": b"x" for i in range(10)})
    store.gate = threading.Event()
    async with file_system(store, tmp_path) as fs:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(walk, fs, "7")
            await trio.testing.wait_all_tasks_blocked(0.01)
            store.gate.set()
        assert store.calls["list"] == 1


async def test_after_a_remount_the_tree_answers_without_the_remote(tmp_path: Path) -> None:
    store, clock = MemoryStore({"d/a": b"alpha", "d/b": b"beta"}), Clock()
    async with file_system(store, tmp_path, clock=clock) as fs:
        before = (await walk(fs, "d/a")).number
        assert await content(fs, "d/a") == b"alpha"
        await until(lambda: fs.blocks.backlog_room == fs.blocks.backlog_limit)  # it is on disk
    store.calls.clear()
    store.fail_always(Unreachable("down"))
    async with file_system(store, tmp_path, clock=clock) as fs:
        assert await names(fs, "d") == ["a", "b"]
        assert (await walk(fs, "d/a")).number == before
        assert await content(fs, "d/a") == b"alpha"
        assert not store.calls


async def test_an_unreachable_remote_serves_the_old_listing_and_never_an_empty_one(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("listing .* failed")
    store, clock = MemoryStore({"d/a": b"alpha", "z/never/listed": b""}), Clock()
    async with file_system(store, tmp_path, clock=clock) as fs:
        assert await names(fs) == ["d", "z"]
        assert await names(fs, "d") == ["a"]
        clock.now_s += 1000
        store.fail_always(Unreachable("down"))
        assert await names(fs, "d") == ["a"]
        with pytest.raises(NoEntry):  # that is knowledge
            await walk(fs, "d/other")
        with pytest.raises(Unreachable):
            await names(fs, "z/never")


async def test_a_directory_that_is_gone_is_no_warning_and_a_root_that_is_gone_is_one(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    store, clock = MemoryStore({"d/a": b"alpha"}, real_directories=True), Clock()
    async with file_system(store, tmp_path, clock=clock) as fs:
        assert await names(fs, "d") == ["a"]
        store.delete("d/a", expect=None)
        store.remove_dir("d/")
        fs.tree.expire("d/")
        with pytest.raises(NotFound):
            await names(fs, "d")
        expected_log("listing '' failed: no such container")
        clock.now_s += 61
        store.fail_always(NotFound("no such container"))
        with pytest.raises(NotFound):
            await names(fs)


async def test_a_remote_known_to_be_down_is_not_waited_for(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    store, clock = MemoryStore({"d/a": b"alpha"}), Clock()
    well = True
    async with file_system(store, tmp_path, clock=clock, remote_is_well=lambda: well) as fs:
        assert await names(fs, "d") == ["a"]
        clock.now_s += 1000
        well = False
        store.gate = threading.Event()  # the listing behind it hangs
        with trio.fail_after(9):  # waiting for it would take 10 s
            assert await names(fs, "d") == ["a"]
        store.gate.set()


async def test_who_waits_gets_the_old_listing_when_the_remote_is_not_well_any_more(
    tmp_path: Path,
) -> None:
    store, clock = MemoryStore({"d/a": b"alpha"}), Clock()
    well = threading.Event()
    well.set()
    async with file_system(store, tmp_path, clock=clock, remote_is_well=well.is_set) as fs:
        assert await names(fs, "d") == ["a"]
        asked = store.calls["list"]
        clock.now_s += 1000
        store.gate = threading.Event()  # a maintenance mode: tried again and again
        with trio.fail_after(9):  # waiting to the end would take 10 s
            async with trio.open_nursery() as nursery:
                nursery.start_soon(names, fs, "d")
                await until(lambda: store.calls["list"] > asked)
                well.clear()
        assert await names(fs, "d") == ["a"]
        store.gate.set()


async def test_an_unchanged_file_keeps_its_inode_and_a_changed_one_gets_a_new(
    tmp_path: Path,
) -> None:
    store, clock = MemoryStore({"same": b"1", "other": b"2"}), Clock()
    async with file_system(store, tmp_path, clock=clock) as fs:
        same, other = (await walk(fs, "same")).number, (await walk(fs, "other")).number
        store.seed("other", b"22")
        clock.now_s += 61
        assert (await walk(fs, "same")).number == same
        assert (await walk(fs, "other")).number != other
        assert await content(fs, "other") == b"22"


async def test_a_file_that_changes_while_open_never_gives_a_mix(tmp_path: Path) -> None:
    store = MemoryStore({"f": b"A" * (64 * BLOCK)})
    async with file_system(store, tmp_path) as fs:
        handle = fs.files.handle(await fs.files.open(await walk(fs, "f")))
        first = bytes(memoryview(await fs.files.read(handle, 0, 1000)))
        store.seed("f", b"B" * (64 * BLOCK))
        seen = {first[:1]}

        async def read_all() -> None:
            for offset in range(0, 64 * BLOCK, BLOCK):
                seen.add(bytes(memoryview(await fs.files.read(handle, offset, BLOCK)))[:1])

        with pytest.raises(Stale):
            await read_all()
        assert seen == {b"A"}
        # The next look-up finds the new one, within the TTL too.
        assert (await content(fs, "f"))[:1] == b"B"


async def test_opening_a_small_file_that_changed_is_stale_at_open(tmp_path: Path) -> None:
    store = MemoryStore({"f": b"old"})
    async with file_system(store, tmp_path) as fs:
        node = await walk(fs, "f")
        store.seed("f", b"newer")
        with pytest.raises(Stale):
            await fs.files.open(node)
        assert await content(fs, "f") == b"newer"


async def test_refresh_makes_the_next_access_ask(tmp_path: Path) -> None:
    store = MemoryStore({"d/a": b"1"})
    async with file_system(store, tmp_path) as fs:
        assert await names(fs, "d") == ["a"]
        store.seed("d/b", b"2")
        assert await names(fs, "d") == ["a"]
        directory = await walk(fs, "d")
        assert fs.refresh(b"d") == [(1, b"d")]  # the kernel holds no name in it
        found = await walk(fs, "d/a")
        assert found.number
        assert await names(fs, "d") == ["a", "b"]
        assert fs.refresh(b"d") == [(directory.number, b"a"), (1, b"d")]
        assert fs.refresh(b"d/a") == [(directory.number, b"a")]
        assert fs.refresh(b"never/seen") == [(1, b"never")]


async def test_forgotten_inodes_take_no_memory(tmp_path: Path) -> None:
    store = MemoryStore({f"d{i}/f{j}": b"x" for i in range(5) for j in range(5)})
    async with file_system(store, tmp_path) as fs:
        held = [(await walk(fs, f"d{i}/f{j}")).number for i in range(5) for j in range(5)] + [
            (await walk(fs, f"d{i}")).number for i in range(5)
        ]
        for number in held:
            fs.tree.forget(number, 100)
        assert not any(fs.tree.holds(number) for number in held)
        assert await content(fs, "d3/f3") == b"x"


async def test_a_reader_in_listing_order_gets_the_next_files_ahead(tmp_path: Path) -> None:
    store = MemoryStore({f"d/{i:03d}": b"x" * 100 for i in range(40)})
    async with file_system(store, tmp_path) as fs:
        for i in range(6):
            assert await content(fs, f"d/{i:03d}") == b"x" * 100
        await until(lambda: store.calls["read"] >= 12)
        assert store.calls["read"] <= 40


async def test_a_shuffled_reader_gets_nothing_ahead(tmp_path: Path) -> None:
    store = MemoryStore({f"d/{i:03d}": b"x" * 100 for i in range(100)})
    order = [(i * 37) % 100 for i in range(20)]
    async with file_system(store, tmp_path) as fs:
        for i in order:
            await content(fs, f"d/{i:03d}")
        await trio.sleep(0.05)
        assert store.calls["read"] == 20


async def test_a_walk_through_the_tree_lists_each_directory_once(tmp_path: Path) -> None:
    store = MemoryStore({f"d{i:02d}/f": b"x" for i in range(50)})
    async with file_system(store, tmp_path) as fs:
        for name in await names(fs):
            assert await names(fs, name) == ["f"]
        assert store.calls["list"] == 51


async def test_an_object_and_a_prefix_of_one_name_are_both_readable(tmp_path: Path) -> None:
    store = MemoryStore({"x": b"file", "x/y": b"below", "a//b": b"double"})
    async with file_system(store, tmp_path) as fs:
        shown = await names(fs)
        assert len(shown) == 3
        file = next(n for n in shown if n.startswith("x") and n != "x")
        assert await content(fs, file) == b"file"
        assert await content(fs, "x/y") == b"below"
        (empty,) = await names(fs, "a")
        assert await content(fs, f"a/{empty}/b") == b"double"


async def test_a_name_too_long_for_the_kernel_is_shortened_and_still_read(tmp_path: Path) -> None:
    long = "ü" * 200
    store = MemoryStore({f"{long}.txt": b"long", f"{long}/inside": b"below"})
    async with file_system(store, tmp_path) as fs:
        shown = await names(fs)
        assert all(len(name.encode()) <= 255 for name in shown)
        file = next(name for name in shown if name.endswith(".txt"))
        (directory,) = set(shown) - {file}
        assert await content(fs, file) == b"long"
        assert await content(fs, f"{directory}/inside") == b"below"


async def test_a_random_read_of_a_large_file_fetches_one_page(tmp_path: Path) -> None:
    store = MemoryStore({"f": BODY})
    async with file_system(store, tmp_path) as fs:
        handle = fs.files.handle(await fs.files.open(await walk(fs, "f")))
        offset = 9 * BLOCK + 5
        data = await fs.files.read(handle, offset, 100)
        assert bytes(memoryview(data)) == BODY[offset : offset + 100]
        assert store.calls["read"] == 1
        assert isinstance(fs.tree.root, Directory)
