"""What a block file looks like on disk, and how its bytes prove themselves; pure.

    0         fixed fields, see `_FIXED` (little endian)
    +bitmap   which pages are present
    +bitmap   which pages continue the CRC of the page before
    +4*pages  CRC32C per page
    +4        CRC32C of all of the above
    ...       zeros up to a multiple of 4096: `Layout.header_size`
    data      each page at header_size + its offset in the block; absent pages are holes

Pages that were written together form a chain: the CRC of each goes on from the one before. A read
of any part of a chain is then proved by one call, crc32c(bytes, CRC before them), instead of one
per page (measured for 1 MiB in pages of 16 KiB: 41 us instead of 66), and a call on more than
32 KiB lets other threads run.
"""

import struct
from typing import Final, NamedTuple

from crc32c import crc32c
from typing_extensions import Buffer

from mountd_cache.block_map import runs

FILE_ID_SIZE: Final = 16
_INDEX: Final = struct.Struct(">I")  # 2^32 blocks of 1 MiB: 4 PiB per file
_MAGIC: Final = b"mountdB\n"
_VERSION: Final = 1
# magic, format version, block size, page size, key (file id and index), length of the block's data
_FIXED: Final = struct.Struct("<8sIQI20sQ")
_CRC: Final = struct.Struct("<I")
_ALIGN: Final = 4096


def block_key(file_id: bytes, index: int) -> bytes:
    """The 20 bytes that name a block everywhere: one object of 64 bytes in an index of millions."""
    if len(file_id) != FILE_ID_SIZE:
        raise ValueError(f"a file id has {FILE_ID_SIZE} bytes, not {len(file_id)}")
    return file_id + _INDEX.pack(index)


class Pages(NamedTuple):
    """Which pages of a block are there, and their CRCs. Never changed, only replaced."""

    present: int  # bit i: page i is there
    chained: int  # bit i: page i's CRC goes on from page i-1's
    crcs: tuple[int, ...]


class Layout:
    """Where things are in every block file of one block size and page size."""

    __slots__ = ("bitmap_size", "block_size", "crc_offset", "header_size", "page_size", "pages")

    def __init__(self, block_size: int, page_size: int) -> None:
        if page_size < 512 or block_size < page_size or block_size % page_size:
            raise ValueError(f"block size {block_size} is no multiple of page size {page_size}")
        self.block_size = block_size
        self.page_size = page_size
        self.pages = block_size // page_size
        self.bitmap_size = (self.pages + 7) // 8
        self.crc_offset = _FIXED.size + 2 * self.bitmap_size + 4 * self.pages
        self.header_size = -(-(self.crc_offset + _CRC.size) // _ALIGN) * _ALIGN

    def empty(self) -> Pages:
        """No page present."""
        return Pages(0, 0, (0,) * self.pages)

    def pack(self, key: bytes, length: int, pages: Pages) -> bytes:
        """The header, `header_size` bytes."""
        head = b"".join(
            (
                _FIXED.pack(_MAGIC, _VERSION, self.block_size, self.page_size, key, length),
                pages.present.to_bytes(self.bitmap_size, "little"),
                pages.chained.to_bytes(self.bitmap_size, "little"),
                struct.pack(f"<{self.pages}I", *pages.crcs),
            )
        )
        return (head + _CRC.pack(crc32c(head))).ljust(self.header_size, b"\0")

    def parse(self, key: bytes, header: bytes) -> tuple[int, Pages] | None:
        """The block's length and its pages; None unless this is a whole header of that block."""
        if len(header) != self.header_size:
            return None
        if _CRC.unpack_from(header, self.crc_offset)[0] != crc32c(header[: self.crc_offset]):
            return None
        *fixed, length = _FIXED.unpack_from(header)
        if fixed != [_MAGIC, _VERSION, self.block_size, self.page_size, key]:
            return None
        split = _FIXED.size + self.bitmap_size
        present = int.from_bytes(header[_FIXED.size : split], "little")
        chained = int.from_bytes(header[split : split + self.bitmap_size], "little")
        crcs = struct.unpack_from(f"<{self.pages}I", header, split + self.bitmap_size)
        return length, Pages(present, chained, crcs)

    def add(self, pages: Pages, new: int, data: memoryview, start: int) -> Pages:
        """`pages` with the pages `new` added, whose bytes are in `data`, which begins at `start`.

        Each run of new pages becomes a chain of its own: a chain never hangs on other writes.
        """
        crcs = list(pages.crcs)
        chained = pages.chained & ~new
        size = self.page_size
        for first, last in runs(new):
            crc = 0
            for page in range(first, last):
                offset = page * size - start
                crc = crcs[page] = crc32c(data[offset : offset + size], crc)
            chained |= ((1 << (last - first - 1)) - 1) << (first + 1)
        return Pages(pages.present | new, chained, tuple(crcs))

    def proves(self, pages: Pages, first: int, last: int, data: Buffer) -> bool:
        """Whether `data` is what was written as the pages [first, last), all of them present."""
        chained, crcs = pages.chained, pages.crcs
        mask = ((1 << (last - first - 1)) - 1) << (first + 1)
        if chained & mask == mask:  # one chain: the common case, without a copy or a view
            seed = crcs[first - 1] if chained >> first & 1 else 0
            return bool(crc32c(data, seed) == crcs[last - 1])
        view = memoryview(data)
        size = self.page_size
        start = first
        while start < last:
            end = start + 1
            while end < last and chained >> end & 1:
                end += 1
            part = view[(start - first) * size : (end - first) * size]
            if not self.proves(pages, start, end, part):
                return False
            start = end
        return True
