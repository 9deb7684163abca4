"""What `flush` and `umount` wait for, against a daemon whose answers are written here."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mountd.cli import main
from mountd.cli.by_path import asks_path
from mountd.cli.draining import Left, asks_daemon, drain, read_left
from mountd.cli.flush import Target, flush
from mountd.cli.hand_over import HandOver, HandOverFailed
from mountd.cli.progress import PlainProgress
from mountd.cli.umount import Drained, drain_mount, kept, left_on_disk
from mountd.control.client import DaemonGone, NotAnswering
from mountd.errors import ExitCode, StartError
from mountd.mount_table import Mount, mount_at, read_mounts
from tests.fakes.fake_clock import FakeClock
from tests.fakes.scripted_daemon import ScriptedDaemon, scripted_daemon

pytestmark = pytest.mark.usefixtures("own_places")

DONE: dict[str, Any] = {"left": 0, "failed": 0, "reasons": []}
TWO_FAILED = {"left": 2, "failed": 2, "reasons": ["a/b: 403 Forbidden", "c: too large"]}


def left(files: int, failed: int = 0, *reasons: str, **more: object) -> dict[str, Any]:
    return {"left": files, "failed": failed, "reasons": list(reasons), **more}


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
        asks_daemon(served.daemon.socket_path, path),
        None,
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


def test_what_was_written_after_flush_was_asked_for_is_not_waited_for() -> None:
    with scripted_daemon("/s", flush=[left(1, since=7), left(1, since=7), DONE]) as served:
        wait_with(served)
    assert [one.get("since") for one in served.asked("flush")] == [None, 7, 7]


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
    targets = [Target(one.mountpoint, asks_daemon(one.daemon.socket_path, None)) for one in served]
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
    assert Target("/s", asks_daemon(Path("/x"), "a/b"), None, "a/b").shown == "/s/a/b"
    assert Target("/", asks_daemon(Path("/x"), None)).shown == "/"


def test_who_sees_only_the_path_is_told_of_the_whole_queue(tmp_path: Path) -> None:
    (tmp_path / ".mountd").mkdir()
    status = tmp_path / ".mountd/status.json"
    mount = plain_directory(tmp_path)
    status.write_text(json.dumps({"queue": {"pending": 2, "failed": 1, "bytes": 9}}))
    ask = asks_path(mount)
    assert ask is not None
    assert ask(0, anew=True) == Left(3, 1, 9)
    status.write_text(json.dumps({"queue": {"pending": 0}}))
    assert ask(2, anew=False).is_nothing
    status.write_text(json.dumps({"state": "of another version"}))
    assert asks_path(mount) is None
    with pytest.raises(StartError, match="does not tell of its queue any more"):
        ask(0, anew=False)
    status.unlink()
    with pytest.raises(StartError, match="does not tell of its queue: No such file"):
        asks_path(mount)


def test_flush_outside_of_a_mount_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flush", str(tmp_path)]) == 5
    assert "is in no mount of mountd" in capsys.readouterr().err


def test_flush_goes_on_with_who_goes_on_for_a_daemon_that_is_gone(tmp_path: Path) -> None:
    mount = plain_directory(tmp_path / "mnt")

    def gone(wait_s: float, *, anew: bool) -> Left:
        raise DaemonGone("nobody listens")

    target, complaints = Target(mount.path, gone, mount, "a"), list[str]()
    with scripted_daemon(tmp_path / "mnt", flush=[left(1), DONE]) as served:
        assert flush([target], None, Shown(), complaints) == ExitCode.OK
    assert [one["path"] for one in served.asked("flush")] == ["a", "a"]
    assert flush([target], None, Shown(), complaints) == ExitCode.RUNTIME
    assert complaints == [f"{mount.path}/a: nobody listens"]


def test_flush_by_a_path_that_did_not_answer_for_a_while_waits_on(tmp_path: Path) -> None:
    mount, asked = plain_directory(tmp_path / "mnt"), list[bool]()

    def ask(wait_s: float, *, anew: bool) -> Left:
        asked.append(anew)
        if len(asked) == 2:
            raise NotAnswering("no answer")
        return Left(1 if len(asked) == 1 else 0)

    assert flush([Target(mount.path, ask, mount, is_by_path=True)], None, Shown(), []) == 0
    assert asked == [True, False, True], "what the next one is asked is of what is there then"


# -- umount


def umounting(served: ScriptedDaemon, path: Path, timeout_s: float | None, **more: bool) -> Drained:
    return drain_mount(
        plain_directory(path), served.daemon, timeout_s, abandon=more.get("abandon", False)
    )


def test_umount_waits_for_the_queue_and_then_says_that_the_mount_goes(tmp_path: Path) -> None:
    with scripted_daemon(tmp_path / "mnt", flush=[left(1), DONE], umount=[DONE]) as served:
        drained = umounting(served, tmp_path / "mnt", None)
    assert drained == Drained(Left(), 300.0), "the default where the daemon doesn't say"
    assert [one["op"] for one in served.requests] == ["status", "flush", "flush", "umount"]
    assert served.asked("umount")[0].keys() == {"op", "timeout_s", "abandon"}
    assert 290 < served.asked("umount")[0]["timeout_s"] < 300, "what is left of the time"


def test_umount_waits_as_long_as_the_daemon_is_set_to(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    status = {"stop_timeout_s": 0.3, "cache": {"folder": str(tmp_path / "folder")}}
    answers = {"status": [status], "flush": [left(2, 0, "a: no answer", bytes=10)]}
    with scripted_daemon(tmp_path / "mnt", **answers, umount=[left(2)]) as served:
        drained = umounting(served, tmp_path / "mnt", None)
    assert drained.timeout_s == 0.3
    assert drained.left == Left(2, 0, 10, ("a: no answer",))
    assert served.asked("umount") == [{"op": "umount", "timeout_s": 0.0, "abandon": False}]
    assert left_on_disk(drained) == drained.left
    assert kept(drained.left, drained.folder) == (
        "not on the remote yet: 2 files (10 B) (a: no answer); kept on disk in "
        f"{tmp_path}/folder, the next mount sends it"
    )


def test_what_came_while_the_rest_was_sent_counts(tmp_path: Path) -> None:
    with scripted_daemon(tmp_path / "mnt", flush=[DONE], umount=[left(1)]) as served:
        assert umounting(served, tmp_path / "mnt", 60).left == Left(1)


def test_abandon_does_not_wait(tmp_path: Path) -> None:
    with scripted_daemon(tmp_path / "mnt", umount=[left(5)]) as served:
        drained = umounting(served, tmp_path / "mnt", 60, abandon=True)
    assert (drained.left, drained.timeout_s) == (Left(5), 0.0)
    assert [one["op"] for one in served.requests] == ["status", "umount"]


def test_a_daemon_from_before_the_queue_can_be_unmounted(tmp_path: Path) -> None:
    with scripted_daemon(tmp_path / "mnt", umount=[{"left": 0}]) as served:
        assert umounting(served, tmp_path / "mnt", 60).left.is_nothing


def test_a_mount_that_cannot_be_handed_over_stays(tmp_path: Path) -> None:
    with scripted_daemon(tmp_path / "mnt", flush=[DONE], umount=[DONE]) as served:
        mount = Mount("0:0", str(tmp_path / "gone"), "fuse.mountd", "s3://lab", "rw", None)
        with pytest.raises(StartError, match=r"could not be handed .*; nothing was unmounted"):
            drain_mount(mount, served.daemon, 60, abandon=False)
        assert served.asked("umount") == []


def test_a_daemon_that_died_while_it_was_sending_is_no_success(tmp_path: Path) -> None:
    status = {"stop_timeout_s": 60, "cache": {"folder": None}}
    gone = Drained(Left(), 0.0, None, is_sure=False)
    with pytest.raises(StartError, match="the daemon ended while it was sending"):
        left_on_disk(gone)
    answers = {"status": [status], "flush": [DONE]}
    with scripted_daemon(tmp_path / "mnt", **answers) as served:
        pass
    found = umounting(served, tmp_path / "mnt", 60)
    assert found == Drained(Left(), 60, is_dead=True), "another umount did it"


WAITING = """
import sys
from pathlib import Path
from mountd.cli.umount import drain_mount
from mountd.control.client import find_daemon
from mountd.mount_table import Mount
path = sys.argv[1]
try:
    drain_mount(Mount("0:0", path, "fuse.mountd", "s", "rw", None), find_daemon(path), 60,
                abandon=False)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_the_second_interrupt_stops_waiting_and_leaves_the_mount(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    with scripted_daemon(tmp_path / "mnt", flush=[left(1)], umount=[DONE]) as served:
        child = subprocess.Popen(
            [sys.executable, "-c", WAITING, str(tmp_path / "mnt")],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert child.stderr is not None
            assert served.was_asked("flush", 20)
            child.send_signal(signal.SIGINT)
            assert "Ctrl-C again stops waiting and leaves the mount" in child.stderr.readline()
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=20)
        finally:
            child.kill()
            child.wait(20)
        assert served.asked("umount") == []
    assert (child.returncode, said) == (130, f"mountd: {tmp_path}/mnt stays mounted\n")
