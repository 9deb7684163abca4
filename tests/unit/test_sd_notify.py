"""sd_notify against a real socket, named by a path and by an abstract name."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mountd.service.sd_notify import Notifier, PassedFd, message_of, passed_fds, watchdog_interval_s
from tests.conftest import ExpectedLog


class Manager:
    """The receiving end, as systemd has it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(5)

    def receive(self) -> tuple[str, list[int]]:
        data, fds, _, _ = socket.recv_fds(self._socket, 8192, 4)
        return data.decode(), fds

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = str(tmp_path / "notify") if request.param == "path" else f"@mountd-test-{os.getpid()}"
    manager = Manager(path)
    yield manager
    manager.close()


def test_lines_arrive_in_one_message_whatever_kind_of_address_it_is(manager: Manager) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": manager.address})
    assert notifier.is_listened_to
    assert notifier.send(READY=1, STATUS="serves s3://bucket\nREADY=0")
    assert manager.receive() == ("READY=1\nSTATUS=serves s3://bucket READY=0", [])
    notifier.close()
    assert notifier.send(WATCHDOG=1), "another socket is opened"
    assert manager.receive() == ("WATCHDOG=1", [])
    notifier.close()


def test_a_descriptor_arrives_as_a_descriptor_of_the_same_file(
    manager: Manager, tmp_path: Path
) -> None:
    notifier = Notifier(manager.address)
    ours = os.open(tmp_path, os.O_RDONLY)
    assert notifier.send(FDSTORE=1, FDNAME="fuse", FDPOLL=0, fds=[ours])
    os.close(ours)
    text, fds = manager.receive()
    assert text == "FDSTORE=1\nFDNAME=fuse\nFDPOLL=0"
    assert [os.path.samestat(os.fstat(fd), tmp_path.stat()) for fd in fds] == [True]
    os.close(fds[0])
    notifier.close()


def test_without_a_manager_nothing_is_sent_and_nothing_fails() -> None:
    notifier = Notifier.from_environment({})
    assert not notifier.is_listened_to
    assert not notifier.send(READY=1)
    notifier.close()


def test_an_address_of_another_kind_is_said_and_not_used(expected_log: ExpectedLog) -> None:
    expected_log("vsock:2:1 is neither")
    assert not Notifier.from_environment({"NOTIFY_SOCKET": "vsock:2:1"}).is_listened_to


def test_a_manager_that_is_gone_is_told_of_once_and_does_not_raise(
    tmp_path: Path, expected_log: ExpectedLog, caplog: pytest.LogCaptureFixture
) -> None:
    expected_log("was not told")
    notifier = Notifier(str(tmp_path / "nobody"))
    assert [notifier.send(WATCHDOG=1) for _ in range(3)] == [False] * 3
    assert len(caplog.records) == 1
    notifier.close()


def test_a_manager_that_reads_nothing_does_not_make_us_wait(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    notifier = Notifier(manager.address)
    taken = 0
    while notifier.send(WATCHDOG=1):
        taken += 1
        assert taken < 100_000
    manager.receive()
    assert taken
    assert notifier.send(WATCHDOG=1), "and it goes on as soon as there is room"
    notifier.close()
    manager.close()


def test_a_long_status_is_cut_between_characters_and_the_other_lines_stay() -> None:
    message = message_of({"STATUS": "ä" * 5000, "READY": 1})
    assert len(message) <= 4096
    status, ready = message.decode().splitlines()
    assert (set(status.removeprefix("STATUS=")), ready) == ({"ä"}, "READY=1")


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time_and_only_by_whom_it_watches(
    environ: dict[str, str], interval_s: float | None
) -> None:
    assert watchdog_interval_s(environ, pid=7) == interval_s


def test_descriptors_are_taken_only_by_the_process_that_they_are_for() -> None:
    environ = {"LISTEN_FDS": "2", "LISTEN_PID": "7", "LISTEN_FDNAMES": "fuse"}
    assert passed_fds(environ, pid=7) == (PassedFd(3, "fuse"), PassedFd(4, "unknown"))
    assert passed_fds(environ, pid=8) == ()
    assert passed_fds({**environ, "LISTEN_FDS": "many"}, pid=7) == ()
    assert passed_fds({}, pid=7) == ()
