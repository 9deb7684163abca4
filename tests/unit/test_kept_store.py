"""The service manager's file-descriptor store: what is told to it, and what is taken from it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mountd.kept.descriptors import KEEPER, KEPT, Left
from mountd.kept.record import Head, Record, Unsound, note_start, supersede
from mountd.kept.starts import MOST, WITHIN_S, Attempts
from mountd.kept.store import STORED, Store, kept_by, left_in_store, left_to_us
from mountd.service.sd_notify import Notifier, PassedFd
from tests.conftest import ExpectedLog
from tests.fakes.service_manager import ServiceManager
from tests.unit.test_kept_record import GREETING


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    with ServiceManager(tmp_path / "notify") as found:
        yield found


@pytest.fixture
def connection() -> Iterator[int]:
    fd = os.open("/dev/null", os.O_RDWR)
    yield fd
    os.close(fd)


def successor_of(manager: ServiceManager) -> Left | None:
    """What the next process takes; /dev/null stands for a connection."""
    return left_in_store(manager.passed(), manager.notifier, lambda fd: True)


def test_a_mount_has_one_connection_and_its_latest_record_in_the_store(
    manager: ServiceManager, connection: int
) -> None:
    record = Record(GREETING, b"terms")
    store = Store(manager.notifier)
    store.keep(connection, record.fd)
    first = manager.names
    assert [name.split("-")[1] for name in first] == ["connection", "record"]
    store.keep(connection, record.fd)
    assert len(manager.names) == 2
    assert manager.names[0] == first[0]
    assert manager.names[1] != first[1], "removing the old one never removes the new one"
    store.let_go()
    store.let_go()
    assert manager.names == []


def test_a_successor_goes_on_with_the_names_that_it_found(
    manager: ServiceManager, connection: int
) -> None:
    record = Record(GREETING, b"terms")
    Store(manager.notifier).keep(connection, record.fd)
    found = successor_of(manager)
    assert found is not None
    assert list(found.names) == manager.names
    after = Record.read(found.record)
    Store(manager.notifier, found.names).keep(found.connection, after.fd)
    assert len(manager.names) == 2
    assert manager.names[0] == found.names[0]
    found.close()
    second = successor_of(manager)
    assert second is not None
    assert Head.read(second.record).generation == 1
    second.close()


def test_of_several_records_the_latest_is_gone_on_with_and_the_others_are_removed(
    manager: ServiceManager, connection: int
) -> None:
    record = Record(GREETING, b"terms")
    Store(manager.notifier).keep(connection, record.fd)
    prefix = manager.names[1].rpartition("-")[0]
    later = Record.read(record.fd)
    latest = Record.read(later.fd)
    for name, fd in (("0000000a", latest.fd), ("0000000b", later.fd)):
        manager.kept.append((f"{prefix}-{name}", os.dup(fd)))
    torn = os.memfd_create("torn")
    manager.kept.append((f"{prefix}-0000000c", torn))
    manager.kept.append(("mountd-of-tomorrow", os.dup(torn)))
    found = successor_of(manager)
    assert found is not None
    assert Head.read(found.record).generation == 2
    assert manager.names == list(found.names)
    found.close()


def test_a_record_that_was_written_anew_is_later_and_the_old_one_is_none_any_more(
    manager: ServiceManager, connection: int, expected_log: ExpectedLog
) -> None:
    record = Record(GREETING, b"terms")
    store = Store(manager.notifier)
    store.keep(connection, record.fd)
    before = os.dup(record.fd)
    number = Head.read(before).number
    record.moved = lambda fd: store.keep(connection, fd)
    for inode in range(100_000):
        record.edited(inode)
    assert Head.read(record.fd).number > number
    with pytest.raises(Unsound):
        Head.read(before)
    assert len(manager.names) == 2
    os.close(before)
    supersede(record.fd)  # as if systemd had not been told of a new one
    expected_log("can't be used")
    assert successor_of(manager) is None
    assert manager.names == []


def test_what_does_not_belong_together_or_is_no_connection_is_let_go(
    manager: ServiceManager, connection: int, expected_log: ExpectedLog
) -> None:
    record = Record(GREETING, b"terms")
    Store(manager.notifier).keep(connection, record.fd)
    expected_log("can't be used")
    assert left_in_store(manager.passed(), manager.notifier) is None, "it is /dev/null"
    assert manager.names == []
    for _ in range(2):  # of two mounts at once nobody can know which one is meant
        Store(manager.notifier).keep(connection, record.fd)
    assert successor_of(manager) is None
    assert manager.names == []


def test_what_the_manager_has_no_room_for_is_told_later_and_nothing_is_removed_before(
    connection: int,
) -> None:
    class Full:
        is_listened_to = True

        def __init__(self) -> None:
            self.room = 0
            self.told: list[dict[str, str | int]] = []

        def send(self, *, fds: object = (), **assignments: str | int) -> bool:
            if self.room <= 0:
                return False
            self.room -= 1
            self.told.append(assignments)
            return True

    record = Record(GREETING, b"terms")
    full = Full()
    store = Store(full)
    full.room = 2
    store.keep(connection, record.fd)
    store.keep(connection, record.fd)
    store.keep(connection, record.fd)
    assert len(full.told) == 2
    full.room = 1
    store.settle()
    assert full.told[-1]["FDSTORE"] == 1
    full.room = 9
    store.settle()
    assert [next(iter(told)) for told in full.told[3:]] == ["FDSTOREREMOVE"]
    assert full.told[3]["FDNAME"] == full.told[1]["FDNAME"], "the second was never there"


def test_the_sixth_start_within_a_minute_goes_on_with_nothing(
    manager: ServiceManager, connection: int, expected_log: ExpectedLog
) -> None:
    expected_log("died, one after the other")
    record = Record(GREETING, b"terms")
    Store(manager.notifier).keep(connection, record.fd)
    for _ in range(MOST - 1):
        found = successor_of(manager)
        assert found is not None
        record = Record.read(found.record)
        Store(manager.notifier, found.names).keep(found.connection, record.fd)
        record.serves()
        found.close()
    assert successor_of(manager) is None
    assert manager.names == []


def test_starts_count_within_a_minute_and_those_in_vain_from_the_first_on() -> None:
    attempts = Attempts()
    for at in range(1, 20):
        begun = attempts.begun(at * WITHIN_S / (MOST - 1))
        assert begun is not None
        attempts = begun.served()
    first = attempts.begun(2000.0)
    assert first is not None
    second = first.begun(2000.0 + WITHIN_S - 1)
    assert second is not None
    assert second.begun(2000.0 + WITHIN_S) is None
    assert second.served().begun(2000.0 + WITHIN_S) is not None
    assert Attempts.unpack(second.pack()) == second


def test_a_successors_record_knows_of_the_starts_before_it() -> None:
    record = Record(GREETING, b"terms")
    for now_s in range(1, MOST):
        assert note_start(record.fd, now_s)
        record = Record.read(record.fd)
    assert not note_start(record.fd, MOST)


def test_only_the_process_that_it_is_meant_for_takes_something_and_its_children_hear_nothing() -> (
    None
):
    passed = {"LISTEN_FDS": "1", "LISTEN_PID": "1", "LISTEN_FDNAMES": "mountd-connection-0"}
    environ = dict(passed)
    assert left_to_us(environ) is None
    assert environ == {}
    first, second = os.dup(0), os.dup(0)
    environ = {KEPT: f"{first},{second}", STORED: "mountd-connection-1:mountd-record-1"}
    found = left_to_us(environ)
    assert found == Left(first, second, ("mountd-connection-1", "mountd-record-1"))
    store = kept_by(found, {"NOTIFY_SOCKET": "/nowhere"})
    assert store.environment == {STORED: "mountd-connection-1:mountd-record-1"}
    assert environ == {}
    assert found is not None
    found.close()
    assert kept_by(None, {KEEPER: "none", "NOTIFY_SOCKET": "/nowhere"}).fd is None


NAMES = st.from_regex(r"mountd-(connection|record)-0{15}[01](-0{7}[0-3])?", fullmatch=True)


TWICE = [
    ("mountd-connection-0000000000000000", b""),
    *[("mountd-record-0000000000000000-00000000", b"")] * 2,
]


@example(stored=TWICE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stored=st.lists(st.tuples(NAMES | st.text(max_size=20), st.binary(max_size=200)), max_size=6)
)
def test_whatever_is_in_the_store_it_is_gone_on_with_or_closed(
    expected_log: ExpectedLog, stored: list[tuple[str, bytes]]
) -> None:
    expected_log("can't be used")
    record = Record(GREETING, b"terms")
    passed = []
    for name, noise in stored:
        fd = os.memfd_create("stored")
        os.pwrite(fd, os.pread(record.fd, 1 << 20, 0), 0)
        os.pwrite(fd, noise, len(noise) % 120)
        passed.append(PassedFd(fd, name))
    record.close()
    left = left_in_store(passed, Notifier(None), lambda fd: True)
    kept = {left.connection, left.record} if left is not None else set()
    for each in passed:
        if each.fd not in kept:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(each.fd)
    if left is not None:
        assert Head.read(left.record).terms == b"terms"
        left.close()
