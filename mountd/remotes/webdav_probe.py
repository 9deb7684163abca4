"""What a WebDAV server really does with conditions: tried once, on files of our own.

Some servers accept a condition and ignore it, and others refuse even the right one: `rclone serve
webdav` ignores If-Match and answers 412 to every `If`, WsgiDAV ignores a condition on what isn't
there. A promise to the user can't rest on that, so each is proved on `.mountd-probe-<uuid>` files
in the directory of the first write, about twenty small requests, before anything is written.

The first thing to prove is that a MOVE lands where `Destination` says. WsgiDAV decodes that before
it cuts it at `?` and `;`, so a file on its way to `a?b` replaces the file `a`; and a proxy that
takes a part of the path away may send it anywhere.
"""

import contextlib
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from mountd.errors import (
    Denied,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    Unreachable,
    Unsupported,
)
from mountd.remotes.base import ABSENT
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.http_range import is_tag
from mountd.remotes.request_body import SentBody
from mountd.remotes.temporary_names import naming_no_probe
from mountd.remotes.webdav_changes import DavChanges
from mountd.remotes.webdav_leftovers import ODD_SUFFIX, directory_of
from mountd.types import Entry, Kind

logger = logging.getLogger(__name__)

PROBE_PREFIX = ".mountd-probe-"
OLD_MTIME_S = 1_000_000_000
MTIME_HEADER = "X-OC-MTime"
_NOBODYS_TAG = '"mountd-probe"'
# What Python's urlparse drops or cuts at, once it is decoded.
_ODD = re.compile(r"[?;\x00-\x1f\x7f]")


def is_odd(key: str) -> bool:
    """Whether a `Destination` with this key is misread by a server without `odd_names`."""
    return _ODD.search(key) is not None


@dataclass(frozen=True, slots=True)
class Enforced:
    """Which changes a server refuses by itself.

    `other`: one that expects another version than what is there; the right one is accepted.
    `gone`: one that expects a version where nothing is. `taken`: one that expects nothing.
    """

    other: bool = False
    gone: bool = False
    taken: bool = False

    def covers(self, expect: str | None) -> bool:
        """Whether `expect` needs no look before the change."""
        if expect is None:
            return False
        return self.taken if expect == ABSENT else self.other and self.gone and is_tag(expect)

    @property
    def everything(self) -> bool:
        return self.other and self.gone and self.taken


@dataclass(frozen=True, slots=True)
class Proof:
    """What was seen. Nothing but False where nothing was tried.

    `puts`: not None where a PUT replaces a file at once, as Nextcloud and ownCloud do; a MOVE over
    a file would lose its id there, and with it shares and old versions. `move_keeps_version`: a
    MOVE changes neither tag nor mtime, so that what is moved is known before. `odd_names`: a MOVE
    may go to a name that `is_odd`. `collections`: an `If` with a collection's tag is not refused
    for being one (sabre, and so Nextcloud, says 412 to each); not tried, and so True.
    """

    moves: Enforced = Enforced()
    deletes: bool = False
    puts: Enforced | None = None
    move_keeps_version: bool = False
    keeps_mtime: bool = False
    odd_names: bool = False
    collections: bool = True


NOTHING: Final = Proof()


class Proves(Protocol):
    """Where a `Proof` comes from."""

    @property
    def proof(self) -> Proof:
        """What is proved so far."""
        ...

    def for_change(self, key: str) -> Proof:
        """Before something comes to `key`. Raises NameNotAllowed, before any byte was sent, where
        it can't, and what a put there would."""
        ...

    def for_removal(self, key: str) -> Proof:
        """Removing must work where nothing can be made: full, or by a key that may only delete."""
        ...


class Finds(Protocol):
    def find(self, key: str, until_s: float) -> Entry:
        """What is at a key, a file or a directory, by one PROPFIND. Raises NotFound."""
        ...


@contextlib.contextmanager
def explained(finds: Finds, key: str, deadline_s: Callable[[], float]) -> Iterator[None]:
    """Apache answers 400 to what is to come below a file: then no name is forbidden, it is a
    directory that is missing."""
    try:
        yield
    except NameNotAllowed:
        directory = directory_of(key).removesuffix("/")
        if directory and finds.find(directory, deadline_s()).kind is not Kind.DIRECTORY:
            raise NotFound(f"{directory!r} is a file") from None
        raise


class Prover:
    """Proves once, when it is first asked. Thread-safe."""

    def __init__(self, pool: HttpPool, finds: Finds, changes: DavChanges) -> None:
        self._pool = pool
        self._finds = finds
        self._changes = changes
        self._probing = threading.Lock()
        self._proved: Proof | None = None

    @property
    def proof(self) -> Proof:
        """See `Proves`."""
        return self._proved or NOTHING

    def for_change(self, key: str) -> Proof:
        """See `Proves`."""
        self._changes.check_name(key)
        proof = self._prove(key)
        if proof.puts is None and not proof.odd_names and is_odd(key):
            raise NameNotAllowed(f"{key!r}: this server's MOVE misreads such a name")
        return proof

    def for_removal(self, key: str) -> Proof:
        """See `Proves`."""
        try:
            return self._prove(key)
        except (Denied, NameNotAllowed, NotFound, QuotaExceeded, Unsupported):
            return Proof()

    def _prove(self, key: str) -> Proof:
        if self._proved is not None:
            return self._proved
        until_s = self._pool.deadline_s()
        # Held during the requests, so that the first writers don't all ask the same; who waits
        # doesn't wait longer than one request may take.
        if not self._probing.acquire(timeout=max(0.0, until_s - time.monotonic())):
            raise Unreachable(f"{self._pool.origin}: the first write has not ended in time")
        try:
            if self._proved is None:
                directory = directory_of(key)
                while is_odd(directory):
                    directory = directory_of(directory)
                probe = Probe(self._finds, self._changes, directory, until_s)
                with naming_no_probe(), explained(self._finds, key, self._pool.deadline_s):
                    self._proved = probe.run()
                logger.info("%s: what it enforces: %s", self._pool.origin, self._proved)
            return self._proved
        finally:
            self._probing.release()


class Probe:
    """Three files in `directory` (a key with its slash, or "", not odd). One use, one thread."""

    def __init__(self, finds: Finds, changes: DavChanges, directory: str, until_s: float) -> None:
        self._finds = finds
        self._changes = changes
        self._until_s = until_s
        names = [f"{directory}{PROBE_PREFIX}{uuid.uuid4().hex}" for _ in range(3)]
        self._moved, self._there, self._gone = names
        self._odd = self._gone + ODD_SUFFIX

    def run(self) -> Proof:
        """Raises what a `put` into that directory would, and Unsupported where a MOVE can't be
        trusted. The files are gone at the end, or are left to be found by a later listing."""
        try:
            headers = self._put(self._moved)
            first = self._find(self._moved)
            odd_names = self._prove_destinations()
            self._put(self._moved)
            self._put(self._there)
            puts_whole = "oc-etag" in headers or "oc-fileid" in headers
            puts = self._prove_puts() if puts_whole else None
            moves, keeps_version = self._prove_moves()
            return Proof(
                moves=moves,
                deletes=self._prove_delete(),
                puts=puts,
                move_keeps_version=keeps_version,
                keeps_mtime=first.mtime_ns == OLD_MTIME_S * 1_000_000_000,
                odd_names=odd_names,
            )
        finally:
            self._clean()

    def _put(self, key: str) -> dict[str, str]:
        data = b"moved" if key == self._moved else b"there before"
        headers = {MTIME_HEADER: str(OLD_MTIME_S)}
        answered = self._changes.put(key, SentBody.of(data), headers, self._until_s)
        return dict(answered or {})

    def _find(self, key: str) -> Entry:
        return self._finds.find(key, self._until_s)

    def _prove_destinations(self) -> bool:
        """Whether odd names work. Overwrite: F, so that nothing is lost where a MOVE goes astray;
        `_gone` is gone again at the end."""
        try:
            self._changes.move(self._moved, self._gone, self._until_s, overwrite=False)
            self._find(self._gone)
        except (NotFound, NameNotAllowed) as error:
            raise Unsupported(
                f"{error}: a MOVE doesn't arrive; does a proxy rewrite paths, but not Destination?"
            ) from error
        works = False
        with contextlib.suppress(NotFound, NameNotAllowed, Denied, Unsupported):
            self._changes.move(self._gone, self._odd, self._until_s, overwrite=False)
            self._find(self._odd)
            works = True
        self._clean(self._gone, self._odd)
        return works

    def _prove_puts(self) -> Enforced:
        version = self._find(self._there).version
        refuses = not self._put_if(self._there, "If-Match", _NOBODYS_TAG)
        accepts = is_tag(version) and self._put_if(self._there, "If-Match", version)
        return Enforced(
            other=refuses and accepts,
            gone=not self._put_if(self._gone, "If-Match", _NOBODYS_TAG),
            taken=not self._put_if(self._there, "If-None-Match", "*"),
        )

    def _put_if(self, key: str, name: str, value: str) -> bool:
        body = SentBody.of(b"put again")
        return self._changes.put(key, body, {name: value}, self._until_s) is not None

    def _prove_moves(self) -> tuple[Enforced, bool]:
        """What a MOVE enforces, and whether it keeps the version. `_there` is what was moved."""
        taken = not self._move(self._there, overwrite=False)
        refuses = not self._move(self._there, _NOBODYS_TAG)
        gone = self._refuses_gone()
        before = self._find(self._moved)
        version = self._find(self._there).version
        accepts = is_tag(version) and self._move(self._there, version)
        if not accepts:
            self._move(self._there)
        after = self._find(self._there)
        keeps = (after.version, after.mtime_ns) == (before.version, before.mtime_ns)
        return Enforced(refuses and accepts, gone, taken), keeps

    def _refuses_gone(self) -> bool:
        try:
            return not self._move(self._gone, _NOBODYS_TAG)
        except NotFound:
            return True  # sabre, and so Nextcloud, says 404 to a condition on what isn't there

    def _move(self, key: str, tag: str = "", *, overwrite: bool = True) -> bool:
        """Whether a MOVE to `key` was done. Where it was and should not have been, what was moved
        is put anew for the next try."""
        condition = self._changes.condition(key, tag) if tag else ""
        done = self._changes.move(
            self._moved, key, self._until_s, overwrite=overwrite, condition=condition
        )
        if done and (tag == _NOBODYS_TAG or not overwrite):
            self._put(self._moved)
        return done

    def _prove_delete(self) -> bool:
        version = self._find(self._there).version
        if not is_tag(version) or self._delete_if(_NOBODYS_TAG):
            return False
        return self._delete_if(version)

    def _delete_if(self, tag: str) -> bool:
        condition = self._changes.condition(self._there, tag)
        return self._changes.delete(self._there, self._until_s, condition)

    def _clean(self, *keys: str) -> None:
        for key in keys or (self._moved, self._there, self._gone):
            with contextlib.suppress(RemoteError):
                self._changes.delete(key, self._until_s)
