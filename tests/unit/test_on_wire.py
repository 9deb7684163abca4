"""What an answer took on the wire, whenever we came to read it."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import httpcore
import pytest

from mountd.remotes.on_wire import LEAST_S, on_wire_s
from mountd.remotes.width import ROUND, Width
from tests.fakes.fake_clock import FakeClock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO is Linux's")


class Stream:
    def __init__(self, connected: socket.socket | None) -> None:
        self._connected = connected

    def get_extra_info(self, info: str) -> socket.socket | None:
        return self._connected


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        with ours, theirs:
            yield ours, theirs


def seen(connected: socket.socket | None) -> float | None:
    return on_wire_s(httpcore.Response(200, extensions={"network_stream": Stream(connected)}))


def answer_after(pair: tuple[socket.socket, socket.socket], after_s: float) -> float:
    """Theirs answers after so long; how long that took at most, as both ends' calls frame it."""
    ours, theirs = pair
    began_s = time.monotonic()
    ours.sendall(b"request")
    assert theirs.recv(100)
    threading.Event().wait(after_s)
    theirs.sendall(b"answer")
    return time.monotonic() - began_s


def test_how_late_an_answer_is_read_does_not_count(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    took_s = answer_after(pair, 0.1)
    threading.Event().wait(took_s + 0.2)  # nobody has time for it
    found = seen(pair[0])
    assert found is not None
    assert 0.1 - 0.02 < found < took_s + 0.02  # the kernel's clock has steps of 4 or 10 ms


def test_what_is_short_is_not_told(pair: tuple[socket.socket, socket.socket]) -> None:
    took_s = answer_after(pair, 0.0)
    assert seen(pair[0]) is None or took_s >= LEAST_S / 2


def test_what_is_no_tcp_socket_is_not_told() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert seen(one) is None
    assert seen(one) is None
    assert seen(None) is None
    assert on_wire_s(httpcore.Response(200)) is None


def test_answers_that_we_read_late_do_not_make_a_server_slow() -> None:
    """Of many at once each is read late, and four at once were not."""
    clock = FakeClock()
    width = Width(4, 16, clock)
    for _ in range(20 * ROUND):
        asked = [width.begin("PUT") for _ in range(width.now)]
        late_s = 0.05 if width.now > 4 else 0.0
        clock.advance(0.03 + late_s)
        for each in asked:
            width.answered(each, 201, wire_s=0.03)
            width.end()
    assert width.now == 16
