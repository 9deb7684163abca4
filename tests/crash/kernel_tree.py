"""Unpacks a tar like a Linux source tree on a mount, kills the daemon half-way, and compares.

    python -m tests.crash.kernel_tree                      (90,000 files, 1.3 GB; some 10 minutes)
    python -m tests.crash.kernel_tree --files 3000 --directories 200

The tar is the same each time: 6,000 directories up to nine deep, sizes as in a Linux, links, files
that may be run, one time for all. An ordinary `tar -x` unpacks it on a mount in the background over
the S3 server of the tests. When half of the files are there the daemon gets SIGKILL; tar goes on.
Then `tar -d` compares the mount, and after `mountd flush` each object is read and compared.
"""

import argparse
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.process_stats import cpu_seconds, peak_rss_bytes
from tests.mount.surviving import Background, in_background
from tests.servers.s3.launch import S3Server

_BUCKET = "b"
_TIME_S = 1_700_000_000
_NOISE_BYTES = 24 << 20
_LOOK_EVERY_S = 5.0
_TAR_WITHIN_S = 3600


def write_tar(path: Path, files: int, directories: int) -> None:
    """As the module says; a link for each thousand files."""
    chance = random.Random(6)
    noise = chance.randbytes(_NOISE_BYTES)
    with tarfile.open(path, "w") as tar:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime, info.linkname = kind, mode, _TIME_S, link
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        folders = ["linux"]
        add("linux", tarfile.DIRTYPE, 0o755)
        while len(folders) < directories:
            above = chance.choice(folders)
            if above.count("/") < 8:
                folders.append(f"{above}/dir{len(folders)}")
                add(folders[-1], tarfile.DIRTYPE, 0o755)
        # Files come directory after directory, as git and the tars of kernel.org have them.
        for number, folder in enumerate(sorted(chance.choices(folders, k=files))):
            size = int(min(chance.lognormvariate(8.45, 1.45), 22e6))
            at = chance.randrange(_NOISE_BYTES - size)
            data = f"{number:08}".encode() + noise[at : at + max(0, size - 8)]
            mode = 0o755 if number % 100 == 7 else 0o644
            add(f"{folder}/file{number}.c", tarfile.REGTYPE, mode, data if size else b"")
            if number % 1000 == 3:
                add(f"{folder}/link{number}", tarfile.SYMTYPE, 0o777, link=f"file{number}.c")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=90_000)
    parser.add_argument("--directories", type=int, default=6_000)
    parser.add_argument("--folder", type=Path, help="where everything is kept")
    parser.add_argument("--no-kill", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name, S3Server(data=Path(name)) as server:
        folder = Path(name)
        archive = folder / "linux.tar"
        write_tar(archive, given.files, given.directories)
        print(f"a tar of {archive.stat().st_size / 1e9:.2f} GB", flush=True)
        server.make_bucket(_BUCKET)
        environment = server.environment()
        with in_background(f"s3://{_BUCKET}", folder, environment, cache_size="8GiB") as mount:
            wrong = _unpack(mount, server, archive, 0 if given.no_kill else given.files // 2)
        wrong += list(_differences(server, archive))
    for each in wrong[:50]:
        print("WRONG:", each)
    print("all is as in the tar" if not wrong else f"{len(wrong)} differences")
    return bool(wrong)


def _unpack(mount: Background, server: S3Server, archive: Path, kill_at: int) -> list[str]:
    """What tar, the flush and `tar -d` had to say."""
    began_s, cpu_s = time.monotonic(), 0.0
    killed = not kill_at
    process = subprocess.Popen(["tar", "-C", str(mount.path), "-xf", str(archive)])
    while process.poll() is None:
        try:
            process.wait(_LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            done = server.stats()["objects"]
            _say(mount, began_s, f"tar runs, {done} objects")
            if not killed and done + mount.status()["queue"]["pending"] >= kill_at:
                killed, cpu_s = True, cpu_seconds(mount.look())
                before_s = time.monotonic()
                pid = mount.kill(signal.SIGKILL)
                print(f"killed; {pid} serves after {time.monotonic() - before_s:.2f} s", flush=True)
    _say(mount, began_s, f"tar ended with {process.returncode}")
    wrong = [f"tar ended with {process.returncode}"] if process.returncode else []
    wrong += [] if killed else ["tar had ended before the kill"]
    flush = [sys.executable, "-m", "mountd", "flush", str(mount.path)]
    with subprocess.Popen(flush, env=mount.environment) as flushing:
        while flushing.poll() is None:
            try:
                flushing.wait(_LOOK_EVERY_S)
            except subprocess.TimeoutExpired:
                _say(mount, began_s, f"flush waits, {server.stats()['objects']} objects")
    _say(mount, began_s, f"flush ended with {flushing.returncode}")
    wrong += [f"flush ended with {flushing.returncode}"] if flushing.returncode else []
    print(f"daemons: {cpu_s + cpu_seconds(mount.look()):.1f} s of CPU", flush=True)
    compared = subprocess.run(
        ["tar", "-C", str(mount.path), "-df", str(archive)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TAR_WITHIN_S,
    )
    _say(mount, began_s, f"tar -d ended with {compared.returncode}")
    queue = mount.status()["queue"]
    if queue["failed"] or queue["conflicts"] or queue["pending"]:
        wrong.append(f"the queue: {queue}")
    warnings = [line for line in mount.log().splitlines() if " WARN" in line or " ERR" in line]
    for line in warnings[:20]:
        print("log:", line)
    return wrong + compared.stdout.splitlines() + compared.stderr.splitlines()


def _say(mount: Background, began_s: float, what: str) -> None:
    pid = mount.look()
    before_s = time.monotonic()
    status = mount.status()
    asked_s = time.monotonic() - before_s
    print(
        f"{time.monotonic() - began_s:6.1f} s: {what}; {status['state']}, {_short(status['queue'])}"
        f"; CPU {cpu_seconds(pid):.1f} s, peak RSS {peak_rss_bytes(pid) / 1e6:.0f} MB; "
        f"status took {asked_s:.1f} s",
        flush=True,
    )


def _short(queue: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in queue.items() if value)


def _differences(server: S3Server, archive: Path) -> Iterator[str]:
    """What the remote has otherwise than the tar."""
    left = set(server.keys(_BUCKET))
    with tarfile.open(archive, "r|") as tar:
        for info in tar:
            key = info.name + {tarfile.DIRTYPE: "/", tarfile.SYMTYPE: ".rclonelink"}.get(
                info.type, ""
            )
            if info.isdir():
                left.discard(key)
                continue
            if key not in left:
                yield f"{key} is not on the remote"
                continue
            left.discard(key)
            found = tar.extractfile(info) if info.isfile() else None
            wanted = found.read() if found is not None else info.linkname.encode()
            if server.read(_BUCKET, key) != wanted:
                yield f"{key} has other bytes"
    yield from (f"{key} is on the remote and not in the tar" for key in sorted(left))


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main())
