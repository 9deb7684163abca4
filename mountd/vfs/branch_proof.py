"""Directories whose versions change with anything below them: one request proves a whole tree.

Each kept listing has a token: the version of its directory, as the level above said it *before* the
listing was asked for. A remote never goes back to a version, so where the level above still says
the token, the listing is what the remote has, as of the time when that was said. The level above is
the parent's listing; above the root's it is one `stat`. A directory that says nothing ("": external
storages; made here and not listed since) proves nothing of itself or what is below.

Nothing here waits; refreshing.py asks.
"""

from collections.abc import Callable
from typing import Final

from mountd.remotes.base import RemoteStore
from mountd.types import Entry
from mountd.vfs.listing_rows import row_of, version_in
from mountd_cache.metadata_cache import CachedListing, MetadataCache

MAX_TOKEN_CHARS: Final = 256
MADE_HERE: Final = "/"  # the version of a directory's row that was folded in (namespace.THERE)


class BranchProof:
    """What proves that listings are fresh, and how old they are. On the loop only."""

    def __init__(
        self,
        store: RemoteStore,
        cache: MetadataCache,
        *,
        ttl_s: float,
        wall_clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._cache = cache
        self._ttl_s = ttl_s
        self._wall_clock = wall_clock
        self._root_version = ""
        self._root_said_at = 0.0
        self._void_s = 0.0  # what was asked for until then is fresh no more

    @property
    def is_possible(self) -> bool:
        """Whether the remote's directories say what is below them."""
        return self._ttl_s > 0 and self._store.capabilities.tree_versions

    def age_s(self, fetched_at: float) -> float:
        """In seconds; at least the TTL for what must be asked for again."""
        age = self._wall_clock() - fetched_at
        if age < 0 or fetched_at <= self._void_s:  # the clock was set back: ask
            return max(age, self._ttl_s)
        return age

    def void(self) -> None:
        """Something was changed elsewhere: what was asked for until now proves nothing."""
        self._void_s = self._wall_clock()

    def asked_at(self, began: float) -> float:
        """The time from which an answer counts that was asked for at `began`; one that took long
        counts from its end, or it would never be fresh and each look-up would ask for it again."""
        now = self._wall_clock()
        self._void_s = min(self._void_s, now)  # the clock was set back
        if began <= self._void_s:
            return began
        return now if now - began > self._ttl_s / 2 else began

    def root_said(self, root: Entry, began: float) -> None:
        """What a `stat` of the root has answered that was asked at `began`."""
        self._root_version, self._root_said_at = root.version, self.asked_at(began)

    def token(self, key: str) -> str:
        """What the level above says of the directory `key` now, for a LIST that is asked for
        after this call; "" where that would prove nothing."""
        return self._said(key)[0] if self.is_possible else ""

    def proved(self, key: str) -> CachedListing | None:
        """The listing, if it is fresh, or what is known above it proves that it is."""
        if not self.is_possible:
            return None
        unproved: list[tuple[str, CachedListing]] = []
        level: str | None = key
        while level is not None:
            cached = self._cache.get(level)
            if cached is None:
                return None
            if self.age_s(cached.fetched_at) < self._ttl_s:
                break
            if not cached.token:
                return None
            unproved.append((level, cached))
            level = parent_of(level)
        for level, cached in reversed(unproved):
            version, said_at = self._said(level)
            if version != cached.token or self.age_s(said_at) >= self._ttl_s:
                return None
            self._cache.revive(level, cached.tag, said_at)
        return self._cache.get(key)

    def _said(self, key: str) -> tuple[str, float]:
        """The version of a directory, and when that was so."""
        parent = parent_of(key)
        if parent is None:
            version, said_at = self._root_version, self._root_said_at
        else:
            above = self._cache.get(parent)
            row = row_of(above.listing, parent, key) if above is not None else -1
            if above is None or row < 0:
                return "", 0.0
            version, said_at = version_in(above.listing.version(row)), above.fetched_at
        is_token = version != MADE_HERE and len(version) <= MAX_TOKEN_CHARS
        return (version if is_token else ""), said_at


def parent_of(key: str) -> str | None:
    """The key of the directory above; None for the root."""
    return key[: key.rfind("/", 0, -1) + 1] if key else None
