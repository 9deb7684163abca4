"""What a daemon does not go on with."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from trio.testing import MockClock

from mountd.config import MountPlan
from mountd.config.file import ConfigFile
from mountd.config.load import plan_mount, read_command_line
from mountd.errors import StartError
from mountd.fusefs.mount import FuseMount
from mountd.kept.descriptors import KEEPER, KEPT, Left, left_behind
from mountd.kept.going_on import GoingOn, terms_of
from mountd.kept.record import Record
from mountd.mount_table import FS_TYPE, Mount
from tests.conftest import ExpectedLog
from tests.unit.test_kept_record import FILE, GREETING


@pytest.fixture
def plan(tmp_path: Path) -> MountPlan:
    source, path = tmp_path / "data", tmp_path / "mnt"
    source.mkdir()
    path.mkdir()
    return plan_mount(f"file://{source}", str(path), ConfigFile(), read_command_line([]))


def left_by(plan: MountPlan) -> Left:
    record = Record(GREETING, terms_of(plan))
    record.described(1, FILE)
    return Left(os.open("/dev/null", os.O_RDWR), record.fd)


def mounted_at(plan: MountPlan) -> Mount:
    return Mount("0:99", str(plan.mountpoint), FS_TYPE, plan.source.text, "rw", 0)


def going_on(plan: MountPlan, left: Left, *mounts: Mount) -> GoingOn:
    return GoingOn(plan, left, mounts=lambda: list(mounts))


def test_the_same_settings_are_gone_on_with(plan: MountPlan) -> None:
    found = going_on(plan, left_by(plan), mounted_at(plan))
    assert found.is_successor
    assert (found.generation, found.plan) == (1, plan)


def test_the_mount_point_is_that_of_the_former_process_and_is_not_looked_at(
    plan: MountPlan,
) -> None:
    moved = replace(plan, mountpoint=Path("/else/where"))
    assert going_on(moved, left_by(plan), mounted_at(plan)).plan == plan


def test_other_settings_than_the_kernel_was_told_of_are_mounted_anew(
    plan: MountPlan, expected_log: ExpectedLog
) -> None:
    expected_log("other settings .*durability.* it is mounted again")
    other = replace(plan, settings=replace(plan.settings, durability="remote"))
    left = left_by(plan)
    found = going_on(other, left, mounted_at(plan))
    assert (found.is_successor, found.plan) == (False, other)
    for fd in (left.connection, left.record):
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


def test_what_is_no_record_is_let_go_and_mounted_anew(
    plan: MountPlan, expected_log: ExpectedLog
) -> None:
    expected_log("can't be read .* it is mounted again")
    left = Left(os.dup(0), os.memfd_create("none"))
    found = going_on(plan, left, mounted_at(plan))
    assert (found.is_successor, found.held) == (False, ())


def test_a_mount_that_was_taken_away_meanwhile_is_not_mounted_again(plan: MountPlan) -> None:
    left = left_by(plan)
    with pytest.raises(StartError, match="was unmounted"):
        going_on(plan, left)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(left.connection)


def test_what_was_left_is_taken_once_and_only_where_it_makes_sense(
    expected_log: ExpectedLog,
) -> None:
    expected_log("can't be used")
    for text in ("", "3", "3,x", "3;4"):
        assert left_behind({KEPT: text}) is None
    first, second = os.dup(0), os.dup(0)
    environ = {KEPT: f"{first},{second}"}
    assert left_behind(environ) == Left(first, second)
    assert environ == {}
    os.close(first)
    os.close(second)
    assert left_behind({KEPT: f"{first},{second}"}) is None


def test_who_ended_holds_the_connection_no_longer_unless_somebody_goes_on(
    plan: MountPlan,
) -> None:
    """A thread that the kernel keeps waiting for an answer would keep the process for ever."""
    left = left_by(plan)
    found = going_on(plan, left, mounted_at(plan))
    found.is_upgrading = True
    found.ended()
    os.fstat(left.connection)
    found.is_upgrading = False
    found.ended()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(left.connection)


def test_a_second_word_is_one_that_the_keeper_did_not_pass_on(
    plan: MountPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        monkeypatch.setenv(KEEPER, str(theirs.detach()))
        kept = GoingOn(plan)
        assert [kept.is_echo(at_s) for at_s in (10.0, 10.1, 10.2)] == [False, True, False]
        assert [kept.is_echo(at_s) for at_s in (20.0, 30.0)] == [False, False]
    kept.let_go()  # nobody is there: it closes its end
    alone = GoingOn(plan)
    assert [alone.is_echo(at_s) for at_s in (10.0, 10.1)] == [False, False]


class Telling(FuseMount):
    """A thread tells the kernel of a name, for so many looks."""

    def __init__(self, looks: int) -> None:
        super().__init__(Path("/nowhere"))
        self.looks = looks
        self.is_ending = False

    def leave_if_told(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def terminate(self) -> None:
        self.is_ending = True


async def test_an_upgrade_that_a_call_keeps_waiting_says_so_and_the_next_one_goes(
    plan: MountPlan, autojump_clock: MockClock
) -> None:
    left = left_by(plan)
    found, fuse = going_on(plan, left, mounted_at(plan)), Telling(1 << 30)
    with pytest.raises(StartError, match="not upgraded: a call there waits for the remote"):
        await found.upgrade({}, fuse, lambda: "ready")
    assert (found.is_upgrading, fuse.is_ending) == (False, False)
    fuse.looks = 3
    assert (await found.upgrade({}, fuse, lambda: "ready"))["state"] == "ready"
    assert (found.is_upgrading, fuse.is_ending) == (True, True)
    os.close(left.connection)
