"""The rows of the write side, and what mountd must reach in each."""

from tests.bench.cases import MIB, Case, Goal, Sizes, size_text

_AT_ONCE = "both delays at 0"


def write_cases(sizes: Sizes) -> list[Case]:
    """In order. `-now` is the row in which no program waits before it sends."""
    return [*_large(sizes), *_files(sizes), *_programs(sizes), *_far_calls(sizes)]


def _seconds(name: str, title: str, total: float, unit: str, goal: Goal) -> Case:
    return Case(name, title, unit, goal, as_seconds=True, total=total)


def _large(sizes: Sizes) -> list[Case]:
    one = size_text(sizes.write_bytes)
    small = f"4 KiB writes, {size_text(sizes.write_4k_bytes)}"
    to_close = Goal(1.5, disk_share=0.6)
    rows = [Case("write-1m", f"write {one}, 1 MiB writes, to close", "MB/s", to_close)]
    for latency_ms in (0, 30):
        for suffix, extra in (("", ""), ("-now", f", {_AT_ONCE}")):
            name = f"write-1m-remote-{latency_ms}{suffix}"
            title = f"write {one}, from close until on the remote, {latency_ms} ms{extra}"
            rows.append(_seconds(name, title, sizes.write_bytes / 1e6, "MB/s", Goal(1.5)))
    return [
        *rows,
        Case("write-4k", f"{small}, to close", "writes/s", Goal(1)),
        Case("write-4k-noxattrs", f"{small}, to close, without xattrs", "writes/s", Goal(3)),
    ]


def _files(sizes: Sizes) -> list[Case]:
    files = f"{sizes.write_files:,} files of {sizes.write_file_bytes // 1000} KB"
    edit = f"4 KiB edit in {size_text(sizes.edit_bytes)}, until on the remote, 30 ms"
    rows = [Case("write-files", f"{files}: create, write, close, 30 ms", "files/s", Goal(2))]
    for suffix, extra in (("", ""), ("-now", f", {_AT_ONCE}")):
        title = f"{files}, from close until all on the remote, 30 ms{extra}"
        name = f"write-files-remote{suffix}"
        rows.append(_seconds(name, title, sizes.write_files, "files/s", Goal(3)))
    for suffix, extra in (("", ""), ("-now", f", {_AT_ONCE}")):
        goal = Goal(20, uploaded_bytes=16 * MIB)
        rows.append(_seconds(f"write-edit{suffix}", edit + extra, 1, "edits/s", goal))
    return rows


def _programs(sizes: Sizes) -> list[Case]:
    tar, clone = sizes.tar_files, sizes.clone_files
    return [
        _seconds("write-untar", f"untar of {tar:,} small files, 30 ms", tar, "files/s", Goal(2)),
        _seconds(
            "write-clone",
            f"`git clone` of a local repository of {clone:,} files, 30 ms",
            clone,
            "files/s",
            Goal(2),
        ),
    ]


def _far_calls(sizes: Sizes) -> list[Case]:
    rm = f"`rm -r` of {sizes.rm_files:,} files, 30 ms"
    rename = f"rename of a directory with {sizes.rename_files:,} objects, 30 ms, until it returns"
    return [
        _seconds("write-rm", f"{rm}, until it returns", sizes.rm_files, "files/s", Goal(50)),
        _seconds(
            "write-rm-clean",
            f"{rm}, from its start until the remote is clean",
            sizes.rm_files,
            "files/s",
            Goal(5),
        ),
        _seconds("write-rename", rename, sizes.rename_files, "files/s", Goal(20)),
    ]
