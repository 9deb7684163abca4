"""The rows of a Nextcloud account, and what mountd must reach in each: issue 4's table."""

from tests.bench.cases import Case, Goal, Sizes, size_text


def nextcloud_cases(sizes: Sizes) -> list[Case]:
    """In order; all at 30 ms."""
    one, mb = size_text(sizes.cloud_bytes), sizes.cloud_bytes / 1e6
    files = f"{sizes.cloud_files:,} files of {sizes.cloud_file_bytes // 1000} KB"
    listed = sizes.cloud_folders * sizes.cloud_per_folder
    tree = f"`ls -lR` of {listed:,} files in {sizes.cloud_folders:,} directories"
    written = f"Nextcloud: {files} written, until all are on the remote"
    return [
        *(
            Case(name, text, "files/s", Goal(3), as_seconds=True, total=sizes.cloud_files)
            for name, text in (
                ("nc-write-files", written),
                ("nc-write-files-now", f"{written}, both delays at 0"),
            )
        ),
        Case(
            "nc-write-1g",
            f"Nextcloud: {one} written, until on the remote",
            "MB/s",
            Goal(1.5),
            as_seconds=True,
            total=mb,
        ),
        Case("nc-ls-cold", f"Nextcloud: {tree}, cold", "files/s", Goal(2), True, listed),
        Case(
            "nc-ls-again",
            "the same after the TTL, nothing changed",
            "files/s",
            Goal(20, requests=1),
            True,
            listed,
        ),
        Case("nc-seq-cold", f"Nextcloud: sequential read {one}, cold", "MB/s", Goal(1.5)),
    ]
