"""Which directories the remote is moving now: what it says of the old names may be old itself."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Moving:
    """Of the loop's thread."""

    def __init__(self) -> None:
        self._over: dict[str, trio.Event] = {}

    @contextmanager
    def begun(self, directory: str) -> Iterator[None]:
        """The remote may move that directory until this ends; how long is for the caller to
        bound."""
        over = self._over[directory] = trio.Event()
        try:
            yield
        finally:
            del self._over[directory]
            over.set()

    def is_at(self, key: str) -> bool:
        """Whether a directory is being moved that is at or above `key`."""
        return any(key.startswith(directory) for directory in self._over)

    async def over(self, key: str) -> bool:
        """Where `is_at`, waits for the end, and then says True: whoever heard that `key` is gone
        asks again."""
        found = [over for directory, over in self._over.items() if key.startswith(directory)]
        for over in found:
            await over.wait()
        return bool(found)
