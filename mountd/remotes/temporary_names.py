"""Names of files that are being written beside their place, and of what a crash left of them.

Stores that write so show none of these names, and refuse to write to one.
"""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from mountd.errors import RemoteError

# A temporary file that is older was left by a crash.
LEFTOVER_S = 86_400.0
_PREFIX = ".mountd-tmp-"
_TEMPORARY = re.compile(r"\.mountd-tmp-[0-9a-f]{16}")
_PROBE = re.compile(r"\.mountd-probe-[0-9a-f]{32}")  # S3's and WebDAV's


def temporary_name() -> str:
    return temporary_name_of(secrets.token_bytes(8))


def temporary_name_of(eight_bytes: bytes) -> str:
    """One that is found again."""
    return f"{_PREFIX}{eight_bytes.hex()}"


def is_temporary(name: str) -> bool:
    return name.startswith(_PREFIX) and _TEMPORARY.fullmatch(name) is not None


@contextmanager
def naming_no_probe() -> Iterator[None]:
    """A RemoteError that is raised inside is about the folder of a probe: whoever reads it has made
    no such file."""
    try:
        yield
    except RemoteError as error:
        error.args = tuple(
            _PROBE.sub("", each) if isinstance(each, str) else each for each in error.args
        )
        raise
