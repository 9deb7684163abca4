"""One worker process: looks at its directory after each start of the daemon, and works in it.

It outlives the daemon, and what it knows is in its memory. Commands come as lines of JSON on
standard input, each is answered by one on standard output.
"""

import json
import random
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.crash import kill_kept_lists, kill_kept_shared
from tests.crash.kill_kept_lists import ListWork
from tests.crash.kill_kept_load import HeldLoad
from tests.crash.kill_kept_shared import SharedWork
from tests.crash.kill_loop_calls import Calls, Diary, Mount
from tests.crash.kill_loop_check import PAUSE_S, Report, digests, look
from tests.crash.kill_loop_load import MIB, Load
from tests.crash.kill_loop_model import Tree
from tests.crash.kill_loop_names import names_load
from tests.crash.kill_loop_sqlite import SqliteWork

NAMES = ("w0", "w1", "big", "db", "names")
KEPT_NAMES = (*NAMES, "dirs")


def first_files(name: str, seed: int) -> dict[str, bytes]:
    """What is on the remote below a worker's directory before anything begins."""
    rng = random.Random(f"{seed}-{name}")
    if name == "db":
        return {"note": b"databases"}
    if name == "dirs":
        return dict.fromkeys(kill_kept_lists.names(), b"")
    if name == kill_kept_shared.NAME:
        return dict.fromkeys(kill_kept_shared.FILES, b"begin\n")
    if name.startswith("names"):
        places = [f"{one}/{other}" for one in "abc" for other in "bcd"]
        return {place: rng.randbytes(rng.randrange(20_000)) for place in [*places, "d/a/b/c"]}
    found = {f"seed{i % 3}/f{i}": rng.randbytes(rng.randrange(60_000)) for i in range(9)}
    found["seed0/below/deep"] = rng.randbytes(2_000)
    if name == "big":
        found |= {f"seed1/big{i}": rng.randbytes(MIB) * 18 + b"end" for i in range(2)}
    return found


class Worker:
    def __init__(self, name: str, mountpoint: Path, diaries: Path, seed: int) -> None:
        self._name = name
        self._seed = seed
        self._top = mountpoint / name
        self._mount = Mount(mountpoint)
        self._tree = Tree(first_files(name, seed))
        self._diary = Diary(diaries / f"{name}.log")
        self._calls = Calls(self._mount, self._top, self._tree, self._diary)
        self._lists = ListWork(self._calls, self._top) if name == "dirs" else None
        self._shared: SharedWork | None = None
        if name == kill_kept_shared.NAME:
            self._shared = SharedWork(self._calls, self._top)
        self._sqlite: SqliteWork | None = None
        if name == "db":
            self._sqlite = SqliteWork(self._mount, self._top, diaries / f"{name}.log")

    def serve(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            answer = getattr(self, f"on_{command.pop('do')}")(**command)
            print(json.dumps(answer), flush=True)

    def on_look(
        self, *, is_down: bool, patience_s: float, moves_whole: bool = False
    ) -> dict[str, Any]:
        self._mount.arrive()
        self._diary.note(f"looks, remote {'down' if is_down else 'up'}")
        if self._shared is not None:
            report = self._shared.look()
        elif self._lists is not None:
            report = self._lists.look()
        elif self._sqlite is None:
            if moves_whole:
                self._tree.forget_numbers()
            report = look(self._tree, self._top, is_down=is_down, patience_s=patience_s)
        else:
            report = look_at_databases(self._sqlite, is_down, patience_s)
        for problem in report.problems:
            self._diary.note(f"PROBLEM {problem}")
        return asdict(report)

    def on_load(self, *, seconds: float, number: int, kept: bool = False) -> dict[str, Any]:
        """`kept`: the daemon is replaced when it dies, so some files stay open all the time."""
        rng = random.Random(f"{self._seed}-{self._name}-{number}")
        calls = self._calls
        calls.acknowledged.clear()
        calls.errors.clear()
        calls.problems.clear()
        calls.happened.clear()
        calls.longest_s = 0.0
        self._diary.note(f"works, round {number}")
        if self._shared is not None:
            is_gone = self._shared.run(seconds, rng)
        elif self._lists is not None:
            is_gone = self._lists.run(seconds, rng)
        elif self._sqlite is not None:
            is_gone = self._sqlite.run(seconds, rng)
            calls.acknowledged["commit"] += self._sqlite.commits
            self._sqlite.commits = 0
            calls.problems += self._sqlite.failures if kept else ()
        else:
            is_gone = self._load(rng, kept).run(seconds)
        lines: list[str] = []
        if self._shared is not None:
            lines, self._shared.lines = self._shared.lines, lines
        return {
            "is_gone": is_gone,
            "lines": lines,
            "acknowledged": dict(calls.acknowledged),
            "errors": dict(calls.errors),
            "problems": calls.problems,
            "happened": calls.happened,
            "longest_s": calls.longest_s,
        }

    def _load(self, rng: random.Random, kept: bool) -> Load:
        if self._name.startswith("names"):
            return names_load(self._calls, rng, kept=kept)
        return (HeldLoad if kept else Load)(self._calls, rng, big=self._name == "big")

    def on_digests(self) -> dict[str, Any]:
        """What the mount has now; the remote is to have the same."""
        return {"digests": digests(self._top)}


def look_at_databases(sqlite: SqliteWork, is_down: bool, patience_s: float) -> Report:
    """As `look`."""
    began_s, first = time.monotonic(), ""
    while True:
        report = Report()
        sqlite.look(report, is_down=is_down)
        took_s = time.monotonic() - began_s
        if is_down or not report.unreadable or took_s > patience_s:
            report.late += [f"{took_s:.1f} s: {first}"] if first else []
            return report
        first = first or report.problems[0]
        time.sleep(PAUSE_S)


def main() -> None:
    name, mountpoint, diaries, seed = sys.argv[1:]
    Worker(name, Path(mountpoint), Path(diaries), int(seed)).serve()


if __name__ == "__main__":
    main()
