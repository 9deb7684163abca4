"""How the rows of `copy` are brought about: a command each, from its start to its end.

mountd brings everything to the disk before it ends (syncfs), rclone doesn't; nothing is made of
that here. Who has no command that copies has no row.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.cases import Case
from tests.bench.contestants import BIN, Contestant, Target, rclone_program
from tests.bench.process_stats import machine_busy_seconds
from tests.bench.readers import WrongData
from tests.bench.results import Measurement
from tests.bench.scenarios import MTIME_S, SMALL, Scenario
from tests.bench.stage import Stage
from tests.bench.workers import ReadersFailed
from tests.servers.s3.seeding import synthetic_bytes

_BIG, _BIG_KEY = "bench-copy", "big.bin"
_RCLONE = ("--transfers", "16", "--checkers", "16", "--multi-thread-streams", "16")


def copy_scenarios() -> Sequence[Scenario]:
    return (Scenario(("copy-small", "copy-again"), _small), Scenario(("copy-big",), _big))


def _small(stage: Stage) -> None:
    sizes = stage.plan.sizes
    if not _can_copy(stage.runner):
        return
    stage.far()
    with _copied_to(stage.plan.folder / "mnt"):
        for case in ("copy-small", "copy-again"):
            _copy(stage, case, SMALL, sizes.small_files, sizes.small_bytes)


def _big(stage: Stage) -> None:
    size = stage.plan.sizes.copy_bytes
    if not _can_copy(stage.runner):
        return
    stage.far()
    stage.remote.seed(_BIG, keys=[_BIG_KEY], size=size, mtime_s=MTIME_S)
    with _copied_to(stage.plan.folder / "mnt"):
        _copy(stage, "copy-big", _BIG, 1, size)


@contextmanager
def _copied_to(root: Path) -> Iterator[None]:
    """What is copied there is gone at the end."""
    try:
        yield
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _can_copy(contestant: Contestant) -> bool:
    return contestant.name in ("mountd", "rclone")


def _copy(stage: Stage, name: str, bucket: str, count: int, size: int) -> None:
    """Runs it, compares some of what came, and reports if it is wanted."""
    remote, folder = stage.remote, stage.plan.folder
    target = Target(
        endpoint=remote.endpoint,
        region=remote.region,
        access_key=remote.access_key,
        secret_key=remote.secret_key,
        bucket=bucket,
        mountpoint=folder / "mnt",  # where the copy goes: a plain folder this time
        cache_dir=folder / "cache",
    )
    remote.clear_log()
    began_s, server_s, machine_s = time.monotonic(), remote.cpu_seconds(), machine_busy_seconds()
    command, environment = _command(stage.runner, target), stage.runner.environment(target)
    with (folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    elapsed_s = time.monotonic() - began_s
    if process.returncode:
        raise ReadersFailed((folder / "daemon.log").read_text()[-300:])
    _check(target.mountpoint, count, size)
    if not stage.wants(name):
        return
    cpu_s, server_s = used.ru_utime + used.ru_stime, remote.cpu_seconds() - server_s
    others_s = machine_busy_seconds() - machine_s - cpu_s - server_s
    entries, case = remote.log(), stage.plan.cases[name]
    gets = [entry for entry in entries if entry.op == "GetObject"]
    stage.tell(
        Measurement(
            case=name,
            contestant=stage.contestant,
            round=stage.round,
            rate=_rate(case, count, size, elapsed_s),
            elapsed_s=elapsed_s,
            operations=count,
            complete=True,
            bytes_asked=count * size,
            bytes_served=sum(entry.bytes_sent for entry in gets),
            requests=len(entries),
            gets=len(gets),
            daemon_cpu_s=cpu_s,
            peak_rss_bytes=used.ru_maxrss * 1024,
            server_share=server_s / elapsed_s,
            others_cores=max(0.0, others_s) / elapsed_s,
        )
    )


def _command(contestant: Contestant, target: Target) -> list[str]:
    if contestant.name == "rclone":
        copy = [rclone_program(), "copy", f"bench:{target.bucket}", str(target.mountpoint)]
        return [*copy, "--config", "/dev/null", *_RCLONE]
    options = f"endpoint={target.endpoint},cache_dir={target.cache_dir}"
    source = f"s3://{target.bucket}"
    return [str(BIN / "mountd"), "copy", source, str(target.mountpoint), "-o", options]


def _rate(case: Case, count: int, size: int, elapsed_s: float) -> float:
    return (count * size / 1e6 if case.unit == "MB/s" else count) / elapsed_s


def _check(root: Path, count: int, size: int) -> None:
    """All are there with their sizes, and every 500th has its bytes."""
    found = sorted(path for path in root.rglob("*") if path.is_file())
    if len(found) != count or any(path.stat().st_size != size for path in found):
        raise WrongData(f"{len(found)} files are there, of {count}, or one has a wrong size")
    for path in found[::500]:
        key = str(path.relative_to(root))
        with path.open("rb") as file:
            for start in range(0, size, 64 << 20):
                end = min(start + (1 << 20), size)
                file.seek(start)
                if file.read(end - start) != synthetic_bytes(key, start, end):
                    raise WrongData(f"{key} has other bytes after {start}")
