"""How each row of a Nextcloud account is brought about."""

from collections.abc import Sequence

from tests.bench.cases import MIB, Sizes
from tests.bench.contestants import Writing
from tests.bench.nextcloud_contestants import TTL_S
from tests.bench.plan import Act
from tests.bench.readers import ListTree, Sequential
from tests.bench.remote import Remote
from tests.bench.remote_state import Objects, Synthetic
from tests.bench.scenarios import MTIME_S, Scenario
from tests.bench.stage import Stage
from tests.bench.workers import Outcome
from tests.bench.writers import WriteFile, WriteFiles

ONE, TREE, CHECKED = "bench-one", "bench-tree", "bench-checked"
_ONE_KEY, _WRITTEN_KEY, _CHECKED_KEY = "one.bin", "written.bin", "checked.bin"
_CHECKED_BYTES = 64 * MIB
_FILE_BYTES = 1_000


def seed_cloud(remote: Remote, sizes: Sizes) -> None:
    """Makes every file of every scenario."""
    remote.seed(ONE, keys=[_ONE_KEY], size=sizes.cloud_bytes, mtime_s=MTIME_S)
    remote.seed(CHECKED, keys=[_CHECKED_KEY], size=_CHECKED_BYTES, mtime_s=MTIME_S)
    remote.seed(
        TREE,
        directories=sizes.cloud_folders,
        files=sizes.cloud_per_folder,
        size=_FILE_BYTES,
        mtime_s=MTIME_S,
    )


def nextcloud_scenarios() -> Sequence[Scenario]:
    """In the order of the table."""
    return (
        Scenario(("nc-write-files",), lambda stage: _write_files(stage, "nc-write-files")),
        Scenario(
            ("nc-write-files-now",),
            lambda stage: _write_files(stage, "nc-write-files-now", Writing(delay_s=0.0)),
        ),
        Scenario(("nc-write-1g",), _write_large),
        Scenario(("nc-ls-cold", "nc-ls-again"), _listing),
        Scenario(("nc-seq-cold",), _sequential),
    )


def check_cloud(stage: Stage) -> None:
    """Every byte of one large file is what the server has, or an error."""
    stage.start(CHECKED)
    stage.fill([Sequential([_CHECKED_KEY], _CHECKED_BYTES, keep_all=True)])


def _write_files(stage: Stage, case: str, writing: Writing | None = None) -> None:
    sizes = stage.plan.sizes
    size = sizes.cloud_file_bytes
    keys = [f"new/file-{number:05d}.bin" for number in range(sizes.cloud_files)]
    bucket = stage.start_writing(writing or Writing(), far=True)

    def wanted(done: Outcome) -> Objects:
        return Objects(bucket, {key: Synthetic(key, size) for key in keys[: done.operations]})

    act = Act("", [WriteFiles(keys, size)], wanted, case, from_start=True)
    stage.measure_writing(act)


def _write_large(stage: Stage) -> None:
    bucket = stage.start_writing(Writing(), far=True)
    writer = WriteFile(_WRITTEN_KEY, stage.plan.sizes.cloud_bytes, MIB)

    def wanted(done: Outcome) -> Objects:
        return Objects(bucket, {_WRITTEN_KEY: Synthetic(_WRITTEN_KEY, done.bytes_moved)})

    stage.measure_writing(Act("", [writer], wanted, "nc-write-1g", from_start=True))


def _listing(stage: Stage) -> None:
    sizes = stage.plan.sizes
    tree = [ListTree(sizes.cloud_folders * sizes.cloud_per_folder, _FILE_BYTES)]
    stage.far()
    stage.start(TREE)
    stage.measure("nc-ls-cold", tree)
    if stage.wants("nc-ls-again"):
        stage.fill(tree)  # whatever the clock cut short
        stage.far()
        stage.wait_until_stale(TTL_S)
        stage.measure("nc-ls-again", tree)


def _sequential(stage: Stage) -> None:
    stage.far()
    stage.start(ONE)
    stage.measure("nc-seq-cold", [Sequential([_ONE_KEY], stage.plan.sizes.cloud_bytes)])
