"""What the service manager is told, and that it comes from the loop that serves."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from mountd.service.sd_notify import Notifier
from mountd.service.supervision import Life, Supervision, last_words, words_of
from tests.conftest import ExpectedLog

IDLE = {"pending": 0, "uploading": 0, "failed": 0, "conflicts": 0, "bytes": 0, "oldest_s": None}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "notify"))
        found.setblocking(False)
        yield found


@pytest.fixture
def notifier(manager: socket.socket, tmp_path: Path) -> Iterator[Notifier]:
    found = Notifier(str(tmp_path / "notify"))
    yield found
    found.close()


def heard(manager: socket.socket) -> list[set[str]]:
    messages = []
    while True:
        try:
            messages.append(set(manager.recv(8192).decode().splitlines()))
        except BlockingIOError:
            return messages


def test_each_thing_is_told_when_it_becomes_true_and_once(
    manager: socket.socket, notifier: Notifier
) -> None:
    life = Life("starting", "starting: s3://b")
    supervision = Supervision(notifier, lambda: life)
    supervision.look()
    assert heard(manager) == [{"STATUS=starting: s3://b", "EXTEND_TIMEOUT_USEC=30000000"}]
    life = Life("ready", "serves s3://b")
    supervision.look()
    supervision.look()
    assert heard(manager) == [{"READY=1", "STATUS=serves s3://b"}], "the second had nothing new"
    life = Life("stopping", "stopping: 1 change")
    supervision.look()
    assert heard(manager) == [
        {"STOPPING=1", "STATUS=stopping: 1 change", "EXTEND_TIMEOUT_USEC=30000000"}
    ]
    supervision.look()
    assert heard(manager) == [{"EXTEND_TIMEOUT_USEC=30000000"}], "more time is asked for each time"


async def test_the_watchdog_hears_the_loop_and_nothing_while_the_loop_is_stuck(
    manager: socket.socket, notifier: Notifier, autojump_clock: trio.testing.MockClock
) -> None:
    supervision = Supervision(notifier, lambda: Life("ready", "serves"), watchdog_s=2.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervision.run)
        await trio.sleep(9)
        assert ["WATCHDOG=1" in lines for lines in heard(manager)] == [True] * 5
        autojump_clock.jump(60)  # a blocking call: no task runs meanwhile
        assert heard(manager) == []
        nursery.cancel_scope.cancel()


def test_ready_is_told_again_where_the_manager_had_no_room(
    manager: socket.socket, notifier: Notifier
) -> None:
    supervision = Supervision(notifier, lambda: Life("ready", "serves"))
    while notifier.send(STATUS="noise"):
        pass
    supervision.look()
    heard(manager)
    supervision.look()
    assert heard(manager) == [{"READY=1", "STATUS=serves"}]


def test_a_start_that_fails_leaves_its_reason(manager: socket.socket, notifier: Notifier) -> None:
    Supervision(notifier, lambda: Life("starting", "")).failed(OSError("s3://b does not exist"))
    assert heard(manager) == [{"STATUS=failed: s3://b does not exist"}]


def test_a_defect_in_the_status_neither_ends_the_mount_nor_starves_the_watchdog(
    manager: socket.socket, notifier: Notifier, expected_log: ExpectedLog
) -> None:
    expected_log("no status")

    def defect() -> Life:
        raise KeyError("a defect")

    supervision = Supervision(notifier, defect, watchdog_s=1.0)
    supervision.look()
    supervision.look()
    assert ["WATCHDOG=1" in lines for lines in heard(manager)] == [True, True]


async def test_nothing_runs_where_no_manager_listens() -> None:
    with trio.fail_after(5):
        await Supervision(Notifier(None), lambda: Life("ready", "serves")).run()


def status(
    state: str, remote: str = "ok", disk: str | None = None, writes: str = "ok", **queue: object
) -> str:
    return words_of(
        {
            "state": state,
            "source": "s3://b",
            "remote": {"state": remote, "writes": {"state": writes}},
            "queue": IDLE | queue,
            "cache": {"disk_error": disk},
        }
    )


def test_the_line_says_how_far_the_remote_is_behind_and_that_the_disk_is_full() -> None:
    some: dict[str, Any] = {"pending": 2, "uploading": 1, "bytes": 3 << 20, "oldest_s": 14.2}
    assert status("starting") == "starting: s3://b"
    assert status("ready") == "serves s3://b; remote ok; all is on the remote"
    assert status("ready", "unreachable", **some) == (
        "serves s3://b; remote unreachable; 3 changes (3.0 MiB) to send, oldest 14 s"
    )
    assert status("ready", disk="No space left on device") == (
        "serves s3://b; remote ok; all is on the remote; the cache's disk: No space left on device"
    )
    assert status("ready", writes="refused", **some, failed=1) == (
        "serves s3://b; remote ok, but refuses writes; 4 changes (3.0 MiB) to send, oldest 14 s, "
        "1 failed"
    )
    assert status("ready", writes="full").startswith("serves s3://b; remote ok, but full; ")
    assert status("stopping", **some, failed=1, conflicts=2) == (
        "stopping: 4 changes (3.0 MiB) to send, oldest 14 s, 1 failed, 2 conflicts"
    )
    assert last_words(1, 5, "/var/lib/mountd/x") == (
        "ended: 1 change (5 B) not on the remote; kept in /var/lib/mountd/x, "
        "the next start sends them"
    )
    assert last_words(0, 0, "/x") == "ended: all is on the remote"
    assert "set aside in /x" in last_words(0, 0, "/x", set_aside=True)


def test_a_start_that_calls_wait_for_says_nothing_any_more_after_a_minute(
    manager: socket.socket, notifier: Notifier
) -> None:
    """So that the manager ends it, although its loop lives."""
    life, now_s = Life("starting", "starting: s3://b"), 100.0
    supervision = Supervision(
        notifier, lambda: life, 5.0, starts_within_s=60.0, clock=lambda: now_s
    )
    supervision.look()
    now_s = 159.0
    supervision.look()
    assert heard(manager)[-1] == {"EXTEND_TIMEOUT_USEC=30000000", "WATCHDOG=1"}
    now_s = 161.0
    supervision.look()
    assert heard(manager) == []
    life = Life("ready", "serves s3://b")
    supervision.look()
    assert heard(manager) == [{"READY=1", "STATUS=serves s3://b", "WATCHDOG=1"}]
