"""Whose request it was: the log of one request's attempts, and of a change's, has one id."""

import logging

import pytest

from mountd.errors import NotFound, Unreachable
from mountd.origin import begun, origin
from mountd.remotes.counting import CountingStore
from mountd.remotes.retry import RetryingStore
from mountd.sync.call_threads import CallThreads
from tests.fakes.fault_store import FaultStore
from tests.fakes.memory_store import MemoryStore


class Lines(logging.Handler):
    """What a formatter would see: each message with the request that it belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        whose = origin.get()
        operation, path = getattr(record, "operation", ""), getattr(record, "path", "")
        request = whose.request if whose else ""
        self.seen.append((record.getMessage(), request, operation, path))


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture(autouse=True)
def _logger(lines: Lines) -> object:
    logger = logging.getLogger("mountd.remotes.latency")
    logger.addHandler(lines)
    logger.setLevel(logging.DEBUG)
    yield
    logger.removeHandler(lines)
    logger.setLevel(logging.NOTSET)


def stack() -> tuple[FaultStore, RetryingStore]:
    faults = FaultStore(MemoryStore({"a/b": b"0123456789"}))
    return faults, RetryingStore(CountingStore(faults), 60.0, wait=lambda event, seconds: None)


def test_all_attempts_of_a_request_have_its_id_and_another_request_has_another(
    lines: Lines,
) -> None:
    faults, store = stack()
    faults.add("read", Unreachable("cut"), calls=[1])
    store.read("a/b", 0, 3, "")
    store.read("a/b", 3, 6, "")
    first, second, third = lines.seen
    assert first[0].startswith("read of 'a/b' failed after 0.0")
    assert first[0].endswith(" s: Unreachable: cut")
    assert first[1] == second[1] != third[1]
    assert {line[2:] for line in lines.seen} == {("read", "a/b")}


def test_an_error_knows_the_request_that_it_ended(lines: Lines) -> None:
    _, store = stack()
    with pytest.raises(NotFound) as caught:
        store.stat("nowhere")
    assert caught.value.request_id == lines.seen[0][1] != ""
    assert origin.get() is None


def test_requests_of_one_doing_share_its_id(lines: Lines) -> None:
    _, store = stack()
    with begun("rename", "a/"):
        store.stat("a/b")
        assert len(list(store.list("a/"))) == 1
    assert len({line[1] for line in lines.seen}) == 1
    assert [line[2:] for line in lines.seen] == [("stat", "a/b"), ("list", "a/")]


async def test_the_queues_threads_know_whose_call_they_make() -> None:
    threads = CallThreads(1)
    assert await threads.run(origin.get) is None
    with begun("file", "a"):
        assert await threads.run(origin.get) is origin.get() is not None
    assert await threads.run(origin.get) is None
    threads.rest()
