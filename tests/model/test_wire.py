"""The model's own way of knowing that nothing moves any more."""

from mountd.remotes.base import ABSENT, Upload
from tests.fakes.memory_store import MemoryStore
from tests.model.wire import Wire


class Watched(MemoryStore):
    """Notes how many calls go on when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = Wire(self)
        self.active = 0

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        self.active = self.wire.active
        return super().read(key, start, end, version)


class FromTheRemote:
    """A body that is read from where it is sent to, as that of an edit is."""

    size = 1

    def __init__(self, wire: Wire, version: str) -> None:
        self._wire = wire
        self._version = version

    def read(self, start: int, end: int) -> bytes:
        return bytes(self._wire.read("f", start, end, self._version))


def test_a_put_that_reads_what_it_sends_is_one_call() -> None:
    """As two, a read that a fault holds would keep the loop from ever being quiet."""
    store = Watched()
    body = FromTheRemote(store.wire, store.seed("f", b"x"))
    store.wire.put("g", body, ABSENT, Upload())
    assert (store.active, store.wire.active) == (1, 0)
