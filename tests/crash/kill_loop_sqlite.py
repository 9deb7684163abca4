"""SQLite databases on the mount, in both journal modes: a commit that returned is there, and the
one under way is there as a whole or not at all."""

import json
import os
import random
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from tests.crash.kill_loop_calls import Mount
from tests.crash.kill_loop_check import Report

MODES = ("delete", "wal")
MOST_ROWS = 150
GONE, ENDED, FAILED = 3, 0, 4

Rows = dict[int, bytes]


class Database:
    """`rows` are committed; `seed` is of the transaction under way, 0 for none."""

    def __init__(self, top: Path, mode: str) -> None:
        self.path = top / f"{mode}.db"
        self.mode = mode
        self.rows: Rows = {}
        self.seed = 0

    def connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=5.0, isolation_level=None)
        db.execute(f"PRAGMA journal_mode={self.mode}").fetchall()
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA wal_autocheckpoint=40")
        db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, data BLOB)")
        return db

    def look(self, report: Report, *, is_down: bool) -> None:
        """Takes over which of the two states it is."""
        try:
            with closing(self.connect()) as db:
                [(verdict,)] = db.execute("PRAGMA integrity_check(1)").fetchall()
                if "error code=" in verdict:
                    raise sqlite3.OperationalError(verdict)  # it could not be read
                seen = dict(db.execute("SELECT id, data FROM t").fetchall())
        except (sqlite3.Error, OSError) as error:
            report.unreadable += 1
            if not is_down:
                report.problems.append(f"{self.path}: {error}")
            return
        report.files += 1
        report.bytes += sum(map(len, seen.values()))
        if verdict != "ok":
            report.problems.append(f"{self.path}: {verdict}")
        if seen not in (self.rows, after(self.rows, self.seed)):
            lost, extra = self.rows.keys() - seen.keys(), seen.keys() - self.rows.keys()
            report.problems.append(
                f"{self.path}: rows {sorted(lost)[:8]} are lost, {sorted(extra)[:8]} are not "
                f"expected, {len(seen)} seen, {len(self.rows)} committed, under way {self.seed}"
            )
        self.rows, self.seed = seen, 0

    def work(self, diary: Path, seconds: float, rng: random.Random) -> None:
        """Transactions, noted in `diary`. In a process of its own: a page of the mapped index that
        can't be read any more is a SIGBUS."""
        until_s = time.monotonic() + seconds
        rows = dict(self.rows)
        with diary.open("a", buffering=1) as notes, closing(self.connect()) as db:
            while time.monotonic() < until_s:
                seed = rng.randrange(1, 1 << 40)
                wanted = after(rows, seed)
                notes.write(json.dumps([self.mode, "begin", seed]) + "\n")
                db.execute("BEGIN IMMEDIATE")
                gone = [(id_,) for id_ in rows if id_ not in wanted]
                put = [(i, data) for i, data in wanted.items() if rows.get(i) != data]
                db.executemany("DELETE FROM t WHERE id = ?", gone)
                db.executemany("INSERT OR REPLACE INTO t VALUES (?, ?)", put)
                db.execute("COMMIT")
                notes.write(json.dumps([self.mode, "done", seed]) + "\n")
                rows = wanted

    def replay(self, diary: Path) -> int:
        """Learns from the diary; how many commits returned."""
        commits = 0
        for line in diary.read_text().splitlines():
            mode, what, seed = json.loads(line)
            if mode != self.mode:
                continue
            self.seed = seed
            if what == "done":
                self.rows, self.seed = after(self.rows, seed), 0
                commits += 1
        return commits


def after(rows: Rows, seed: int) -> Rows:
    """What the transaction of that seed makes of a table; of 0: nothing."""
    if not seed:
        return rows
    rng = random.Random(seed)
    made = dict(rows)
    for _ in range(rng.randrange(1, 8)):
        made[rng.randrange(MOST_ROWS)] = rng.randbytes(rng.randrange(10, 4_000))
    if made and rng.random() < 0.4:
        del made[rng.choice(sorted(made))]
    return made


class SqliteWork:
    """What a worker does that has databases."""

    def __init__(self, mount: Mount, top: Path, diary: Path) -> None:
        self._mount = mount
        self._diary = diary
        self._databases = [Database(top, mode) for mode in MODES]
        self.commits = 0
        self.failures: list[str] = []  # of the last `run`, unless the mount was dead

    def look(self, report: Report, *, is_down: bool) -> None:
        for database in self._databases:
            database.look(report, is_down=is_down)

    def run(self, seconds: float, rng: random.Random) -> bool:
        """Both at a time, until then or until the daemon is gone: True."""
        children = []
        self.failures.clear()
        for database in self._databases:
            diary = self._diary.with_suffix(f".{database.mode}.jsonl")
            diary.unlink(missing_ok=True)
            diary.touch()
            children.append((database, diary, self._begin(database, diary, seconds, rng)))
        is_gone = False
        for database, diary, pid in children:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            is_gone = is_gone or status != ENDED
            if status not in (ENDED, GONE):
                self.failures.append(f"{database.mode}: ended with {status}")
            self.commits += database.replay(diary)
        return is_gone and self._mount.is_gone()

    def _begin(self, database: Database, diary: Path, seconds: float, rng: random.Random) -> int:
        seed = rng.randrange(1 << 40)
        pid = os.fork()
        if pid:
            return pid
        status = FAILED
        with suppress(BaseException):
            try:
                database.work(diary, seconds, random.Random(seed))
                status = ENDED
            except sqlite3.Error as error:
                with diary.with_suffix(".errors").open("a") as said:
                    said.write(f"{error!r} {getattr(error, 'sqlite_errorname', '')}\n")
                status = GONE if self._mount.is_gone() else FAILED
        os._exit(status)
