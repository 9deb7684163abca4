"""Large files: chunks side by side into a folder, and one MOVE that makes the file of them.

Nothing is seen before the MOVE, so a chunk that fails is sent again, and an upload that broke off
goes on with the chunks that are there. The server keeps no sum of a chunk. So the token has the
sum of all bytes up to the last chunk before which none is missing: a body with the same sum goes on
after it, and only if the folder shows each of those chunks in its full size.
"""

import hashlib
import logging
import threading
from dataclasses import dataclass, replace
from typing import Final

from mountd.errors import Corrupt, Locked, RemoteError, Throttled, Unreachable, Unsupported
from mountd.remotes.base import Body, Upload
from mountd.remotes.nextcloud_assembly import Assembly, Goal
from mountd.remotes.nextcloud_folders import TOTAL_HEADER, Token, UploadFolders, UploadLost
from mountd.remotes.side_by_side import SideBySide, Stopped, unless_stopped, with_repeats
from mountd.types import Entry

logger = logging.getLogger(__name__)

CHUNK_BYTES: Final = 16 << 20
MAX_CHUNK_BYTES: Final = 5 << 30
MAX_CHUNKS: Final = 10_000
MAX_FILE_BYTES: Final = MAX_CHUNKS * MAX_CHUNK_BYTES
_GRAIN_BYTES = 1 << 20
_READ_BYTES = 1 << 20
_LOOK_AGAIN_S = 0.2  # whether another chunk has failed, while waiting for one's turn
_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class _Chunk:
    number: int  # from 1
    start: int
    end: int


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
        self._chunk_bytes = chunk_bytes

    def put(
        self, goal: Goal, body: Body, upload: Upload, max_chunk_bytes: int | None = None
    ) -> Entry:
        """What `goal` says, of these bytes. Raises as `RemoteStore.put`."""
        self._folders.sweep()
        chunk_bytes = chunk_bytes_for(goal.size, min(self._chunk_bytes, max_chunk_bytes or 1 << 62))
        token = self._usable(Token.parse(upload.resume), body) if upload.resume else None
        for _ in range(_ROUNDS):
            attempt = _Upload(self._folders, self._assembly, self._threads, goal, body, upload)
            try:
                return attempt.run(token, chunk_bytes)
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

    def _usable(self, token: Token | None, body: Body) -> Token | None:
        """The token, if it can be of this body; its sum is compared later."""
        if token is None or self._folders.is_abandoned(token.folder):
            return None
        count = -(-body.size // token.chunk_bytes)
        return token if token.done <= count <= MAX_CHUNKS else None


class _Upload:
    """One upload, in the thread that called `put`. One use."""

    def __init__(
        self,
        folders: UploadFolders,
        assembly: Assembly,
        threads: SideBySide,
        goal: Goal,
        body: Body,
        upload: Upload,
    ) -> None:
        self._folders = folders
        self._assembly = assembly
        self._threads = threads
        self._goal = goal
        self._body = body
        self._tell = upload.progress
        self._md5s: dict[int, str] = {}  # by the number of the chunk that they end with
        self._acknowledged: set[int] = set()
        self._token = Token("", 1)

    @property
    def folder(self) -> str:
        return self._token.folder

    def run(self, token: Token | None, chunk_bytes: int) -> Entry:
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
            folder = self._folders.make(self._goal.destination, self._goal.size)
            token = Token(folder, chunk_bytes)
        self._token = token
        try:
            self._progress()
            return self._send(token, there, hasher)
        except UploadLost:
            self._folders.remove(token.folder)
            self._forget()
            raise
        except BaseException as error:
            if self._tell is None or not _can_go_on(error):
                self._folders.remove(self._token.folder)
                self._forget()
            raise

    def _send(self, token: Token, there: dict[int, int], hasher: "hashlib._Hash") -> Entry:
        chunks = _chunks(self._goal.size, token.chunk_bytes)
        trusted = chunks[: token.done]
        missing = [chunk for chunk in trusted if there.get(chunk.number) != chunk.end - chunk.start]
        rest = chunks[token.done :]
        reading = _InOrder(self._body, hasher, token.done + 1, self._md5s)
        headers = {"Destination": self._goal.destination, TOTAL_HEADER: str(self._goal.size)}

        def send(chunk: _Chunk, stop: threading.Event) -> None:
            data = reading.read(chunk, stop)

            def request() -> None:
                sent = unless_stopped(data, stop)
                self._folders.put(token.folder, chunk.number, sent, headers)

            with_repeats(request, stop)

        self._acknowledged = {chunk.number for chunk in trusted} - {c.number for c in missing}
        self._threads.run([*missing, *rest], send, self._sent)
        goal = replace(self._goal, md5=hasher.hexdigest())
        entry = self._assembly.finish(token.folder, goal)
        self._forget()
        return entry

    def _sum_up(self, hasher: "hashlib._Hash", token: Token) -> None:
        """Adds the bytes of the chunks that are done."""
        end = min(token.done * token.chunk_bytes, self._goal.size)
        for at in range(0, end, _READ_BYTES):
            hasher.update(self._body.read(at, min(at + _READ_BYTES, end)))

    def _sent(self, chunk: _Chunk) -> None:
        self._acknowledged.add(chunk.number)
        done = self._token.done
        while done + 1 in self._acknowledged:
            done += 1
        if done > self._token.done:
            self._token = replace(self._token, done=done, md5=self._md5s[done])
            self._progress()

    def _progress(self) -> None:
        if self._tell is not None:
            self._tell(str(self._token))

    def _forget(self) -> None:
        if self._tell is not None:
            self._tell("")


class _InOrder:
    """Reads a body chunk by chunk and adds the bytes up, whichever thread comes first."""

    def __init__(
        self, body: Body, hasher: "hashlib._Hash", first: int, md5s: dict[int, str]
    ) -> None:
        self._body = body
        self._hasher = hasher
        self._next = first
        self._md5s = md5s
        self._turn = threading.Condition()

    def read(self, chunk: _Chunk, stop: threading.Event) -> memoryview:
        """The bytes, after those before them were read. Raises Stopped."""
        if chunk.number < self._next:  # one that is sent again: its bytes are in the sum
            return memoryview(self._body.read(chunk.start, chunk.end)).cast("B")
        with self._turn:
            while self._next != chunk.number:
                if stop.is_set():
                    raise Stopped
                self._turn.wait(_LOOK_AGAIN_S)
            data = memoryview(self._body.read(chunk.start, chunk.end)).cast("B")
            self._hasher.update(data)
            self._md5s[chunk.number] = self._hasher.copy().hexdigest()
            self._next += 1
            self._turn.notify_all()
        return data


def _can_go_on(error: BaseException) -> bool:
    """Whether what is on the server is worth keeping. An error of the body says nothing about it;
    who holds a lock lets it go some time."""
    if not isinstance(error, RemoteError):
        return True
    return isinstance(error, Unreachable | Throttled | Locked)


def chunk_bytes_for(size: int, chunk_bytes: int) -> int:
    """`chunk_bytes`, or more where there would be too many. Raises Unsupported."""
    if size > MAX_FILE_BYTES:
        raise Unsupported(f"{size} bytes are more than {MAX_CHUNKS} chunks can have")
    needed = -(-size // MAX_CHUNKS)
    if needed <= chunk_bytes:
        return chunk_bytes
    return -(-needed // _GRAIN_BYTES) * _GRAIN_BYTES


def _chunks(size: int, chunk_bytes: int) -> list[_Chunk]:
    return [
        _Chunk(number, start, min(start + chunk_bytes, size))
        for number, start in enumerate(range(0, size, chunk_bytes), 1)
    ]
