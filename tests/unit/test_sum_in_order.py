"""Parts that come in any order, and their sum."""

import hashlib
import threading
from collections.abc import Callable

from mountd.remotes.nextcloud_chunks import CHUNK_BYTES, MIN_CHUNK_BYTES, chunk_bytes_for
from mountd.remotes.sum_in_order import SumInOrder


def at_once(function: Callable[[], None]) -> None:
    function()


def sum_of(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def test_parts_in_any_order_have_the_sum_of_the_whole_and_of_each_beginning() -> None:
    sums = SumInOrder(hashlib.md5(b"before"), 3, at_once)
    for number, part in ((5, b"c"), (3, b"a"), (3, b"a"), (1, b"old"), (4, b"b")):
        sums.add(number, part)
    never = threading.Event()
    assert [sums.wait(number, never) for number in (3, 4, 5)] == [True] * 3
    wholes = b"beforea", b"beforeab", b"beforeabc"
    assert [sums.up_to(number) for number in (3, 4, 5)] == [sum_of(whole) for whole in wholes]


def test_who_waits_for_a_part_that_never_comes_ends_when_the_others_do() -> None:
    sums = SumInOrder(hashlib.md5(), 1, at_once)
    sums.add(2, b"b")
    stop = threading.Event()
    stop.set()
    assert not sums.wait(2, stop)


def test_many_threads_that_give_parts_have_one_sum() -> None:
    begun: list[threading.Thread] = []

    def begin(function: Callable[[], None]) -> None:
        begun.append(threading.Thread(target=function))
        begun[-1].start()

    parts = [bytes([number]) * 5000 for number in range(200)]
    sums = SumInOrder(hashlib.md5(), 0, begin)

    def give(first: int) -> None:
        for number in range(first, 200, 4):
            sums.add(number, parts[number])

    givers = [threading.Thread(target=give, args=(first,)) for first in range(4)]
    for giver in givers:
        giver.start()
    assert sums.wait(199, threading.Event())
    for thread in (*givers, *begun):
        thread.join()
    assert sums.up_to(199) == sum_of(b"".join(parts))


def test_chunks_are_even_and_keep_all_connections_busy_until_the_end() -> None:
    mib = 1 << 20
    sizes = (17 * mib, 40 * mib, 65 * mib, 200 * mib + 1, 1 << 30)
    for size in sizes:
        chunk = chunk_bytes_for(size, CHUNK_BYTES, 4)
        assert MIN_CHUNK_BYTES <= chunk <= CHUNK_BYTES
        assert -(-size // chunk) % 4 == 0, size
    assert chunk_bytes_for(1 << 30, CHUNK_BYTES, 4) == CHUNK_BYTES
    assert chunk_bytes_for(6 * 1000, 1000, 4) == 1000
