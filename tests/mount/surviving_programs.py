"""Programs that must notice nothing: run as a file, `surviving_programs.py MOUNT STOP_FILE`.

Each does its work until STOP_FILE is there, and then says on one line what it did; whatever goes
wrong ends with a traceback.
"""

import hashlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read_large(mount: Path, stop: Callable[[], bool]) -> dict[str, Any]:
    """One descriptor, read again and again past the page cache's knowledge of it."""
    want = hashlib.sha256((mount / "large").read_bytes()).hexdigest()
    with (mount / "large").open("rb", buffering=0) as file:
        rounds = 0
        while not stop() or not rounds:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            found = hashlib.sha256()
            while data := file.read(1 << 18):
                found.update(data)
            assert found.hexdigest() == want, "other bytes were read"
            rounds += 1
    return {"rounds": rounds}


def append(mount: Path, stop: Callable[[], bool]) -> dict[str, Any]:
    """Lines in one open file, an fsync every hundred."""
    count = 0
    with (mount / "appended").open("ab", buffering=0) as file:
        while not stop() or not count:
            file.write(b"%08d\n" % count)
            count += 1
            if not count % 100:
                os.fsync(file.fileno())
    return {"lines": count}


def list_names(mount: Path, stop: Callable[[], bool]) -> dict[str, Any]:
    """A directory that takes many requests."""
    rounds = 0
    while not stop() or not rounds:
        names = sorted(os.listdir(mount / "many"))
        assert names == [f"name-{i:05}" for i in range(300)], "other names were listed"
        rounds += 1
    return {"rounds": rounds}


def make_and_remove(mount: Path, stop: Callable[[], bool]) -> dict[str, Any]:
    """Names come and go, and each call says that it did what it was asked for."""
    made = 0
    (mount / "made").mkdir()
    while not stop() or not made:
        folder = mount / "made" / f"{made}"
        folder.mkdir()
        (folder / "a").write_bytes(b"%d" % made)
        (folder / "a").rename(folder / "b")
        assert (folder / "b").read_bytes() == b"%d" % made
        if made % 2:
            (folder / "b").unlink()
            folder.rmdir()
        made += 1
    return {"made": made}


def hold_unlinked(mount: Path, stop: Callable[[], bool]) -> dict[str, Any]:
    """Two files without a name: one that was written here, one of the remote."""
    written = (mount / "scratch").open("w+b", buffering=0)
    written.write(b"x" * 100_000)
    os.fsync(written.fileno())
    (mount / "scratch").unlink()
    remote = (mount / "doomed").open("rb", buffering=0)
    want = remote.read(10)
    (mount / "doomed").unlink()
    rounds = 0
    while not stop() or not rounds:
        for file in (written, remote):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        written.write(b"y")
        assert os.pread(written.fileno(), 100_000, 0) == b"x" * 100_000
        assert os.fstat(written.fileno()).st_size == 100_001 + rounds
        assert os.pread(remote.fileno(), 10, 0) == want
        rounds += 1
    assert not (mount / "scratch").exists()
    assert not (mount / "doomed").exists()
    return {"rounds": rounds}


PROGRAMS = (read_large, append, list_names, make_and_remove, hold_unlinked)


def main() -> None:
    mount, stop_file = Path(sys.argv[1]), Path(sys.argv[2])
    told: dict[str, Any] = {}

    def run(program: Callable[[Path, Callable[[], bool]], dict[str, Any]]) -> None:
        try:
            told[program.__name__] = program(mount, stop_file.exists)
        except BaseException:
            told[program.__name__] = {"error": traceback.format_exc()}

    threads = [threading.Thread(target=run, args=(program,)) for program in PROGRAMS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
