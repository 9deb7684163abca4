"""Which conditions a server really enforces, seen on objects of our own.

Some servers accept a conditional request and ignore it (`rclone serve s3` on everything, moto on
Complete, MinIO on DELETE), others refuse it (Swift's s3api: 501). A verb counts as enforced when
a false condition is refused and a true one is not.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum, auto
from functools import partial
from typing import Protocol, Self

from mountd.errors import Corrupt, RemoteError, Unreachable, Unsupported, VersionChanged
from mountd.remotes.base import ABSENT
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.object_store import PROBE_NAME
from mountd.remotes.rest import RestAnswer
from mountd.remotes.s3_errors import error_code, s3_error, write_error
from mountd.remotes.s3_payload import (
    Payload,
    payload_by_crc32c,
    payload_by_sha256,
    payload_of,
)
from mountd.remotes.s3_rest import NOTHING, S3Rest
from mountd.remotes.s3_unfinished import BY_CRC32C
from mountd.remotes.s3_xml import MadePart, complete_body, etag_in, upload_id_in
from mountd.remotes.temporary_names import naming_no_probe

logger = logging.getLogger(__name__)

_NONE = {"If-None-Match": "*"}
_OTHER_VERSION = f'"{"0" * 32}"'
_OTHER = {"If-Match": _OTHER_VERSION}
_LOOKS = b"mountd looks whether conditions hold"
_LEFTOVER_NS = 3600 * 1_000_000_000

_FARTHEST_S = 1 << 40


@dataclass(frozen=True, slots=True)
class Proven:
    """What one bucket's server enforces; remembered per endpoint and bucket.

    `checks_sha256`: a part is refused whose SHA-256 isn't what the request says, and needs no MD5.
    `checks_crc32c`: the same of its CRC32C, in an upload begun for that; never where a signature
    needs the SHA-256 anyway. `etag_is_md5`: the ETag of a plain PUT is its MD5. `copies`:
    CopyObject works at all. `keeps_markers`: an object `dir/` is one (`rclone serve s3` makes a
    file `dir` of it, and nothing can be put below that). `proven_s`: when, in seconds since the
    epoch.
    """

    put_if_match: bool
    put_if_none_match: bool
    complete_if_match: bool
    complete_if_none_match: bool
    delete_if_match: bool
    copy_source_if_match: bool
    copy_if_match: bool
    copy_if_none_match: bool
    part_copy_source_if_match: bool
    copies: bool
    checks_sha256: bool
    checks_crc32c: bool
    etag_is_md5: bool
    keeps_markers: bool
    proven_s: int

    def to_dict(self) -> dict[str, int]:
        """For JSON or TOML."""
        return {name: int(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, found: Mapping[str, object]) -> Self | None:
        """None where a fact is missing or isn't one: then it is to be proved again."""
        values = {each.name: found.get(each.name) for each in fields(cls)}
        proven_s = values.pop("proven_s")
        is_time = type(proven_s) is int and abs(proven_s) < _FARTHEST_S
        if not is_time or not all(type(value) is int for value in values.values()):
            return None
        assert isinstance(proven_s, int)
        return cls(**{name: bool(value) for name, value in values.items()}, proven_s=proven_s)

    def completes_if(self, expect: str | None) -> bool:
        """Whether Complete is refused unless the key has that version, or ABSENT nothing."""
        return self.complete_if_none_match if expect == ABSENT else self.complete_if_match

    @property
    def ignored(self) -> list[str]:
        """The conditions that aren't enforced, by name."""
        values = asdict(self)
        return [name for name, value in values.items() if "_if_" in name and not value]


class ProvenMemory(Protocol):
    """Keeps what was proved, by place (`S3Place.url`). Thread-safe."""

    def recall(self, place: str) -> Proven | None: ...

    def keep(self, place: str, proven: Proven) -> None: ...


class Prover:
    """Proves at most once per store, when somebody first asks. Thread-safe."""

    def __init__(self, rest: S3Rest, prefix: str, memory: ProvenMemory | None = None) -> None:
        self._rest = rest
        self._prefix = prefix
        self._memory = memory
        self._place = rest.place.url
        self._lock = threading.Lock()
        self._proven = memory.recall(self._place) if memory else None

    @property
    def known(self) -> Proven | None:
        """What is proved by now; never asks."""
        return self._proven

    def begin(self) -> None:
        """Asks in a thread of its own, for whoever has something else to do until `proven`. What
        goes wrong there goes wrong again for that one."""

        def ask() -> None:
            with contextlib.suppress(RemoteError):
                self.proven()

        threading.Thread(target=ask, name="proof", daemon=True).start()

    def proven(self) -> Proven:
        """Some forty small requests the first time, which take seven of their latencies. Raises
        what keeps it from being found out."""
        if self._proven is not None:
            return self._proven
        # The lock is held while asking, so that many first writes prove it once; it is free again
        # before what was made for that is removed.
        probes = _Probes(self._rest, self._prefix)
        with naming_no_probe(), probes, self._lock:
            if self._proven is None:
                self._proven = self._found(probes)
            return self._proven

    def _found(self, probes: "_Probes") -> Proven:
        proven = probes.run()
        if self._memory is not None:
            self._memory.keep(self._place, proven)
        if proven.ignored:
            ignored = ", ".join(proven.ignored)
            logger.info("%s does not enforce: %s", self._rest.place.what, ignored)
        return proven


class _Outcome(Enum):
    DONE = auto()
    REFUSED = auto()  # because of the condition
    UNABLE = auto()  # for any other reason that is about the request and not about who asks


_Act = Callable[[Mapping[str, str]], _Outcome]


class _Probes:
    """Seven probes side by side, each with keys of its own. What they leave goes at the end."""

    def __init__(self, rest: S3Rest, prefix: str) -> None:
        self._rest = rest
        self._folder = f"{prefix}{PROBE_NAME}"
        self._all: list[_Probe] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Removes what is ours, and what a daemon that was killed here left an hour ago.

        Best effort: listings hide these names.
        """
        if not self._all:
            return
        with contextlib.suppress(RemoteError):
            for probe in self._all:
                probe.clean()
            old_ns = time.time_ns() - _LEFTOVER_NS
            for found in self._rest.list_page(self._folder, "", "", None).objects:
                if found.mtime_ns < old_ns:
                    self._rest.send("DELETE", found.key)

    def run(self) -> Proven:
        """Raises the error of a first put that isn't possible at all."""
        first = self._probe()
        is_fresh = first.begins()  # alone: who may not write is told so once
        rest = (
            *(self._probe().completes, self._probe().copies_parts, self._probe().sums),
            *(self._probe().copies, self._probe().copies_versions),
        )
        marks = partial(self._probe().marks, _NONE if is_fresh else NOTHING)
        with ThreadPoolExecutor(len(rest) + 1, "probe") as pool:
            others = [pool.submit(probe) for probe in (*rest, marks)]
            facts = first.puts(is_fresh=is_fresh)
        for other in others:
            facts |= other.result()
        return Proven(**facts, proven_s=int(time.time()))

    def _probe(self) -> "_Probe":
        self._all.append(_Probe(self._rest, self._folder))
        return self._all[-1]


class _Probe:
    """Facts by their names in `Proven`, found out on one key. Any thread, one at a time."""

    def __init__(self, rest: S3Rest, folder: str) -> None:
        self._rest = rest
        self._folder = folder
        self._key = f"{folder}{uuid.uuid4().hex}"
        self._copy_key = f"{folder}{uuid.uuid4().hex}"
        self._payload = payload_of(_LOOKS, rest.signs_bodies)
        self._tags: dict[str, str] = {}  # by key, of what is there now
        self._upload_id = self._part_tag = ""

    def begins(self) -> bool:
        """Whether something can be made under the condition that it is not there."""
        is_fresh = self._put(_NONE) is _Outcome.DONE
        if not is_fresh:
            self._put_somehow()
        return is_fresh

    def puts(self, *, is_fresh: bool) -> dict[str, bool]:
        """After `begins`."""
        return {
            "etag_is_md5": self._tags[self._key] == f'"{self._payload.md5.hex()}"',
            "put_if_none_match": is_fresh and self._put(_NONE) is _Outcome.REFUSED,
            "put_if_match": self._enforces(self._put, self._key),
            "delete_if_match": self._enforces(self._delete, self._key),
        }

    def completes(self) -> dict[str, bool]:
        self._put_somehow()
        return {
            "complete_if_none_match": self._complete(_NONE) is _Outcome.REFUSED,
            "complete_if_match": self._enforces(self._complete, self._key),
        }

    def copies_parts(self) -> dict[str, bool]:
        # Not before a Complete: `rclone serve s3` does not end an upload with a copied part.
        self._put_somehow()
        return {
            "part_copy_source_if_match": self._enforces(self._copy_part, self._key),
            "checks_sha256": self._checks_sha256(),
        }

    def sums(self) -> dict[str, bool]:
        checks = False
        if self._rest.may_leave_unsigned:
            # There are other ways: whatever goes wrong here must not keep us from writing.
            with contextlib.suppress(RemoteError):
                checks = self._has_upload(BY_CRC32C) and self._checks_crc32c()
        return {"checks_crc32c": checks}

    def copies(self) -> dict[str, bool]:
        self._put_somehow()
        is_made = self._copy(_NONE) is _Outcome.DONE
        copies = is_made or self._copy({}) is _Outcome.DONE
        is_kept = is_made and self._copy(_NONE) is _Outcome.REFUSED
        # What is there must not have the source's tag: Swift compares these with the source.
        self._put_other()
        is_compared = self._enforces(self._copy, self._copy_key)
        return {
            "copies": copies,
            "copy_if_none_match": is_kept,
            "copy_if_match": is_compared,
        }

    def copies_versions(self) -> dict[str, bool]:
        self._put_somehow()
        return {"copy_source_if_match": self._enforces(self._copy_of_version, self._key)}

    def marks(self, condition: Mapping[str, str]) -> dict[str, bool]:
        return {"keeps_markers": self._keeps_markers(condition)}

    def clean(self) -> None:
        """Removes what is there now. Raises RemoteErrors."""
        if self._upload_id:
            self._rest.send("DELETE", self._key, {"uploadId": self._upload_id})
        for key in self._tags:
            self._rest.send("DELETE", key)

    def _enforces(self, act: _Act, key: str) -> bool:
        """Whether If-Match is refused where it is wrong, and taken where it is right."""
        if act(_OTHER) is not _Outcome.REFUSED:
            return False
        return act({"If-Match": self._tags.get(key, "")}) is _Outcome.DONE

    def _put_somehow(self) -> None:
        answer = self._rest.send("PUT", self._key, payload=self._payload)
        if answer.status >= 300:
            raise write_error(answer, self._rest.what(self._key), False)
        self._tags[self._key] = opaque_tag(answer.header("etag"))

    def _put_other(self) -> None:
        payload = payload_of(b"another", self._rest.signs_bodies)
        answer = self._rest.send("PUT", self._copy_key, payload=payload)
        if answer.status < 300:
            self._tags[self._copy_key] = opaque_tag(answer.header("etag"))

    # Each with a condition on what it changes, the last one on what it copies.

    def _put(self, condition: Mapping[str, str]) -> _Outcome:
        outcome, answer = self._ask("PUT", self._key, headers=condition, payload=self._payload)
        if outcome is _Outcome.DONE:
            self._tags[self._key] = opaque_tag(answer.header("etag"))
        return outcome

    def _complete(self, condition: Mapping[str, str]) -> _Outcome:
        if not self._has_upload() or not self._has_part():
            return _Outcome.UNABLE
        upload = {"uploadId": self._upload_id}
        made = [MadePart(self._part_tag)]
        payload = payload_of(complete_body(made), self._rest.signs_bodies)
        outcome, answer = self._ask("POST", self._key, upload, condition, payload)
        if outcome is _Outcome.DONE:
            self._upload_id = self._part_tag = ""
            self._tags[self._key] = etag_in(answer.body)
        return outcome

    def _copy_part(self, condition: Mapping[str, str]) -> _Outcome:
        if not self._has_upload():
            return _Outcome.UNABLE
        headers = {
            "x-amz-copy-source": self._rest.copy_source(self._key),
            "x-amz-copy-source-if-match": condition["If-Match"],
        }
        query = {"partNumber": "2", "uploadId": self._upload_id}
        outcome, answer = self._ask("PUT", self._key, query, headers)
        if outcome is _Outcome.DONE and not etag_in(answer.body):
            return _Outcome.UNABLE  # it can't be named in a Complete
        return outcome

    def _has_upload(self, headers: Mapping[str, str] = NOTHING) -> bool:
        """Begins one where none goes on."""
        if not self._upload_id:
            outcome, answer = self._ask("POST", self._key, {"uploads": ""}, headers)
            if outcome is not _Outcome.DONE:
                return False
            self._upload_id = upload_id_in(answer.body)
        return True

    def _has_part(self) -> bool:
        """Sends one where there is none: what was refused keeps it."""
        if not self._part_tag:
            query = {"partNumber": "1", "uploadId": self._upload_id}
            outcome, answer = self._ask("PUT", self._key, query, payload=self._payload)
            if outcome is _Outcome.DONE:
                self._part_tag = opaque_tag(answer.header("etag"))
        return bool(self._part_tag)

    def _checks_sha256(self) -> bool:
        if not self._has_upload():
            return False
        right = payload_by_sha256(_LOOKS)
        wrong = replace(right, sha256=payload_by_sha256(_LOOKS[1:]).sha256)
        return self._takes_only(right, wrong, "3") is not None

    def _checks_crc32c(self) -> bool:
        right = payload_by_crc32c(_LOOKS)
        wrong = replace(right, crc32c=payload_by_crc32c(_LOOKS[1:]).crc32c)
        answer = self._takes_only(right, wrong, "1")
        if answer is None or not (tag := opaque_tag(answer.header("etag"))):
            return False
        query, made = {"uploadId": self._upload_id}, complete_body([MadePart(tag, right.crc32c)])
        payload = payload_of(made, self._rest.signs_bodies)
        self._tags[self._key] = ""  # whatever the answer
        outcome, _ = self._ask("POST", self._key, query, payload=payload)
        if outcome is _Outcome.DONE:
            self._upload_id = ""
        return outcome is _Outcome.DONE

    def _takes_only(self, right: Payload, wrong: Payload, number: str) -> RestAnswer | None:
        """The answer to a part that is what its digest says, where the wrong one was refused."""
        query = {"partNumber": number, "uploadId": self._upload_id}
        try:
            answer = self._rest.send("PUT", self._key, query, payload=wrong)
        except Unreachable:  # it hangs up on what is wrong: that must not keep us from writing
            return None
        if not isinstance(s3_error(answer, self._rest.what(self._key)), Corrupt):
            return None
        answer = self._rest.send("PUT", self._key, query, payload=right)
        return answer if answer.status < 300 else None

    def _copy(self, condition: Mapping[str, str]) -> _Outcome:
        headers = {"x-amz-copy-source": self._rest.copy_source(self._key), **condition}
        outcome, answer = self._ask("PUT", self._copy_key, headers=headers)
        if outcome is _Outcome.DONE:
            self._tags[self._copy_key] = etag_in(answer.body)
        return outcome

    def _copy_of_version(self, condition: Mapping[str, str]) -> _Outcome:
        return self._copy({"x-amz-copy-source-if-match": condition["If-Match"]})

    def _delete(self, condition: Mapping[str, str]) -> _Outcome:
        outcome, _ = self._ask("DELETE", self._key, headers=condition)
        if outcome is _Outcome.DONE:
            self._tags.pop(self._key, None)
        return outcome

    def _keeps_markers(self, condition: Mapping[str, str]) -> bool:
        name = f"{self._folder}{uuid.uuid4().hex}"
        marker = f"{name}/"
        nothing = payload_of(b"", self._rest.signs_bodies)
        outcome, _ = self._ask("PUT", marker, headers=condition, payload=nothing)
        if outcome is not _Outcome.DONE:
            return False
        self._tags[marker] = ""
        return any(found.key == marker for found in self._rest.list_page(name, "", "", 2).objects)

    def _ask(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] = NOTHING,
        headers: Mapping[str, str] = NOTHING,
        payload: Payload | None = None,
    ) -> tuple[_Outcome, RestAnswer]:
        """Raises what is about who asks, or about a server that doesn't answer now."""
        answer = self._rest.send(method, key, query, headers, payload=payload)
        code = error_code(answer.body)
        if answer.status < 300 and not code:
            return _Outcome.DONE, answer
        error = write_error(answer, self._rest.what(key), True)
        if isinstance(error, VersionChanged):
            return _Outcome.REFUSED, answer
        if isinstance(error, Unsupported) or code in ("AccessDenied", "NoSuchUpload"):
            return _Outcome.UNABLE, answer
        raise error
