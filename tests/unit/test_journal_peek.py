"""A journal that no daemon serves is counted, and stays as it is to the byte."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mountd.cli.idle_queues import idle_queues_within, peek_journal
from mountd_cache.journal import Journal
from mountd_cache.journal_peek import Peek

# Two files (one of them refused), a directory, a deletion, and a file that the remote has.
KILLED = """
import os, sys
from dataclasses import replace
from pathlib import Path
from mountd_cache.changes import Change, ChangeKind, ChangeState, Rows
from mountd_cache.journal import Journal

journal = Journal.open(Path(sys.argv[1]))
def change(key, kind, **more):
    return Change(key, "", key.strip("/").encode(), journal.next_sequence(), kind, **more)
def put(key, data, **more):
    content = journal.new_content(None, 0, 1)
    made = change(key, ChangeKind.FILE, content=content.id, **more)
    journal.commit(Rows(changes=(made,), contents=(content,)))
    journal.write(content.id, 0, data, 2)
put("a", b"x" * 1000)
if "checkpoint" in sys.argv:
    checkpoint = journal.begin_checkpoint()
    journal.write_checkpoint(checkpoint)
    journal.end_checkpoint(checkpoint)
put("b", b"y" * 24, state=ChangeState.FAILED, reason="403")
put("c", b"z" * 5, state=ChangeState.CLEAN)
made = change("d/", ChangeKind.DIRECTORY), change("e", ChangeKind.GONE_FILE)
journal.commit(Rows(changes=made))
if "close" in sys.argv:
    journal.close()
os._exit(0)
"""


def left_behind(folder: Path, *how: str) -> Path:
    """A cache folder whose daemon is gone."""
    folder.mkdir(mode=0o700)
    (folder / "source").write_text("s3://lab\n")
    command = [sys.executable, "-c", KILLED, str(folder / "journal"), *how]
    subprocess.run(command, check=True, timeout=60)
    return folder


def content_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (os.stat(path).st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize("how", [(), ("checkpoint",), ("close",)])
def test_what_a_daemon_left_is_counted_and_nothing_is_changed(
    tmp_path: Path, how: tuple[str, ...]
) -> None:
    folder = left_behind(tmp_path / "lab", *how)
    before = content_of(folder)
    assert peek_journal(folder) == Peek(unsent=4, failed=1, size_bytes=1024)
    assert content_of(folder) == before
    Journal.open(folder / "journal").close()
    assert peek_journal(folder) == Peek(4, 1, 1024), "recovery finds the same"


def test_a_journal_without_anything_is_empty_and_none_is_none(tmp_path: Path) -> None:
    Journal.open(tmp_path / "journal").close()
    assert peek_journal(tmp_path) == Peek(0, 0, 0)
    assert peek_journal(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("how", "name", "offset", "words"),
    [
        ("close", "journal.db", 0, "not a database"),
        ("kill", "log", 100, "log is damaged after record"),
    ],
)
def test_a_damaged_journal_is_told_not_left_out(
    tmp_path: Path, how: str, name: str, offset: int, words: str
) -> None:
    folder = left_behind(tmp_path / "lab", how)
    path = folder / "journal" / name
    if path.is_dir():
        path = next(path.glob("*.log"))
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(data)
    (found,) = idle_queues_within(60, [tmp_path], peek_journal)
    assert words in found.error
