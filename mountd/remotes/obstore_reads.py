"""The hot path: one ranged, conditional GET by obstore, checked, and not copied.

obstore's exceptions carry no status but a text, so after a failure whose kind they don't name the
provider's own request decides: the same read, of one byte. (It costs a request per failure, never
one per read.) Where that request succeeds, the failure has passed meanwhile; only then obstore's
debug text is looked at, because nothing else knows any more whether it was a 503.
"""

import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import (
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from typing_extensions import Buffer

from mountd.errors import (
    Corrupt,
    Denied,
    NotFound,
    RemoteError,
    Throttled,
    Unreachable,
    VersionChanged,
)
from mountd.remotes import call
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.object_store import PlainReads
from mountd.remotes.tls import VERIFIED, Tls

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig, ObjectStore

CONNECT_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 5.0
_PIECE_BYTES = 1 << 20
MAX_IDS = 1 << 14  # 4 MB; of the versions that were read first, the ids are forgotten
SUSPENDED = "null"  # the id of what is written while versioning is off: it does not stay
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.{0,2}(?:/|$)")
_DEBUG = "\n\nDebug source:\n"
# In the debug form a body is one quoted, escaped line, so it can't forge these lines.
_DEBUG_STATUS = re.compile(r"^ +inner: Status \{\n +status: (\d{3}),$", re.MULTILINE)
_DEBUG_RANGE = re.compile(r"^    source: UnexpectedRange \{$", re.MULTILINE)


def client_options(
    request_timeout_s: float, allow_http: bool, tls: Tls = VERIFIED
) -> "ClientConfig":
    """`timeout` includes the body; obstore's own default would be 30 s."""
    timeout_ms = max(1, round(request_timeout_s * 1000))
    connect_ms = min(timeout_ms, round(CONNECT_TIMEOUT_S * 1000))
    return {
        "timeout": f"{timeout_ms}ms",
        "connect_timeout": f"{connect_ms}ms",
        "allow_http": allow_http,
        "user_agent": "mountd",
        **tls.for_obstore(),
    }


def is_speakable(key: str) -> bool:
    """Whether obstore 0.12 sends exactly this key.

    It refuses control characters, empty, `.` and `..` segments, and drops a slash at either end.
    """
    return _UNSPEAKABLE.search(key) is None


class ObstoreReads:
    """A `RangeReader` over an obstore store, with `plain` for what obstore can't do.

    `if_match`: the options that make a read conditional on a version; `version_of`: the version
    of an answer, "" where it has none. `notes_ids`: answers may tell the id of a version that stays
    when it is overwritten or deleted. `is_plain`: obstore is not to be used now: it follows
    redirects to any host, and takes only the Authorization off there.
    """

    def __init__(
        self,
        store: "ObjectStore",
        plain: PlainReads,
        request_timeout_s: float,
        if_match: Callable[[str], "GetOptions"] = lambda version: {"if_match": version},
        version_of: Callable[["GetResult"], str] = lambda result: opaque_tag(
            result.meta["e_tag"] or ""
        ),
        notes_ids: bool = False,
        is_plain: Callable[[], bool] = lambda: False,
    ) -> None:
        self._notes_ids = notes_ids
        self._is_plain = is_plain
        self._store = store
        self._plain = plain
        self._timeout_s = request_timeout_s
        self._if_match = if_match
        self._version_of = version_of
        self._lock = threading.Lock()
        # Of buckets that keep versions: S3's own id of a (key, version), from answers to reads.
        self._ids: dict[tuple[str, str], str] = {}

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        """Where another version is there by now, or none: the one that is asked for is read by its
        id, if the bucket keeps versions and an answer has told the id."""
        try:
            return self._read(key, start, end, version)
        except (VersionChanged, NotFound):
            kept = self._ids.get((key, version))
            data = self._read_kept(key, start, end, version, kept) if kept else None
            if data is None:
                raise
            return data
        except BaseException as error:
            raise_if_panic(error, key)
            raise

    def _read(self, key: str, start: int, end: int, version: str) -> Buffer:
        if self._plain.ranges_come_as_200 or not is_speakable(key) or self._is_plain():
            return self._plain.read_range(key, start, end, version)
        options: GetOptions = self._if_match(version) if version else {}
        options["range"] = (start, end)
        begun_s = time.monotonic()
        try:
            result = obstore.get(self._store, key, options=options)
            self._check_head(result, key, start, end, version)
            hear = call.hears_metadata.get()
            if hear is not None:
                hear(result.attributes)
            data = _body_of(result, end - start)
        except PreconditionError:
            raise VersionChanged(key) from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise Denied(_first_line(error)) from error
        except (BaseError, FileNotFoundError) as error:
            return self._after(error, key, (start, end), version, begun_s)
        if len(data) != end - start:
            raise Unreachable(f"{key}: {len(data)} of {end - start} bytes came", answered=True)
        return data

    def close(self) -> None:
        """obstore has nothing to close: its connections go with the store."""

    def _read_kept(self, key: str, start: int, end: int, version: str, id_: str) -> Buffer | None:
        """None where the bucket has it no longer, or doesn't let us read it."""
        options: GetOptions = {**self._if_match(version), "range": (start, end), "version": id_}
        try:
            result = obstore.get(self._store, key, options=options)
            self._check_head(result, key, start, end, version)
            data = _body_of(result, end - start)
        except (
            *(PreconditionError, PermissionDeniedError, UnauthenticatedError),
            *(FileNotFoundError, VersionChanged),
        ):
            return None
        except BaseError as error:
            raise Unreachable(f"{key}, version {id_}: {_first_line(error)}") from error
        if len(data) != end - start:
            raise Unreachable(f"{key}: {len(data)} of {end - start} bytes came", answered=True)
        return data

    def note_version_id(self, key: str, version: str, version_id: str) -> bool:
        if self._notes_ids and is_speakable(key):
            self._note_id(key, version, version_id)
            return version_id != SUSPENDED
        return False

    def keeps(self, key: str, version: str, find_id: Callable[[], str]) -> bool:
        """As `KeepsVersions.keeps_version`; `find_id` asks for the id, "" where it has none."""
        if not self._notes_ids or not is_speakable(key):
            return False
        id_ = self._ids.get((key, version)) or find_id()
        if not id_ or id_ == SUSPENDED:
            return False
        self._note_id(key, version, id_)
        return self._read_kept(key, 0, 1, version, id_) is not None

    def _note_id(self, key: str, version: str, id_: str | None) -> None:
        if not id_ or id_ == SUSPENDED or (key, version) in self._ids:
            return
        with self._lock:
            self._ids[key, version] = id_
            if len(self._ids) > MAX_IDS:
                del self._ids[next(iter(self._ids))]

    def _check_head(
        self, result: "GetResult", key: str, start: int, end: int, version: str
    ) -> None:
        if version:
            found = self._version_of(result)
            if self._notes_ids:
                self._note_id(key, found, result.meta["version"])
            if not found:
                raise Corrupt(f"{key}: the answer doesn't say which version it is")
            if found != version:
                raise VersionChanged(key)
        if result.range != (start, end):
            # obstore has compared the start; only the end of a smaller object is left.
            raise VersionChanged(f"{key}: it ends at {result.meta['size']}, before {end}")

    def _after(
        self, error: Exception, key: str, span: tuple[int, int], version: str, begun_s: float
    ) -> Buffer:
        """Finds out what obstore's failure was. Returns data only where obstore can't read."""
        left_s = begun_s + self._timeout_s - time.monotonic()
        if left_s < self._timeout_s / 10:
            raise Unreachable(_first_line(error)) from error
        start, end = span
        probe_s = min(left_s, _PROBE_TIMEOUT_S)
        self._plain.read_range(key, end - 1, end, version, probe_s)
        if self._plain.ranges_come_as_200:
            return self._plain.read_range(key, start, end, version, left_s)
        raise _passed(error, key) from error


def _passed(error: Exception, key: str) -> RemoteError:
    """What a failure was that has passed: by obstore's debug text, for want of anything else."""
    status = status_said(error)
    if status in (429, 503):
        return Throttled(f"{key}: HTTP {status}")
    if _DEBUG_RANGE.search(str(error).rpartition(_DEBUG)[2]):
        return Corrupt(f"{key}: {_first_line(error)}")
    return Unreachable(f"{key}: {_first_line(error)}", answered=True)


def _body_of(result: "GetResult", length: int) -> bytes | memoryview:
    """The body; of one that is longer than `length` little more than that. `bytes()` takes whatever
    comes: a server that sent 800 MiB for 4 had the daemon hold them. (CPU of a read of 4 MiB:
    3.1 ms instead of 2.9, with a server in the same process.)"""
    into = call.reads_into.get()
    if into is not None and len(into) >= length:
        return _filled(into[:length], result)
    for chunk in result.stream(min_chunk_size=length + 1):
        if len(chunk) > length:
            raise Unreachable(f"more than {length} bytes came", answered=True)
        return bytes(chunk)
    return b""


def _filled(into: memoryview, result: "GetResult") -> memoryview:
    """As much of it as came. (In pieces of 256 KiB to 4 MiB: the same processor time as whole.)"""
    done = 0
    for chunk in result.stream(min_chunk_size=_PIECE_BYTES):
        if len(chunk) > len(into) - done:
            raise Unreachable(f"more than {len(into)} bytes came", answered=True)
        into[done : done + len(chunk)] = chunk
        done += len(chunk)
    return into[:done]


def raise_if_panic(error: BaseException, key: str) -> None:
    """Corrupt where obstore's Rust has panicked, as it does on a version that no header can carry.
    pyo3 makes a BaseException of it, which would end the daemon."""
    if type(error).__module__ == "pyo3_runtime":
        raise Corrupt(f"{key}: obstore: {_first_line(error)}") from None


def status_said(error: Exception) -> int:
    """The status of the answer that an error of obstore's stands for; 0 where it tells none."""
    found = _DEBUG_STATUS.search(str(error).rpartition(_DEBUG)[2])
    return int(found[1]) if found else 0


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300]
