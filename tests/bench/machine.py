"""What it ran on: enough to judge a figure, and what the disk alone can do."""

import os
import platform
import random
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contestants import Contestant

_PROBE_BYTES = 512 << 20
_PROBE_READS = 2_000


@dataclass(frozen=True, slots=True)
class Disk:
    """Read rates of the cache folder's disk, page cache dropped; 0 where that can't be done."""

    sequential_mb_s: float
    random_4k_s: float


@dataclass(frozen=True, slots=True)
class Machine:
    """One run's circumstances, as the report prints them."""

    date: str
    command: str
    processor: str
    cores: int
    memory_gib: float
    kernel: str
    system: str
    python: str
    versions: tuple[str, ...]
    load_before: float
    load_after: float
    disk: Disk


def describe(command: str, chosen: Sequence[Contestant], load_before: float, disk: Disk) -> Machine:
    """The machine now; the load average tells whether it was ours alone."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        command=command,
        processor=_first("/proc/cpuinfo", "model name") or platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gib=round(pages / 2**30, 1),
        kernel=platform.release(),
        system=_first("/etc/os-release", "PRETTY_NAME").strip('"'),
        python=platform.python_version(),
        versions=tuple(f"{each.name}: {each.version()}" for each in chosen),
        load_before=load_before,
        load_after=os.getloadavg()[0],
        disk=disk,
    )


def probe_disk(folder: Path) -> Disk:
    """Writes half a gigabyte there and reads it back, 1 MiB at a time and 4 KiB at random."""
    path = folder / "disk-probe"
    block = random.Random(0).randbytes(1 << 20)
    try:
        with path.open("wb") as file:
            for _ in range(_PROBE_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return Disk(_sequential(path), _random(path))
    except PermissionError:
        return Disk(0.0, 0.0)  # not root: the page cache stays, and a rate would be a lie
    finally:
        path.unlink(missing_ok=True)


def dd_rate(folder: Path, size: int) -> float:
    """MB/s of `dd conv=fdatasync` of `size` zeros into the folder: what the disk takes durably."""
    path = folder / "dd-probe"
    count = size >> 20
    command = ["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={count}", "conv=fdatasync"]
    started_s = time.monotonic()
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return (count << 20) / 1e6 / (time.monotonic() - started_s)
    finally:
        path.unlink(missing_ok=True)


def _sequential(path: Path) -> float:
    _drop()
    buffer = bytearray(1 << 20)
    started_s = time.monotonic()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return _PROBE_BYTES / 1e6 / (time.monotonic() - started_s)


def _random(path: Path) -> float:
    _drop()
    chance = random.Random(1)
    started_s = time.monotonic()
    with path.open("rb", buffering=0) as file:
        for _ in range(_PROBE_READS):
            os.pread(file.fileno(), 4096, chance.randrange(_PROBE_BYTES // 4096) * 4096)
    return _PROBE_READS / (time.monotonic() - started_s)


def _drop() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("3")


def _first(path: str, name: str) -> str:
    """The value of the first `name = value` or `name : value` line of a file, or ""."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        if line.startswith(name):
            return line.replace(":", "=", 1).partition("=")[2].strip()
    return ""
