"""A store in memory that takes large files in parts, and goes on where an upload broke off."""

import itertools

from mountd.errors import Unreachable, VersionChanged
from mountd.remotes.base import Body, Upload
from mountd.types import Entry
from tests.fakes.body import BytesBody
from tests.fakes.memory_store import MemoryStore

PART = 1 << 20


class PartsStore(MemoryStore):
    """`begun`: the parts of each unfinished upload, by its token. `sent`: how many parts have come
    in all. `cut_after`: the next puts fail when so many parts have come, one number for each."""

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        super().__init__(objects or {})
        self.begun: dict[str, dict[int, bytes]] = {}
        self.sent = 0
        self.cut_after: list[int] = []
        self._numbers = itertools.count(1)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        if body.size <= PART or upload.progress is None:
            return super().put(key, body, expect, upload)
        token = upload.resume
        if token not in self.begun:
            token = f"upload-{next(self._numbers)}"
            self.begun[token] = {}
        upload.progress(token)
        self._receive(token, body)
        whole = BytesBody(b"".join(part for _, part in sorted(self.begun[token].items())))
        try:
            entry = super().put(key, whole, expect, upload)
        except VersionChanged:
            self.begun.pop(token, None)
            upload.progress("")
            raise
        self.begun.pop(token, None)
        upload.progress("")
        return entry

    def abandon(self, key: str, token: str) -> None:
        self._begin("abandon")
        self.begun.pop(token, None)

    def _receive(self, token: str, body: Body) -> None:
        parts = self.begun[token]
        left = self.cut_after.pop(0) if self.cut_after else body.size
        for number, start in enumerate(range(0, body.size, PART)):
            data = bytes(body.read(start, min(start + PART, body.size)))
            if parts.get(number) == data:
                continue
            if not left:
                raise Unreachable("reset")
            parts[number] = data
            left -= 1
            self.sent += 1
