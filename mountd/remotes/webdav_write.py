"""WebDAV (RFC 4918), write side: how a file is replaced without a reader ever seeing a part of it.

Seen on the wire, with a PUT over an old file whose connection was cut half-way:

    WsgiDAV 4.4            readers see the part while it grows; the torn file stays
    rclone serve webdav    readers see the old file; after the cut the torn file stays
    Apache 2.4             readers see the old file, and it stays

Nothing but a cut tells the three apart, and a proxy may hide it. So the bytes go to `.mountd-tmp-`
in the same collection, their size is checked there, and a MOVE puts them in place. It keeps tag and
mtime (`webdav_probe` proves it), so the new version is known before the MOVE, and what a foreign
writer does right after it is not taken for ours. Nextcloud and ownCloud answer a PUT with OC-ETag;
there a PUT is whole by itself, and a MOVE would give the file another id.

`expect` goes with the MOVE: Overwrite: F for nothing, and an `If` on the destination. Enforced are

    Apache 2.4             all
    WsgiDAV 4.4            all but "a version is expected, and nothing is there"
    rclone serve webdav    Overwrite: F only; every `If` gives 412, right or wrong

The rest is a look, then the act. Even Apache looks and then acts, inside: of two puts that arrive
in one instant, both were done in 11 of 100 creations and 3 of 100 replacements. So the capabilities
claim nothing here; the window is less than a millisecond instead of an upload's time.

What this costs: servers delete what a MOVE replaces before they rename (RFC 4918, 9.9.3 wants it),
so for that instant a reader finds nothing. A MOVE over a collection and a DELETE of one take all
that is in it, so a look precedes every DELETE, and every MOVE with Overwrite: T whose `If` isn't
enforced. WsgiDAV enforces no `If` on a collection: there a file that becomes one between look and
act goes.

What isn't kept: attributes and the upload id. A dead property would keep the id, for one request
more per upload and a database file per file on Apache; instead this process remembers which
version it made with which id, which is enough after a lost answer, but not after a restart.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from typing_extensions import Buffer

from mountd.errors import (
    Corrupt,
    DirectoryNotEmpty,
    NameNotAllowed,
    NotFound,
    RemoteError,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, Body, Identity, Upload
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.http_range import is_tag, opaque_tag, tag_of
from mountd.remotes.request_body import SentBody
from mountd.remotes.webdav_changes import DavChanges
from mountd.remotes.webdav_leftovers import Leftovers, temporary_beside
from mountd.remotes.webdav_probe import (
    MTIME_HEADER,
    Enforced,
    Finds,
    Proof,
    Prover,
    Proves,
    explained,
)
from mountd.types import Entry, Kind

logger = logging.getLogger(__name__)

# A put that has lost already is noticed before this many bytes are sent, for one request more.
_LOOK_FIRST_BYTES = 1 << 20
_MAX_REMEMBERED = 4096
FIRST_DAY_S = 86_400
_SWEPT_PER_WRITE = 2
_SWEEP_TIMEOUT_S = 5.0
_REMOVE_DIR_ATTEMPTS = 3


class DavFiles(Finds, Protocol):
    """The read side, as the write side needs it."""

    def own_tag_if_empty(self, directory: str, until_s: float) -> str | None:
        """The tag of a collection ("" where it has none), None where something is in it that is
        not mountd's own. Raises NotFound where it is no collection."""
        ...


def _as_it_is(key: str, made: Entry) -> Entry:
    return made


class _Temporary:
    """A temporary file that is being sent; `is_cut` once its body broke off."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.is_cut = False

    def watched(self, body: Body) -> SentBody:
        sent = SentBody.part_of(body, 0, body.size)

        def buffers() -> Iterator[Buffer]:
            try:
                yield from sent.buffers()
            except Exception:
                self.is_cut = True
                raise

        return SentBody(sent.size, buffers)


class DavWriter:
    """The changing half of a `RemoteStore`; its methods promise what that does. Thread-safe.

    Requests beside the bytes share one timeout, before them and after them; the bytes have one per
    piece.
    """

    def __init__(
        self,
        pool: HttpPool,
        base: str,
        files: DavFiles,
        leftovers: Leftovers,
        prover: Proves | None = None,
    ) -> None:
        self._pool = pool
        self._files = files
        self._changes = DavChanges(pool, base)
        self._leftovers = leftovers
        self._prover = prover or Prover(pool, files, self._changes)
        self._remembering = threading.Lock()
        self._made: dict[str, tuple[str, str]] = {}  # key -> (version, upload id)

    @property
    def proof(self) -> Proof:
        """What is proved so far: nothing before the first write."""
        return self._prover.proof

    def identify(self, key: str) -> Identity:
        """One PROPFIND. The upload id is known while this process lives; there is no md5."""
        entry = self._file(key, self._pool.deadline_s())
        return Identity(entry, self.upload_id_of(key, entry.version))

    def upload_id_of(self, key: str, version: str) -> str:
        """The upload that made this version, where this process did; else ""."""
        with self._remembering:
            made, upload_id = self._made.get(key, ("", ""))
        return upload_id if made == version else ""

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        """PUT, PROPFIND and MOVE; one look more where `expect` isn't enforced."""
        proof = self._prover.for_change(key)
        if body.size >= _LOOK_FIRST_BYTES:
            self.check(key, expect, self._pool.deadline_s())
        if proof.puts is not None:
            return self._put_whole(key, body, expect, upload, proof.puts)
        with self._temporary(key) as temporary:
            headers, sent = mtime_headers(upload), temporary.watched(body)
            if self._changes.put(temporary.key, sent, headers, self._pool.deadline_s()) is None:
                raise VersionChanged(f"{temporary.key!r}: HTTP 412 without a condition")
            until_s = self._pool.deadline_s()
            made = self._files.find(temporary.key, until_s)
            if made.size != body.size:
                raise Corrupt(f"{key!r}: sent {body.size} bytes, and {made.size} arrived")
            return self._put_in_place(temporary.key, made, key, expect, upload, until_s)

    def copy(
        self,
        source: str,
        version: str,
        key: str,
        expect: str | None,
        upload: Upload,
        dated: Callable[[str, Entry], Entry] = _as_it_is,
    ) -> Entry:
        """COPY to a temporary name and MOVE, between two looks at the source. The copy's mtime is
        what the server makes it, or what `dated` makes of it, by its temporary key."""
        proof = self._prover.for_change(key)
        until_s = self._pool.deadline_s()
        self._check_source(source, version, until_s)
        if_source = proof.moves.other and is_tag(version)
        condition = self._changes.condition(source, version) if if_source else ""
        with self._temporary(key) as temporary:
            if not self._changes.copy(source, temporary.key, until_s, condition):
                raise VersionChanged(f"{source!r} is no longer {version}")
            made = self._files.find(temporary.key, until_s)
            original = self._check_source(source, version, until_s)
            if made.size != original.size:
                raise Corrupt(f"{source!r} has {original.size} bytes, its copy {made.size}")
            made = dated(temporary.key, made)
            return self._put_in_place(temporary.key, made, key, expect, upload, until_s)

    def delete(self, key: str, expect: str | None) -> None:
        """A look, and a DELETE on the condition that it is still that file."""
        until_s = self._pool.deadline_s()
        proof = self._prover.for_removal(key)
        now = self._file(key, until_s)
        if expect is not None and now.version != expect:
            raise VersionChanged(f"{key!r} was {expect!r} and is {now.version}")
        condition = ""
        if proof.deletes and is_tag(now.version):
            condition = self._changes.condition(key, now.version)
        if not self._changes.delete(key, until_s, condition):
            raise VersionChanged(f"{key!r} is no longer {now.version}")
        self._sweep()

    def make_dir(self, key: str) -> None:
        """One MKCOL."""
        until_s = self._pool.deadline_s()
        with explained(self._files, key, self._pool.deadline_s):
            if self._changes.make_collection(key, until_s):
                return
        found = self._files.find(key.removesuffix("/"), until_s)
        if found.kind is not Kind.DIRECTORY:
            raise NameNotAllowed(f"{key!r} is a file")

    def remove_dir(self, key: str) -> None:
        """A listing, and a DELETE on the condition that nothing came in, where directories have
        tags. Temporary files, whosever they are, go with their directory."""
        if not key:
            raise Unsupported("the mounted directory itself can't be removed")
        until_s = self._pool.deadline_s()
        proof = self._prover.for_removal(key)
        refused = ""
        for _ in range(_REMOVE_DIR_ATTEMPTS):
            tag = self._files.own_tag_if_empty(key, until_s)
            if tag is None:
                break
            # The same tag was refused: this server (sabre, for one) refuses any of a collection.
            is_sure = proof.deletes and proof.collections and tag and tag != refused
            condition = self._changes.condition(key, tag) if is_sure else ""
            if self._changes.delete(key, until_s, condition):
                return
            refused = tag
        raise DirectoryNotEmpty(key)

    # Putting in place

    def _put_in_place(
        self,
        temporary: str,
        made: Entry,
        key: str,
        expect: str | None,
        upload: Upload,
        until_s: float,
    ) -> Entry:
        """Moves what was `made` to its name, if what is there is `expect`."""
        proof = self.proof
        known = expect
        if known is None or not proof.moves.covers(known):
            known = self.check(key, expect, until_s)
        condition = ""
        if proof.moves.other and is_tag(known):
            condition = self._changes.condition(key, known)
        entry = replace(made, name=key.rpartition("/")[2])
        if proof.move_keeps_version:
            # Before the MOVE: its answer may be lost.
            self.remember(key, entry.version, upload)
        if upload.arriving is not None:
            upload.arriving(entry.version)
        overwrite = known != ABSENT
        try:
            done = self._changes.move(
                temporary, key, until_s, overwrite=overwrite, condition=condition
            )
        except NotFound:
            # Either the directory has gone, or what was to be replaced went in the same instant.
            self._files.find(temporary, until_s)
            done = False
        if not done:
            raise self.refusal(key, known, until_s)
        if not proof.move_keeps_version:
            entry = self._file(key, until_s)
            self.remember(key, entry.version, upload)
        self._sweep()
        return entry

    def _put_whole(
        self, key: str, body: Body, expect: str | None, upload: Upload, enforced: Enforced
    ) -> Entry:
        """One PUT and one PROPFIND, on a server that replaces a file at once."""
        known = expect
        if known is None or not enforced.covers(known):
            known = self.check(key, expect, self._pool.deadline_s())
        headers = mtime_headers(upload)
        if known == ABSENT:
            headers["If-None-Match"] = "*"
        elif enforced.other and is_tag(known):
            headers["If-Match"] = tag_of(known)
        until_s = self._pool.deadline_s()
        with explained(self._files, key, self._pool.deadline_s):
            sent = SentBody.part_of(body, 0, body.size)
            answered = self._changes.put(key, sent, headers, until_s)
        until_s = self._pool.deadline_s()
        if answered is None:
            raise self.refusal(key, known, until_s)
        version = opaque_tag(answered.get("oc-etag") or answered.get("etag", ""))
        found = self._file(key, until_s)
        if version and (not is_tag(found.version) or tag_of(found.version) != version):
            # Somebody has replaced it already. Ours was there, and this is what it was.
            found = replace(found, size=body.size, mtime_ns=upload.mtime_ns, version=version)
        elif found.size != body.size:
            raise Corrupt(f"{key!r}: sent {body.size} bytes, and {found.size} arrived")
        self.remember(key, found.version, upload)
        return found

    def refusal(self, key: str, known: str, until_s: float) -> RemoteError:
        """The error for a 412: something else is there, or a directory."""
        with contextlib.suppress(NotFound):
            if self._files.find(key, until_s).kind is Kind.DIRECTORY:
                return NameNotAllowed(f"{key!r} is a directory")
        return VersionChanged(f"{key!r} is not {known or 'absent'}")

    @contextlib.contextmanager
    def _temporary(self, key: str) -> Iterator["_Temporary"]:
        """Whatever fails inside, the temporary file goes: at once where the server has answered,
        and else with a later write, because the server may still be writing it."""
        temporary = _Temporary(temporary_beside(key))
        try:
            with explained(self._files, key, self._pool.deadline_s):
                yield temporary
        except BaseException as error:
            self._leftovers.add(temporary.key)
            has_answered = isinstance(error, RemoteError) and not isinstance(error, Unreachable)
            if has_answered and not temporary.is_cut:
                self._sweep()
            raise

    def _sweep(self) -> None:
        for key in self._leftovers.take(_SWEPT_PER_WRITE):
            until_s = time.monotonic() + _SWEEP_TIMEOUT_S
            try:
                self._changes.delete(key, until_s)
            except NotFound:
                continue
            except Unreachable:
                self._leftovers.add(key)
                return
            except RemoteError as error:
                logger.info("a temporary file stays: %s", error)

    # Looking

    def _file(self, key: str, until_s: float) -> Entry:
        found = self._files.find(key, until_s)
        if found.kind is not Kind.FILE:
            raise NotFound(f"{key!r} is a directory")
        return found

    def check(self, key: str, expect: str | None, until_s: float) -> str:
        """The version that is there, or ABSENT. Raises VersionChanged where `expect` isn't met,
        and NameNotAllowed for a directory."""
        try:
            found = self._files.find(key, until_s)
        except NotFound:
            now = ABSENT
        else:
            if found.kind is Kind.DIRECTORY:
                raise NameNotAllowed(f"{key!r} is a directory")
            now = found.version
        if expect is not None and expect != now:
            raise VersionChanged(f"{key!r} was to be {expect!r} and is {now!r}")
        return now

    def _check_source(self, source: str, version: str, until_s: float) -> Entry:
        found = self._file(source, until_s)
        if found.version != version:
            raise VersionChanged(f"{source!r} was {version} and is {found.version}")
        return found

    def remember(self, key: str, version: str, upload: Upload) -> None:
        with self._remembering:
            self._made.pop(key, None)
            if len(self._made) >= _MAX_REMEMBERED:
                del self._made[next(iter(self._made))]
            self._made[key] = (version, upload.upload_id)


def mtime_headers(upload: Upload) -> dict[str, str]:
    """None for the first day of 1970: Nextcloud keeps the bytes and then answers 500."""
    mtime_s = upload.mtime_ns // 1_000_000_000
    return {MTIME_HEADER: str(mtime_s)} if mtime_s > FIRST_DAY_S else {}
