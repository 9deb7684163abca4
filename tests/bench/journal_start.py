"""What it takes to open a journal with many files that wait, as SIGKILL leaves it.

    python -m tests.bench.journal_start                     (100,000, of which 13,000 in the log)
    python -m tests.bench.journal_start --files 10000 --in-log 1000

Five times, each in a process of its own: processor seconds, and by how much the memory grows.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mountd_cache.changes import Change, ChangeKind, Rows
from mountd_cache.journal import Journal

_ROUNDS = 5
_PER_DIRECTORY = 1000


def fill(folder: Path, files: int, in_log: int) -> None:
    """The last `in_log` files are not in the database."""
    journal = Journal.open(folder)
    for number in range(files):
        directory, name = f"d{number // _PER_DIRECTORY}/", f"f{number}"
        if number == files - in_log and (checkpoint := journal.begin_checkpoint()):
            journal.write_checkpoint(checkpoint)
            journal.end_checkpoint(checkpoint)
        content = journal.new_content(None, 0, number)
        sequence = journal.next_sequence()
        made = Change(
            directory + name,
            directory,
            name.encode(),
            number + 2,
            ChangeKind.FILE,
            content=content.id,
            sequence=sequence,
            since_ns=1 << 60,
        )
        journal.commit(Rows(changes=(made,), contents=(content,)))
        journal.write(content.id, 0, b"x" * 100, number)
    journal.abandon()


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def look(folder: Path) -> None:
    before_mb, began = _rss_mb(), os.times()
    journal = Journal.open(folder)
    ended = os.times()
    user_s, system_s = ended.user - began.user, ended.system - began.system
    more_mb = _rss_mb() - before_mb
    print(
        f"{len(journal.ledger.changes)} changes, {journal.recovery.replayed} records: "
        f"{user_s:.2f} s user, {system_s:.2f} s system, {more_mb:.0f} MB more",
        flush=True,
    )
    journal.abandon()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--in-log", type=int, default=13_000)
    parser.add_argument("--look", type=Path, help="only opens this one")
    given = parser.parse_args()
    if given.look is not None:
        look(given.look)
        return
    with tempfile.TemporaryDirectory() as name:
        fill(Path(name) / "journal", given.files, given.in_log)
        command = [sys.executable, "-m", "tests.bench.journal_start", "--look"]
        for _ in range(_ROUNDS):
            subprocess.run([*command, f"{name}/journal"], check=True)


if __name__ == "__main__":
    main()
