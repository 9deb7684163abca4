"""Names of files that are being written beside their place, and of what a crash left of them.

Stores that write so show none of these names, and refuse to write to one.
"""

import re
import secrets

# A temporary file that is older was left by a crash.
LEFTOVER_S = 86_400.0
_PREFIX = ".mountd-tmp-"
_TEMPORARY = re.compile(r"\.mountd-tmp-[0-9a-f]{16}")


def temporary_name() -> str:
    return temporary_name_of(secrets.token_bytes(8))


def temporary_name_of(eight_bytes: bytes) -> str:
    """One that is found again."""
    return f"{_PREFIX}{eight_bytes.hex()}"


def is_temporary(name: str) -> bool:
    return name.startswith(_PREFIX) and _TEMPORARY.fullmatch(name) is not None
