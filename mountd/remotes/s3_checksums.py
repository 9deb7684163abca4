"""The checksums that S3 keeps beside an object, where whoever sent it had them added up."""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Final

CHECKSUM_MODE: Final[Mapping[str, str]] = {"x-amz-checksum-mode": "ENABLED"}
# (CRC64NVME is what S3 itself adds up where the client gives nothing.)
_LENGTHS: Final = {"crc64nvme": 8, "crc32": 4, "crc32c": 4, "sha1": 20, "sha256": 32}


def checksums_in_answer(header: Callable[[str], str]) -> dict[str, str]:
    """Of the whole object, in hex. One that is made of the parts' checksums (`...-N`) is left out,
    as is what can't be read: nothing is compared with it then."""
    if header("x-amz-checksum-type").upper() == "COMPOSITE":
        return {}
    found = {}
    for name, length in _LENGTHS.items():
        try:
            value = base64.b64decode(header(f"x-amz-checksum-{name}"), validate=True)
        except binascii.Error:
            continue
        if len(value) == length:
            found[name] = value.hex()
    return found
