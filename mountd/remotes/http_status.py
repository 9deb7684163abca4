"""HTTP statuses as errors of `mountd.errors`; the same table for everything that speaks HTTP."""

import time
from email.utils import mktime_tz, parsedate_tz

from mountd.errors import (
    Denied,
    Locked,
    NameNotAllowed,
    NotFound,
    QuotaExceeded,
    RemoteError,
    SignInRefused,
    Throttled,
    Unreachable,
    Unsupported,
    VersionChanged,
)
from mountd.remotes.untrusted import time_in

_OF_STATUS: dict[int, type[RemoteError]] = {
    401: SignInRefused,
    403: Denied,
    404: NotFound,
    407: Denied,
    408: Unreachable,
    410: NotFound,
    412: VersionChanged,
    414: NameNotAllowed,
    416: VersionChanged,
    423: Locked,
    425: Unreachable,
    451: Denied,
    501: Unsupported,
    507: QuotaExceeded,
}


def error_of_status(status: int, what: str, retry_after: str | None = None) -> RemoteError:
    """The error for an answer that is no success. `what` says who was asked for what.

    `retry_after` is the header as it came (seconds or an HTTP date).
    """
    message = f"{what}: HTTP {status}"
    if status in (429, 503):
        return Throttled(message, retry_after_s(retry_after))
    known = _OF_STATUS.get(status)
    if known is not None:
        return known(message)
    if status >= 500:
        return Unreachable(message, answered=True)
    if 300 <= status < 400:
        return Unreachable(f"{message}, a redirect that is not followed")
    return Unsupported(message)


def retry_after_s(value: str | None) -> float | None:
    """Seconds to wait, never negative; None where the header is missing or not to be read."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    parsed = parsedate_tz(value)
    if parsed is None:
        return None
    try:
        return max(0.0, mktime_tz(parsed) - time.time())
    except (ValueError, OverflowError):
        return None


def mtime_ns_of_http_date(text: str | None) -> int:
    """Nanoseconds since the epoch of an HTTP date; 0 where there is none or it can't be read."""
    parsed = parsedate_tz(text) if text else None
    if parsed is None:
        return 0
    try:
        return time_in(int(mktime_tz(parsed)) * 1_000_000_000)
    except (ValueError, OverflowError):
        return 0
