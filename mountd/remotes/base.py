"""The one interface behind which every remote stands.

A store is blocking and thread-safe; the daemon calls it from worker threads through one
`trio.to_thread` limiter. A call that is cancelled goes on running in its thread. Wrappers
(`retry`, `limit`, `health`) are stores too. The write half joins with the sync queue.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from typing_extensions import Buffer

from mountd.types import Entry


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a remote does natively. Docs and status are written from this.

    `strong_version`: equal versions prove equal bytes (an ETag or a generation does, size and
    mtime do not quite). `conditional_read`: the remote itself refuses a ranged read of another
    version (If-Match); where False the store compares what the answer says before it returns.
    `real_directories`: directories exist by themselves, and listing a missing one is NotFound.
    `max_parallel`: how many requests at once this remote bears well.
    """

    strong_version: bool
    conditional_read: bool
    real_directories: bool
    max_parallel: int = 64


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

    def close(self) -> None:
        """Drops connections. Calls still running may fail with Unreachable."""
        ...
