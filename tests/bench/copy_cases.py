"""The rows of `mountd copy` beside `rclone copy`."""

from tests.bench.cases import Case, Goal, Sizes, size_text


def copy_cases(sizes: Sizes) -> list[Case]:
    small = f"{sizes.small_files:,} files of 100 KB"
    big = f"copy of {size_text(sizes.copy_bytes)} in one file to local disk, 30 ms"
    return [
        Case("copy-small", f"copy of {small} to local disk, 30 ms", "files/s", Goal(2)),
        Case("copy-again", "the same again, nothing changed", "files/s", Goal(1)),
        Case("copy-big", big, "MB/s", Goal(1)),
    ]
