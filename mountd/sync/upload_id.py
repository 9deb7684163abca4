"""Names of uploads, kept with the object where the remote keeps metadata.

    JOURNAL-CONTENT-LAYER-SEQUENCE-KEY-SENT.SIZE.MTIME

The first four say which state of which file it is (content 0: a copy of what the remote has; layer
`b`: the base alone). KEY is a checksum of the key: objects are copied with their metadata, and a
copy elsewhere is somebody else's doing. SENT is the time in milliseconds: an old version that
somebody has restored was sent before the remote fell behind. SIZE in bytes and MTIME in seconds
(0: not known) are what was sent: s3fs, gcsfuse and goofys leave others' metadata with what they
write over an object, so an id alone does not say whose bytes are there.
"""

from dataclasses import dataclass
from typing import Final, Self
from zlib import crc32

_SECOND_NS: Final = 1_000_000_000
_ROUNDED_S: Final = 1  # some servers keep fewer digits than were sent


@dataclass(frozen=True, slots=True)
class UploadId:
    """`layer`: number of the highest layer that went along, -1 for none. `size` is None in one of
    an earlier release."""

    journal: str
    content: int
    layer: int
    sequence: int
    key: str
    sent_ms: int
    size: int | None = None
    mtime_s: int = 0

    @classmethod
    def of(
        cls,
        journal: str,
        key: str,
        sent_ns: int,
        sequence: int,
        content: int = 0,
        layer: int = -1,
        size: int | None = None,
        mtime_ns: int = 0,
    ) -> Self:
        when = sent_ns // 1_000_000, size, max(0, mtime_ns) // _SECOND_NS
        return cls(journal, content, layer, sequence, _checksum(key), *when)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what is no upload id."""
        parts = text.rsplit("-", 5)
        if len(parts) != 6 or not parts[0]:
            return None
        journal, content, layer, sequence, key, said = parts
        sent, *more = said.split(".")
        try:
            size, mtime_s = map(int, more) if more else (None, 0)
            number = -1 if layer == "b" else int(layer)
            which = int(content), number, int(sequence)
            return cls(journal, *which, key, int(sent), size, mtime_s)
        except ValueError:
            return None

    def __str__(self) -> str:
        layer = "b" if self.layer < 0 else str(self.layer)
        what = f"{self.journal}-{self.content}-{layer}-{self.sequence}"
        said = "" if self.size is None else f".{self.size}.{self.mtime_s}"
        return f"{what}-{self.key}-{self.sent_ms}{said}"

    def is_same_state(self, other: "UploadId") -> bool:
        """Whether it is that state at that key, whenever it was sent."""
        return self._state == other._state

    def is_same_upload(self, other: "UploadId") -> bool:
        """Whether it is that state with the same mtime, too."""
        mine, theirs = (self.size, self.mtime_s), (other.size, other.mtime_s)
        return self.is_same_state(other) and (mine == theirs or None in (self.size, other.size))

    def was_sent_here(self, journal: str, key: str, since_ns: int) -> bool:
        """Whether that journal sent it to that key, not before `since_ns`."""
        is_here = (self.journal, self.key) == (journal, _checksum(key))
        return is_here and self.sent_ms >= since_ns // 1_000_000

    def can_be(self, size: int, mtime_ns: int | None) -> bool:
        """Whether what is there has the size, and the mtime that was sent with it; None where the
        remote doesn't tell that one."""
        if self.size is not None and self.size != size:
            return False
        if not self.mtime_s or mtime_ns is None:
            return True
        return abs(mtime_ns // _SECOND_NS - self.mtime_s) <= _ROUNDED_S

    @property
    def _state(self) -> tuple[str, int, int, int, str]:
        return self.journal, self.content, self.layer, self.sequence, self.key


def _checksum(key: str) -> str:
    return f"{crc32(key.encode('utf-8', 'surrogatepass')):08x}"
