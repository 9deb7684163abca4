"""Names of uploads, kept with the object where the remote keeps metadata.

    JOURNAL-CONTENT-LAYER-SEQUENCE-KEY-SENT

The first four say which state of which file it is (content 0: a copy of what the remote has; layer
`b`: the base alone). KEY is a checksum of the key: objects are copied with their metadata, and a
copy elsewhere is somebody else's doing. SENT is the time in milliseconds: an old version that
somebody has restored was sent before the remote fell behind.
"""

from dataclasses import dataclass
from typing import Self
from zlib import crc32


@dataclass(frozen=True, slots=True)
class UploadId:
    """`layer`: number of the highest layer that went along, -1 for none."""

    journal: str
    content: int
    layer: int
    sequence: int
    key: str
    sent_ms: int

    @classmethod
    def of(
        cls, journal: str, key: str, sent_ns: int, sequence: int, content: int = 0, layer: int = -1
    ) -> Self:
        return cls(journal, content, layer, sequence, _checksum(key), sent_ns // 1_000_000)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what is no upload id."""
        parts = text.rsplit("-", 5)
        if len(parts) != 6 or not parts[0]:
            return None
        journal, content, layer, sequence, key, sent = parts
        try:
            number = -1 if layer == "b" else int(layer)
            return cls(journal, int(content), number, int(sequence), key, int(sent))
        except ValueError:
            return None

    def __str__(self) -> str:
        layer = "b" if self.layer < 0 else str(self.layer)
        what = f"{self.journal}-{self.content}-{layer}-{self.sequence}"
        return f"{what}-{self.key}-{self.sent_ms}"

    def is_same_state(self, other: "UploadId") -> bool:
        """Whether it is that state at that key, whenever it was sent."""
        return self._state == other._state

    def was_sent_here(self, journal: str, key: str, since_ns: int) -> bool:
        """Whether that journal sent it to that key, not before `since_ns`."""
        is_here = (self.journal, self.key) == (journal, _checksum(key))
        return is_here and self.sent_ms >= since_ns // 1_000_000

    @property
    def _state(self) -> tuple[str, int, int, int, str]:
        return self.journal, self.content, self.layer, self.sequence, self.key


def _checksum(key: str) -> str:
    return f"{crc32(key.encode('utf-8', 'surrogatepass')):08x}"
