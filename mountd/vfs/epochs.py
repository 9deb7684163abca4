"""Which files are being opened again and again: the epochs of a training, told from opens alone.

An epoch is a run of opens of files that were not opened in it before. When many files in a row are
opened a second time, the next has begun, and these were its first. What was opened in the last one,
and in which order, says what this one will open: all of it, and where it began in the same order,
what comes next. Pure, no I/O.

Each set of directories has such a record (epoch_sets.py). Who reads something else there beside a
training makes it wrong: then less is foreseen, and nothing is worse than without.
"""

from collections.abc import Iterable
from typing import Self

from mountd_cache.opening_order import MAX_FILES, OpeningOrder

# So many opens in a row of what was opened in this epoch already make the next one; in a small set
# a quarter of it.
TURN, TURN_SMALL, TURN_SHARE = 16, 2, 4
# Files that were opened just before are opened again by the same reader (header, then pixels).
RECENT, RECENT_SHARE = 64, 2
# Workers of a loader are not equally fast: so far from the front is still the same order.
SLACK, SLACK_SHARE = 256, 8
SURE, MOST_SURE = 8, 16  # opens in order, less two for each that was not
NEW_SHARE = 8  # an epoch in which more than this part is new is another set


class Epochs:
    """What was opened in this epoch and in the one before. `opened` costs 2 us."""

    def __init__(self) -> None:
        self.before = OpeningOrder()
        self.now = OpeningOrder()
        self.front = -1  # how far the order of `before` was followed
        self.turns = 0
        self.most = MAX_FILES  # of an epoch that are kept
        self._start = 0  # of `now`, in the count of `_last`
        self._last: dict[int, int] = {}  # inode -> when it was opened, counted over all epochs
        self._again: list[tuple[int, str, int, int]] = []
        self._new = 0  # opened in this epoch, and not in the one before
        self._score = 0

    def restore(self, order: OpeningOrder) -> None:
        """What an earlier run recorded; before the first `opened`."""
        self.before = order
        self._start = len(order)
        self._last = {number: i for i, number in enumerate(order.numbers)}

    @classmethod
    def joined(cls, records: Iterable["Epochs"]) -> Self:
        """One of several sets that are in their first epoch, as if the first was read first."""
        found = cls()
        for record in records:
            found.now.extend(record.now)
        found._last = {number: i for i, number in enumerate(found.now.numbers)}
        return found

    @property
    def files(self) -> int:
        """In memory."""
        return len(self.before) + len(self.now)

    def has(self, directory: str) -> bool:
        """Whether a file of that directory was opened in this epoch or in the one before."""
        return self.now.has(directory) or self.before.has(directory)

    @property
    def is_first(self) -> bool:
        """Whether nothing was read twice yet."""
        return not self.before

    @property
    def is_in_order(self) -> bool:
        """Whether this epoch goes as the one before."""
        return self._score >= SURE

    @property
    def is_repeated(self) -> bool:
        """Whether what was read before is being read again."""
        return bool(self.before) and len(self.now) > SURE and not self._is_other

    @property
    def _is_other(self) -> bool:
        return self._new > max(RECENT, len(self.before) // NEW_SHARE)

    @property
    def cycle_bytes(self) -> int:
        """What is read again and again; 0 where nothing is."""
        return self.before.size_bytes if self.is_repeated else 0

    @property
    def best(self) -> OpeningOrder:
        """What is worth keeping for the next run."""
        return self.now if len(self.now) > len(self.before) else self.before

    def opened_in_this(self, number: int) -> bool:
        """Whether a file was opened in this epoch."""
        return self._last.get(number, -1) >= self._start

    def opened(self, number: int, directory: str, row: int, size: int) -> None:
        """A file was opened to be read."""
        count = len(self.now)
        last = self._last.get(number, -1)
        if last >= self._start:
            position = last - self._start
            if count - position > min(RECENT, max(1, count // RECENT_SHARE)):
                self._opened_again(number, directory, row, size)
            return
        if count >= self.most:
            return  # nothing can be said of those that were not kept
        if self._again:
            self._again.clear()
        position = last - self._start + len(self.before)
        if last < 0 or position < 0:
            self._new += 1
        else:
            self._follow(position)
        self._last[number] = self._start + count
        self.now.add(number, directory, row, size)

    def _follow(self, position: int) -> None:
        """A file was opened that was at this position in the epoch before."""
        slack = min(SLACK, max(1, len(self.before) // SLACK_SHARE))
        if -slack <= position - self.front <= slack:
            self._score = min(MOST_SURE, self._score + 1)
            self.front = max(self.front, position)
        else:
            self._score = max(0, self._score - 2)
            self.front = position

    def _opened_again(self, number: int, directory: str, row: int, size: int) -> None:
        if any(number == again[0] for again in self._again):
            return
        self._again.append((number, directory, row, size))
        if len(self._again) >= min(TURN, max(TURN_SMALL, len(self.now) // TURN_SHARE)):
            self._turn()

    def _turn(self) -> None:
        again, self._again = self._again, []
        self._start += len(self.now)
        self.before, self.now = self.now, OpeningOrder()
        self.turns += 1
        self.front, self._score, self._new = -1, 0, 0
        if len(self._last) > len(self.before) + len(self.before) // 2:
            numbers, first = self.before.numbers, self._start - len(self.before)
            self._last = {number: first + i for i, number in enumerate(numbers)}
        for entry in again:
            self.opened(*entry)
