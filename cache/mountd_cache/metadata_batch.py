"""Changes of the metadata cache that wait for the disk; pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from mountd_cache.listing import Listing


@dataclass(frozen=True, slots=True)
class CachedListing:
    """A directory's whole listing and when it was asked for, in seconds of the wall clock.

    `fetched_at` 0 is "expired". `tag` ties the time that is kept on disk to this very listing.
    `token` means nothing here: the caller's own, kept beside the time, and "" once it is expired.
    """

    listing: Listing
    fetched_at: float
    tag: bytes = field(default=b"", repr=False, compare=False)
    token: str = ""


@dataclass(slots=True)
class Batch:
    """Changes that reach the disk together: `prefixes` first, then the rest, each key once."""

    prefixes: dict[str, bool] = field(default_factory=dict)  # True: forget, False: expire
    listings: dict[str, CachedListing | None] = field(default_factory=dict)  # None: forget
    times: dict[str, CachedListing] = field(default_factory=dict)
    nbytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.prefixes or self.listings or self.times)

    def put(self, directory: str, cached: CachedListing | None) -> None:
        """The listing of a directory, or that there is none."""
        self.take(directory)
        self.times.pop(directory, None)
        self.listings[directory] = cached
        self.nbytes += cached.listing.nbytes if cached else 0

    def touch(self, directory: str, cached: CachedListing) -> None:
        """Only the time of a listing changed."""
        if self.listings.get(directory) is not None:
            self.listings[directory] = cached
        else:
            self.times[directory] = cached

    def take(self, directory: str) -> None:
        """Undoes `put`."""
        old = self.listings.pop(directory, None)
        self.nbytes -= old.listing.nbytes if old else 0

    def forget_below(self, prefix: str) -> None:
        """Everything known of directories whose key begins with `prefix`."""
        for directory in _below(prefix, self.listings):
            self.take(directory)
        for directory in _below(prefix, self.times):
            del self.times[directory]
        self.prefixes[prefix] = True

    def expire(self, prefix: str) -> None:
        """Directories whose key begins with `prefix` are to be asked for again."""
        for directory in _below(prefix, self.listings):
            cached = self.listings[directory]
            if cached is not None:
                self.listings[directory] = replace(cached, fetched_at=0.0, token="")
        for directory in _below(prefix, self.times):
            self.times[directory] = replace(self.times[directory], fetched_at=0.0, token="")
        self.prefixes.setdefault(prefix, False)

    def forgets(self, directory: str) -> bool:
        """Whether the listing on disk (and in older batches) is not to be used any more."""
        known = self.listings.get(directory, ...) is None
        return known or any(
            forget and directory.startswith(prefix) for prefix, forget in self.prefixes.items()
        )

    def expires(self, directory: str) -> bool:
        """Whether the time on disk (and in older batches) is not to be used any more."""
        return directory in self.times or any(map(directory.startswith, self.prefixes))

    def shrink(self, limit_bytes: int) -> int:
        """Gives up keeping the oldest listings until the rest fits; how many."""
        given_up = 0
        while self.nbytes > limit_bytes:
            directory = next(key for key, cached in self.listings.items() if cached)
            self.put(directory, None)
            given_up += 1
        return given_up

    def failed(self, newer: "Batch") -> "Batch":
        """What must still happen after the disk refused this batch and `newer` came up since.

        Data may be lost, but what was forgotten, expired or replaced must not come back.
        """
        again = Batch(dict(self.prefixes))
        for directory in self.listings:
            again.listings[directory] = None
        again.times = dict(self.times)
        for prefix, forget in newer.prefixes.items():
            again.forget_below(prefix) if forget else again.expire(prefix)
        for directory, cached in newer.listings.items():
            again.put(directory, cached)
        for directory, touched in newer.times.items():
            again.touch(directory, touched)
        return again


def _below(prefix: str, directories: Iterable[str]) -> Iterator[str]:
    return iter([directory for directory in directories if directory.startswith(prefix)])
