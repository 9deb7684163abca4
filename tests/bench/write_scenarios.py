"""How each row of the write side is brought about, and what the server must have afterwards."""

import io
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.bench.contestants import Writing
from tests.bench.machine import dd_rate
from tests.bench.plan import Act
from tests.bench.readers import MIB
from tests.bench.remote_state import Content, Edited, Gone, LocalFile, Objects, Synthetic
from tests.bench.scenarios import MTIME_S, Scenario
from tests.bench.stage import Stage
from tests.bench.workers import Outcome
from tests.bench.writers import EditFile, Program, RenameFolder, WriteFile, WriteFiles
from tests.servers.s3.seeding import synthetic_bytes

_PAGE_BYTES = 4096
_KEY = "written.bin"
_AT_ONCE = Writing(delay_s=0.0)


def write_scenarios() -> Sequence[Scenario]:
    """In the order of the table."""
    return (
        Scenario(("write-1m", "write-1m-remote-0"), _large_near),
        Scenario(
            ("write-1m-remote-0-now",),
            lambda stage: _large(stage, "write-1m-remote-0-now", _AT_ONCE, far=False),
        ),
        Scenario(
            ("write-1m-remote-30",),
            lambda stage: _large(stage, "write-1m-remote-30", Writing(), far=True),
        ),
        Scenario(
            ("write-1m-remote-30-now",),
            lambda stage: _large(stage, "write-1m-remote-30-now", _AT_ONCE, far=True),
        ),
        Scenario(("write-4k",), lambda stage: _pages(stage, "write-4k", Writing())),
        Scenario(
            ("write-4k-noxattrs",),
            lambda stage: _pages(stage, "write-4k-noxattrs", Writing(xattrs=False)),
        ),
        Scenario(
            ("write-files", "write-files-remote"),
            lambda stage: _files(stage, "write-files", "write-files-remote", Writing()),
        ),
        Scenario(
            ("write-files-remote-now",),
            lambda stage: _files(stage, "", "write-files-remote-now", _AT_ONCE),
        ),
        Scenario(("write-edit",), lambda stage: _edit(stage, "write-edit", Writing())),
        Scenario(("write-edit-now",), lambda stage: _edit(stage, "write-edit-now", _AT_ONCE)),
        Scenario(("write-untar",), _untar),
        Scenario(("write-clone",), _clone),
        Scenario(("write-rm", "write-rm-clean"), _remove),
        Scenario(("write-rename",), _rename),
    )


def _large_near(stage: Stage) -> None:
    disk_mb_s = 0.0
    if stage.contestant == "mountd":
        disk_mb_s = dd_rate(stage.plan.folder, stage.plan.sizes.write_bytes)
    _large(stage, "write-1m-remote-0", Writing(), far=False, close="write-1m", disk_mb_s=disk_mb_s)


def _large(
    stage: Stage,
    until: str,
    writing: Writing,
    *,
    far: bool,
    close: str = "",
    disk_mb_s: float = 0.0,
) -> None:
    bucket = stage.start_writing(writing, far=far)
    writer = WriteFile(_KEY, stage.plan.sizes.write_bytes, MIB)
    stage.measure_writing(
        Act(close, [writer], lambda done: _one(bucket, done), until, disk_mb_s=disk_mb_s)
    )


def _pages(stage: Stage, case: str, writing: Writing) -> None:
    bucket = stage.start_writing(writing, far=False)
    writer = WriteFile(_KEY, stage.plan.sizes.write_4k_bytes, _PAGE_BYTES)
    stage.measure_writing(Act(case, [writer], lambda done: _one(bucket, done)))


def _one(bucket: str, done: Outcome) -> Objects:
    return Objects(bucket, {_KEY: Synthetic(_KEY, done.bytes_moved)})


def _files(stage: Stage, close: str, until: str, writing: Writing) -> None:
    sizes = stage.plan.sizes
    size = sizes.write_file_bytes
    keys = [f"new/file-{number:05d}.bin" for number in range(sizes.write_files)]
    bucket = stage.start_writing(writing, far=True)

    def wanted(done: Outcome) -> Objects:
        return Objects(bucket, _synthetic(keys[: done.operations], size))

    stage.measure_writing(Act(close, [WriteFiles(keys, size)], wanted, until))


def _edit(stage: Stage, case: str, writing: Writing) -> None:
    size = stage.plan.sizes.edit_bytes
    offset = size // 2 + _PAGE_BYTES
    data = synthetic_bytes("the edit", 0, _PAGE_BYTES)
    bucket = stage.start_writing(writing, far=True, keys=[_KEY], size=size)
    wanted = Objects(bucket, {_KEY: Edited(Synthetic(_KEY, size), offset, data)})
    stage.measure_writing(Act("", [EditFile(_KEY, offset, data)], lambda done: wanted, case))


def _untar(stage: Stage) -> None:
    sizes = stage.plan.sizes
    keys = [f"tree/d{number // 100:02d}/f{number:05d}.txt" for number in range(sizes.tar_files)]
    archive = _archive(stage.plan.folder / "tree.tar", keys, sizes.tar_file_bytes)
    bucket = stage.start_writing(Writing(), far=True)
    tar = Program(
        ["tar", "-C", "{root}", "-xf", str(archive)],
        len(keys),
        len(keys) * sizes.tar_file_bytes,
    )
    wanted = Objects(bucket, _synthetic(keys, sizes.tar_file_bytes))
    stage.measure_writing(Act("write-untar", [tar], lambda done: wanted))


def _clone(stage: Stage) -> None:
    source = _repository(stage.plan.folder / "source.git-work", stage.plan.sizes.clone_files)
    tracked = [path for path in source.rglob("f*.txt") if path.is_file()]
    bucket = stage.start_writing(Writing(), far=True)
    clone = Program(
        ["git", "clone", "-q", str(source), "{root}/clone"],
        len(tracked),
        sum(path.stat().st_size for path in tracked),
    )
    files = {f"clone/{path.relative_to(source)}": LocalFile(path) for path in tracked}
    wanted = Objects(bucket, files, alone=False)  # below .git much is the clone's own
    stage.measure_writing(Act("write-clone", [clone], lambda done: wanted))


def _remove(stage: Stage) -> None:
    sizes = stage.plan.sizes
    keys = _seeded("doomed", sizes.rm_files)
    bucket = stage.start_writing(Writing(), far=True, keys=keys, size=sizes.write_file_bytes)
    remove = Program(["rm", "-r", "{root}/doomed"], len(keys))
    gone = Gone(bucket, "doomed/")
    stage.measure_writing(
        Act("write-rm", [remove], lambda done: gone, "write-rm-clean", from_start=True)
    )


def _rename(stage: Stage) -> None:
    sizes = stage.plan.sizes
    keys = _seeded("old", sizes.rename_files)
    size = sizes.write_file_bytes
    bucket = stage.start_writing(Writing(), far=True, keys=keys, size=size)
    # Contents follow from the key that an object was seeded under.
    moved: dict[str, Content] = {
        f"new{key.removeprefix('old')}": Synthetic(key, size) for key in keys
    }
    wanted = Objects(bucket, moved, gone="old/")
    rename = RenameFolder("old", "new", len(keys))
    stage.measure_writing(Act("write-rename", [rename], lambda done: wanted))


def _seeded(folder: str, count: int) -> list[str]:
    return [f"{folder}/file-{number:05d}.bin" for number in range(count)]


def _synthetic(keys: Iterable[str], size: int) -> dict[str, Content]:
    return {key: Synthetic(key, size) for key in keys}


def _archive(path: Path, keys: Sequence[str], size: int) -> Path:
    """A tar with synthetic files; made once a run."""
    if not path.exists():
        with tarfile.open(path, "w") as archive:
            for folder in sorted({key.rpartition("/")[0] for key in keys}):
                member = tarfile.TarInfo(folder)
                member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, MTIME_S
                archive.addfile(member)
            for key in keys:
                member = tarfile.TarInfo(key)
                member.size, member.mode, member.mtime = size, 0o644, MTIME_S
                archive.addfile(member, io.BytesIO(synthetic_bytes(key, 0, size)))
    return path


def _repository(folder: Path, files: int) -> Path:
    """A repository of one commit, packed, with text in `files` files; made once a run."""
    if folder.exists():
        return folder
    for number in range(files):
        path = folder / f"d{number // 100:02d}" / f"f{number:05d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"line of file {number}\n" * 200)
    person = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        [*person, "commit", "-q", "-m", "all"],
        ["gc", "-q"],
    ):
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise subprocess.SubprocessError(f"git {command[0]}: {done.stderr[:200]}")
    return folder
