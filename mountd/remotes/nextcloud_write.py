"""Writes to a Nextcloud, as far as it does more than WebDAV; `webdav_write` does the rest.

A PUT is whole there, keeps the file's id, and is refused by the server itself where `If-Match` or
`If-None-Match: *` isn't met; so nothing is probed. Its answer tells the new version, and the MD5
that the server added up while it took the bytes (`X-Hash`), so no PROPFIND follows. `OC-Checksum`
is kept with the file and compared with nothing (24.0.5: a wrong one is a 201); it is how `identify`
knows after a restart what we sent. Every body has a Content-Length: one without it bypasses the
quota.
"""

import contextlib
import hashlib
import logging
import random
import threading
from collections.abc import Iterator, Mapping, Sequence

from typing_extensions import Buffer

from mountd.errors import (
    Corrupt,
    Locked,
    LockedByUser,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.base import ABSENT, LIGHT_BYTES, Body, Identity, Upload
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.http_range import is_tag, opaque_tag, tag_of
from mountd.remotes.nextcloud_assembly import Goal
from mountd.remotes.nextcloud_chunks import ChunkedUploads, Looks
from mountd.remotes.nextcloud_dav import Details, all_sums_in
from mountd.remotes.nextcloud_features import FeaturesDoor
from mountd.remotes.nextcloud_moves import move_file
from mountd.remotes.nextcloud_removal import remove_tree
from mountd.remotes.nextcloud_times import SECOND_NS, NextcloudTimes
from mountd.remotes.nextcloud_version import has_lost_its_sum, version_made
from mountd.remotes.object_metadata import MTIME
from mountd.remotes.request_body import SentBody
from mountd.remotes.webdav_changes import DavChanges
from mountd.remotes.webdav_leftovers import Leftovers, directory_of
from mountd.remotes.webdav_path import target_of
from mountd.remotes.webdav_probe import Enforced, Proof, explained
from mountd.remotes.webdav_read import DavReader
from mountd.remotes.webdav_write import DavWriter, mtime_headers
from mountd.types import Entry, Kind

logger = logging.getLogger(__name__)

# A tag may stand for more than one content there (`nextcloud_version`). So a version is compared
# by a look, and its tag then goes with the request: `gone` False is what asks for that look.
_TAGS = Enforced(other=True, gone=False, taken=True)
# 24.0.5. A MOVE gives a collection's `If` a 412 whatever it says: sabre knows no tags of those.
PROOF = Proof(
    moves=_TAGS, deletes=True, puts=_TAGS, keeps_mtime=True, odd_names=True, collections=False
)
_KEEPING_BYTES = 2047


class NextcloudProof:
    """`webdav_probe.Proves` without a probe."""

    def __init__(self, changes: DavChanges, door: FeaturesDoor) -> None:
        self._changes = changes
        self._door = door

    @property
    def proof(self) -> Proof:
        return PROOF

    def for_change(self, key: str) -> Proof:
        self._changes.check_name(key)
        name = key.removesuffix("/").rpartition("/")[2]
        rules = self._door.known.names
        if rules is not None and not rules.allow(name):
            raise NameNotAllowed(f"{name!r}: this Nextcloud forbids the name")
        return PROOF

    def for_removal(self, key: str) -> Proof:
        return PROOF


class NextcloudWriter:
    """The changing half of a `RemoteStore`; its methods promise what that does. Thread-safe.

    Before a server was asked what it is, nothing is changed; one that is no Nextcloud gets what
    any WebDAV server gets.
    """

    def __init__(
        self,
        pool: HttpPool,
        base: str,
        reader: DavReader,
        plain: DavReader,
        leftovers: Leftovers,
        details: Details,
        door: FeaturesDoor,
        chunks: ChunkedUploads,
        whole_bytes: int,
        closing: threading.Event,
        pauses_s: Sequence[float],
    ) -> None:
        self._pool = pool
        self._base = base
        self._reader = reader
        self._details = details
        self._door = door
        self._chunks = chunks
        self._whole_bytes = whole_bytes
        self._closing = closing
        self._pauses_s = pauses_s
        self._changes = DavChanges(pool, base)
        self._prover = NextcloudProof(self._changes, door)
        self._known = DavWriter(pool, base, reader, leftovers, self._prover)
        self._plain = DavWriter(pool, base, plain, leftovers)
        self._times = NextcloudTimes(pool, reader, self._changes)
        self._keeps_mtime = True
        # By key, what was broken on its way and stands there under our sum: its version, and the
        # sum of what did arrive.
        self._broken: dict[str, tuple[str, str]] = {}

    @property
    def proof(self) -> Proof:
        """What is known so far."""
        return PROOF if self._door.known.is_nextcloud else self._plain.proof

    @property
    def keeps_mtime(self) -> bool:
        return self.proof.keeps_mtime and self._keeps_mtime

    def identify(self, key: str) -> Identity:
        """One PROPFIND. The sums are what the uploader said, so they are there only if that was us
        or another client that says some."""
        writer = self._writer()
        if writer is self._plain:
            return writer.identify(key)
        entry, item = self._details.look(key)
        sums = all_sums_in(item)
        if entry.kind is not Kind.FILE:
            raise NotFound(f"{key!r} is a directory")
        version, arrived = self._broken.get(key, ("", ""))
        if entry.version == version:
            sums = {"md5": arrived} if arrived else {}
        upload_id = writer.upload_id_of(key, entry.version)
        upload_id = upload_id or self._times.upload_id_of(key, entry, item)
        return Identity(entry, upload_id, sums.get("md5", ""), sums)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        """Small files by one request; large ones in chunks, where the server takes such."""
        writer = self._writer()
        if writer is self._plain:
            return writer.put(key, body, expect, upload)
        self._prover.for_change(key)
        with self._locks_explained(key):
            if body.size > self._whole_bytes:
                if not self._door.known.is_chunked:
                    return writer.put(key, body, expect, upload)
                made = self._put_chunked(key, body, expect, upload)
            else:
                made = self._put_whole(key, body, expect, upload)
        writer.remember(key, made.version, upload)
        return made

    def delete(self, key: str, expect: str | None) -> None:
        with self._locks_explained(key):
            self._writer().delete(key, expect)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        writer = self._writer()
        with self._locks_explained(key):
            if source == key:
                if writer is self._plain or expect not in (version, None):
                    raise Unsupported(f"{key!r} can't be copied onto itself here")
                return self._times.set(key, version, upload)
            if writer is self._plain or not upload.mtime_ns or MTIME in upload.unset:
                return writer.copy(source, version, key, expect, upload)
            return writer.copy(
                *(source, version, key, expect, upload),
                lambda own, made: self._times.set_on_own(own, made, upload.mtime_ns, key),
            )

    def make_dir(self, key: str) -> None:
        writer = self._writer()
        if writer is self._known:
            self._prover.for_change(key)
        writer.make_dir(key)

    def remove_dir(self, key: str) -> None:
        """What comes into the directory between the look and the DELETE goes to the trash with
        it: the server knows no condition for a directory."""
        with self._locks_explained(key):
            self._writer().remove_dir(key)

    def move_dir(self, source: str, key: str) -> None:
        """See `optional_doors`. Unsupported on a server that is no Nextcloud."""
        if self._writer() is self._plain:
            raise Unsupported("this server may move a directory in parts")
        if not source or not key or key.startswith(source):
            raise Unsupported(f"{source!r} can't be moved to {key!r}")
        self._prover.for_change(key)
        with self._locks_explained(source):
            until_s = self._pool.deadline_s()
            if not self._changes.move(source, key, until_s, overwrite=False):
                raise VersionChanged(f"something is at {key!r}")

    def move_file(self, source: str, version: str, key: str) -> Entry:
        """See `optional_doors`, and `nextcloud_moves`."""
        if self._writer() is self._plain:
            raise Unsupported("this server gives what it moves another id")
        self._prover.for_change(key)
        with self._locks_explained(source):
            until_s = self._pool.deadline_s()
            return move_file(self._reader, self._changes, until_s, source, version, key)

    def remove_tree(self, key: str, inside: Mapping[str, str]) -> None:
        """See `optional_doors`, and `nextcloud_removal` for what is proved."""
        if self._writer() is self._plain or not key:
            raise Unsupported("here nothing tells what is in a directory")
        with self._locks_explained(key):
            remove_tree(self._reader, self._changes, self._pool.deadline_s, key, inside)

    def _writer(self) -> DavWriter:
        return self._known if self._door.get().is_nextcloud else self._plain

    @contextlib.contextmanager
    def _locks_explained(self, key: str) -> Iterator[None]:
        """A lock that a person holds is another thing than one of a request under way."""
        try:
            yield
        except LockedByUser as error:
            logger.warning("%s", error)
            raise
        except Locked as error:
            better = self._details.explained(error, key)
            if better is error:
                raise
            logger.warning("%s", better)
            raise better from error

    # Small files

    def _put_whole(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        data = body.read(0, body.size)
        md5 = _md5_of(data)
        headers = {"OC-Checksum": f"MD5:{md5}", "X-Hash": "md5", **mtime_headers(upload)}
        if upload.completing is not None:
            upload.completing(md5)
        if expect:
            self._known.check(key, expect, self._pool.deadline_s())
        answered = self._put_data(key, data, headers, expect)
        tag = _tag_in(answered)
        if answered.get("x-hash-md5", md5).lower() != md5:
            # Once more. Not under our sum: what is broken must never be taken for what we sent.
            self._broken[key] = version_made(tag, body.size, md5), answered["x-hash-md5"].lower()
            del headers["OC-Checksum"]
            answered = self._put_data(key, data, headers, tag or expect)
            tag = _tag_in(answered)
            if answered.get("x-hash-md5", "").lower() != md5:
                raise Corrupt(f"{key!r}: the server got other bytes than were sent, twice")
            self._broken.pop(key, None)
            del answered["x-hash-md5"]  # no sum is kept now: only a look tells the version
        made = version_made(tag, body.size, md5)
        return self._made(key, body.size, upload, answered, made)

    def _put_data(
        self, key: str, data: Buffer, headers: dict[str, str], expect: str | None
    ) -> dict[str, str]:
        conditions: dict[str, str] = {}
        if expect == ABSENT:
            conditions["If-None-Match"] = "*"
        elif expect is not None and is_tag(expect):
            conditions["If-Match"] = tag_of(expect)
        with explained(self._reader, key, self._pool.deadline_s):
            sent = SentBody.of(data)
            answered = self._put_file(key, sent, {**headers, **conditions}, expect)
        if answered is None:
            raise self._known.refusal(key, expect or ABSENT, self._pool.deadline_s())
        return dict(answered)

    def _put_file(
        self, key: str, sent: SentBody, headers: dict[str, str], expect: str | None
    ) -> Mapping[str, str] | None:
        """After a 423 again: nothing was done, and another request holds the file for a moment.
        What that one leaves there may have the same tag, so it is looked at."""
        for pause_s in self._pauses_s:
            try:
                return self._put_once(key, sent, headers)
            except Locked as error:
                better = self._details.explained(error, key)
                if better is not error:
                    raise better from error
                # Two who got it from one another must not come back in step.
                if self._closing.wait(pause_s * random.uniform(0.5, 1.5)):
                    raise
                if expect:
                    self._known.check(key, expect, self._pool.deadline_s())
        return self._put_once(key, sent, headers)

    def _put_once(
        self, key: str, sent: SentBody, headers: dict[str, str]
    ) -> Mapping[str, str] | None:
        try:
            return self._changes.put(key, sent, headers, self._pool.deadline_s())
        except NotFound:
            # 409: its directory is missing, or it is one itself.
            self._known.check(key, None, self._pool.deadline_s())
            raise

    def _made(
        self, key: str, size: int, upload: Upload, answered: dict[str, str], version: str
    ) -> Entry:
        """What the answer says, or else what a look shows."""
        keeps_mtime = answered.get("x-oc-mtime") == "accepted"
        if mtime_headers(upload) and not keeps_mtime:
            self._keeps_mtime = False
        mtime_ns = upload.mtime_ns // SECOND_NS * SECOND_NS
        ours = Entry(key.rpartition("/")[2], Kind.FILE, size, mtime_ns, version)
        if version and keeps_mtime and "x-hash-md5" in answered:
            return ours
        found = self._reader.find(key, self._pool.deadline_s())
        if version and found.version != version and not has_lost_its_sum(found.version, version):
            return ours  # somebody has replaced it already
        if found.size != size:
            raise Corrupt(f"{key!r}: sent {size} bytes, and {found.size} arrived")
        return found

    # Large files

    def _put_chunked(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        target = target_of(self._base, key)
        goal = Goal(
            key,
            target,
            self._pool.origin + target,
            body.size,
            upload.mtime_ns,
            expect,
        )
        features = self._door.known
        looks = Looks(
            lambda: self._known.check(key, expect, self._pool.deadline_s()),
            lambda: self._check_room(key, body.size),
        )
        limits = features.max_chunk_bytes, features.max_chunks_at_once
        return self._chunks.put(goal, body, upload, looks, *limits)

    def _check_room(self, key: str, size: int) -> None:
        """Before gigabytes of a new file go; a missing directory shows here, too. Whether what is
        replaced makes room is for the server to say."""
        room = self._details.room(directory_of(key))
        if room.free_bytes is not None and size > room.free_bytes:
            raise QuotaExceeded(f"{key!r} has {size} bytes, and {room.free_bytes} are left")


def _md5_of(data: Buffer) -> str:
    """In hex. hashlib lets other threads in for each piece of 2 KiB or more: for a small file that
    costs more than its sum."""
    digest, view = hashlib.md5(usedforsecurity=False), memoryview(data)
    step = _KEEPING_BYTES if view.nbytes <= LIGHT_BYTES else view.nbytes
    for at in range(0, view.nbytes, step):
        digest.update(view[at : at + step])
    return digest.hexdigest()


def _tag_in(answered: dict[str, str]) -> str:
    return opaque_tag(answered.get("oc-etag") or answered.get("etag", ""))
