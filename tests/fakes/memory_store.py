"""A RemoteStore in memory: the reference for the contract suite and the remote of unit tests.

It counts its calls, fails on demand and blocks on demand, so that tests of other rooms need no
server and no patching.
"""

import copy
import hashlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from mountd.errors import (
    DirectoryNotEmpty,
    NameNotAllowed,
    NotFound,
    RemoteError,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, Body, Capabilities, Identity, KeyLimit, NameRules, Upload
from mountd.types import Entry, Kind
from tests.fakes.memory_object import FOREIGN, MemoryObject, parents_of

GATE_TIMEOUT_S = 30.0
PIECE_BYTES = 256 * 1024


class MemoryStore:
    """An object store (or, with `real_directories`, a file server) over a dictionary.

    A key that ends with a slash is a directory marker. With `real_directories` a `seed` makes the
    parents too (`put` wants them to be there), they stay when they are empty, and one name is a
    file or a directory, not both.

    `calls` counts each call of the Protocol by its name (a listing once, not by page). `gate`:
    while set to an Event that is not set, every call waits for it (at most 30 s, then
    Unreachable). Like the real stores, `list` does nothing before its first page is asked for.

    With `identifies` listings tell which file it is, also after it was moved or replaced.

    With `tree_versions` a directory's version changes with anything below it, but for what is in
    `apart` (keys of directories), which has none.

    `enforces=False` is a remote that ignores conditions: the store looks first and then acts, and
    what came in between is overwritten. `between_look_and_act`, called with the key, is where a
    test puts that in. `name_rules` and `key_limit` are only told, for others to obey.
    """

    def __init__(
        self,
        objects: Mapping[str, bytes] | None = None,
        real_directories: bool = False,
        page_size: int = 1000,
        *,
        enforces: bool = True,
        server_copy: bool = True,
        put_delta: bool = True,
        keeps_attributes: bool = True,
        tree_versions: bool = False,
        native_move: bool = False,
        removes_trees: bool = False,
        identifies: bool = False,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.gate: threading.Event | None = None
        self.name_rules: NameRules | None = None
        self.key_limit: KeyLimit | None = None
        self.between_look_and_act: Callable[[str], object] = lambda key: None
        self._capabilities = Capabilities(
            strong_version=True,
            conditional_read=True,
            real_directories=real_directories,
            conditional_put=enforces,
            conditional_delete=enforces,
            server_copy=server_copy,
            keeps_attributes=keeps_attributes,
            keeps_mtime=True,
            put_delta=put_delta,
            tree_versions=tree_versions,
            native_move=native_move,
            removes_trees=removes_trees,
            is_global=(lambda version: True) if identifies else None,
        )
        self._identifies = identifies
        self._identities: dict[str, str] = {}
        self.apart: tuple[str, ...] = ()
        self._changes: Counter[str] = Counter()  # by directory, of all that is below it
        self._page_size = page_size
        self._lock = threading.Lock()
        self._objects: dict[str, MemoryObject] = {}
        self._directories: set[str] = {""}
        self._generations = itertools.count(1)
        self._failures: list[BaseException] = []
        self._always: BaseException | None = None
        for key, data in (objects or {}).items():
            self.seed(key, data)

    # What a test does behind the daemon's back.

    def seed(
        self,
        key: str,
        data: bytes = b"",
        mtime_ns: int | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> str:
        """Creates or replaces an object (or makes a directory, for `name/`); its new version."""
        with self._lock:
            self._check_name(key)
            if self._capabilities.real_directories:
                self._directories.update(parents_of(key))
            if key.endswith("/") and self._capabilities.real_directories:
                self._directories.add(key)
                self._changed(key)
                return ""
            mtime_ns = time.time_ns() if mtime_ns is None else mtime_ns
            upload = Upload(attributes=dict(attributes or {}))
            self._objects[key] = MemoryObject(data, next(self._generations), mtime_ns, upload)
            self._changed(key)
            return self._objects[key].version

    def seed_mtime(self, key: str, mtime_ns: int) -> None:
        """What the metadata says, behind the version that listings have shown."""
        with self._lock:
            self._objects[key] = replace(self._objects[key], mtime_ns=mtime_ns)

    def seed_attributes(self, key: str, attributes: Mapping[str, str]) -> None:
        """Others change what is beside the bytes, and the version stays, as on S3."""
        with self._lock:
            found = self._objects[key]
            upload = replace(found.upload, attributes=dict(attributes))
            self._objects[key] = replace(found, upload=upload)

    def edited_by_others(self, key: str, data: bytes, mtime_ns: int | None = None) -> str:
        """As s3fs, gcsfuse and goofys write: all metadata stays, but for the time where it is
        given. The new version."""
        with self._lock:
            found = self._objects[key]
            mtime_ns = found.mtime_ns if mtime_ns is None else mtime_ns
            made = replace(found, data=data, mtime_ns=mtime_ns, generation=next(self._generations))
            self._objects[key] = made
            self._changed(key)
            return made.version

    def moved_by_others(self, key: str, new: str) -> None:
        """As another client moves a file: it stays the same in the same version."""
        with self._lock:
            self._objects[new] = self._objects.pop(key)
            self._identities[new] = self._identities.pop(key)
            self._changed(key)
            self._changed(new)

    def restored_by_others(self, key: str, version: str, data: bytes) -> None:
        """An older version is there again, as it was."""
        with self._lock:
            self._objects[key] = MemoryObject(data, int(version[1:]), time.time_ns())
            self._changed(key)

    def drop(self, key: str) -> None:
        """Removes an object, or a marker or directory with its slash; KeyError if missing."""
        with self._lock:
            self._changed(key)
            self._identities.pop(key, None)
            if self._objects.pop(key, None) is None:
                self._directories.remove(key)

    def paged(self, page_size: int) -> "MemoryStore":
        """Another store over the same objects, with pages of that size."""
        other = copy.copy(self)
        other._page_size = page_size
        return other

    def keys(self) -> Sequence[str]:
        """Every object's key, and with `real_directories` every directory's but the root's."""
        with self._lock:
            return sorted({*self._objects, *(self._directories - {""})})

    def data(self, key: str) -> bytes:
        """An object's bytes; KeyError if missing."""
        with self._lock:
            return self._objects[key].data

    def upload(self, key: str) -> Upload:
        """What came with an object's `put` or `copy`; the empty one if it was seeded."""
        with self._lock:
            return self._objects[key].upload

    def fail_next(self, error: BaseException) -> None:
        """The next call raises `error`, before `fail_always` is looked at."""
        with self._lock:
            self._failures.append(error)

    def fail_always(self, error: BaseException | None) -> None:
        """Every call raises `error`, until this is called with None."""
        with self._lock:
            self._always = error

    # RemoteStore

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._capabilities, name_rules=self.name_rules, key_limit=self.key_limit)

    def stat(self, key: str) -> Entry:
        self._begin("stat")
        with self._lock:
            if key == "" or key.endswith("/"):
                name = key.removesuffix("/").rpartition("/")[2]
                if key and not self._is_directory(key):
                    raise NotFound(key)
                return Entry(name, Kind.DIRECTORY, 0, 0, self._tree_version(key))
            self._object(key)
            return self._told(key)

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        self._begin("list")
        with self._lock:
            if self._capabilities.real_directories and directory not in self._directories:
                raise NotFound(directory)
            entries = self._entries(directory)
        for start in range(0, len(entries), self._page_size):
            yield entries[start : start + self._page_size]

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        self._begin("read")
        with self._lock:
            found = self._object(key)
        if (version and found.version != version) or end > len(found.data):
            raise VersionChanged(key)
        return found.data[start:end]

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        self._begin("list_tree")
        with self._lock:
            if self._capabilities.real_directories and directory not in self._directories:
                raise NotFound(directory)
            rows = [
                (key, self._entry(key))
                for key in (*self._directories, *self._objects)
                if key.startswith(directory) and key != directory
            ]
        for start in range(0, len(rows), self._page_size):
            yield rows[start : start + self._page_size]

    def identify(self, key: str) -> Identity:
        self._begin("identify")
        with self._lock:
            found = self._object(key)
            md5 = hashlib.md5(found.data, usedforsecurity=False).hexdigest()
            return Identity(self._told(key), found.upload.upload_id, md5)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        self._begin("put")
        if not self._capabilities.conditional_put:
            expect = self._look(key, expect)
        pieces = [
            bytes(body.read(start, min(start + PIECE_BYTES, body.size)))
            for start in range(0, body.size, PIECE_BYTES)
        ]
        with self._lock:
            self._check_place(key)
            self._check_version(key, expect)
            return self._store(key, b"".join(pieces), upload)

    def put_delta(
        self,
        key: str,
        body: Body,
        expect: str | None,
        upload: Upload,
        source: str,
        version: str,
        same: Sequence[tuple[int, int]],
    ) -> Entry:
        """Reads nothing of `body` that is in `same`."""
        self._begin("put_delta")
        if not self._capabilities.put_delta:
            raise Unsupported("this store was made without put_delta")
        if not self._capabilities.conditional_put:
            expect = self._look(key, expect)
        edges = [0, *(edge for span in same for edge in span), body.size]
        sent = zip(edges[::2], edges[1::2], strict=True)
        pieces = {at: bytes(body.read(at, end)) for at, end in sent if at < end}
        with self._lock:
            found = self._object(source)
            if found.version != version:
                raise VersionChanged(f"{source} was {version} and is {found.version}")
            assert not same or same[-1][1] <= len(found.data), same
            pieces.update((start, found.data[start:end]) for start, end in same)
            self._check_place(key)
            self._check_version(key, expect)
            return self._store(key, b"".join(data for _, data in sorted(pieces.items())), upload)

    def abandon(self, key: str, token: str) -> None:
        """Nothing: no upload outlives its call here."""

    def delete(self, key: str, expect: str | None) -> None:
        self._begin("delete")
        if not self._capabilities.conditional_delete:
            with self._lock:
                self._object(key)
            expect = self._look(key, expect)
        with self._lock:
            self._object(key)
            self._check_version(key, expect)
            del self._objects[key]
            self._identities.pop(key, None)
            self._changed(key)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        self._begin("copy")
        if not self._capabilities.server_copy:
            raise Unsupported("this store was made without server_copy")
        if not self._capabilities.conditional_put:
            expect = self._look(key, expect)
        with self._lock:
            found = self._object(source)
            if found.version != version:
                raise VersionChanged(f"{source} was {version} and is {found.version}")
            self._check_place(key)
            self._check_version(key, expect)
            there = found.upload.attributes
            given = upload.attributes.items()
            kept = {**there, **{n: v for n, v in given if n not in upload.unset or n not in there}}
            attributes = {name: text for name, text in kept.items() if text}
            mtime_ns = upload.mtime_ns or found.mtime_ns
            return self._store(key, found.data, Upload(upload.upload_id, mtime_ns, attributes))

    def make_dir(self, key: str) -> None:
        self._begin("make_dir")
        with self._lock:
            self._check_place(key)
            if self._capabilities.real_directories:
                self._directories.add(key)
                self._changed(key)
            elif key not in self._objects:
                self._store(key, b"", FOREIGN)

    def remove_dir(self, key: str) -> None:
        self._begin("remove_dir")
        with self._lock:
            names = (*self._directories, *self._objects)
            if any(name.startswith(key) and name != key for name in names):
                raise DirectoryNotEmpty(key)
            if key not in names:
                raise NotFound(key)
            self._directories.discard(key)
            self._objects.pop(key, None)
            self._changed(key)

    def remove_tree(self, key: str, inside: Mapping[str, str]) -> None:
        self._begin("remove_tree")
        if not self._capabilities.removes_trees:
            raise Unsupported("this store was made without removes_trees")
        with self._lock:
            if key not in self._directories:
                raise NotFound(key)
            below = [n for n in (*self._directories, *self._objects) if n.startswith(key)]
            for name in below:
                found = self._objects.get(name)
                if name != key and inside.get(name) != (found.version if found else ""):
                    raise VersionChanged(name)
            for name in below:
                self._directories.discard(name)
                self._objects.pop(name, None)
                self._identities.pop(name, None)
            self._changed(key)

    def move_dir(self, source: str, key: str) -> None:
        self._begin("move_dir")
        if not self._capabilities.native_move:
            raise Unsupported("this store was made without native_move")
        with self._lock:
            if source not in self._directories:
                raise NotFound(source)
            if key in self._directories or key.removesuffix("/") in self._objects:
                raise VersionChanged(key)
            self._check_place(key)
            for name in [name for name in self._directories if name.startswith(source)]:
                self._directories.remove(name)
                self._directories.add(key + name[len(source) :])
                self._changes[key + name[len(source) :]] = self._changes.pop(name, 0)
            for name in [name for name in self._objects if name.startswith(source)]:
                self._objects[key + name[len(source) :]] = self._objects.pop(name)
                if name in self._identities:
                    self._identities[key + name[len(source) :]] = self._identities.pop(name)
            self._changed(source.removesuffix("/"))
            self._changed(key.removesuffix("/"))

    def close(self) -> None: ...

    def _look(self, key: str, expect: str | None) -> str | None:
        """Where nothing is enforced: the check that a later change escapes."""
        with self._lock:
            self._check_version(key, expect)
        self.between_look_and_act(key)
        return None

    def _check_version(self, key: str, expect: str | None) -> None:
        found = self._objects.get(key)
        now = ABSENT if found is None else found.version
        if expect is not None and expect != now:
            raise VersionChanged(f"{key} was to be {expect!r} and is {now!r}")

    def _check_place(self, key: str) -> None:
        if not self._capabilities.real_directories:
            return
        if not parents_of(key) <= self._directories:
            raise NotFound(f"{key} has no directory to be in")
        self._check_name(key)

    def _store(self, key: str, data: bytes, upload: Upload) -> Entry:
        mtime_ns = upload.mtime_ns or time.time_ns()
        self._objects[key] = MemoryObject(data, next(self._generations), mtime_ns, upload)
        self._changed(key)
        return self._told(key)

    def _told(self, key: str) -> Entry:
        """With its attributes, which listings leave out, as on S3."""
        return replace(self._entry(key), attributes=self._objects[key].upload.attributes)

    def _entry(self, key: str) -> Entry:
        name = key.removesuffix("/").rpartition("/")[2]
        if key.endswith("/"):
            return Entry(name, Kind.DIRECTORY, 0, 0, self._tree_version(key))
        found = self._objects[key]
        identity = self._identities.setdefault(key, found.version) if self._identifies else ""
        size, mtime_ns = len(found.data), found.mtime_ns
        return Entry(name, Kind.FILE, size, mtime_ns, found.version, identity=identity)

    def _tree_version(self, directory: str) -> str:
        if not self._capabilities.tree_versions or self._is_apart(directory):
            return ""
        return f"t{self._changes[directory]}"

    def _changed(self, key: str) -> None:
        """The directories above have new versions, a directory itself, too. Two never have the
        same one."""
        if self._is_apart(key):
            return
        for directory in ("", *parents_of(key), *([key] if key.endswith("/") else ())):
            self._changes[directory] = next(self._generations)

    def _is_apart(self, key: str) -> bool:
        return bool(self.apart) and key.startswith(self.apart)

    def _begin(self, call: str) -> None:
        self.calls[call] += 1
        gate = self.gate
        if gate is not None and not gate.wait(GATE_TIMEOUT_S):
            raise Unreachable(f"{call}: the test never opened the gate")
        with self._lock:
            error = self._failures.pop(0) if self._failures else self._always
        if error is not None:
            raise error

    def _object(self, key: str) -> MemoryObject:
        try:
            return self._objects[key]
        except KeyError:
            raise NotFound(key) from None

    def _is_directory(self, key: str) -> bool:
        return key in self._directories or any(name.startswith(key) for name in self._objects)

    def _entries(self, directory: str) -> Sequence[Entry]:
        found: dict[tuple[str, Kind], Entry] = {}
        for key in (*self._directories, *self._objects):
            if not key.startswith(directory) or key == directory:
                continue
            name, slash, _ = key[len(directory) :].partition("/")
            if slash:
                version = self._tree_version(f"{directory}{name}/")
                found[name, Kind.DIRECTORY] = Entry(name, Kind.DIRECTORY, 0, 0, version)
            else:
                found[name, Kind.FILE] = self._entry(key)
        return list(found.values())

    def _check_name(self, key: str) -> None:
        if not self._capabilities.real_directories:
            return
        other = key.removesuffix("/") if key.endswith("/") else key + "/"
        taken = other in self._objects or other in self._directories
        if taken or any(parent.removesuffix("/") in self._objects for parent in parents_of(key)):
            raise NameNotAllowed(key)


def failing(error: RemoteError) -> MemoryStore:
    """A store that answers every call with `error`."""
    store = MemoryStore()
    store.fail_always(error)
    return store
