"""Which parts an object is made of when most of its bytes are on the remote already; pure.

A part has at least 5 MiB, unless it is the last one. So a small edit sends 5 MiB, and what lies
between two edits is copied only if that is enough for a part.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mountd.errors import Unsupported

MIN_PART_BYTES = 5 << 20
MAX_PART_BYTES = 5 << 30
MAX_PARTS = 10_000
# What is sent comes in parts of 8 to 16 MiB, which are held in memory.
_SENT_BYTES = 8 << 20
# Copied on the server's side several at a time, which is how it is quick.
_COPIED_BYTES = 256 << 20
_DOUBLINGS = 9  # then the parts are as large as they can be


@dataclass(frozen=True, slots=True)
class DeltaPart:
    """[start, end) of the object. `is_copied`: from the same place in the source."""

    start: int
    end: int
    is_copied: bool

    @property
    def size(self) -> int:
        return self.end - self.start


def delta_parts(size: int, same: Sequence[tuple[int, int]]) -> list[DeltaPart]:
    """The parts of an object of `size` bytes, whose bytes in `same` (sorted, disjoint) the source
    has, too. Raises Unsupported where more than half of it would be sent."""
    for doubling in range(_DOUBLINGS):
        # Where there are too many, short pieces between edits are sent, and parts are larger.
        runs = _runs(size, same, MIN_PART_BYTES << doubling)
        if 2 * sum(run.size for run in runs if not run.is_copied) > size:
            break
        parts = [part for run in runs for part in _cut(run, doubling)]
        if len(parts) <= MAX_PARTS:
            return parts
    raise Unsupported("most of it would be sent")


def _runs(size: int, same: Sequence[tuple[int, int]], least: int) -> list[DeltaPart]:
    """What is copied and what is sent, in turns. Pieces of `same` shorter than `least` are sent,
    except for the last one."""
    sent: list[tuple[int, int]] = []
    done = 0
    for start, end in _between(size, same):
        if start - done < least:
            start = sent.pop()[0] if sent else 0
        done = max(done, end, min(size, start + MIN_PART_BYTES))
        sent.append((start, done))
    runs: list[DeltaPart] = []
    at = 0
    for start, end in sent:
        if at < start:
            runs.append(DeltaPart(at, start, True))
        runs.append(DeltaPart(start, end, False))
        at = end
    if at < size:
        runs.append(DeltaPart(at, size, True))
    return runs


def _between(size: int, same: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    at = 0
    for start, end in (*same, (size, size)):
        if at < start:
            yield at, start
        at = end


def _cut(run: DeltaPart, doubling: int) -> Iterator[DeltaPart]:
    if run.is_copied:
        count = -(-run.size // min(_COPIED_BYTES << doubling, MAX_PART_BYTES))
    else:
        count = max(1, run.size // (_SENT_BYTES << doubling))
    edges = [run.start + run.size * n // count for n in range(count + 1)]
    for start, end in itertools.pairwise(edges):
        yield DeltaPart(start, end, run.is_copied)
