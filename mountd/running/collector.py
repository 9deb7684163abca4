"""Python's collector of cycles, told that hardly anything here is part of one.

What a request leaves behind goes with its last reference: in 2,300 new files no collection found
anything, and they took 82 ms of 1.1 s, on the loop. The full one looked at all modules and all
that was made at the start, 20 to 40 ms at once.

But what fails is a cycle: an error, its traceback, and the frames with what was being sent, 8 MiB
of it in some hundred objects. Four files of 24 MiB that a server did not take left 450 MB in forty
seconds, for as long as nothing else happened. So memory that grows has it look, too: 60 to 200 MB
then, and most of that was being sent.
"""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from mountd.allocator import return_freed_memory

YOUNG: Final = 10_000  # objects, of at most some hundred bytes each; 700 by default
OFTEN: Final = 20  # collections of the young before those that stayed are looked at again
LOOK_EVERY_S: Final = 2.0
GROWN_BYTES: Final = 64 << 20  # at least; what is known of many files is looked at more seldom
_GROWN_PART: Final = 2  # of what it was
MANY: Final = 300  # objects; where all goes well some ten come in a second of work
# Of CPython's small objects, at most on average. 100,000 files that wait: a look takes 0.4 s.
OBJECT_BYTES: Final = 100

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def collect_seldom() -> None:
    """Call once, when all is there that stays: it is looked at no more."""
    gc.freeze()
    gc.set_threshold(YOUNG, OFTEN, OFTEN)


def resident_bytes() -> int:
    """This process's memory; 0 where nobody tells."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


async def collect_what_grows(
    memory: Callable[[], int] = resident_bytes,
    collect: Callable[[], int] = gc.collect,
    give_back: Callable[[], object] = return_freed_memory,
    objects: Callable[[], int] = sys.getallocatedblocks,
) -> None:
    """Collects all cycles where memory has grown by much since it last had, and by more than there
    are new objects for, and gives back what they held where there were many. Until cancelled."""
    least, had = memory(), objects()
    while True:
        await trio.sleep(LOOK_EVERY_S)
        now, has = memory(), objects()
        explained = OBJECT_BYTES * max(0, has - had)
        if now - least - explained > max(GROWN_BYTES, least // _GROWN_PART):
            if collect() > MANY:
                await trio.to_thread.run_sync(give_back, abandon_on_cancel=True)
            least, had = memory(), objects()
        elif now < least:
            least, had = now, has
