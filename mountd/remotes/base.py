"""The one interface behind which every remote stands.

A store is blocking and thread-safe; the daemon calls it from worker threads through one
`trio.to_thread` limiter. A call that is cancelled goes on running in its thread. Wrappers
(`retry`, `limit`, `health`) are stores too.

Writing. Every change carries `expect`: the version that must be there for the change to happen,
`ABSENT` where nothing may be there, and None for "whatever is there" (the sync queue never
overwrites a file blindly). A change that fails with Unreachable may have happened, or may happen
yet: only `identify` tells. So writes are never repeated by `retry`; the sync queue repeats them,
because it knows what it sent.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

from typing_extensions import Buffer

from mountd.types import Entry

ABSENT: Final = ""  # as `expect`: nothing is there
LIGHT_BYTES: Final = 64 << 10  # an upload of so many takes no longer than any small request
MAX_TOKEN: Final = 2048  # characters in an `Upload.resume`

_NO_ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class NameRules:
    """Which names a remote refuses. Letter case doesn't count: names, stems (what comes before the
    first dot) and extensions (with their dot) are given in lower case."""

    names: frozenset[str] = frozenset()
    stems: frozenset[str] = frozenset()
    characters: frozenset[str] = frozenset()
    extensions: tuple[str, ...] = ()
    max_bytes: int = 255

    def allow(self, name: str) -> bool:
        """Whether a file or directory may have this name."""
        lower = name.lower()
        stem = lower[:1] + lower[1:].partition(".")[0]
        return (
            self.characters.isdisjoint(name)
            and lower not in self.names
            and stem not in self.stems
            and not lower.endswith(self.extensions)
            and len(name.encode("utf-8", "surrogateescape")) <= self.max_bytes
        )


@dataclass(frozen=True, slots=True)
class KeyLimit:
    """The longest key that `put` and `make_dir` take: `most` bytes of UTF-8, or characters, the
    slashes and what is `above` the mount's root included. `first_is_apart`: the first segment is a
    bucket, and counts for nothing."""

    most: int
    in_characters: bool = False
    above: str = ""
    first_is_apart: bool = False

    def allows(self, key: str) -> bool:
        if self.first_is_apart:
            key = key.partition("/")[2]
        full = self.above + key
        if self.in_characters:
            return len(full) <= self.most
        return len(full.encode("utf-8", "surrogatepass")) <= self.most


@dataclass(frozen=True, slots=True)
class Quota:
    """An account's room in bytes. `free_bytes` is None where there is no limit, or where the remote
    doesn't tell."""

    used_bytes: int
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a remote does natively. Docs and status are written from this.

    `strong_version`: equal versions prove equal bytes (an ETag or a generation does, size and
    mtime do not quite). `conditional_read`: the remote itself refuses a ranged read of another
    version (If-Match); where False the store compares what the answer says before it returns.
    `real_directories`: directories exist by themselves, and listing a missing one is NotFound.
    `max_parallel`: how many requests at once this remote bears well. `parallel_now`: how many of
    these by what it has shown so far, where that is learned; any thread, and it costs nothing.
    `parallel_soon`: how many it may be in a moment, as far as that is not known yet.
    `tell_wider`: who is called, in any thread, whenever that has become more.

    `conditional_put`, `conditional_delete`: the remote itself enforces `expect`, as one atomic
    step; where False the store looks first and then acts, and a change in between is overwritten.
    `server_copy`: `copy` works without moving the bytes through us. `keeps_attributes`: `put` keeps
    `attributes` (object metadata). `keeps_mtime`: listings show the mtime that came with a put.
    `keeps_modes`: of the attributes `mode`, `uid` and `gid` are kept, in the file system itself.
    `sets_mtime`: a `copy` of a file onto itself gives it the upload's mtime and no attributes,
    whatever its size by small requests; Unsupported where the remote takes no such time.
    `bytes_in`: what a version says of its file's bytes: `SIZE;MD5:HEX`, or `SIZE;` and another
    word, with ":" if it is a sum; without one, other bytes at the key may have it, too. "" for
    nothing. Pure.
    `lists_attributes`: a listing's entries have their attributes.
    `max_put_bytes`: the largest file that `put` takes; None where no limit is known.
    `put_delta`: it may work here, without moving the bytes that are there already.
    `name_rules`: the names that `put` and `make_dir` refuse; None where none are known (yet: some
    remotes tell with their first answer).
    `key_limit`: None where none is known; it never changes.
    `is_global`: whether files with this version (and the same size) have the same bytes whatever
    their keys, so that what was read of one serves for the other; None: of no version. Pure.
    `tells_rights`: a listing's entries have `denied` among their attributes.
    `root_denied`: which of those letters hold for the root, whatever anybody's rights.
    `tree_versions`: a directory's version, where it isn't "", changes with anything below it, and
    never comes back.
    `tells_quota`, `native_move`, `moves_files`, `removes_trees`: the doors of `optional_doors`
    work.
    `lists_for_nothing`: listings and stats are answered from memory and are no requests.
    """

    strong_version: bool
    conditional_read: bool
    real_directories: bool
    max_parallel: int = 64
    conditional_put: bool = False
    conditional_delete: bool = False
    server_copy: bool = False
    keeps_attributes: bool = False
    keeps_mtime: bool = False
    max_put_bytes: int | None = None
    put_delta: bool = False
    name_rules: NameRules | None = None
    key_limit: KeyLimit | None = None
    tells_quota: bool = False
    native_move: bool = False
    moves_files: bool = False
    removes_trees: bool = False
    keeps_modes: bool = False
    sets_mtime: bool = False
    bytes_in: Callable[[str], str] | None = None
    lists_attributes: bool = False
    tree_versions: bool = False
    tells_rights: bool = False
    root_denied: str = ""
    is_global: Callable[[str], bool] | None = None
    lists_for_nothing: bool = False
    parallel_now: Callable[[], int] | None = None
    parallel_soon: Callable[[], int] | None = None
    tell_wider: Callable[[Callable[[], None]], None] | None = None

    @property
    def first_parallel(self) -> int:
        """`parallel_now` or `max_parallel`."""
        return self.parallel_now() if self.parallel_now is not None else self.max_parallel


class Body(Protocol):
    """The bytes of one upload: a state of a file that never changes. Any thread."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, end: int) -> Buffer:
        """Exactly the bytes [start, end), 0 <= start <= end <= size; may be called repeatedly.

        Raises OSError (the local disk), or any RemoteError where the bytes come from the version
        that the upload is based on: `VersionChanged` and `NotFound` mean that it is gone. A store
        lets these pass as they are.
        """
        ...


@dataclass(frozen=True, slots=True)
class Upload:
    """What goes with a `Body`. `upload_id`: kept with the object where the remote can keep it, so
    that `identify` recognises it. `attributes`: object metadata (`mode`, `uid`, ...), ASCII. A
    copy has its source's metadata with these on top, where "" takes one away, and its source's
    mtime where none is given. `unset`: those of the attributes (and `mtime`) that nobody has set
    here; of these a copy has its source's, where that has one: somebody else may have set them.

    An upload in several requests may go on where an earlier one of the same bytes to the same key
    broke off, also in another process. `progress` is called in the thread of the `put` (it may
    write to the disk) with a token as soon as there is something on the remote that can be gone on
    with, before the first bytes are sent, and again whenever the token changes; with "" when
    nothing is left of it. With a token `put` may go on: the next try gives it as `resume`. A store
    never relies on it: what is on the remote is compared with the body, by a checksum; what can't
    be compared, or doesn't agree, is sent again; where the upload is gone, another one is begun.
    A token of a store that isn't asked any more, or of other bytes, does no harm.

    With `progress`, what was sent stays on the remote after Unreachable, Throttled, and after
    errors of the body; after any other error, and without `progress`, it is thrown away (best
    effort; `progress("")` says that it is gone). What nobody will go on with must be ended by
    `RemoteStore.abandon`. A token is printable ASCII of at most MAX_TOKEN characters. Stores that
    send a file in one request ignore all this.

    `completing` is called in the same way with the MD5 (hex) of the whole, before the request that
    makes the file of it, by stores that keep no upload ids. When its answer is lost, and the bytes
    that it was made from with it, this is how what is there is known to be ours.

    `arriving` is called in the same way with the version that a copy has under its temporary name,
    before the request that puts it in place, by stores that keep no upload ids. Where that gives it
    another version, it is just not known by this one.
    """

    upload_id: str = ""
    mtime_ns: int = 0
    attributes: Mapping[str, str] = field(default_factory=lambda: _NO_ATTRIBUTES)
    unset: frozenset[str] = frozenset()
    resume: str = ""
    progress: Callable[[str], None] | None = None
    completing: Callable[[str], None] | None = None
    arriving: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What is at a key now. `upload_id` and `md5` (hex) are "" where the remote doesn't tell.

    `sums`: checksums of all its bytes that the remote tells, in hex, of `crc32`, `crc32c`,
    `crc64nvme`, `md5`, `sha1`, `sha256`. `version_id`: by which this version is read when it was
    replaced, where versions stay.
    """

    entry: Entry
    upload_id: str = ""
    md5: str = ""
    sums: Mapping[str, str] = field(default_factory=lambda: _NO_ATTRIBUTES)
    version_id: str = ""


@runtime_checkable
class RemoteStore(Protocol):
    """A remote tree below one prefix. Keys as in `mountd.types`.

    Any call may raise any `RemoteError`; in particular `Unreachable` for no answer or a cut one,
    `Denied` for 401/403, `ContainerMissing` when the bucket is gone, and `NotFound` only when the
    remote said so. Nothing is retried here (`retry.RetryingStore` does that) and a call ends
    within the store's `request_timeout_s`.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def stat(self, key: str) -> Entry:
        """One entry: a file's key, or a directory's (with its slash). One small request.

        An object store answers for a directory if there is a marker or any key below it.
        """
        ...

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        """The entries of `directory` (key with its slash, or ""), page by page, in any order.

        No entry stands for the directory itself (its marker object is left out) and nothing
        is listed twice. A page may be empty. On a remote without real directories a missing
        prefix is an empty listing. An error in the middle raises: no partial listing ever ends
        as if it were whole.
        """
        ...

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        """Exactly the bytes [start, end) of that version, in one request.

        0 <= start < end <= size. Raises VersionChanged when the object is another version by
        now, NotFound when it is gone, Unreachable when the body ends early, and Corrupt when the
        answer is for another range. With version "" whatever is there now is read.
        """
        ...

    def identify(self, key: str) -> Identity:
        """What is at a file's key, with what tells who wrote it. NotFound where nothing is."""
        ...

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        """Makes or replaces a file as a whole; readers see the old or the new one, never a part.

        The entry has the new version, as listings will show it. Raises VersionChanged where what
        is there isn't `expect` (also: something is there and ABSENT was expected, or nothing is
        there and a version was), Corrupt where what arrived isn't what was sent, QuotaExceeded,
        Denied, Locked, NameNotAllowed, and Unsupported for a file that is too large. On real
        directories a missing parent is NotFound. After any other error nothing was changed.
        """
        ...

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
        """As `put`; but the bytes in the ranges `same` (sorted, disjoint, [start, end)) are those
        of that version of `source` at the same offsets, and are taken from there on the remote's
        side, as far as that pays. The others, and whatever else is sent, are read from `body`.

        Raises as `put`, NotFound also where the source is gone, and VersionChanged also where it
        is another version (nothing is made then). Unsupported where it can't be done or doesn't
        pay: `put` does the same.
        """
        ...

    def abandon(self, key: str, token: str) -> None:
        """Throws away what a `put` that broke off has left on the remote, as far as the remote can
        do that. No error where nothing is left, or for a token that isn't understood. A `put` that
        still goes on in some thread fails. Never changes what is at the key."""
        ...

    def delete(self, key: str, expect: str | None) -> None:
        """Removes a file. NotFound where nothing is there, VersionChanged as for `put`."""
        ...

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        """Makes `key` a copy of that version of `source`, on the remote's side.

        Raises as `put`, NotFound where the source is gone, and VersionChanged also where the
        source is another version (nothing is copied then). Unsupported without `server_copy`.
        """
        ...

    def make_dir(self, key: str) -> None:
        """Makes a directory (its key ends with a slash), or a marker object; it may exist already.
        NotFound where its parent is missing and directories are real."""
        ...

    def remove_dir(self, key: str) -> None:
        """Removes an empty directory, or a marker object. NotFound where there is none,
        DirectoryNotEmpty where there is anything in it; nothing is ever removed with it."""
        ...

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        """Everything below a directory, with keys below the mounted prefix; as `list` otherwise.
        A marker object is a DIRECTORY entry with its key; prefixes without one aren't listed.
        Unsupported where it would be one listing per directory."""
        ...

    def close(self) -> None:
        """Drops connections. Calls still running may fail with Unreachable."""
        ...
