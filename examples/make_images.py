"""Makes a folder of synthetic images, one folder for each class, and uploads it.

    python examples/make_images.py ./images s3://bucket/images --files 3000

A second run makes and sends only what is missing. Needs Pillow, and mountd for the upload.
"""

import argparse
import random
from pathlib import Path

from PIL import Image

import mountd

COLORS = {
    "red": (200, 60, 60),
    "green": (60, 170, 70),
    "blue": (60, 80, 200),
    "yellow": (210, 190, 60),
    "violet": (150, 60, 190),
    "grey": (120, 120, 120),
}


def make(path: Path, color: tuple[int, int, int], side: int, seed: int) -> None:
    """A square of noise around `color`: 360 pixels are about 100 KB as JPEG."""
    random.seed(seed)
    noise = Image.effect_noise((side, side), 45)
    shift = random.randint(-25, 25)
    bands = [
        noise.point([max(0, min(255, v + c - 128 + shift)) for v in range(256)]) for c in color
    ]
    Image.merge("RGB", bands).save(path, "JPEG", quality=92)


def main() -> None:
    """Makes what is missing, then copies."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the images are made")
    parser.add_argument("dest", nargs="?", help="where they are copied to: s3://bucket/images")
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--side", type=int, default=360, help="pixels")
    args = parser.parse_args()
    names = list(COLORS)
    for number in range(args.files):
        name = names[number % len(names)]
        path = args.folder / name / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            make(path, COLORS[name], args.side, number)
    if args.dest:
        done = mountd.copy(args.folder, args.dest, progress="rich")
        print(f"{done.files} files sent in {done.seconds:.1f} s, {done.unchanged} were there")


if __name__ == "__main__":
    main()
