"""Kills the real daemon between all steps of a directory's rename, and checks what is left.

    python -m tests.crash.kill_rename FOLDER [REGULAR EXPRESSION]

After each kill the tree that the user sees is the renamed one (or the old one, where the call had
not returned), every byte is right, and after a flush the remote has the same: nothing doubled,
nothing left behind. `kill_loop_points.rename_points` names the steps.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mountd.control.client import request
from mountd.control.runtime_dir import socket_name
from tests.crash.kill_loop_points import AtFile, Point, rename_points
from tests.crash.kill_loop_processes import BUCKET, Broken, Daemon
from tests.servers.s3.launch import S3Server

REACHED_WITHIN_S = 30.0
OVERTAKEN_WITHIN_S = 5.0
LOOK_EVERY_S = 1.0
TRIES = 6
FLUSH_WITHIN_S = 40
FOREIGN_AT = ("copy of a held", "delete of a held")  # somebody else writes there at these, too
Tree = dict[str, bytes]


class NotReached(Broken):
    """The point at which the daemon is to be killed did not come."""


class Renames:
    """One daemon that is killed once for each point, on a directory of its own each time."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self._server = server
        self._daemon = Daemon(folder, server.environment())
        self._mountpoint = self._daemon.mountpoint
        self._socket = folder / "run" / socket_name(os.fspath(self._mountpoint))

    def run(self, wanted: str) -> int:
        """How many kills. Raises Broken, AssertionError."""
        try:
            names = [p.name for p in rename_points(self._server, Path(), "", "")]
            chosen = [at for at, name in enumerate(names) if re.search(wanted, name)]
            disturbed = [at for at in chosen if names[at] in FOREIGN_AT]
            for at in chosen:
                self._seed(f"old{at}")
            for at in disturbed:
                self._seed(f"their{at}")
            self._start()
            for at in chosen:
                self._one_in_time(f"old{at}", f"new{at}", at, is_foreign=False)
            for at in disturbed:
                self._one_in_time(f"their{at}", f"our{at}", at, is_foreign=True)
            assert self._daemon.stop() == 0, self._daemon.tail()
        finally:
            self._daemon.clean_up()
        return len(chosen) + len(disturbed)

    def _start(self) -> None:
        self._daemon.start(write_back_s=0.2, metadata_ttl_s=60, request_timeout_s=20)
        self._daemon.wait_ready()

    def _one_in_time(self, old: str, new: str, at: int, *, is_foreign: bool) -> None:
        """On a busy machine what must wait for the rename may have been sent before it; then it is
        done again with another directory."""
        for left in reversed(range(TRIES)):
            try:
                self._one(old, new, at, is_foreign=is_foreign)
                return
            except NotReached:
                if not left or not self._is_overtaken(old, new):
                    raise
                self._server.clear_faults()
                self._server.release()
            old, new = f"{old}-", f"{new}-"
            self._seed(old)
            self._ask(op="refresh", path="")

    def _is_reached(self, point: Point, old: str, new: str) -> bool:
        """Where it may never come, because it is overtaken, it is not waited for as long."""
        until_s = time.monotonic() + REACHED_WITHIN_S
        if isinstance(point, AtFile):
            return point.wait(until_s)
        while not point.wait(min(until_s, time.monotonic() + LOOK_EVERY_S)):
            now_s = time.monotonic()
            if now_s > until_s:
                return False
            if self._is_overtaken(old, new):
                until_s = min(until_s, now_s + OVERTAKEN_WITHIN_S)
        return True

    def _is_overtaken(self, old: str, new: str) -> bool:
        """Whether the rename found there what was to be sent after it."""
        sent = self._server.log(op="PutObject", prefix=f"{old}/")
        copied = self._server.log(op="CopyObject", prefix=f"{new}/")
        return any(entry.key.endswith(("/queued", "/edited")) for entry in (*sent, *copied))

    def _one(self, old: str, new: str, at: int, *, is_foreign: bool) -> None:
        tree, began_s = _files(old), time.monotonic()
        (self._mountpoint / old / "read").read_bytes()
        kept_open = self._write(old, tree)
        point = rename_points(self._server, self._daemon.source_folder(), old, new)[at]
        point.arm()
        call = Call(self._mountpoint / old, self._mountpoint / new)
        if not self._is_reached(point, old, new):
            os.close(kept_open)
            raise NotReached(f"{point.name}: not reached\n{self._daemon.tail()}")
        theirs = self._change(old) if is_foreign else {}
        self._kill()
        has_returned = call.has_returned()
        with suppress(OSError):
            os.close(kept_open)
        self._start()
        self._check(point, old, new, tree, theirs, has_returned)
        took = f"{time.monotonic() - began_s:.1f} s"
        print(f"{'foreign change, ' if theirs else ''}killed: {point.name} ({took})", flush=True)

    def _seed(self, old: str) -> None:
        for name, data in _files(old).items():
            self._server.put(BUCKET, f"{old}/{name}", data)
        self._server.put(BUCKET, f"{old}/", b"")

    def _write(self, old: str, tree: Tree) -> int:
        """What is not sent yet when the directory is renamed; a descriptor that stays open."""
        folder = self._mountpoint / old
        assert sorted(os.listdir(folder)) == ["a", "edited", "read", "sub"]
        assert os.listdir(folder / "sub") == ["c"]
        tree["open"] = b"synced and open"
        kept_open = os.open(folder / "open", os.O_WRONLY | os.O_CREAT)
        os.write(kept_open, tree["open"])
        os.fsync(kept_open)  # which takes seconds on a busy disk; what comes now is soon sent
        tree["queued"] = f"{old} queued ".encode() * 100
        (folder / "queued").write_bytes(tree["queued"])
        with (folder / "edited").open("r+b") as file:
            file.seek(100)
            file.write(b"EDITED")
        tree["edited"] = tree["edited"][:100] + b"EDITED" + tree["edited"][106:]
        return kept_open

    def _change(self, old: str) -> Tree:
        """Somebody else writes into the old directory meanwhile."""
        theirs = {"read": b"theirs", "late": b"late"}
        for name, data in theirs.items():
            self._server.put(BUCKET, f"{old}/{name}", data)
        return theirs

    def _kill(self) -> None:
        self._daemon.kill()
        self._server.clear_faults()
        self._server.release()

    def _check(
        self, point: Point, old: str, new: str, tree: Tree, theirs: Tree, has_returned: bool
    ) -> None:
        name = new if has_returned or (self._mountpoint / new).exists() else old
        self._compare(point, "at once", {name: tree}, old, new, seen_only=bool(theirs))
        flushed = self._ask(op="flush", timeout_s=FLUSH_WITHIN_S)
        assert (flushed["left"], flushed["failed"]) == (0, 0), f"{point.name}: {flushed}"
        if theirs:
            self._ask(op="refresh", path="")
        wanted = {name: tree} | ({old: theirs} if theirs else {})
        self._compare(point, "after the flush", wanted, old, new)
        there = {
            key: self._server.read(BUCKET, key)
            for key in self._server.keys(BUCKET)
            if key.startswith((f"{old}/", f"{new}/")) and not key.endswith("/")
        }
        assert there == _flat(wanted), f"{point.name}: on the remote {sorted(there)}"
        markers = [
            k for k in self._server.keys(BUCKET) if k.endswith("/") and k.startswith(f"{old}/")
        ]
        assert name == old or theirs or not markers, f"{point.name}: left behind: {markers}"

    def _compare(
        self,
        point: Point,
        when: str,
        wanted: dict[str, Tree],
        old: str,
        new: str,
        *,
        seen_only: bool = False,
    ) -> None:
        """`seen_only`: what others have put under the old name may be there or not."""
        names = [new] if seen_only else [old, new]
        looks = ((name, _tree(self._mountpoint / name)) for name in names)
        found = {name: tree for name, tree in looks if tree is not None}
        assert _flat(found) == _flat(wanted), (
            f"{point.name}, {when}: {sorted(_flat(found))}, wanted {sorted(_flat(wanted))}\n"
            f"{self._daemon.tail()}"
        )
        assert set(found) == set(wanted), f"{point.name}, {when}: {sorted(found)}"

    def _ask(self, **message: object) -> dict[str, Any]:
        """As the command of that name does, without starting one."""
        return request(self._socket, message, FLUSH_WITHIN_S + 20)


class Call:
    """rename(2) in a process of its own: it may not return before the daemon is dead."""

    def __init__(self, old: Path, new: Path) -> None:
        self._process = subprocess.Popen(["mv", "-T", old, new], stderr=subprocess.DEVNULL)

    def has_returned(self) -> bool:
        """After the kill: whether it had said that it is done."""
        return self._process.wait(20) == 0


def _files(old: str) -> Tree:
    """What is on the remote before."""
    return {name: f"{old} {name} ".encode() * 3000 for name in ("a", "read", "sub/c", "edited")}


def _tree(top: Path) -> Tree | None:
    if not top.exists():
        return None
    files = (path for path in top.rglob("*") if path.is_file())
    return {str(path.relative_to(top)): path.read_bytes() for path in files}


def _flat(trees: dict[str, Tree]) -> Tree:
    return {f"{name}/{path}": data for name, tree in trees.items() for path, data in tree.items()}


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # nothing stays mounted
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with S3Server() as server:
        kills = Renames(server, folder).run(sys.argv[2] if len(sys.argv) > 2 else "")
    print(f"{kills} points, 0 losses")
    return 0


if __name__ == "__main__":
    sys.exit(main())
