"""The rows of training: what a loader of four processes waits for, and a model's file."""

from tests.bench.cases import Case, Goal, Sizes, size_text

LOCAL = 0.91  # 1.1 times the time of the local disk


def train_cases(sizes: Sizes) -> list[Case]:
    """In order."""
    files = f"{sizes.train_files:,} files of 100 KB, shuffled, a loader of 4 processes"
    beside = "beside local disk"
    return [
        Case(
            "train-first",
            f"{files}, first epoch, cold, 30 ms: share of the time waiting",
            "share",
            Goal(2),
            as_share=True,
        ),
        Case("train-second", f"the second epoch {beside}", "of its speed", Goal(0, rate=LOCAL)),
        Case(
            "train-remount",
            f"an epoch after a remount, page cache dropped, {beside} in the same state",
            "of its speed",
            Goal(0, rate=LOCAL),
        ),
        Case(
            "train-tensors",
            f"safetensors of {size_text(sizes.one_bytes)} through mmap, each tensor, cold, 30 ms",
            "MB/s",
            Goal(2),
        ),
    ]
