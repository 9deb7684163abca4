"""Modification times that clients send, and which of them Nextcloud takes."""

from tests.servers.nextcloud.refusals import refused
from tests.servers.s3.message import Request

FIRST_DAY_S = 86_400
_PHP = "InvalidArgumentException"


def mtime_of(request: Request) -> int | None:
    """X-OC-MTime in whole seconds, fractions cut off. Raises 500 as `sane_mtime` does."""
    text = request.headers.get("x-oc-mtime", "")
    return sane_mtime(text) if text else None


def sane_mtime(text: str) -> int:
    """500, where other servers have 400: for what is no number, and for the first day of 1970."""
    try:
        seconds = int(float(text))
    except ValueError:
        raise refused(
            500, f'X-OC-MTime header must be a valid integer (unix timestamp), got "{text}".', _PHP
        ) from None
    if seconds <= FIRST_DAY_S:
        raise refused(
            500,
            "X-OC-MTime header must be a valid positive unix timestamp greater than one day, "
            f'got "{text}".',
            _PHP,
        )
    return seconds
