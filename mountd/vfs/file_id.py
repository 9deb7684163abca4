"""What names the blocks of one version of one file in a mount's cache; pure."""

import hashlib
from collections.abc import Callable


def file_id(key: str, version: str, size: int, is_global: Callable[[str], bool] | None) -> bytes:
    """`is_global` as in `Capabilities`: such a version's blocks serve for every key."""
    where = "" if is_global is not None and is_global(version) else key
    text = f"{where}\0{version}\0{size}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()
