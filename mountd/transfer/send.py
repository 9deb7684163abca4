"""To a remote: by `put`, or by the remote itself where it has the source, too."""

import stat as modes
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from typing_extensions import Buffer

from mountd.errors import (
    Corrupt,
    Locked,
    NotFound,
    RemoteError,
    Throttled,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import RemoteStore, Upload
from mountd.remotes.local_modes import USUAL_FILE
from mountd.remotes.object_metadata import MODE, attributes_of
from mountd.remotes.optional_doors import checksums_in
from mountd.transfer.checksums import Sums, difference, one_of, sum_here, told_sums
from mountd.transfer.crew import LIGHT_BYTES, Job, Tally, has_changed
from mountd.transfer.folders import Folders
from mountd.transfer.items import Item, key_at
from mountd.transfer.links import read_target
from mountd.transfer.plan import Copy
from mountd.transfer.record import Record
from mountd.transfer.side import Side, time_of
from mountd.types import Entry

RESUMED_BYTES: Final = 16 << 20  # smaller ones go in one request
_ATTEMPTS: Final = 5
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class InStore:
    """A file of the source, in the store that both sides are below. `is_of_list`: the version is
    a manifest's, and what has it need not be the file of now."""

    key: str
    version: str
    is_of_list: bool = False


@dataclass(frozen=True, slots=True)
class ServerCopy:
    """A store that both sides are below. `source`: where a file is in it, None for one that is
    elsewhere; `target`: the prefix of all, with a slash, or ""."""

    store: RemoteStore
    source: Callable[[Item], InStore | None]
    target: str


class Send:
    """Copies to a remote. Its jobs raise nothing foreseen: failures go to the tally.

    Nothing is replaced but what the listing showed, and nothing is sent twice because an answer
    was lost: what is there then is asked first.
    """

    def __init__(
        self,
        source: Side,
        target: Side,
        record: Record,
        tally: Tally,
        *,
        verify: bool,
        folders: Folders | None = None,
        server: ServerCopy | None = None,
    ) -> None:
        self._source = source
        self._target = target
        self._record = record
        self._tally = tally
        self._verify = verify
        self._folders = folders
        self._server = server

    def light(self, copies: Sequence[Copy]) -> Iterator[Job]:
        return (partial(self._job, copy) for copy in copies if self._is_light(copy))

    def heavy(self, copies: Sequence[Copy]) -> Iterator[Job]:
        """One job per file: the store sends its parts side by side."""
        return (partial(self._job, copy) for copy in copies if not self._is_light(copy))

    def _is_light(self, copy: Copy) -> bool:
        is_near = self._server is not None and self._server.source(copy.item) is not None
        return is_near or copy.item.size <= LIGHT_BYTES

    def _job(self, copy: Copy) -> None:
        body = _SourceBody(self._source, copy.item, self._tally)
        try:
            key = key_at(copy.item, local=False)
            if self._folders is not None:
                self._folders.make(key)
            made = self._made(copy, key, body)
            if made.size != copy.item.size:
                raise Corrupt(f"{made.size} bytes are there, and not {copy.item.size}")
            if self._verify:
                self._check(copy.item, key, made)
        except (RemoteError, OSError) as error:
            if body.has_changed:
                self._tally.changed(copy, error)
            else:
                self._tally.failed(copy.item.path, error)
            return
        self._record.copied(copy.item.path, copy.item.version, made.version)
        self._tally.done(copy.item.size)

    def _made(self, copy: Copy, key: str, body: "_SourceBody") -> Entry:
        item = copy.item
        server = self._server
        there = server.source(item) if server is not None else None
        if server is not None and there is not None:
            try:
                return self._copied(server, there, copy, key, body)
            except Unsupported:
                self._server = None
            except (VersionChanged, NotFound):
                if not there.is_of_list:
                    raise
                # A bucket may keep that version; else what is read says what is wrong.
        mtime_ns, attributes = self._beside(item)
        upload = Upload(uuid.uuid4().hex, mtime_ns, attributes)
        if item.size > RESUMED_BYTES:
            version, token = self._record.tokens.get(item.path, ("", ""))
            tell = partial(self._record.told, item.path, item.version)
            resume = token if version == item.version else ""
            upload = replace(upload, resume=resume, progress=tell)
        store = self._target.store
        return self._sent(
            lambda: store.put(key, body, copy.expect, upload), store, key, upload.upload_id
        )

    def _beside(self, item: Item) -> tuple[int, Mapping[str, str]]:
        """What goes with the bytes: the time, and of a local file its permissions, of a remote's
        all that is kept with it."""
        store = self._source.store
        able = store.capabilities
        if self._source.is_local or able.lists_attributes or not able.keeps_attributes:
            mode = USUAL_FILE if item.mode is None else item.mode & 0o777
            return item.mtime_ns, {} if mode == USUAL_FILE else {MODE: str(modes.S_IFREG | mode)}
        with suppress(RemoteError):  # else the read says what is wrong
            entry = store.stat(item.key)
            return time_of(entry), attributes_of(entry.attributes or {})
        return item.mtime_ns, {}

    def _copied(
        self, server: ServerCopy, there: InStore, copy: Copy, key: str, body: "_SourceBody"
    ) -> Entry:
        upload = Upload(upload_id=uuid.uuid4().hex)
        item, full, store = copy.item, server.target + key, server.store

        def request() -> Entry:
            return store.copy(there.key, there.version, full, copy.expect, upload)

        try:
            made = self._sent(request, store, full, upload.upload_id)
        except RemoteError as error:
            body.has_changed = has_changed(error) and self._is_other(item)
            raise
        self._tally.moved(item.size)
        return made

    def _is_other(self, item: Item) -> bool:
        """Whether it is the source that changed, and not the target."""
        try:
            return self._source.store.stat(item.key).version != item.version
        except NotFound:
            return True
        except RemoteError:
            return False

    def _sent(
        self, request: Callable[[], Entry], store: RemoteStore, key: str, upload_id: str
    ) -> Entry:
        pause_s = _FIRST_PAUSE_S
        for left in reversed(range(_ATTEMPTS)):
            try:
                return request()
            except (Unreachable, Throttled, Locked) as error:
                if not left:
                    raise
                told_s = getattr(error, "retry_after_s", None) or 0.0
                if self._tally.stop.wait(min(max(pause_s, told_s), _LONGEST_PAUSE_S)):
                    raise
                pause_s *= 2
            try:
                found = store.identify(key)
            except NotFound:
                continue
            if found.upload_id == upload_id:
                return found.entry
        raise AssertionError("the last attempt returns or raises")

    def _check(self, item: Item, key: str, made: Entry) -> None:
        there = checksums_in(self._target.store, key)
        if there.entry.version != made.version:
            raise Corrupt("somebody has changed it at DEST since")
        told = {**there.sums, **({"md5": there.md5} if there.md5 else {})}
        differs = difference(self._ours(item, told), told)
        if differs is None:
            self._tally.count_unchecked()
        elif differs:
            raise Corrupt(f"{differs} at DEST")

    def _ours(self, item: Item, told: Sums) -> Sums:
        """What the source tells of itself; a local file is read for one that is told of DEST."""
        if item.is_link:
            return {}
        if not self._source.is_local:
            return told_sums(self._source, item)
        name = one_of(told)
        return {name: sum_here(self._source, item, name)} if name else {}


class _SourceBody:
    """A `Body`: a version of a file of the source. `has_changed`: it isn't there any more."""

    def __init__(self, side: Side, item: Item, tally: Tally) -> None:
        self.has_changed = False
        self._side = side
        self._item = item
        self._tally = tally

    @property
    def size(self) -> int:
        return self._item.size

    def read(self, start: int, end: int) -> Buffer:
        if start == end:
            return b""
        item = self._item
        try:
            if item.is_link and self._side.root is not None:
                data: Buffer = self._link()[start:end]
            else:
                held = self._side.held_bytes(item, start, end)
                data = held or self._side.store.read(item.key, start, end, item.version)
        except RemoteError as error:
            self.has_changed = self.has_changed or has_changed(error)
            raise
        self._tally.moved(end - start)
        return data

    def _link(self) -> bytes:
        target = read_target(self._side, self._item)
        if len(target) != self._item.size:
            self.has_changed = True
            raise OSError(f"{self._item.path}: the link has changed")
        return target
