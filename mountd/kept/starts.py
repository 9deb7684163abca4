"""How often a mount was gone on with, and since when in vain: noted in its record, for whoever is
started next by a service manager that starts a daemon for ever.

Calls on the mount wait while nobody serves it. So the sixth start within a minute, and one that
comes when nobody has served for a minute, goes on with nothing: the connection is let go.
"""

import struct
from dataclasses import dataclass, replace
from typing import Final, Self

MOST: Final = 6
WITHIN_S: Final = 60.0
# In milliseconds of the machine's running time: the last starts, and the first in vain (0: none).
_FORM: Final = struct.Struct(f"<{MOST}QQ")
ATTEMPTS_BYTES: Final = _FORM.size


@dataclass(frozen=True, slots=True)
class Attempts:
    """Times in milliseconds, the latest last; 0 is none."""

    starts: tuple[int, ...] = (0,) * MOST
    in_vain_since: int = 0

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        *starts, since = _FORM.unpack(data)
        return cls(tuple(starts), since)

    def pack(self) -> bytes:
        return _FORM.pack(*self.starts, self.in_vain_since)

    def begun(self, now_s: float) -> Self | None:
        """With a start at `now_s`; None where there are to be no more."""
        now, within = max(1, round(now_s * 1000)), round(WITHIN_S * 1000)
        starts = (*self.starts[1:], now)
        recent = [at for at in starts if at and now - at < within]
        since = self.in_vain_since or now
        if len(recent) >= MOST or now - since >= within:
            return None
        return replace(self, starts=starts, in_vain_since=since)

    def served(self) -> Self:
        """It answers now."""
        return replace(self, in_vain_since=0)
