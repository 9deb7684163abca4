"""Large files: chunks side by side into a folder, and one MOVE that makes the file of them.

Nothing is seen before the MOVE, so a chunk that fails is sent again, and an upload that broke off
goes on with the chunks that are there. The server keeps no sum of a chunk. So the token has the
sum of all bytes up to the last chunk before which none is missing: a body with the same sum goes on
after it, and only if the folder shows each of those chunks in its full size.
"""

import hashlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final

from mountd.errors import Corrupt, Locked, RemoteError, Throttled, Unreachable, Unsupported
from mountd.remotes.base import ABSENT, Body, Upload
from mountd.remotes.nextcloud_assembly import Assembly, Goal
from mountd.remotes.nextcloud_folders import TOTAL_HEADER, Token, UploadFolders, UploadLost
from mountd.remotes.side_by_side import SideBySide, Stopped, unless_stopped, with_repeats
from mountd.remotes.sum_in_order import SumInOrder
from mountd.types import Entry

logger = logging.getLogger(__name__)

CHUNK_BYTES: Final = 16 << 20
MIN_CHUNK_BYTES: Final = 5 << 20  # but for the last
MAX_CHUNK_BYTES: Final = 5 << 30
MAX_CHUNKS: Final = 10_000
MAX_FILE_BYTES: Final = MAX_CHUNKS * MAX_CHUNK_BYTES
_GRAIN_BYTES = 1 << 20
_READ_BYTES = 1 << 20
_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class _Chunk:
    number: int  # from 1
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Looks:
    """Asked before the first chunk goes, beside one another. `before`: as `Goal.before`, raises
    where that isn't as it must be. `room` raises where a new file wouldn't fit."""

    before: Callable[[], str]
    room: Callable[[], None]


class ChunkedUploads:
    """Thread-safe. All uploads share a few threads, and so a few connections."""

    def __init__(
        self,
        folders: UploadFolders,
        assembly: Assembly,
        at_once: int,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._folders = folders
        self._assembly = assembly
        self._threads = SideBySide("nextcloud-chunks", at_once, at_once)
        # Two looks and a sum for each upload, and one sweep: these wait for nobody's chunks.
        self._beside = SideBySide("nextcloud-beside", 3 * at_once + 1)
        self._at_once = at_once
        self._chunk_bytes = chunk_bytes

    def put(
        self,
        goal: Goal,
        body: Body,
        upload: Upload,
        looks: Looks,
        max_chunk_bytes: int | None = None,
        max_at_once: int | None = None,
    ) -> Entry:
        """What `goal` says, of these bytes. Raises as `RemoteStore.put`."""
        at_once = min(self._at_once, max_at_once or self._at_once)
        threads = self._threads, self._beside
        at_most = min(self._chunk_bytes, max_chunk_bytes or 1 << 62)
        chunk_bytes = chunk_bytes_for(goal.size, at_most, at_once)
        token = self._usable(Token.parse(upload.resume), body) if upload.resume else None
        looking = _Looking(looks, goal.expect, self._beside)
        for _ in range(_ROUNDS):
            attempt = _Upload(self._folders, self._assembly, *threads, goal, body, upload, looking)
            try:
                return attempt.run(token, chunk_bytes, at_once)
            except UploadLost as error:
                logger.info("%r is sent anew: %s", goal.key, error)
                if self._folders.is_abandoned(attempt.folder):
                    raise Unreachable(f"{goal.key!r}: the upload was given up") from error
                token = None
        raise Corrupt(f"{goal.key!r}: the server loses what is sent to it")

    def abandon(self, text: str) -> None:
        token = Token.parse(text)
        if token is not None:
            self._folders.abandon(token.folder)

    def close(self) -> None:
        self._threads.close()
        self._beside.close()

    def _usable(self, token: Token | None, body: Body) -> Token | None:
        """The token, if it can be of this body; its sum is compared later."""
        if token is None or self._folders.is_abandoned(token.folder):
            return None
        count = -(-body.size // token.chunk_bytes)
        return token if token.done <= count <= MAX_CHUNKS else None


class _Looking:
    """`Looks` that go on beside other things."""

    def __init__(self, looks: Looks, expect: str | None, beside: SideBySide) -> None:
        self._looks = looks
        self._before = beside.begin(looks.before)
        # What is replaced makes room, so that isn't asked where something may be there.
        self._room: Future[None] | None = beside.begin(looks.room) if expect == ABSENT else None

    def result(self) -> str:
        """`Goal.before`. Raises what the looks raise: the condition first, and then the room."""
        before = self._before.result()
        if self._room is not None:
            self._room.result()
        elif before == ABSENT:
            self._looks.room()
        return before


class _Upload:
    """One upload, in the thread that called `put`. One use."""

    def __init__(
        self,
        folders: UploadFolders,
        assembly: Assembly,
        threads: SideBySide,
        beside: SideBySide,
        goal: Goal,
        body: Body,
        upload: Upload,
        looking: _Looking,
    ) -> None:
        self._folders = folders
        self._assembly = assembly
        self._threads = threads
        self._beside = beside
        self._looking = looking
        self._goal = goal
        self._body = body
        self._tell = upload.progress
        self._completing = upload.completing
        self._acknowledged: set[int] = set()
        self._token = Token("", 1)

    @property
    def folder(self) -> str:
        return self._token.folder

    def run(self, token: Token | None, chunk_bytes: int, at_once: int) -> Entry:
        """Raises UploadLost where the folder turns out to be gone."""
        there: dict[int, int] = {}
        hasher = hashlib.md5(usedforsecurity=False)
        if token is not None:
            self._token = token
            there = self._folders.sizes(token.folder)
            self._sum_up(hasher, token)
            if hasher.hexdigest() != (token.md5 or hasher.hexdigest()):
                logger.info("%r: what was sent before is of another state", self._goal.key)
                self._folders.remove(token.folder)
                token, there = None, {}
                hasher = hashlib.md5(usedforsecurity=False)
        if token is None:
            token = Token(self._make(), chunk_bytes)
        self._token = token
        try:
            self._progress()
            self._goal = replace(self._goal, before=self._looking.result())
            return self._send(token, there, hasher, at_once)
        except UploadLost:
            self._folders.remove(token.folder)
            self._forget()
            raise
        except BaseException as error:
            if self._tell is None or not _can_go_on(error):
                self._folders.remove(self._token.folder)
                self._forget()
            raise

    def _make(self) -> str:
        """A folder's name. What the looks say explains more than a refusal does."""
        try:
            return self._folders.make(self._goal.destination, self._goal.size)
        except RemoteError:
            self._looking.result()
            raise

    def _send(
        self, token: Token, there: dict[int, int], hasher: "hashlib._Hash", at_once: int
    ) -> Entry:
        chunks = _chunks(self._goal.size, token.chunk_bytes)
        trusted = chunks[: token.done]
        missing = [chunk for chunk in trusted if there.get(chunk.number) != chunk.end - chunk.start]
        rest = chunks[token.done :]
        sums = SumInOrder(hasher, token.done + 1, self._beside.begin)
        headers = {"Destination": self._goal.destination, TOTAL_HEADER: str(self._goal.size)}

        def send(chunk: _Chunk, stop: threading.Event) -> None:
            data = sums.take(chunk.number, lambda: self._body.read(chunk.start, chunk.end), stop)
            if data is None:
                raise Stopped

            def request() -> None:
                sent = unless_stopped(data, stop)
                self._folders.put(token.folder, chunk.number, sent, headers)

            with_repeats(request, stop)
            if not sums.wait(chunk.number, stop):
                raise Stopped

        def sent(chunk: _Chunk) -> None:
            self._sent(chunk, sums)

        self._acknowledged = {chunk.number for chunk in trusted} - {c.number for c in missing}
        self._beside.begin(self._folders.sweep)
        self._threads.run([*missing, *rest], send, sent, at_once)
        goal = replace(self._goal, md5=hasher.hexdigest())
        if self._completing is not None:
            self._completing(goal.md5)
        entry = self._assembly.finish(token.folder, goal)
        self._forget()
        return entry

    def _sum_up(self, hasher: "hashlib._Hash", token: Token) -> None:
        """Adds the bytes of the chunks that are done."""
        end = min(token.done * token.chunk_bytes, self._goal.size)
        for at in range(0, end, _READ_BYTES):
            hasher.update(self._body.read(at, min(at + _READ_BYTES, end)))

    def _sent(self, chunk: _Chunk, sums: SumInOrder) -> None:
        self._acknowledged.add(chunk.number)
        done = self._token.done
        while done + 1 in self._acknowledged:
            done += 1
        if done > self._token.done:
            self._token = replace(self._token, done=done, md5=sums.up_to(done))
            self._progress()

    def _progress(self) -> None:
        if self._tell is not None:
            self._tell(str(self._token))

    def _forget(self) -> None:
        if self._tell is not None:
            self._tell("")


def _can_go_on(error: BaseException) -> bool:
    """Whether what is on the server is worth keeping. An error of the body says nothing about it;
    who holds a lock lets it go some time."""
    if not isinstance(error, RemoteError):
        return True
    return isinstance(error, Unreachable | Throttled | Locked)


def chunk_bytes_for(size: int, chunk_bytes: int, at_once: int = 1) -> int:
    """`chunk_bytes`, or more where there would be too many, or fewer so that `at_once` connections
    are all busy until the end. Raises Unsupported."""
    if size > MAX_FILE_BYTES:
        raise Unsupported(f"{size} bytes are more than {MAX_CHUNKS} chunks can have")
    needed = -(-size // MAX_CHUNKS)
    if needed > chunk_bytes:
        return _grains(needed)
    if at_once == 1 or size <= chunk_bytes:
        return chunk_bytes
    rounds = -(-size // (at_once * chunk_bytes))
    even = _grains(-(-size // (at_once * rounds)))
    return min(chunk_bytes, max(even, MIN_CHUNK_BYTES, needed))


def _grains(size: int) -> int:
    return -(-size // _GRAIN_BYTES) * _GRAIN_BYTES


def _chunks(size: int, chunk_bytes: int) -> list[_Chunk]:
    return [
        _Chunk(number, start, min(start + chunk_bytes, size))
        for number, start in enumerate(range(0, size, chunk_bytes), 1)
    ]
