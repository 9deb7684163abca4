"""Block files: what is kept, what is proved, what is forgotten."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mountd_cache.block_files import BlockFiles
from mountd_cache.durable_io import DirectoryNotPrivate

PAGE = 4096
BLOCK = 8 * PAGE
FILE = bytes(range(16))
OTHER = bytes(range(1, 17))
DATA = bytes(i * 7 + i // 251 & 255 for i in range(BLOCK))


def block_files(folder: Path, **changes: object) -> BlockFiles:
    options: dict[str, object] = {
        "block_size": BLOCK,
        "page_size": PAGE,
        "limit_bytes": 1 << 30,
        "min_free_fraction": 0.0,
    }
    made = BlockFiles(folder / "blocks", **{**options, **changes})  # type: ignore[arg-type]
    made.scan()
    return made


def files_in(folder: Path) -> list[Path]:
    return [path for path in (folder / "blocks").rglob("*") if path.is_file()]


def allocated(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in files_in(folder))


def test_a_block_that_was_written_is_read_back_in_any_slice(tmp_path: Path) -> None:
    blocks = block_files(tmp_path)
    assert blocks.write(FILE, 3, 0, DATA, BLOCK)
    for start, end in [(0, BLOCK), (0, 1), (1, 2), (PAGE - 1, PAGE + 1), (5000, BLOCK)]:
        assert blocks.read(FILE, 3, start, end) == DATA[start:end]
    assert blocks.read(FILE, 2, 0, 1) is None
    assert blocks.read(OTHER, 3, 0, 1) is None
    assert blocks.read(FILE, 3, 0, BLOCK + 1) is None


def test_a_short_last_block_ends_where_the_file_ends(tmp_path: Path) -> None:
    blocks = block_files(tmp_path)
    assert blocks.write(FILE, 0, 0, DATA[:5000], 5000)
    assert blocks.read(FILE, 0, 4990, 5000) == DATA[4990:5000]
    assert blocks.read(FILE, 0, 4990, 5001) is None
    assert not blocks.present(FILE, 0, 0, 5001)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(1, 8)), max_size=8),
    st.integers(7 * PAGE + 1, BLOCK),
    st.booleans(),
)
def test_pages_may_come_in_any_order_and_overlap(
    tmp_path_factory: pytest.TempPathFactory,
    writes: list[tuple[int, int]],
    length: int,
    reopen: bool,
) -> None:
    folder = tmp_path_factory.mktemp("pages")
    blocks = block_files(folder)
    there: set[int] = set()
    for first, count in writes:
        end = min((first + count) * PAGE, length)
        assert blocks.write(FILE, 0, first * PAGE, DATA[first * PAGE : end], length)
        there.update(range(first, min(first + count, 8)))
    if reopen:
        blocks = block_files(folder)
    for first in range(8):
        for last in range(first + 1, 9):
            start, end = first * PAGE + 1, min(last * PAGE, length)
            hit = there.issuperset(range(first, last)) and start < end
            assert blocks.read(FILE, 0, start, end) == (DATA[start:end] if hit else None)
            assert start >= end or blocks.present(FILE, 0, start, end) == hit
    lacking = blocks.missing(FILE, 0, 0, length, length)
    assert {page for start, end in lacking for page in range(start // PAGE, -(-end // PAGE))} == (
        set(range(8)) - there
    )


def test_a_write_that_is_not_aligned_is_refused(tmp_path: Path) -> None:
    blocks = block_files(tmp_path)
    for start, size, length in [(1, PAGE, BLOCK), (0, 100, BLOCK), (0, 0, BLOCK), (0, BLOCK, PAGE)]:
        with pytest.raises(ValueError, match="block of"):
            blocks.write(FILE, 0, start, DATA[:size], length)


def test_blocks_survive_a_restart_and_are_read_before_the_scan(tmp_path: Path) -> None:
    blocks = block_files(tmp_path)
    blocks.write(FILE, 0, 0, DATA, BLOCK)
    blocks.write(FILE, 1, PAGE, DATA[PAGE : 2 * PAGE], BLOCK)
    blocks.close()
    again = BlockFiles(tmp_path / "blocks", block_size=BLOCK, page_size=PAGE, limit_bytes=1 << 30)
    assert again.read(FILE, 0, 0, BLOCK) == DATA
    assert not again.write(FILE, 2, 0, DATA, BLOCK), "written before the limit is known to hold"
    again.scan()
    assert again.bytes_used == allocated(tmp_path) == blocks.bytes_used
    assert again.read(FILE, 1, PAGE, PAGE + 5) == DATA[PAGE : PAGE + 5]
    assert again.block_count == 2


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks").chmod(0o755)
    with pytest.raises(DirectoryNotPrivate, match="chmod 700"):
        block_files(tmp_path)


def test_a_limit_of_zero_keeps_nothing(tmp_path: Path) -> None:
    block_files(tmp_path).write(FILE, 0, 0, DATA, BLOCK)
    blocks = block_files(tmp_path, limit_bytes=0)
    assert files_in(tmp_path) == []
    assert not blocks.write(FILE, 0, 0, DATA, BLOCK)
    assert blocks.read(FILE, 0, 0, 1) is None


def test_foreign_files_are_left_alone_and_not_counted(tmp_path: Path) -> None:
    blocks = block_files(tmp_path)
    blocks.write(FILE, 0, 0, DATA, BLOCK)
    used = blocks.bytes_used
    shard = files_in(tmp_path)[0].parent
    (shard / "notes.txt").write_bytes(b"x" * 100_000)
    (tmp_path / "blocks" / "README").write_bytes(b"x" * 100_000)
    blocks = block_files(tmp_path)
    assert blocks.bytes_used == used
    blocks = block_files(tmp_path, limit_bytes=0)
    assert sorted(path.name for path in files_in(tmp_path)) == ["README", "notes.txt"]


def test_another_block_size_is_a_miss_and_the_file_goes(tmp_path: Path) -> None:
    block_files(tmp_path).write(FILE, 0, 0, DATA, BLOCK)
    for change in ({"block_size": 2 * BLOCK}, {"page_size": 2 * PAGE}):
        blocks = block_files(tmp_path, **change)
        assert blocks.read(FILE, 0, 0, 1) is None
        blocks.maintain()
        assert files_in(tmp_path) == []
        assert blocks.bytes_used == 0
        block_files(tmp_path).write(FILE, 0, 0, DATA, BLOCK)


def test_a_dropped_block_is_gone_at_once_and_its_space_at_the_next_turn(tmp_path: Path) -> None:
    blocks = block_files(tmp_path)
    blocks.write(FILE, 0, 0, DATA, BLOCK)
    blocks.drop(FILE, 0)
    assert blocks.read(FILE, 0, 0, 1) is None
    assert not blocks.present(FILE, 0, 0, 1)
    blocks.maintain()
    assert files_in(tmp_path) == []
    assert blocks.bytes_used == 0
    assert blocks.write(FILE, 0, 0, DATA, BLOCK)
    assert blocks.read(FILE, 0, 0, BLOCK) == DATA


def test_blocks_that_somebody_deleted_are_misses_and_no_longer_counted(tmp_path: Path) -> None:
    blocks = block_files(tmp_path, max_open=8)
    for index in range(40):
        blocks.write(FILE, index, 0, DATA, BLOCK)
    for path in files_in(tmp_path):
        path.unlink()
    for index in range(8):  # a file that is still open is read on: it is a correct copy
        assert blocks.read(FILE, index, 0, BLOCK) is None
    blocks.maintain()
    assert blocks.block_count == 32
    assert blocks.write(FILE, 0, 0, DATA, BLOCK)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 7), st.integers(1, 8), st.booleans()),
        max_size=60,
    ),
    st.integers(1, 12),
)
def test_the_limit_holds_whatever_is_written(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int, int, bool]],
    limit_blocks: int,
) -> None:
    folder = tmp_path_factory.mktemp("limit")
    limit = limit_blocks * (BLOCK + 8192)
    blocks = block_files(folder, limit_bytes=limit, max_open=8)
    for index, first, count, drop in steps:
        end = min(8, first + count) * PAGE
        if drop:
            blocks.drop(FILE, index)
        else:
            assert blocks.write(FILE, index, first * PAGE, DATA[first * PAGE : end], BLOCK)
        assert blocks.read(FILE, index, 0, BLOCK) in (None, DATA)
        assert allocated(folder) <= limit
    blocks.maintain()
    assert blocks.bytes_used == allocated(folder)


def test_advice_is_harmless_and_keeps_nothing_open(tmp_path: Path) -> None:
    block_files(tmp_path).write(FILE, 0, 0, DATA, BLOCK)
    blocks = block_files(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for index in (0, 1):
        blocks.advise(FILE, index)
    assert len(os.listdir("/proc/self/fd")) == before
    assert blocks.read(FILE, 0, 0, BLOCK) == DATA
    blocks.advise(FILE, 0)


def test_no_more_descriptors_are_open_than_allowed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    blocks = block_files(tmp_path, max_open=10)
    for index in range(100):
        blocks.write(FILE, index, 0, DATA, BLOCK)
    for index in range(100):
        assert blocks.read(FILE, index, 0, 5) == DATA[:5]
    assert len(os.listdir("/proc/self/fd")) <= before + 11
    blocks.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_order_of_use_survives_a_restart(tmp_path: Path) -> None:
    now_s = [0.0]
    blocks = block_files(tmp_path, clock=lambda: now_s[0])
    for index in range(10):
        blocks.write(FILE, index, 0, DATA, BLOCK)
    for path in files_in(tmp_path):
        os.utime(path, ns=(0, 10**9 * int(path.name[-8:], 16)))
    now_s[0] = 100.0
    blocks.read(FILE, 0, 0, 5)
    blocks.maintain()
    again = block_files(tmp_path, limit_bytes=2 * (BLOCK + PAGE))
    assert [i for i in range(10) if again.present(FILE, i, 0, 5)] == [0, 9]


def test_readers_a_writer_and_its_evictions_at_once_never_yield_wrong_bytes(
    tmp_path: Path,
) -> None:
    blocks = block_files(tmp_path, limit_bytes=20 * (BLOCK + PAGE), max_open=8)
    stop = threading.Event()
    wrong: list[object] = []
    hits = [0] * 3

    def content(index: int) -> bytes:
        return bytes([index]) * 16 + DATA[16:]

    def watch(body: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                body()
            except BaseException as error:
                wrong.append(error)

        return run

    def reader(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            index = (turn * 7 + number) % 40
            found = blocks.read(FILE, index, 0, BLOCK if turn % 2 else PAGE)
            if found is not None:
                hits[number] += 1
                if found != content(index)[: len(found)]:
                    wrong.append((index, found[:20]))
            if turn % 1000 == 0:
                blocks.drop(FILE, index)

    threads = [
        threading.Thread(target=watch(lambda number=number: reader(number)))  # type: ignore[misc]
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for turn in range(1000):
        index = turn * 11 % 40
        first = turn % 8 * PAGE
        if turn % 3:
            assert blocks.write(FILE, index, 0, content(index), BLOCK)
        else:
            part = content(index)[first : first + PAGE]
            assert blocks.write(FILE, index, first, part, BLOCK)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert all(hits), hits
    blocks.maintain()
    assert blocks.bytes_used == allocated(tmp_path)
    assert blocks.health.errors == 0
