"""Trains a small network on a folder of images, and says how much of the time it waited for data.

    python examples/train_images.py /storage/images --out /storage/runs/1
    python examples/train_images.py images --mount s3://bucket /storage --out runs/1

The first line takes any folder: a mount, or a local disk to compare with. The second mounts by
itself; `images` and `runs/1` are below the mount then. Needs torch and Pillow; with tensorboard
installed its event files are written as well.

Checkpoints and logs go to --out: a checkpoint is written under another name, made durable with
fsync and renamed, so that one with its final name is always whole; `last.pt` is gone on with.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

SIDE = 64


class Images(Dataset[tuple[torch.Tensor, int]]):
    """One folder for each class. Nothing but names is looked at before an image is wanted."""

    def __init__(self, root: Path) -> None:
        self.classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        self.files = [
            (entry.path, label)
            for label, name in enumerate(self.classes)
            for entry in sorted(os.scandir(root / name), key=lambda entry: entry.name)
        ]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.files[index]
        with Image.open(path) as image:
            image.draft("RGB", (SIDE, SIDE))  # libjpeg decodes at an eighth of the size
            small = image.convert("RGB").resize((SIDE, SIDE))
        pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
        return pixels.view(SIDE, SIDE, 3).permute(2, 0, 1).float() / 255, label


def network(classes: int) -> nn.Module:
    """Small enough for a processor."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


def save(state: dict[str, Any], path: Path) -> None:
    """Whoever sees `path` sees all of it, also after a crash."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())  # on this machine's disk; `mountd flush`: on the remote
    os.replace(partial, path)


class Log:
    """Figures by step: a line of JSON each, and TensorBoard's events where that is installed."""

    def __init__(self, folder: Path) -> None:
        self._lines = folder / "scalars.jsonl"
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._writer: Any = SummaryWriter(str(folder), flush_secs=5)
        except ImportError:
            self._writer = None

    def add(self, step: int, **scalars: float) -> None:
        """What is there after `step`."""
        with open(self._lines, "a") as lines:
            lines.write(json.dumps({"step": step, "time": time.time(), **scalars}) + "\n")
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """All of it is written."""
        if self._writer is not None:
            self._writer.close()


class Waiting:
    """Iterates over a loader, and adds up what the training stood still for."""

    def __init__(self, loader: DataLoader[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._loader = loader
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        batches = iter(self._loader)
        while True:
            began_s = time.perf_counter()
            batch = next(batches, None)
            self.waited_s += time.perf_counter() - began_s
            if batch is None:
                return
            yield batch


def train(data: Path, out: Path, args: argparse.Namespace) -> None:
    """All epochs, from the last checkpoint on."""
    images = Images(data)
    loader = DataLoader(
        images,
        batch_size=args.batch,
        shuffle=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )
    model = network(len(images.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    out.mkdir(parents=True, exist_ok=True)
    first = 0
    if (out / "last.pt").exists():
        state = torch.load(out / "last.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"] + 1
    log = Log(out)
    print(f"{len(images)} images in {len(images.classes)} classes below {data}")
    for epoch in range(first, first + args.epochs):
        began_s = time.perf_counter()
        waiting = Waiting(loader)
        right, seen, loss_sum = 0, 0, 0.0
        for pixels, labels in waiting:
            optimizer.zero_grad()
            scores = model(pixels)
            loss = nn.functional.cross_entropy(scores, labels)
            loss.backward()
            optimizer.step()
            time.sleep(args.gpu_ms / 1000)
            right += int((scores.argmax(1) == labels).sum().item())
            seen += len(labels)
            loss_sum += loss.item() * len(labels)
        took_s = time.perf_counter() - began_s
        share = waiting.waited_s / took_s
        log.add(epoch, loss=loss_sum / seen, right=right / seen, waited=share)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        save(state, out / f"epoch-{epoch:03d}.pt")
        save(state, out / "last.pt")
        print(
            f"epoch {epoch}: {took_s:.1f} s, {seen / took_s:.0f} images/s, "
            f"waited for data {share:.1%} of the time; loss {loss_sum / seen:.3f}, "
            f"{right / seen:.1%} right",
            flush=True,
        )
    log.close()


def main() -> None:
    """Reads the arguments, mounts if that is asked for, trains."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of images")
    parser.add_argument("--mount", nargs=2, metavar=("SOURCE", "PATH"), help="mount it first")
    parser.add_argument("--out", type=Path, required=True, help="for checkpoints and logs")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--gpu-ms", type=float, default=0.0, help="more time for each batch")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    with ExitStack() as stack:
        data, out = args.data, args.out
        if args.mount:
            import mountd

            mounted = stack.enter_context(mountd.mount(*args.mount))
            data, out = mounted / data, mounted / out
        train(data, out, args)
        if args.mount:
            mounted.flush()  # leaving the block waits for it, too; this tells where it fails


if __name__ == "__main__":
    main()
