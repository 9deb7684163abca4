"""The rows of the table: what is measured, in which unit, and what mountd must reach."""

from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is to read and write. Rates hardly depend on it; `--quick` takes less."""

    one_bytes: int = GIB
    huge_bytes: int = 4 * GIB
    small_folders: int = 10
    small_per_folder: int = 500
    small_bytes: int = 100_000
    tree_folders: int = 100
    tree_per_folder: int = 100
    tree_bytes: int = 1_000
    eight_bytes: int = 128 * MIB
    random_reads: int = 20_000
    write_bytes: int = GIB
    write_4k_bytes: int = 256 * MIB
    write_files: int = 1_000
    write_file_bytes: int = 10_000
    edit_bytes: int = GIB
    tar_files: int = 5_000
    tar_file_bytes: int = 4_000
    clone_files: int = 2_000
    rm_files: int = 1_000
    rename_files: int = 1_000
    copy_bytes: int = 2 * GIB
    cloud_files: int = 500
    cloud_file_bytes: int = 20_000
    cloud_bytes: int = GIB
    cloud_folders: int = 200
    cloud_per_folder: int = 10
    train_files: int = 3_000

    @property
    def small_files(self) -> int:
        return self.small_folders * self.small_per_folder

    @property
    def tree_files(self) -> int:
        return self.tree_folders * self.tree_per_folder


FULL = Sizes()
QUICK = Sizes(
    one_bytes=384 * MIB,
    small_per_folder=100,
    tree_folders=40,
    tree_per_folder=50,
    eight_bytes=32 * MIB,
    random_reads=4_000,
    write_bytes=192 * MIB,
    write_4k_bytes=48 * MIB,
    write_files=200,
    edit_bytes=192 * MIB,
    tar_files=600,
    clone_files=300,
    rm_files=100,
    rename_files=100,
    copy_bytes=384 * MIB,
    cloud_files=100,
    cloud_bytes=192 * MIB,
    cloud_folders=40,
    train_files=1_000,
)


@dataclass(frozen=True, slots=True)
class Goal:
    """What mountd must reach: `ratio` to the better of the rclone rows, and limits of its own.

    `rate` is in the case's unit and only holds where link, disk and processors allow it.
    `disk_share` is of what `dd conv=fdatasync` reaches on the cache's disk, counted up to 1 GB/s;
    `uploaded_bytes` is the most that may be sent, `requests` the most that may be asked in all.
    """

    ratio: float
    rate: float = 0.0
    bytes_per_byte: float = 0.0
    requests_per_operation: float = 0.0
    disk_share: float = 0.0
    uploaded_bytes: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """`unit` is `MB/s` (of 10**6 bytes) or operations per second: `reads/s`, `files/s`.

    `as_seconds`: shown as the time that `total` of the unit take, as one times `ls`. `as_share`:
    the rate is one over the share of the time that the reader waited, and shown as that.
    """

    name: str
    title: str
    unit: str
    goal: Goal | None
    as_seconds: bool = False
    total: float = 0
    as_share: bool = False


_RANDOM = Goal(3, bytes_per_byte=8, requests_per_operation=1.05)


def read_cases(sizes: Sizes) -> list[Case]:
    """The rows of the read side in order."""
    one = size_text(sizes.one_bytes)
    huge = size_text(sizes.huge_bytes)
    small = f"{sizes.small_files:,} files of 100 KB in {sizes.small_folders} directories"
    tree = f"`ls -lR` of {sizes.tree_files:,} files in {sizes.tree_folders} directories"
    listed = sizes.tree_files
    dropped = "page cache dropped"
    return [
        Case("seq-cold-30", f"sequential read {one}, cold, 30 ms", "MB/s", Goal(2, rate=500)),
        Case("seq-cold-0", f"sequential read {one}, cold, 0 ms", "MB/s", Goal(2)),
        Case("seq-cold-0-nginx", "the same, nginx serving the ranges", "MB/s", Goal(2)),
        Case("seq-warm", f"sequential read {one}, warm, {dropped}", "MB/s", Goal(3, rate=2000)),
        Case("seq-remount", f"sequential read {one}, warm, after a remount", "MB/s", None),
        Case("rand-cold-1", f"4 KiB random in {huge}, cold, 30 ms, 1 reader", "reads/s", _RANDOM),
        Case(
            "rand-cold-16", f"4 KiB random in {huge}, cold, 30 ms, 16 readers", "reads/s", _RANDOM
        ),
        Case(
            "rand-warm-1", f"4 KiB random in {one}, warm, {dropped}, 1 reader", "reads/s", Goal(2)
        ),
        Case(
            "rand-warm-16",
            f"4 KiB random in {one}, warm, {dropped}, 16 readers",
            "reads/s",
            Goal(2),
        ),
        Case("files-cold", f"{small}, cold, 30 ms, in directory order", "files/s", Goal(10)),
        Case("files-again", "the same again, page cache warm", "files/s", Goal(4)),
        Case("files-remount-1", "the same, remounted, shuffled, 1 reader", "files/s", Goal(50)),
        Case("files-remount-4", "the same, remounted, shuffled, 4 readers", "files/s", Goal(50)),
        Case("ls-cold", f"{tree}, cold, 30 ms", "files/s", Goal(2), True, listed),
        Case("ls-remount", "the same, after a remount", "files/s", Goal(10), True, listed),
        Case(
            "mmap-cold",
            f"4 KiB random in {one} through mmap, cold, 30 ms",
            "reads/s",
            Goal(1, bytes_per_byte=64),
        ),
        Case(
            "mmap-warm",
            f"4 KiB random in {one} through mmap, warm, {dropped}",
            "reads/s",
            Goal(1, bytes_per_byte=64),
        ),
        Case(
            "eight-cold",
            f"8 processes, 8 files of {size_text(sizes.eight_bytes)}, cold, 30 ms",
            "MB/s",
            Goal(2),
        ),
    ]


RSS_GOAL_BYTES = 400_000_000
SERVER_BUSY_SHARE = 0.8
# A faster disk is not held against anybody.
DISK_CAP_MB_S = 1000.0


def size_text(count: int) -> str:
    return f"{count // GIB} GiB" if count % GIB == 0 else f"{count // MIB} MiB"
