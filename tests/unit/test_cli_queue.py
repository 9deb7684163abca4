"""`flush`, `queue` and what `umount` waits for, against a daemon whose answers are written here."""

import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mountd.cli import main
from mountd.cli import queue as queue_command
from mountd.cli.draining import Left, drain, read_left
from mountd.cli.flush import Target, flush
from mountd.cli.hand_over import HandOver, HandOverFailed
from mountd.cli.progress import PlainProgress
from mountd.cli.queue import find_item, loss_of
from mountd.control.client import DaemonGone
from mountd.errors import ExitCode, StartError, UsageError
from mountd.mount_table import Mount, mount_at, read_mounts
from tests.fakes.fake_clock import FakeClock
from tests.fakes.scripted_daemon import ScriptedDaemon, scripted_daemon

DONE: dict[str, Any] = {"left": 0, "failed": 0, "reasons": []}
TWO_FAILED = {"left": 2, "failed": 2, "reasons": ["a/b: 403 Forbidden", "c: too large"]}


def left(files: int, failed: int = 0, *reasons: str, **more: object) -> dict[str, Any]:
    return {"left": files, "failed": failed, "reasons": list(reasons), **more}


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUNTD_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("MOUNTD_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "config.toml").write_text("")
    monkeypatch.setenv("MOUNTD_CONFIG", str(tmp_path / "config.toml"))


class Shown:
    """A Progress that keeps what it got."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def show(self, text: str) -> None:
        self.lines.append(text)

    def say(self, text: str) -> None:
        self.lines.append(text)


def wait_with(
    served: ScriptedDaemon, path: str | None = None, timeout_s: float | None = None
) -> tuple[Left, list[str], FakeClock]:
    """`drain` on a clock that moves only when it pauses."""
    clock, shown = FakeClock(), Shown()
    deadline = None if timeout_s is None else clock() + timeout_s
    found = drain(
        served.daemon.socket_path,
        None,
        path,
        deadline,
        shown.show,
        clock=clock,
        pause=clock.advance,
    )
    return found, shown.lines, clock


# -- waiting


def test_what_is_on_the_remote_is_asked_for_once() -> None:
    with scripted_daemon("/s", flush=[DONE]) as served:
        found, shown, _ = wait_with(served, "a/zoë\udcff")
    assert found == Left()
    assert shown == []
    assert served.asked("flush") == [{"op": "flush", "path": "a/zoë\udcff", "timeout_s": 2.0}]


def test_it_is_asked_again_until_nothing_is_left_and_shown_how_far_it_is() -> None:
    answers = [left(3, bytes=3 << 20), left(1, bytes=4096), DONE]
    with scripted_daemon("/s", flush=answers) as served:
        found, shown, clock = wait_with(served)
    assert found.is_nothing
    assert shown == ["3 files (3.0 MiB) left", "1 file (4.0 KiB) left"]
    # A daemon that answers at once is not asked as fast as it can.
    assert clock() == pytest.approx(1000.4)


def test_the_timeout_is_the_clients_and_the_last_answer_counts() -> None:
    with scripted_daemon("/s", flush=[left(2, 0, "a: no answer")]) as served:
        found, _, clock = wait_with(served, timeout_s=1)
    assert found == Left(files=2, reasons=("a: no answer",))
    assert clock() == pytest.approx(1001)
    assert served.asked("flush")[0]["timeout_s"] == 1
    with scripted_daemon("/s", flush=[DONE]) as served:
        found, _, _ = wait_with(served, timeout_s=-5)
    assert found.is_nothing, "it is asked although the time is over"
    assert served.asked("flush")[0]["timeout_s"] == 0


def test_what_the_remote_refused_is_not_waited_for_but_the_rest_is() -> None:
    with scripted_daemon("/s", flush=[left(3, 2), TWO_FAILED]) as served:
        found, shown, _ = wait_with(served)
    assert found.is_only_failed
    assert found.reasons[0] == "a/b: 403 Forbidden"
    assert shown == ["3 files left, 2 failed"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, Left()),
        ({"left": 0, "failed": 2}, Left(2, 2)),
        ({"left": "many", "failed": -1, "reasons": 7, "bytes": "x"}, Left()),
        ({"left": 1, "bytes": 5, "reasons": ["a", 3]}, Left(1, 0, 5, ("a", "3"))),
    ],
)
def test_odd_answers_never_hide_what_failed(answer: dict[str, Any], expected: Left) -> None:
    assert read_left(answer) == expected


def test_a_daemon_that_goes_in_the_middle_is_an_error_not_an_end() -> None:
    with scripted_daemon("/s", flush=[DONE]) as served:
        pass
    with pytest.raises(DaemonGone):
        wait_with(served)


def test_without_a_terminal_a_line_comes_every_ten_seconds(
    capfd: pytest.CaptureFixture[str],
) -> None:
    clock = FakeClock()
    shown = PlainProgress(clock)
    for second in range(25):
        shown.show(f"{second} left\x1b")
        clock.advance(1)
    assert capfd.readouterr().err == "mountd: 10 left\\x1b\nmountd: 20 left\\x1b\n"


# -- handing over what the kernel holds


def shm() -> Mount:
    """A mount whose syncfs costs nothing."""
    found = mount_at("/dev/shm", read_mounts())
    if found is None:
        pytest.skip("/dev/shm is no mount here")
    return found


def plain_directory(path: Path, owner_uid: int | None = None) -> Mount:
    """What a mount looks like that was unmounted a moment ago."""
    path.mkdir(exist_ok=True)
    return Mount("0:0", str(path), "fuse.mountd", "s3://lab", "rw", owner_uid)


def test_a_mounts_pages_are_handed_over() -> None:
    with HandOver(shm()) as hand_over:
        assert hand_over.wait(20)
        assert hand_over.wait(0)


def test_a_mount_that_went_away_has_nothing_to_hand_over(tmp_path: Path) -> None:
    with HandOver(plain_directory(tmp_path / "mnt")) as hand_over:
        assert hand_over.wait(20)


def test_a_mount_that_cannot_be_entered_is_told_with_its_errno(tmp_path: Path) -> None:
    gone = Mount("0:0", str(tmp_path / "gone"), "fuse.mountd", "s3://lab", "rw", None)
    with HandOver(gone) as hand_over, pytest.raises(HandOverFailed, match="gone could not") as told:
        hand_over.wait(20)
    assert told.value.number == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_hands_over_as_the_user_whose_mount_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)  # so that another user is seen to be one
    mount = plain_directory(tmp_path / "mnt", owner_uid=65534)
    with pytest.raises(HandOverFailed) as told, HandOver(mount) as hand_over:
        hand_over.wait(20)
    assert told.value.number == 13


STUCK_MOUNT = """
import ctypes, os, sys
from mountd.cli.hand_over import HandOver
from mountd.mount_table import mount_at, read_mounts
path = sys.argv[1]
fd = os.open("/dev/fuse", os.O_RDWR)  # nobody ever reads it
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,subtype=mountd"
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"stuck", path.encode(), b"fuse", 0, options.encode()):
    sys.exit(os.strerror(ctypes.get_errno()))
try:
    with HandOver(mount_at(path, read_mounts())) as hand_over:
        print("handed over:", hand_over.wait(0.5))
finally:
    libc.umount2(path.encode(), 2)
print("left")
"""


@pytest.mark.fuse
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount by itself")
def test_a_stuck_mount_holds_nobody(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", STUCK_MOUNT, str(tmp_path / "mnt")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("handed over: False\nleft\n", "")


# -- flush


def flush_all(*served: ScriptedDaemon, timeout_s: float = 0) -> tuple[ExitCode, list[str]]:
    targets = [Target(one.mountpoint, one.daemon) for one in served]
    complaints: list[str] = []
    return flush(targets, time.monotonic() + timeout_s, Shown(), complaints), complaints


def test_flush_ends_with_75_and_names_what_is_left_and_why() -> None:
    with scripted_daemon("/s", flush=[left(2, 0, "a: no answer in 60 s", bytes=2048)]) as served:
        code, said = flush_all(served)
    assert code == 75
    assert said == ["/s: not on the remote yet: 2 files (2.0 KiB): a: no answer in 60 s"]


def test_flush_ends_at_once_where_the_remote_refused_the_rest() -> None:
    with scripted_daemon("/s", flush=[TWO_FAILED]) as served:
        code, said = flush_all(served, timeout_s=60)
    assert code == 75
    assert said[0].startswith("/s: the remote refused 2 files: a/b: 403 Forbidden; mountd queue /s")


def test_flush_of_several_mounts_waits_for_each_and_tells_the_worst() -> None:
    refused = StartError("no such path")
    with (
        scripted_daemon("/a", flush=[left(1)]) as one,
        scripted_daemon("/b", flush=[refused]) as two,
        scripted_daemon("/c", flush=[DONE]) as three,
    ):
        code, said = flush_all(one, two, three)
    assert code == 1
    assert said == ["/a: not on the remote yet: 1 file", "/b: no such path"]
    assert len(three.asked("flush")) == 1
    with scripted_daemon("/c", flush=[DONE]) as three:
        assert flush_all(three) == (0, [])


def test_what_is_asked_of_flush_is_shown_as_a_path() -> None:
    with scripted_daemon("/s", flush=[DONE]) as served:
        assert Target("/s", served.daemon, None, "a/b").shown == "/s/a/b"
        assert Target("/", served.daemon).shown == "/"


def test_flush_outside_of_a_mount_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flush", str(tmp_path)]) == 5
    assert "is in no mount of mountd" in capsys.readouterr().err


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
        item("d", kind="deleted", size=None, reason="503", attempts=3, next_try_s=41.5, age_s=130),
    ]
    with scripted_daemon("/s", queue=[{"items": items, "counts": {}}]) as served:
        assert queue_command.show(served.daemon, "/s", as_json=False) == 0
    assert rows(capsys) == [
        ["PATH", "KIND", "STATE", "SIZE", "AGE", "TRIES", "REASON"],
        ["old", "file", "failed", "1.5 KiB", "2 h", "1", "403 Forbidden"],
        ["d", "deleted", "pending", "-", "2 min", "3", "503; again in 42 s"],
        ["new\\nline", "file", "pending", "1.5 KiB", "40 s", "0"],
    ]


def test_an_empty_queue_says_what_that_means(capsys: pytest.CaptureFixture[str]) -> None:
    with scripted_daemon("/s", queue=[{"items": [], "counts": {}}]) as served:
        assert queue_command.show(served.daemon, "/s", as_json=False) == 0
    assert capsys.readouterr().out == "everything is on the remote\n"


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
