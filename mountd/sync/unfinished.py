"""Uploads that have begun and are not complete, known also after a restart.

One small file for each, `FOLDER/CONTENT`, written once when the upload has begun and removed when
nothing is left of it: docs/format.md says what is in it. Of small files, which go in one request,
all are in one (`note_lines`). What is read there is not trusted: an upload that is gone on with is
compared with what is staged, and one that is ended was nobody's. Losing such a file costs room on
the remote, not data.
"""

import json
import logging
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from crc32c import crc32c

from mountd.remotes.base import MAX_TOKEN, Upload
from mountd.sync.arrivals import Arrivals
from mountd.sync.note_lines import NoteLines, read_notes
from mountd.sync.upload_id import UploadId
from mountd_cache.changes import ZERO, Change, Content
from mountd_cache.durable_io import (
    DISK,
    TEMP_PREFIX,
    DirectoryNotPrivate,
    DurableIO,
    make_private_dir,
)
from mountd_cache.ledger import Ledger

log = logging.getLogger(__name__)

MIN_BYTES: Final = 8 << 20  # smaller files go in one request, or in a moment
_SMALL_NAME: Final = "small-1"  # with the number of its format
_COPIES_NAME: Final = "copies-1"
_HEAD: Final = "mountd upload, format 1"
_MOST_BYTES: Final = 64 << 10
_MD5: Final = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload of one state of a content. `layer`: the number of its highest layer. `id`: what
    the object is to be known by. `began`: it was frozen after that sequence. `token`: see
    `remotes.base.Upload`, "": nothing is left of it. `md5`: of the whole, once the request may have
    gone that makes the file of it; it may be there then, and is known until that is settled.
    """

    content: int
    layer: int
    key: str
    id: str
    mtime_ns: int
    attributes: Mapping[str, str]
    began: int
    size: int
    token: str = ""
    md5: str = ""

    @property
    def is_small(self) -> bool:
        """Goes in one request, so that the note of it is for who is killed alone."""
        return not self.token and self.size < MIN_BYTES

    def depth_in(self, change: Change, content: Content) -> int:
        """How many layers from the bottom are the state that was being sent to this key. 0: the
        change is about something else by now, or the state can't be told from others."""
        is_same = (self.key, self.content) == (change.key, content.id)
        if not is_same or dict(self.attributes) != dict(change.attributes):
            return 0
        # The top layer takes writes: only what lies below it is frozen.
        for depth, layer in enumerate(content.layers[:-1], 1):
            if layer.number == self.layer:
                return depth if layer.size == self.size else 0
        return 0

    def is_possible(self, ledger: Ledger) -> bool:
        """Whether it may still be gone on with; if not, it can only be ended."""
        change, content = ledger.changes.get(self.key), ledger.contents.get(self.content)
        return change is not None and content is not None and self.depth_in(change, content) > 0

    def is_worth_it(self, content: Content) -> bool:
        """Whether most of what was being sent is in the file still: else it were sent for nothing.
        As long as it takes to look at all extents."""
        pieces = content.pieces(0, min(self.size, content.size))
        same = sum(p.end - p.start for p in pieces if ZERO < p.layer <= self.layer)
        return 2 * same >= self.size


_NAMES: Final = tuple(each.name for each in fields(Unfinished))


class UnfinishedUploads:
    """`note` and `forget` may be called in any thread, and block on the disk; of what is small
    `completes` and `forget` wait for nothing."""

    def __init__(self, folder: Path | None = None, disk: DurableIO = DISK) -> None:
        """In memory alone where `folder` is None."""
        self._folder = folder
        self._disk = disk
        self._lock = threading.Lock()  # of `_known`: the loop takes it, so never for long
        self._writing = threading.Lock()  # of the files, in the order of what they say
        self._known: dict[int, Unfinished] = {}
        self._by_key: dict[str, set[int]] = {}  # contents; each change asks for its key
        self.arrivals = Arrivals()
        self._small = NoteLines(folder / _SMALL_NAME if folder is not None else None)

    @classmethod
    def load(cls, folder: Path, disk: DurableIO = DISK) -> Self:
        """What former processes have left. Blocks; a folder that can't be used is logged."""
        try:
            make_private_dir(folder)
            passed = (TEMP_PREFIX, _SMALL_NAME, _COPIES_NAME)
            paths = [path for path in folder.iterdir() if not path.name.startswith(passed)]
        except (OSError, DirectoryNotPrivate) as error:
            log.warning("uploads will not be gone on with after a restart: %s", error)
            return cls()
        made = cls(folder, disk)
        made._hold_small(folder / _SMALL_NAME)
        made.arrivals = Arrivals.load(folder / _COPIES_NAME)
        for path in paths:
            found = _read(path)
            if found is None:
                log.info("%s says nothing that can be used, and is removed", path)
            elif found.is_small:  # as they were noted before they were all in one
                made._put_small(found)
            else:
                made._learn(found)
                continue
            with suppress(OSError):  # a directory
                path.unlink(missing_ok=True)
        return made

    def _hold_small(self, path: Path) -> None:
        with suppress(OSError):
            for number, value in read_notes(path).items():
                with suppress(ValueError, TypeError):
                    noted = _checked(value)
                    if noted.content == number and noted.is_small:
                        self._learn(noted)
        self._small.hold({number: _value(noted) for number, noted in self._known.items()})

    def __len__(self) -> int:
        return len(self._known)

    def of(self, content: int) -> Unfinished | None:
        return self._known.get(content)

    def all(self) -> list[Unfinished]:
        with self._lock:
            return list(self._known.values())

    def at(self, key: str) -> list[Unfinished]:
        """Those that would put something at that key."""
        if key not in self._by_key:
            return []
        with self._lock:
            return [self._known[content] for content in self._by_key.get(key, ())]

    def _learn(self, new: Unfinished) -> None:
        """Within `_lock`. `of` takes none, and must find the one or the other."""
        before = self._known.get(new.content)
        self._known[new.content] = new
        self._by_key.setdefault(new.key, set()).add(new.content)
        if before is not None and before.key != new.key:
            self._drop_key(before)

    def _unlearn(self, content: int) -> None:
        """Within `_lock`."""
        known = self._known.pop(content, None)
        if known is not None:
            self._drop_key(known)

    def _drop_key(self, known: Unfinished) -> None:
        contents = self._by_key[known.key]
        contents.discard(known.content)
        if not contents:
            del self._by_key[known.key]

    def going_on(self, state: Unfinished, upload: Upload) -> Upload:
        """`upload` of that state with what a `put` needs to go on, and to be gone on with."""
        known = self._known.get(state.content)
        token = known.token if known is not None and known.id == state.id else ""
        progress, completing = partial(self.note, state), partial(self.completes, state)
        return replace(upload, resume=token, progress=progress, completing=completing)

    def note(self, upload: Unfinished, token: str) -> None:
        """The upload has this token now; "": nothing is left of it. Where the disk doesn't take
        it, it is known as long as the process lives."""
        if token:
            with self._writing:
                self._put(replace(upload, token=token, md5=self._md5_of(upload)))
        elif md5 := self._md5_of(upload):
            # On the disk it keeps its token, which does no harm.
            with self._lock:
                self._learn(replace(upload, token="", md5=md5))
        else:
            self.forget(upload.content)

    def completes(self, upload: Unfinished, md5: str) -> None:
        """The file is about to be made of it: `forget` says when what became of that is known."""
        if upload.is_small:
            self._put_small(replace(upload, md5=md5))
            return
        with self._writing:
            known = self._known.get(upload.content)
            is_known = known is not None and known.id == upload.id
            self._put(replace(known if known is not None and is_known else upload, md5=md5))

    def _md5_of(self, upload: Unfinished) -> str:
        known = self._known.get(upload.content)
        return known.md5 if known is not None and known.id == upload.id else ""

    def _put(self, new: Unfinished) -> None:
        """Within `_writing`."""
        with self._lock:
            self._learn(new)
        if self._folder is None:
            return
        try:
            self._disk.write_file(self._folder / str(new.content), _packed(new))
        except OSError as error:
            log.info("the upload of %r is not kept for a restart: %s", new.key, error)

    def _put_small(self, new: Unfinished) -> None:
        with self._lock:
            self._learn(new)
        self._small.put(new.content, _value(new))

    def forget(self, content: int, token: str | None = None) -> None:
        """Nothing is left of it; with `token`: of this one, if it is the one that is known."""
        with self._lock:
            known = self._known.get(content)
            is_small = known is not None and known.is_small and token in (None, "")
            if is_small:
                self._unlearn(content)
        if is_small:
            self._small.drop(content)
            return
        with self._writing:
            with self._lock:
                known = self._known.get(content)
                if known is None or token not in (None, known.token):
                    return
                self._unlearn(content)
            if self._folder is not None:
                try:
                    # Not durable: a file that comes back is about an upload that is gone.
                    (self._folder / str(content)).unlink(missing_ok=True)
                except OSError as error:
                    log.info("%s can't be removed: %s", self._folder / str(content), error)


def _value(upload: Unfinished) -> dict[str, Any]:
    value = {name: getattr(upload, name) for name in _NAMES}
    value["attributes"] = dict(upload.attributes)
    return value


def _packed(upload: Unfinished) -> bytes:
    text = json.dumps(_value(upload), sort_keys=True)  # ASCII; lone surrogates are escaped
    return f"{_HEAD}, {crc32c(text.encode()):08x}\n{text}\n".encode()


def _read(path: Path) -> Unfinished | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        head, text, rest = data.decode("ascii").split("\n")
        if head != f"{_HEAD}, {crc32c(text.encode()):08x}" or rest or len(data) > _MOST_BYTES:
            return None
        found = _checked(json.loads(text))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return found if found.content == _number(path.name) else None


def _checked(found: Any) -> Unfinished:
    """Raises ValueError or TypeError for anything but what `_packed` writes."""
    if not isinstance(found, dict):
        raise ValueError("no object")
    upload = Unfinished(**found)
    numbers = (upload.content, upload.layer, upload.mtime_ns, upload.began, upload.size)
    texts = (upload.key, upload.id, upload.token or upload.md5)
    if not all(type(number) is int for number in numbers):
        raise ValueError("no number")
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError("no text")
    if not isinstance(upload.attributes, dict):
        raise ValueError("no attributes")
    if not all(isinstance(value, str) for value in upload.attributes.values()):
        raise ValueError("no text")
    token = upload.token
    if len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable():
        raise ValueError("no token")
    if upload.md5 and not _MD5.fullmatch(upload.md5):
        raise ValueError("no sum")
    id_ = UploadId.parse(upload.id)
    if id_ is None or (id_.content, id_.layer) != (upload.content, upload.layer):
        raise ValueError("the id of something else")
    return upload


def _number(name: str) -> int:
    return int(name) if name.isascii() and name.isdigit() else -1
