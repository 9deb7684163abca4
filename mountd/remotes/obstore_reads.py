"""The hot path: one ranged, conditional GET by obstore, checked, and not copied.

obstore's exceptions carry no status but a text, so after a failure whose kind they don't name the
provider's own request decides: the same read, of one byte. (It costs a request per failure, never
one per read.) Where that request succeeds, the failure has passed meanwhile; only then obstore's
debug text is looked at, because nothing else knows any more whether it was a 503.
"""

import re
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

from mountd.errors import Corrupt, Denied, RemoteError, Throttled, Unreachable, VersionChanged
from mountd.remotes.http_range import opaque_tag
from mountd.remotes.object_store import PlainReads

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig, ObjectStore

CONNECT_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 5.0
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f]|(?:^|/)\.{0,2}(?:/|$)")
_DEBUG = "\n\nDebug source:\n"
# In the debug form a body is one quoted, escaped line, so it can't forge these lines.
_DEBUG_STATUS = re.compile(r"^ +inner: Status \{\n +status: (\d{3}),$", re.MULTILINE)
_DEBUG_RANGE = re.compile(r"^    source: UnexpectedRange \{$", re.MULTILINE)


def client_options(request_timeout_s: float, allow_http: bool) -> "ClientConfig":
    """`timeout` includes the body; obstore's own default would be 30 s."""
    timeout_ms = max(1, round(request_timeout_s * 1000))
    connect_ms = min(timeout_ms, round(CONNECT_TIMEOUT_S * 1000))
    return {
        "timeout": f"{timeout_ms}ms",
        "connect_timeout": f"{connect_ms}ms",
        "allow_http": allow_http,
        "user_agent": "mountd",
    }


def is_speakable(key: str) -> bool:
    """Whether obstore 0.12 sends exactly this key.

    It refuses control characters, empty, `.` and `..` segments, and drops a slash at either end.
    """
    return _UNSPEAKABLE.search(key) is None


class ObstoreReads:
    """A `RangeReader` over an obstore store, with `plain` for what obstore can't do.

    `if_match`: the options that make a read conditional on a version; `version_of`: the version
    of an answer, "" where it has none.
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
    ) -> None:
        self._store = store
        self._plain = plain
        self._timeout_s = request_timeout_s
        self._if_match = if_match
        self._version_of = version_of

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        if self._plain.ranges_come_as_200 or not is_speakable(key):
            return self._plain.read_range(key, start, end, version)
        options: GetOptions = self._if_match(version) if version else {}
        options["range"] = (start, end)
        begun_s = time.monotonic()
        try:
            result = obstore.get(self._store, key, options=options)
            self._check_head(result, key, start, end, version)
            data = result.bytes()
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

    def _check_head(
        self, result: "GetResult", key: str, start: int, end: int, version: str
    ) -> None:
        if version:
            found = self._version_of(result)
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
    debug = str(error).rpartition(_DEBUG)[2]
    status = _DEBUG_STATUS.search(debug)
    if status and status[1] in ("429", "503"):
        return Throttled(f"{key}: HTTP {status[1]}")
    if _DEBUG_RANGE.search(debug):
        return Corrupt(f"{key}: {_first_line(error)}")
    return Unreachable(f"{key}: {_first_line(error)}", answered=True)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
