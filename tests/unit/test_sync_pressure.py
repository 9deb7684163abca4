"""What goes at once when there is little room left for what is written."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mountd.errors import NoSpace
from mountd.sync.schedule import SNAPSHOT_BYTES, Moment, Schedule
from mountd_cache.changes import ABSENT, Base, Change, ChangeKind, Content, Layer, Rows
from mountd_cache.extent_map import ExtentMap
from mountd_cache.ledger import Ledger
from tests.conftest import ExpectedLog
from tests.fakes.memory_store import MemoryStore
from tests.fakes.mounted import file_system, walk

NOW_NS = 1_800_000_000_000_000_000
SECOND = 1_000_000_000
MIB = 1 << 20
BASE = Base("a", "v", 100 * MIB)


def due_in_s(
    *,
    base: Base | None = None,
    staged: int = SNAPSHOT_BYTES,
    age_s: float = 0.0,
    is_open: bool = True,
    is_pressed: bool = True,
    takes_deltas: bool = True,
) -> float:
    """Of a file that was written a moment ago, for the first time `age_s` ago."""
    since_ns = NOW_NS - int(age_s * SECOND)
    size = base.size if base is not None else 0
    layer = Layer(0, size + staged, size, ExtentMap([(size, size + staged)]))
    content = Content(1, base, [layer], NOW_NS, NOW_NS)
    change = Change(
        *("a", "", b"a", 7, ChangeKind.FILE, ABSENT),
        content=1,
        sequence=1,
        since_ns=since_ns,
        changed_ns=NOW_NS,
    )
    ledger = Ledger()
    ledger.apply(Rows(changes=(change,), contents=(content,)))
    moment = Moment(
        now_ns=NOW_NS,
        now_s=0.0,
        write_back_s=600.0,
        real_directories=False,
        in_flight=(),
        contents_in_flight={},
        troubles={},
        is_open=lambda number: is_open,
        is_hurried=lambda change: False,
        upload_took_s=lambda number: 0.0,
        is_pressed=is_pressed,
        takes_deltas=takes_deltas,
    )
    return Schedule(ledger, moment).due_in_s(change)


def test_without_room_a_closed_file_does_not_wait() -> None:
    assert due_in_s(is_open=False, is_pressed=False) == 60.0
    assert due_in_s(is_open=False, staged=1) == 0.0
    assert due_in_s(is_open=False, base=BASE, takes_deltas=False) == 0.0


def test_without_room_an_open_file_is_sent_as_it_is() -> None:
    assert due_in_s(is_pressed=False) == 60.0
    assert due_in_s() == 0.0
    assert due_in_s(base=BASE) == 0.0


def test_a_little_of_an_open_file_is_sent_once_a_second() -> None:
    assert due_in_s(staged=1, base=BASE) == 1.0
    assert due_in_s(staged=1, base=BASE, age_s=1.0) == 0.0


def test_what_would_be_sent_again_as_a_whole_is_not_sent_more_often_for_want_of_room() -> None:
    assert due_in_s(takes_deltas=False) == 0.0
    assert due_in_s(base=BASE, takes_deltas=False) == 60.0


class CountedWakes:
    denied = False
    full = False

    def __init__(self) -> None:
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1

    async def find_base(self, key: str, base: Base) -> bool:
        return False

    def is_sending(self, *below: str) -> bool:
        return False

    def holding(self, *below: str) -> AbstractContextManager[None]:
        return nullcontext()


async def test_the_queue_is_woken_when_half_of_the_room_is_taken(tmp_path: Path) -> None:
    async with file_system(MemoryStore({"a": b"1"}), tmp_path, cache_bytes=8 * MIB) as fs:
        queue = CountedWakes()
        file = await fs.open((await walk(fs, "a")).number, writes=True)
        await fs.write(file, 0, b"1")
        fs.writes.queue = queue
        for number in range(1, 4):
            await fs.write(file, number * MIB, bytes(MIB))
        assert (queue.wakes, fs.writes.room.is_pressed) == (0, False)
        await fs.write(file, 4 * MIB, bytes(MIB))
        assert (queue.wakes, fs.writes.room.is_pressed) == (1, True)
        await fs.write(file, 5 * MIB, bytes(MIB))
        assert queue.wakes == 1


async def test_after_a_wait_for_room_in_vain_no_other_write_waits_until_something_changes(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("writers get ENOSPC: 3145728 bytes wait .* cache_size allows 4194304")
    is_well = False
    async with file_system(
        MemoryStore(), tmp_path, cache_bytes=4 * MIB, wait_s=3.0, remote_is_well=lambda: is_well
    ) as fs:
        queue = fs.writes.queue = CountedWakes()
        old, _ = await fs.create(fs.tree.root, b"old", {})
        await fs.write(old, 0, bytes(3 * MIB))
        fs.release(old)
        new, _ = await fs.create(fs.tree.root, b"new", {})

        async def write(number: int) -> None:
            with pytest.raises(NoSpace):
                await fs.write(new, number * 2 * MIB, bytes(2 * MIB))

        async with trio.open_nursery() as nursery:  # as the kernel brings a large file
            for number in range(3):
                nursery.start_soon(write, number)
        queue.wakes = 0
        for number in range(3, 9):
            await write(number)
        assert queue.wakes == 6, "each looks once"
        is_well = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.write, new, 0, bytes(2 * MIB))
            await wait_all_tasks_blocked()
            await fs.unlink(fs.tree.root, b"old")  # had it not waited it would have failed by now
        fs.release(new)


async def test_the_room_of_what_was_sent_is_there_at_once(
    tmp_path: Path, expected_log: ExpectedLog
) -> None:
    expected_log("cache_size")
    store = MemoryStore({"a": b"1"})
    async with file_system(store, tmp_path, cache_bytes=4 * MIB, wait_s=2.0) as fs:
        file = await fs.open((await walk(fs, "a")).number, writes=True)
        await fs.write(file, 0, bytes(3 * MIB))
        with pytest.raises(NoSpace):
            await fs.write(file, 3 * MIB, bytes(2 * MIB))
        journal = fs.writes.journal
        (change,) = journal.ledger.changes.values()
        depth = journal.freeze(change.content)
        await fs.write(file, 0, b"2")
        journal.release_frozen(change.content, depth, Base("a", "v", 3 * MIB), (change,))
        assert (journal.staged_bytes, journal.unsent_bytes) == (3 * MIB + 1, 1)
        assert not fs.writes.room.is_pressed
        await fs.write(file, 3 * MIB, bytes(2 * MIB))
