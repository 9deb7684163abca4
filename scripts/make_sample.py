"""Writes the sample dataset that scripts/run mounts when it is given nothing else.

Usage: make_sample.py DIRECTORY. The same bytes, names and times on every machine, so nothing of it
is in git; 5.3 MB in some sixty files. SHA256SUMS is written last, for `sha256sum -c`.
"""

import hashlib
import math
import os
import shutil
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

SIDE_PIXELS = 32
WEIGHTS_BYTES = 5_000_000
_MTIME_S = 1_767_225_600  # 2026-01-01T00:00:00Z
_SHAPES = ("circle", "square", "ring")
_ODD_NAMES = (
    "with spaces in it.txt",
    "100% + #1?.txt",
    "🐟 and 🐠.txt",
    "Größe, composed.txt",
    "Größe, decomposed.txt".replace("ö", "o\u0308"),
    ".hidden",
)


def write_sample(directory: Path) -> None:
    """Replaces `directory` in one step: an interrupted run leaves nothing half-written behind."""
    scratch = directory.with_name(f"{directory.name}.{os.getpid()}")
    sums = []
    for name, content in sorted(_files()):
        path = scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    (scratch / "an empty directory").mkdir()
    (scratch / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    for path in (scratch, *scratch.rglob("*")):
        os.utime(path, (_MTIME_S, _MTIME_S))
    shutil.rmtree(directory, ignore_errors=True)
    scratch.rename(directory)


def _files() -> Iterator[tuple[str, bytes]]:
    yield "README.txt", _README.encode()
    yield "empty.dat", b""
    # SHAKE: a standard's own stream of bytes, the same in every version of every library.
    yield "weights/model.bin", hashlib.shake_256(b"mountd sample").digest(WEIGHTS_BYTES)
    yield from _images()
    yield from _readings()
    for name in _ODD_NAMES:
        yield f"odd names/{name}", f"This file is called: {name}\n".encode()


def _images() -> Iterator[tuple[str, bytes]]:
    labels = ["path,shape,radius\n"]
    for shape in _SHAPES:
        for index in range(8):
            name, radius = f"images/{shape}/{index:03}.png", 5 + index
            labels.append(f"{name},{shape},{radius}\n")
            yield name, _png(_pixels(shape, radius))
    yield "images/labels.csv", "".join(labels).encode()
    header = f"P6 {SIDE_PIXELS} {SIDE_PIXELS} 255\n".encode()
    yield "images/raw/circle.ppm", header + _pixels("circle", 9)


def _readings() -> Iterator[tuple[str, bytes]]:
    for month in (1, 2, 3):
        for day in range(1, 8):
            rows = ["time,station,temperature_c\n"]
            for hour in range(24):
                # Whole arithmetic after the sine, so that no platform rounds differently.
                swing = round(math.sin((hour - 9) * math.pi / 12) * 60)
                tenths = 40 * month + day + swing
                rows.append(f"2026-{month:02}-{day:02}T{hour:02}:00Z,harbour,{tenths / 10:.1f}\n")
            yield f"readings/2026/{month:02}/{day:02}.csv", "".join(rows).encode()


def _pixels(shape: str, radius: int) -> bytes:
    """RGB, row by row: the shape bright on a slope of blue."""
    middle = SIDE_PIXELS // 2
    out = bytearray()
    for y in range(SIDE_PIXELS):
        for x in range(SIDE_PIXELS):
            dx, dy = x - middle, y - middle
            distance_2 = dx * dx + dy * dy
            inside = {
                "circle": distance_2 <= radius * radius,
                "square": max(abs(dx), abs(dy)) <= radius,
                "ring": (radius - 3) ** 2 <= distance_2 <= radius * radius,
            }[shape]
            out += bytes((250, 200, 60) if inside else (20, 4 * y, 90 + 4 * x))
    return bytes(out)


def _png(pixels: bytes) -> bytes:
    """An 8-bit RGB image; stored, not compressed: compressors differ between zlib versions."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = 3 * SIDE_PIXELS
    filtered = b"".join(b"\0" + pixels[at : at + row] for at in range(0, len(pixels), row))
    header = struct.pack(">IIBBBBB", SIDE_PIXELS, SIDE_PIXELS, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(filtered, 0))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


_README = """\
A small made-up dataset, to try mountd on without a cloud account.

images/     24 pictures of three shapes, labels.csv, and one picture as PPM
readings/   hourly temperatures, a file a day
weights/    5 MB of noise, where a model's weights would be
odd names/  spaces, percent signs, emoji, accents in both Unicode forms

SHA256SUMS lists every file: sha256sum -c SHA256SUMS
"""


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_sample.py DIRECTORY")
    write_sample(Path(sys.argv[1]))
