"""`queue`, and what `status` and `doctor` say of queues, also of those that no daemon serves."""

import fcntl
import io
import json
import os
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mountd.cli import queue as queue_command
from mountd.cli.idle_queues import (
    IdleQueue,
    idle_queues_within,
    known_cache_dirs,
    quarantines,
)
from mountd.cli.queue import find_item, loss_of
from mountd.cli.queue_words import describe_queue
from mountd.cli.status import with_idle_queues
from mountd.cli.status_table import remarks
from mountd.config.load import default_cache_dir
from mountd.control.folder_note import noted_cache_dirs, noted_folder, remove_note, write_note
from mountd.control.runtime_dir import socket_name
from mountd.errors import StartError, UsageError
from mountd.in_words import human_seconds
from mountd.service.places import CACHE_DIR
from mountd_cache.journal_peek import Peek
from tests.fakes.scripted_daemon import scripted_daemon

pytestmark = pytest.mark.usefixtures("own_places")


# -- queue


def item(path: str, **more: object) -> dict[str, Any]:
    usual = {
        "path": path,
        "kind": "file",
        "state": "pending",
        "size": 1536,
        "reason": "",
        "attempts": 0,
        "next_try_s": None,
        "age_s": 40.4,
    }
    return usual | more


def rows(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]


def test_the_queue_is_a_table_with_the_oldest_first(capsys: pytest.CaptureFixture[str]) -> None:
    items = [
        item("new\nline"),
        item("old", state="failed", reason="403 Forbidden", attempts=1, age_s=7300),
        item("no", state="failed", reason="403", age_s=60),
        item("d", kind="deleted", size=None, reason="503", attempts=3, next_try_s=41.5, age_s=130),
    ]
    with scripted_daemon("/s", queue=[{"items": items, "counts": {}}]) as served:
        assert queue_command.show(served.daemon, "/s", as_json=False) == 0
    assert rows(capsys) == [
        ["PATH", "KIND", "STATE", "SIZE", "AGE", "TRIES", "REASON"],
        ["old", "file", "failed", "1.5 KiB", "2 h", "1", "403 Forbidden"],
        ["d", "deleted", "pending", "-", "2 min", "3", "503; again in 42 s"],
        ["no", "file", "failed", "1.5 KiB", "60 s", "-", "403"],
        ["new\\nline", "file", "pending", "1.5 KiB", "40 s", "0"],
    ]


def test_an_empty_queue_says_what_that_means(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted_daemon("/s", queue=[{"items": [], "counts": {}}]) as served:
        assert queue_command.show(served.daemon, "/s", as_json=False) == 0
    assert capsys.readouterr().out == "everything is on the remote\n"


def test_conflict_copies_that_were_sent_are_named_below(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"items": [], "conflicts": [{"path": "a (conflict h).txt", "conflict_of": "a.txt"}]}
    with scripted_daemon("/s", queue=[answer]) as served:
        queue_command.show(served.daemon, "/s", as_json=False)
    assert rows(capsys) == [
        ["everything is on the remote"],
        ["conflict copies; both versions are on the remote, keep one and remove the other:"],
        ["PATH", "COPY OF"],
        ["a (conflict h).txt", "a.txt"],
    ]


@pytest.mark.parametrize("total", [None, 1500])
def test_a_long_queue_ends_with_how_many_more_there_are(
    total: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = 1000 if total else 1500  # a daemon may keep to the limit or not
    answer = {"items": [item(f"f{n}") for n in range(sent)], "total": total}
    with scripted_daemon("/s", queue=[answer]) as served:
        queue_command.show(served.daemon, "/s", as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1002
    assert lines[-1] == "and 500 more; mountd queue /s --json lists all"


def test_as_json_it_is_what_the_daemon_says(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"items": [item(f"f{n}") for n in range(1500)], "counts": {"pending": 1500}}
    with scripted_daemon("/s", queue=[answer]) as served:
        queue_command.show(served.daemon, "/s", as_json=True)
    assert json.loads(capsys.readouterr().out) == answer
    assert served.asked("queue") == [{"op": "queue"}], "all of them"


@pytest.mark.parametrize(
    ("retried", "words"),
    [(0, "nothing had failed\n"), (1, "1 file tried again\n"), (2, "2 files tried again\n")],
)
def test_retry_says_how_many(retried: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted_daemon("/s", retry=[{"retried": retried}]) as served:
        assert queue_command.retry(served.daemon) == 0
    assert capsys.readouterr().out == words
    assert served.asked("retry") == [{"op": "retry", "path": None}]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


DISCARDABLE: dict[str, Sequence[dict[str, Any]]] = {
    "queue": [{"items": [item("a/b")]}],
    "discard": [{"discarded": True, "reason": ""}],
}


def test_a_discard_that_nobody_confirmed_is_refused_and_says_what_would_be_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with scripted_daemon("/s", **DISCARDABLE) as served:
        with pytest.raises(UsageError, match=r"--yes: what was written to it .* \(1\.5 KiB\)$"):
            queue_command.discard(served.daemon, "/s", "a/b", is_sure=False)
        assert served.asked("discard") == []
        assert queue_command.discard(served.daemon, "/s", "/s/a/b", is_sure=True) == 0
        assert served.asked("discard") == [{"op": "discard", "path": "a/b"}]
    assert capsys.readouterr().out == "discarded: a/b\n"


@pytest.mark.parametrize(
    ("typed", "code", "discards"), [("y\n", 0, 1), ("", 1, 0), ("n\n", 1, 0), ("\n", 1, 0)]
)
def test_on_a_terminal_a_discard_asks(
    typed: str, code: int, discards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with scripted_daemon("/s", **DISCARDABLE) as served:
        assert queue_command.discard(served.daemon, "/s", "a/b", is_sure=False) == code
        assert len(served.asked("discard")) == discards
    assert "a/b: what was written to it here is lost" in screen.getvalue()
    assert "[y/N]" in screen.getvalue()


def test_a_discard_that_the_daemon_refuses_is_an_error_with_its_reason() -> None:
    answers: dict[str, Sequence[dict[str, Any]]] = {
        **DISCARDABLE,
        "discard": [{"discarded": False, "reason": "it is being sent"}],
    }
    with scripted_daemon("/s", **answers) as served:
        with pytest.raises(StartError, match="a/b was not discarded: it is being sent"):
            queue_command.discard(served.daemon, "/s", "a/b", is_sure=True)
        with pytest.raises(StartError, match="nope is not in the queue; mountd queue /s lists it"):
            queue_command.discard(served.daemon, "/s", "nope", is_sure=True)


def test_an_item_is_found_as_listed_as_absolute_path_and_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [item("d/f"), item("f")]
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path / "d")
    for named, expected in {"d/f": "d/f", "f": "f", f"{tmp_path}/f": "f", "../d/f": "d/f"}.items():
        found = find_item(items, named, str(tmp_path))
        assert found is not None
        assert found["path"] == expected
    assert find_item(items, "/f/d", str(tmp_path)) is None
    assert find_item([item("d/g/")], "d/g", "/s") == item("d/g/"), "a directory's slash"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("file", "what was written"),
        ("directory", "not made"),
        ("deleted", "not deleted"),
        ("deleted directory", "not removed"),
        ("what", "what was done to it here is lost"),
    ],
)
def test_what_a_discard_loses_depends_on_the_change(kind: str, words: str) -> None:
    assert words in loss_of(item("a", kind=kind))


# -- what status and doctor say of a queue


@pytest.mark.parametrize(
    ("counts", "lines"),
    [
        ({}, ["everything is on the remote"]),
        (
            {"pending": 2, "uploading": 1, "bytes": 12 << 20, "oldest_s": 40.2},
            ["3 files (12.0 MiB) wait for the remote, 1 of them on the way, the oldest for 40 s"],
        ),
        ({"uploading": 1, "bytes": 5}, ["1 file (5 B) waits for the remote, on the way"]),
        (
            {"failed": 2},
            ["2 files failed: mountd queue /s tells why, with --retry they are tried again"],
        ),
        (
            {"conflicts": 1},
            [
                "1 conflict: both versions are kept, mountd queue /s names them",
                "everything is on the remote",
            ],
        ),
    ],
)
def test_a_queue_is_told_in_words(counts: dict[str, Any], lines: list[str]) -> None:
    assert [line for line, _ in describe_queue(counts, "/s")] == lines


def test_failed_is_red_and_comes_first() -> None:
    styles = [style for _, style in describe_queue({"failed": 1, "pending": 1}, "/s")]
    assert styles == ["bold red", ""]


def test_ages_are_rounded_down_to_what_a_human_says() -> None:
    ages = [0, 59.6, 119, 120, 7199, 7200, 200000]
    assert [human_seconds(age) for age in ages] == [
        "0 s",
        "60 s",
        "119 s",
        "2 min",
        "119 min",
        "2 h",
        "2 days",
    ]


IDLE = IdleQueue(Path("/c/lab-1"), "s3://lab", 3, 1, 3 << 20)
DEAD = {"mountpoint": "/s", "source": "s3://lab", "state": "dead", "error": "x", "queue": None}


def test_a_dead_mount_shows_the_queue_that_waits_for_its_source() -> None:
    (status,) = with_idle_queues([DEAD], [IDLE])
    assert status["queue"]["pending"] == 2
    assert status["queue"]["failed"] == 1
    words = [line for line, _ in remarks(status)]
    assert words == ["x", "3 files (3.0 MiB) wait in /c/lab-1; mount it again to send them"]


def test_a_queue_without_a_mount_is_an_object_of_its_own_with_all_keys() -> None:
    ready = {**DEAD, "state": "ready", "source": "s3://other"}
    found = with_idle_queues([ready], [IDLE])
    assert found[0] is ready
    assert found[1].keys() >= {"mountpoint", "source", "pid", "state", "remote", "cache", "queue"}
    assert (found[1]["mountpoint"], found[1]["state"]) == (None, "no daemon")
    assert with_idle_queues([ready], [IDLE], only_mounts=True) == [ready]


def test_of_two_folders_of_one_source_none_is_given_to_a_dead_mount() -> None:
    other = IdleQueue(Path("/c/lab-2"), "s3://lab", 1)
    found = with_idle_queues([DEAD], [IDLE, other])
    assert found[0]["queue"] is None
    assert [one["folder"] for one in found[1:]] == ["/c/lab-1", "/c/lab-2"]


def folder_of(cache_dir: Path, name: str) -> Path:
    (cache_dir / name).mkdir(parents=True)
    (cache_dir / name / "source").write_text(f"s3://{name}\n")
    return cache_dir / name


def test_only_folders_that_hold_something_and_that_nobody_serves_are_listed(tmp_path: Path) -> None:
    folders = {n: folder_of(tmp_path, n) for n in ("bad", "clean", "full", "new", "served", "torn")}
    aside = folders["torn"] / "journal/quarantine/20261121T120000Z"
    aside.mkdir(parents=True)
    for name in ("7-0.data", "README.txt"):
        (aside / name).touch()
    lock = os.open(folders["served"] / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)

    def peek(folder: Path) -> Peek | None:
        if folder.name == "bad":
            raise ValueError("malformed")
        return {
            "clean": Peek(0, 0, 0),
            "full": Peek(2, 1, 5),
            "served": Peek(9, 9, 9),
        }.get(folder.name)

    try:
        found = idle_queues_within(60, [tmp_path, tmp_path / "nowhere"], peek)
    finally:
        os.close(lock)
    assert found == [
        IdleQueue(folders["bad"], "s3://bad", error="its journal cannot be read: malformed"),
        IdleQueue(folders["full"], "s3://full", 2, 1, 5),
        IdleQueue(folders["torn"], "s3://torn", quarantined=("20261121T120000Z/7-0.data",)),
    ]
    (_, source, names) = quarantines([tmp_path, tmp_path / "nowhere"])[0]
    assert (source, names) == ("s3://torn", ("20261121T120000Z/7-0.data",))


def test_a_queue_that_takes_long_to_read_is_named_and_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick, slow = folder_of(tmp_path, "a"), folder_of(tmp_path, "b")
    ended = threading.Event()

    def peek(folder: Path) -> Peek:
        if folder == slow:
            ended.wait()
        return Peek(2, 1, 5)

    try:
        found = idle_queues_within(0.3, [tmp_path], peek)
    finally:
        ended.set()
    assert found == [
        IdleQueue(quick, "s3://a", 2, 1, 5),
        IdleQueue(slow, "s3://b", error="its journal could not be read within 0.3 s", is_slow=True),
    ]
    assert "not all listed: the cache's disk is too slow" in capsys.readouterr().err


def test_the_smallest_queue_is_read_first_wherever_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge, small = folder_of(tmp_path / "default", "a"), folder_of(tmp_path / "of a dead mount", "b")
    (huge / "journal").mkdir(exist_ok=True)
    (huge / "journal" / "journal.db").write_bytes(bytes(100_000))
    ended = threading.Event()

    def peek(folder: Path) -> Peek:
        if folder == huge:
            ended.wait()
        return Peek(2, 1, 5)

    try:
        found = idle_queues_within(0.3, [huge.parent, small.parent], peek)
    finally:
        ended.set()
    assert [one.folder for one in found] == [small, huge]
    assert found[0] == IdleQueue(small, "s3://b", 2, 1, 5)
    assert "not all listed" in capsys.readouterr().err


def test_what_a_daemon_noted_tells_which_of_two_folders_a_dead_mount_had() -> None:
    other = IdleQueue(Path("/c/lab-2"), "s3://lab", 1)
    found = with_idle_queues([{**DEAD, "folder": "/c/lab-2"}], [IDLE, other])
    assert found[0]["queue"]["pending"] == 1
    assert [one["folder"] for one in found[1:]] == ["/c/lab-1"]


def test_notes_of_cache_folders_are_read_where_nobody_else_could_write_them(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    socket = run / socket_name("/m")
    write_note(socket, tmp_path / "c/lab-1")  # there is no directory: nothing happens
    assert (noted_cache_dirs(), noted_folder("/m")) == ([], None)
    run.mkdir(mode=0o700)
    write_note(socket, tmp_path / "c/lab-1")
    assert noted_folder("/m") == tmp_path / "c/lab-1"
    assert tmp_path / "c" in known_cache_dirs()
    (run / ("0" * 32 + ".folder")).write_text("not a path")
    assert noted_cache_dirs() == [tmp_path / "c"]
    remove_note(socket)
    remove_note(socket)
    assert (noted_cache_dirs(), noted_folder("/m")) == ([], None)
    if os.geteuid() == 0:
        write_note(socket, tmp_path / "c/lab-1")
        os.chown(run, 12345, -1)
        assert (noted_cache_dirs(), noted_folder("/m")) == ([], None)


def test_queues_are_looked_for_where_the_configuration_puts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (
        f'[mounts.m]\nsource = "memory://"\nmountpoint = "/m"\ncache_dir = "{tmp_path}/other"\n'
    )
    (tmp_path / "config.toml").write_text(config)
    of_units = [CACHE_DIR] if os.geteuid() == 0 else []
    assert known_cache_dirs() == [tmp_path / "cache", tmp_path / "other", *of_units]
    (tmp_path / "config.toml").write_text("[nonsense")
    monkeypatch.delenv("MOUNTD_CACHE_DIR")
    assert known_cache_dirs() == [default_cache_dir()]


def test_idle_queues_are_listed_in_the_place_of_a_mounts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert queue_command.show_idle([IDLE], "/s", as_json=False) == 0
    assert rows(capsys)[1:3] == [
        ["SOURCE", "FILES", "SIZE", "FOLDER"],
        ["s3://lab", "3", "3.0 MiB", "/c/lab-1"],
    ]
    assert queue_command.show_idle([IDLE, IDLE], "/s", as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"]["pending"] == 4
    assert found["items"] == []
    assert found["idle"][0]["folder"] == "/c/lab-1"
