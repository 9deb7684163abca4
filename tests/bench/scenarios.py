"""How each row is brought about: what is seeded, mounted, filled, dropped and read, in which order.

A scenario serves several rows where one leads to the next; rows nobody wants are only brought about
as far as the wanted ones need.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.cases import Sizes
from tests.bench.readers import (
    ListTree,
    RandomReads,
    Reader,
    ReadFiles,
    Sequential,
    WalkFiles,
)
from tests.bench.remote import Remote
from tests.bench.stage import Stage

ONE, HUGE, SMALL, TREE, EIGHT = (
    "bench-one",
    "bench-huge",
    "bench-small",
    "bench-tree",
    "bench-eight",
)
FRONT = "bench-front"
ONE_KEY, HUGE_KEY = "one.bin", "huge.bin"
# Old enough that nothing is suspicious of it, and the same in every run.
MTIME_S = 1_700_000_000.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """`play` measures `cases` on a stage that is new: nothing mounted, the cache empty."""

    cases: tuple[str, ...]
    play: Callable[[Stage], None]


def seed(server: Remote, sizes: Sizes) -> None:
    """Makes every object of every scenario."""
    server.seed(ONE, keys=[ONE_KEY], size=sizes.one_bytes, mtime_s=MTIME_S)
    server.seed(HUGE, keys=[HUGE_KEY], size=sizes.huge_bytes, mtime_s=MTIME_S)
    server.seed(EIGHT, keys=eight_keys(), size=sizes.eight_bytes, mtime_s=MTIME_S)
    server.seed(SMALL, keys=small_keys(sizes), size=sizes.small_bytes, mtime_s=MTIME_S)
    server.seed(
        TREE,
        directories=sizes.tree_folders,
        files=sizes.tree_per_folder,
        size=sizes.tree_bytes,
        mtime_s=MTIME_S,
    )


def eight_keys() -> list[str]:
    return [f"part-{number}.bin" for number in range(8)]


def small_keys(sizes: Sizes) -> list[str]:
    return [
        f"class-{folder:02d}/image-{number:05d}.jpg"
        for folder in range(sizes.small_folders)
        for number in range(sizes.small_per_folder)
    ]


def scenarios() -> Sequence[Scenario]:
    """In the order of the table, as far as rows share a cache."""
    warm = ("seq-cold-0", "seq-warm", "rand-warm-1", "rand-warm-16", "mmap-warm", "seq-remount")
    return (
        Scenario(("seq-cold-30",), _sequential_far),
        Scenario(warm, _one_file),
        Scenario(("seq-cold-0-nginx",), _sequential_front),
        Scenario(("rand-cold-1",), lambda stage: _random_cold(stage, "rand-cold-1", 1)),
        Scenario(("rand-cold-16",), lambda stage: _random_cold(stage, "rand-cold-16", 16)),
        Scenario(("files-cold", "files-again", "files-remount-1", "files-remount-4"), _small_files),
        Scenario(("ls-cold", "ls-remount"), _listing),
        Scenario(("mmap-cold",), _mapped_cold),
        Scenario(("eight-cold",), _eight),
    )


def check_data(stage: Stage) -> None:
    """Every byte of one large file and of many small ones is what the server has, or an error."""
    sizes = stage.plan.sizes
    stage.start(EIGHT)
    stage.fill([Sequential(eight_keys()[:1], sizes.eight_bytes, keep_all=True)])
    stage.close()
    stage.start(SMALL)
    some = random.Random(1).sample(small_keys(sizes), 200)
    stage.fill([ReadFiles(some, sizes.small_bytes, keep_every=1)])


def _sequential_far(stage: Stage) -> None:
    stage.far()
    stage.start(ONE)
    stage.measure("seq-cold-30", [_whole(stage)])


def _sequential_front(stage: Stage) -> None:
    stage.near()
    stage.start(FRONT, stage.plan.front)
    stage.measure("seq-cold-0-nginx", [_whole(stage)])


def _one_file(stage: Stage) -> None:
    sizes = stage.plan.sizes
    stage.near()
    stage.start(ONE)
    stage.measure("seq-cold-0", [_whole(stage)])
    if not stage.wants("seq-warm", "rand-warm-1", "rand-warm-16", "mmap-warm", "seq-remount"):
        return
    stage.fill_cache([_whole(stage)], sizes.one_bytes)
    stage.far()
    _measure_dropped(stage, "seq-warm", [_whole(stage)])
    _measure_dropped(stage, "rand-warm-1", _random_readers(stage, ONE_KEY, sizes.one_bytes, 1))
    _measure_dropped(stage, "rand-warm-16", _random_readers(stage, ONE_KEY, sizes.one_bytes, 16))
    _measure_dropped(stage, "mmap-warm", [_mapped(stage)])
    if stage.wants("seq-remount"):
        stage.remount()
        stage.measure("seq-remount", [_whole(stage)])


def _random_cold(stage: Stage, case: str, readers: int) -> None:
    stage.far()
    stage.start(HUGE)
    stage.measure(case, _random_readers(stage, HUGE_KEY, stage.plan.sizes.huge_bytes, readers))


def _mapped_cold(stage: Stage) -> None:
    stage.far()
    stage.start(ONE)
    stage.measure("mmap-cold", [_mapped(stage)])


def _eight(stage: Stage) -> None:
    stage.far()
    stage.start(EIGHT)
    size = stage.plan.sizes.eight_bytes
    stage.measure("eight-cold", [Sequential([key], size) for key in eight_keys()])


def _small_files(stage: Stage) -> None:
    sizes = stage.plan.sizes
    keys = small_keys(sizes)
    stage.far()
    stage.start(SMALL)
    stage.measure("files-cold", [WalkFiles(sizes.small_bytes)])
    if not stage.wants("files-again", "files-remount-1", "files-remount-4"):
        return
    # By two readers: what a slow contestant didn't reach cold is fetched here, unmeasured.
    everything = [ReadFiles(keys[half::2], sizes.small_bytes) for half in range(2)]
    if stage.wants("files-again"):
        stage.fill(everything)
        stage.far()
        stage.measure("files-again", [WalkFiles(sizes.small_bytes)])
    if not stage.wants("files-remount-1", "files-remount-4"):
        return
    stage.drop_page_cache()
    stage.fill_cache(everything, sizes.small_files * sizes.small_bytes)
    for case, count in (("files-remount-1", 1), ("files-remount-4", 4)):
        if stage.wants(case):
            stage.far()
            stage.remount()
            shuffled = random.Random(stage.round).sample(keys, len(keys))
            readers = [ReadFiles(shuffled[n::count], sizes.small_bytes) for n in range(count)]
            stage.measure(case, readers)


def _listing(stage: Stage) -> None:
    sizes = stage.plan.sizes
    tree = [ListTree(sizes.tree_files, sizes.tree_bytes)]
    stage.far()
    stage.start(TREE)
    stage.measure("ls-cold", tree)
    if stage.wants("ls-remount"):
        stage.fill(tree)  # what was cut short by the clock is listed to the end
        stage.far()
        stage.remount()
        stage.measure("ls-remount", tree)


def _measure_dropped(stage: Stage, case: str, readers: Sequence[Reader]) -> None:
    if stage.wants(case):
        stage.drop_page_cache()
        stage.measure(case, readers)


def _whole(stage: Stage) -> Reader:
    return Sequential([ONE_KEY], stage.plan.sizes.one_bytes)


def _mapped(stage: Stage) -> Reader:
    sizes = stage.plan.sizes
    return RandomReads(ONE_KEY, sizes.one_bytes, sizes.random_reads, 7_000 + stage.round, True)


def _random_readers(stage: Stage, key: str, size: int, count: int) -> list[Reader]:
    """Every contestant gets the same offsets in the same round."""
    each = stage.plan.sizes.random_reads // count
    return [RandomReads(key, size, each, stage.round * 1000 + number) for number in range(count)]
