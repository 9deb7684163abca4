"""A successor whose predecessor is dead and still holds the cache."""

import os
import socket
from collections.abc import Iterator

import pytest

from mountd.cache_folder import CacheHeld
from mountd.errors import CannotGoOn
from mountd.kept.freeing import claimed
from tests.conftest import ExpectedLog


@pytest.fixture
def connection() -> Iterator[int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours.fileno()  # nothing waits there


def test_it_waits_until_the_dead_one_has_ended(connection: int, expected_log: ExpectedLog) -> None:
    expected_log("pid 7 is dead")
    held = [CacheHeld("held", 7), CacheHeld("held", 7)]

    def claim() -> str:
        if held:
            raise held.pop()
        return "the cache"

    assert claimed(claim, connection, is_dead=lambda pid: pid == 7) == "the cache"


def test_a_cache_that_somebody_holds_who_lives_is_his(connection: int) -> None:
    def claim() -> str:
        raise CacheHeld("held", os.getpid())

    with pytest.raises(CacheHeld):
        claimed(claim, connection)


def test_where_it_never_ends_all_that_wait_get_an_error_and_it_is_mounted_anew(
    connection: int, expected_log: ExpectedLog
) -> None:
    expected_log("pid 7 is dead")

    def claim() -> str:
        raise CacheHeld("held", 7)

    times = iter((0.0, 31.0))
    with pytest.raises(CannotGoOn):
        claimed(claim, connection, is_dead=lambda pid: True, clock=lambda: next(times))
