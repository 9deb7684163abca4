"""What a daemon tells its keeper, also one that doesn't hear it for a while."""

import os
import socket
from collections.abc import Iterator

import pytest

from mountd.kept.descriptors import KEEPER, Keeper


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Keeper]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        yield ours, Keeper({KEEPER: str(theirs.detach())})


def heard(ours: socket.socket) -> list[tuple[bytes, list[int]]]:
    """All words, with what their descriptors are of."""
    ours.setblocking(False)
    found: list[tuple[bytes, list[int]]] = []
    while True:
        try:
            word, fds, _, _ = socket.recv_fds(ours, 64, 2)
        except BlockingIOError:
            return found
        if not word:
            return found
        found.append((word, [os.fstat(fd).st_ino for fd in fds]))
        for fd in fds:
            os.close(fd)


def memory() -> tuple[int, int]:
    """A descriptor, and what tells which."""
    fd = os.memfd_create("of a test")
    return fd, os.fstat(fd).st_ino


def test_a_keeper_that_was_stopped_hears_in_the_end_what_is_to_be_kept(
    ends: tuple[socket.socket, Keeper],
) -> None:
    ours, keeper = ends
    connection, _ = memory()
    former, _ = memory()
    for _ in range(5000):  # it hears none of them
        keeper.keep(connection, former)
    os.close(former)
    last, number = memory()
    keeper.keep(connection, last)
    keeper.serves()
    assert keeper.fd is not None  # it is not given up
    words = heard(ours)
    assert len(words) < 5000
    keeper.settle()
    words += heard(ours)
    assert [word for word, _ in words[-2:]] == [b"keep", b"serves"]
    assert words[-2][1][1] == number
    keeper.let_go()
    assert heard(ours) == [(b"end", [])]
    os.close(connection)
    os.close(last)
    ours.close()
    keeper.let_go()  # nobody is there: it closes its end
    assert keeper.fd is None
