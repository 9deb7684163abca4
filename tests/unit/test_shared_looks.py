"""One look at a file for all who asked before it began."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from mountd.errors import NotFound, Unreachable
from mountd.remotes.shared_looks import SharedLooks

SOON_S = 10.0


class Server:
    """Answers a look when `answer` lets it, with what was there when it began."""

    def __init__(self) -> None:
        self.version = "v1"
        self.errors: dict[int, Exception] = {}  # by the look's number
        self.looks: list[str] = []
        self.begun = threading.Semaphore(0)
        self.answer = threading.Semaphore(0)

    def look(self, key: str, until_s: float) -> str:
        version, number = self.version, len(self.looks)
        self.looks.append(key)
        self.begun.release()
        assert self.answer.acquire(timeout=SOON_S)
        if number in self.errors:
            raise self.errors[number]
        return version


class Askers:
    """Threads that want to know; each that waits for another's look has asked for the time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.looks = SharedLooks(server.look, self._clock)
        self._waiting = threading.Semaphore(0)
        self._pool = ThreadPoolExecutor(16)

    def _clock(self) -> float:
        self._waiting.release()
        return time.monotonic()

    def ask(self, key: str = "f", within_s: float = SOON_S) -> "Future[str]":
        return self._pool.submit(self.looks.version, key, time.monotonic() + within_s)

    def looking(self, key: str = "f") -> "Future[str]":
        """One whose look is under way."""
        asked = self.ask(key)
        assert self.server.begun.acquire(timeout=SOON_S)
        return asked

    def waiting(self, count: int) -> "list[Future[str]]":
        """Those who asked while a look was under way, each after the other."""
        asked = []
        for _ in range(count):
            asked.append(self.ask())
            assert self._waiting.acquire(timeout=SOON_S)
        return asked

    def close(self) -> None:
        self.server.answer.release(100)
        self._pool.shutdown()


@pytest.fixture
def askers() -> Iterator[Askers]:
    made = Askers(Server())
    yield made
    made.close()


def test_all_who_ask_while_a_look_is_under_way_share_the_next_one(askers: Askers) -> None:
    first = askers.looking()
    others = askers.waiting(6)
    askers.server.answer.release(2)
    assert {each.result(SOON_S) for each in [first, *others]} == {"v1"}
    assert askers.server.looks == ["f", "f"]


def test_nobody_is_told_what_was_there_before_he_asked(askers: Askers) -> None:
    first = askers.looking()
    askers.server.version = "v2"
    (second,) = askers.waiting(1)
    askers.server.answer.release(2)
    assert (first.result(SOON_S), second.result(SOON_S)) == ("v1", "v2")


def test_a_look_that_failed_is_the_failure_of_the_one_who_looked(askers: Askers) -> None:
    askers.server.errors[1] = Unreachable("f")
    first = askers.looking()
    unlucky, *others = askers.waiting(3)
    askers.server.answer.release(4)
    with pytest.raises(Unreachable):
        unlucky.result(SOON_S)
    assert {each.result(SOON_S) for each in [first, *others]} == {"v1"}


def test_a_file_that_is_gone_is_looked_for_once(askers: Askers) -> None:
    askers.server.errors[1] = NotFound("f")
    first = askers.looking()
    others = askers.waiting(6)
    askers.server.answer.release(8)
    assert first.result(SOON_S) == "v1"
    assert all(isinstance(each.exception(SOON_S), NotFound) for each in others)
    assert len({id(each.exception()) for each in others}) == 6, "each has a traceback of his own"
    assert askers.server.looks == ["f", "f"]


def test_who_has_no_more_time_waits_for_nobody_and_the_others_go_on(askers: Askers) -> None:
    first = askers.looking()
    with pytest.raises(Unreachable, match="in time"):
        askers.ask(within_s=0.0).result(SOON_S)
    askers.server.answer.release(2)
    assert [each.result(SOON_S) for each in (first, askers.ask())] == ["v1", "v1"]


def test_looks_at_two_files_are_side_by_side(askers: Askers) -> None:
    first, second = askers.looking("f"), askers.looking("g")
    askers.server.answer.release(2)
    assert [each.result(SOON_S) for each in (first, second)] == ["v1", "v1"]
    assert askers.server.looks == ["f", "g"]
