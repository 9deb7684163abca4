"""At which moments the daemon is killed. Nothing in the product knows of them: a request is held
back by the server, or a file below the cache folder changes."""

import ctypes
import os
import random
import re
import select
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mountd_cache.staging import SPARE
from tests.crash.kill_loop_server import Logged, Server

ANSWER_LATE_MS = 60_000.0
SLOW_BYTES_S = 200_000
OURS, PROBES = r"^(?!\.mountd-)", r"^\.mountd-probe"  # keys: of the user's files, of mountd's own
POLL_S = 0.002
IN_MODIFY, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x2, 0x80, 0x100, 0x200


class Point(Protocol):
    """A moment to kill at."""

    @property
    def name(self) -> str: ...

    def arm(self) -> None:
        """Before the load begins."""
        ...

    def wait(self, until_s: float) -> bool:
        """Whether it has come, by time.monotonic()."""
        ...


@dataclass(frozen=True, slots=True)
class AtRandom:
    after_s: float
    name: str = "at random"

    def arm(self) -> None: ...

    def wait(self, until_s: float) -> bool:
        time.sleep(self.after_s)
        return True


@dataclass(frozen=True, slots=True)
class AtRequest:
    """While a request is held that the server has, and has not carried out; or where `is_done` has
    carried out and not answered; or where `is_cut` while its body arrives."""

    server: Server
    name: str
    op: str
    skip: int = 0
    is_done: bool = False
    is_cut: bool = False
    after_op: str = ""  # it is armed once such a request was answered
    key: str = OURS

    def arm(self) -> None:
        self.server.clear_log()
        if not self.after_op:
            self._set_rule()

    def _set_rule(self) -> None:
        rule: dict[str, object] = {"op": self.op, "key": self.key, "skip": self.skip, "times": 1}
        if self.is_cut:
            rule["bandwidth_bytes_s"] = SLOW_BYTES_S
        else:
            rule |= {"hold": True, "latency_ms": ANSWER_LATE_MS if self.is_done else 0.0}
        self.server.faults(rule)

    def wait(self, until_s: float) -> bool:
        if self.after_op:
            if not _until(self._first_is_answered, until_s):
                return False
            self._set_rule()
        if self.is_cut:
            return _until(self._is_arriving, until_s)
        if not _until(lambda: self.server.stats()["held"] > 0, until_s):
            return False
        if self.is_done:
            self.server.release()  # returns when it was carried out
        return True

    def _first_is_answered(self) -> bool:
        return any(entry.status == 200 for entry in self._logged(self.after_op))

    def _is_arriving(self) -> bool:
        found = self._logged(self.op)[self.skip :]
        return bool(found) and found[0].bytes_received > 0

    def _logged(self, op: str) -> list[Logged]:
        return [entry for entry in self.server.log(op=op) if re.search(self.key, entry.key)]


def _until(is_so: Callable[[], bool], until_s: float) -> bool:
    while not is_so():
        if time.monotonic() > until_s:
            return False
        time.sleep(POLL_S)
    return True


class AtFile:
    """When something happens to a file: inotify's `mask`, the `count`-th that `matches`."""

    def __init__(
        self,
        name: str,
        folder: Path,
        mask: int,
        matches: Callable[[str], bool],
        *,
        count: int = 1,
        late_s: float = 0.0,
    ) -> None:
        self.name = name
        self._folder = folder
        self._mask = mask
        self._matches = matches
        self._left = count
        self._late_s = late_s
        self._fd = -1

    def arm(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if (
            self._fd < 0
            or libc.inotify_add_watch(
                self._fd, os.fsencode(self._folder), ctypes.c_uint32(self._mask)
            )
            < 0
        ):
            raise OSError(ctypes.get_errno(), "inotify", str(self._folder))

    def wait(self, until_s: float) -> bool:
        try:
            while self._left > 0:
                left_s = until_s - time.monotonic()
                if left_s <= 0 or not select.select([self._fd], [], [], left_s)[0]:
                    return False
                self._left -= sum(map(self._matches, _names(os.read(self._fd, 65536))))
            time.sleep(self._late_s)
            return True
        finally:
            os.close(self._fd)


def _names(events: bytes) -> list[str]:
    found, at = [], 0
    while at < len(events):
        _, _, _, length = struct.unpack_from("iIII", events, at)
        found.append(events[at + 16 : at + 16 + length].rstrip(b"\0").decode())
        at += 16 + length
    return found


def points(
    server: Server, cache: Path, rng: random.Random, more: Sequence[tuple[int, str, str]] = ()
) -> list[tuple[int, Point]]:
    """All of them, with how often each is to be chosen. `cache`: this source's cache folder.
    `more`: requests that only this remote gets, with their weights and names."""
    found: list[tuple[int, Point]] = [(12, AtRandom(rng.uniform(0.05, 1.5)))]
    few, copy = rng.randrange(6), "CopyObject"
    for weight, what, op in (
        (3, "put", "PutObject"),
        (1, "begin of an upload in parts", "CreateMultipartUpload"),
        (2, "completion of an upload in parts", "CompleteMultipartUpload"),
        (2, "copy", "CopyObject"),
        (2, "delete", "DeleteObject"),
        *more,
    ):
        skip = few if op in ("PutObject", "DeleteObject") else rng.randrange(2)
        found.append((weight, AtRequest(server, f"{what} held", op, skip)))
        found.append((weight, AtRequest(server, f"{what} done, no answer", op, skip, True)))
    found += [
        (1, AtRequest(server, "put arriving", "PutObject", few, is_cut=True)),
        (1, AtRequest(server, "part arriving", "UploadPart", rng.randrange(2), is_cut=True)),
        (2, AtRequest(server, "between parts", "UploadPart", 1)),
        (
            2,
            AtRequest(server, "delete held after a copy", "DeleteObject", after_op=copy),
        ),
        (
            2,
            AtRequest(server, "delete done after a copy", "DeleteObject", 0, True, after_op=copy),
        ),
        (1, AtRequest(server, "proof of the remote held", "PutObject", few, key=PROBES)),
        (1, AtRequest(server, "listing held", "ListObjectsV2")),
        (1, AtRequest(server, "look at an object held", "HeadObject", rng.randrange(2))),
        (1, AtRequest(server, "read held", "GetObject", rng.randrange(3))),
    ]
    return found + [(2, point) for point in _file_points(cache, rng)]


def _file_points(cache: Path, rng: random.Random) -> list[Point]:
    def late() -> float:
        return rng.choice((0.0, 0.0, rng.uniform(0, 0.004)))

    journal, count = cache / "journal", rng.randrange(1, 8)

    def is_log(name: str) -> bool:
        return name.endswith(".log")

    def is_frozen(name: str) -> bool:
        return name.endswith(".data") and not name.endswith("-0.data")

    def is_data(name: str) -> bool:
        return name.endswith(".data")

    def is_spare(name: str) -> bool:
        return name.startswith(SPARE)

    log, staging, made = journal / "log", journal / "staging", IN_CREATE | IN_MOVED_TO
    return [
        AtFile("checkpoint begins", log, IN_CREATE | IN_MOVED_TO, is_log, late_s=late()),
        AtFile(
            "checkpoint is written",
            journal,
            IN_MODIFY,
            lambda name: name == "journal.db-wal",
            count=count,
            late_s=late(),
        ),
        AtFile("log is trimmed", log, IN_DELETE, is_log, late_s=late()),
        AtFile("data file is made", staging, made, is_data, count=count, late_s=late()),
        AtFile("frozen file is written", staging, made, is_frozen, count=count, late_s=late()),
        AtFile("data file is spared", staging, IN_MOVED_TO, is_spare, count=count, late_s=late()),
        AtFile("data file goes", staging, IN_DELETE, bool, count=count, late_s=late()),
        AtFile(
            "listings are written",
            cache / "metadata",
            IN_MODIFY | IN_CREATE,
            bool,
            count=count,
            late_s=late(),
        ),
    ]


def rename_points(server: Server, cache: Path, old: str, new: str) -> list[Point]:
    """Between all steps of the rename of the directory `old` to `new`, which has clean files `a`
    and `sub/c`, `edited` over a base, and `queued`: each step held, and done without an answer."""
    steps = [("listing of the subtree", "ListObjectsV2", rf"^{old}/$")]
    for name in ("a", "sub/c"):
        steps.append((f"copy of {name}", "CopyObject", rf"^{new}/{name}$"))
        steps.append((f"delete of {name}", "DeleteObject", rf"^{old}/{name}$"))
    steps += [
        ("look at what is copied", "HeadObject", rf"^{old}/a$"),
        ("base of the edited file", "GetObject", rf"^{old}/edited$"),
        ("put of the edited file", "PutObject", rf"^{new}/edited$"),
        ("delete of the edited file", "DeleteObject", rf"^{old}/edited$"),
        ("put of the queued file", "PutObject", rf"^{new}/queued$"),
        ("marker of the new directory", "PutObject", rf"^{new}/$"),
        ("marker of a directory in it", "PutObject", rf"^{new}/sub/$"),
        ("delete of the old marker", "DeleteObject", rf"^{old}/$"),
    ]
    found: list[Point] = []
    for what, op, key in steps:
        found.append(AtRequest(server, f"{what} held", op, key=key))
        if op in ("CopyObject", "DeleteObject", "PutObject"):
            found.append(AtRequest(server, f"{what} done, no answer", op, is_done=True, key=key))
    return [*found, AtFile("record in the log", cache / "journal" / "log", IN_MODIFY, bool)]
