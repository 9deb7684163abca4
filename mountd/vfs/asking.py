"""metadata = "full": what listings leave out is asked of the remote, once for each version.

An object store's LIST has no metadata, and a HEAD for each file is what makes `ls` slow elsewhere:
so that is asked only where somebody wants it, many at a time, before the kernel hears of an inode
for the first time. What was told goes into the kept listing, a while later for many rows at once.

Where nothing is told in time, or the remote fails, the listing's answer must do; after a failure
nothing is asked for a while. Whoever looks later asks again.
"""

import logging
from collections import deque
from dataclasses import dataclass
from typing import Final

import trio

from mountd.errors import NameNotAllowed, NotFound, RemoteError, Unreachable
from mountd.remotes.call import prefetching
from mountd.types import Entry
from mountd.vfs.listing_rows import version_in
from mountd.vfs.nodes import Directory, Node
from mountd.vfs.row_attributes import MTIME, Told, is_partial, known_there, mtime_ns_in, packed
from mountd.vfs.tree import Tree, key_of
from mountd_cache.listing import Listing
from mountd_cache.metadata_cache import CachedListing

log = logging.getLogger(__name__)

AT_ONCE: Final = 64
AHEAD_ROWS: Final = 1024  # asked beyond what is waited for, while somebody reads a directory
ANSWERED_ROWS: Final = 128  # of one READDIRPLUS
REST_S: Final = 5.0  # after a failure
# Putting what was told into a listing takes 5 us per row of it, on the loop: it must wait so long
# that this is no more than a two hundredth of the time.
KEEP_S_PER_ROW: Final = 0.001
LOOK_EVERY_S: Final = 1.0


@dataclass(eq=False, slots=True)
class _Question:
    """About one row. `done` is set with or without an answer. `is_ahead`: nobody waits for it yet,
    so that reads go first."""

    number: int
    directory: str
    key: str
    version: str
    done: trio.Event
    is_ahead: bool
    is_begun: bool = False
    error: Exception | None = None


class Asking:
    """Belongs to the loop. Coroutines raise what `Tree.listing` raises, and wait no longer than
    `wait_s`; cancelled, they leave the questions running."""

    def __init__(self, tree: Tree, *, wait_s: float, is_wanted: bool) -> None:
        self._tree = tree
        self._wait_s = wait_s
        self.is_wanted = is_wanted
        self._waiting: deque[_Question] = deque()
        self._questions: dict[int, _Question] = {}  # by inode, until they are done
        self._workers = 0
        self._rests_until_s = 0.0
        self._nursery: trio.Nursery | None = None
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._keep_at_s: dict[str, float] = {}  # by directory with answers that are not kept yet
        self._told: dict[str, dict[int, tuple[str, Told]]] = {}

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; what was told is in the kept listings then."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                while True:
                    await trio.sleep(LOOK_EVERY_S)
                    now_s = trio.current_time()
                    self._keep([d for d, at_s in self._keep_at_s.items() if at_s <= now_s])
        finally:
            self._nursery = None
            self._keep(list(self._told))

    @property
    def is_on(self) -> bool:
        """Whether there is anything to ask here."""
        return self.is_wanted and self._nursery is not None and self._tree.known.must_be_asked

    async def name(self, parent: Directory, name: bytes) -> CachedListing | None:
        """Waits for one name's attributes, before it is looked up in the listing that this returns;
        None for a name that was changed here."""
        if name in self._tree.ledger.shown.get(parent.key, ()):
            return None
        until_s = trio.current_time() + self._wait_s  # for both
        cached = self._tree.believed(parent, name) or await self._tree.listing(parent)
        row = cached.listing.find(name)
        if row >= 0:
            asked = self._ask(parent, cached.listing, range(row, row + 1), first=True)
            await self._wait(asked, until_s)
        return self._tree.cache.get(parent.key) or cached

    async def inode(self, node: Node) -> None:
        """Waits for the attributes of a file that is as its listing says, whatever `metadata` is:
        somebody wants to know. Raises what the remote does, TimeoutError, and Stale."""
        cached, row = self._tree.locate(node)
        assert node.parent is not None
        if self._nursery is None:
            raise Unreachable("nothing is asked yet")
        asked = self._ask(node.parent, cached.listing, range(row, row + 1), first=True)
        await self._wait(asked)
        for question in asked:
            if not question.done.is_set():
                raise TimeoutError(f"{question.key!r}: no answer in {self._wait_s:g} s")
            if question.error is not None:
                raise question.error
        if not asked and trio.current_time() < self._rests_until_s:
            raise Unreachable("the remote failed just now, and is asked again in some seconds")

    async def stat(self, key: str) -> Entry:
        """What the remote says, in threads of which those that hang keep no fsync waiting. Raises
        RemoteErrors; cancelled, it goes on in its thread."""
        return await trio.to_thread.run_sync(
            self._tree.store.stat, key, abandon_on_cancel=True, limiter=self._limiter
        )

    async def rows(self, directory: Directory, cached: CachedListing, first: int) -> int:
        """Waits for the attributes of the rows from `first` on that one answer may have; returns
        the row where that answer has to end."""
        now = self._tree.cache.get(directory.key) or cached
        listing = cached.listing if now.listing is cached.listing else now.listing
        end = min(first + ANSWERED_ROWS, len(cached.listing))
        if listing is cached.listing:
            wanted = self._ask(directory, listing, range(first, end), first=True)
            self._ask(directory, listing, range(end, min(end + AHEAD_ROWS, len(listing))))
        else:  # it was replaced while somebody goes through it: by names, then
            found = (listing.find(cached.listing.name(row)) for row in range(first, end))
            wanted = self._ask(directory, listing, [row for row in found if row >= 0], first=True)
        await self._wait(wanted)
        return end

    def _ask(
        self,
        directory: Directory,
        listing: Listing,
        rows: "range | list[int]",
        *,
        first: bool = False,
    ) -> list[_Question]:
        """Questions about those rows of which not all is known. Never waits."""
        if trio.current_time() < self._rests_until_s:
            return []
        asked: list[_Question] = []
        for i in rows:
            row = listing.row(i)
            number = row.ino
            if row.is_dir or number in self._tree.known.told or not is_partial(row.attributes):
                continue
            if number in self._tree.ledger.by_number:
                continue  # as it was changed here
            question = self._questions.get(number)
            if question is None:
                try:
                    key = key_of(directory, listing, i)
                except NameNotAllowed:
                    continue
                version = version_in(row.version)
                done = trio.Event()
                question = _Question(number, directory.key, key, version, done, not first)
                self._questions[number] = question
                if not first:
                    self._waiting.append(question)
            question.is_ahead = question.is_ahead and not first
            asked.append(question)
        if first:
            # Somebody waits: before what is only asked ahead.
            self._waiting.extendleft(q for q in reversed(asked) if not q.is_begun)
        self._start()
        return asked

    def _start(self) -> None:
        assert self._nursery is not None
        while self._workers < min(AT_ONCE, len(self._waiting)):
            self._workers += 1
            self._nursery.start_soon(self._work)

    async def _wait(self, questions: list[_Question], until_s: float | None = None) -> None:
        until_s = trio.current_time() + self._wait_s if until_s is None else until_s
        with trio.move_on_at(until_s) as scope:
            for question in questions:
                await question.done.wait()
        if scope.cancelled_caught:
            self._rests_until_s = trio.current_time() + self._wait_s

    async def _work(self) -> None:
        try:
            while self._waiting:
                question = self._waiting.popleft()
                if question.is_begun:
                    continue  # it was moved to the front
                question.is_begun = True
                await self._answer(question)
        finally:
            self._workers -= 1

    async def _answer(self, question: _Question) -> None:
        prefetching.set(question.is_ahead)  # in this worker's own copy of the context
        try:
            if trio.current_time() >= self._rests_until_s:
                self._heard(question, await self.stat(question.key))
            else:
                question.error = Unreachable("the remote failed just now")
        except NotFound as error:
            question.error = error  # the next LIST knows
        except Exception as error:  # whatever it is, it must not end the mount
            question.error = error
            self._rests_until_s = trio.current_time() + REST_S
            if isinstance(error, (RemoteError, OSError)):
                log.debug("the metadata of %r could not be asked: %s", question.key, error)
            else:
                log.exception("asking for %r failed in an unforeseen way", question.key)
        finally:
            del self._questions[question.number]
            question.done.set()

    def _heard(self, question: _Question, entry: Entry) -> None:
        if entry.version != question.version or entry.attributes is None:
            return  # another version by now, which gets an inode of its own
        mtime_ns = mtime_ns_in(entry.attributes.get(MTIME, ""))
        told = Told(packed(known_there(entry.attributes)), mtime_ns)
        self._tree.known.told[question.number] = told
        directory = question.directory
        self._told.setdefault(directory, {})[question.number] = (question.version, told)
        if directory not in self._keep_at_s:
            cached = self._tree.cache.get(directory)
            rows = len(cached.listing) if cached is not None else 0
            self._keep_at_s[directory] = trio.current_time() + KEEP_S_PER_ROW * rows

    def _keep(self, directories: list[str]) -> None:
        """Puts what was told into the kept listings."""
        for directory in directories:
            if self._tree.refreshes.is_listing(directory):
                continue  # what that LIST brings would be put over it
            told = self._told.pop(directory, {})
            self._keep_at_s.pop(directory, None)
            cached = self._tree.cache.get(directory)
            if cached is not None:
                listing = _with_told(cached.listing, told)
                self._tree.cache.put(directory, listing, cached.fetched_at, cached.token)
            for number in told:
                self._tree.known.told.pop(number, None)


def _with_told(listing: Listing, told: dict[int, tuple[str, Told]]) -> Listing:
    rows = list(listing)
    for i, row in enumerate(rows):
        version, new = told.get(row.ino, (None, None))
        if new is not None and version == version_in(row.version):
            mtime_ns = row.mtime_ns if new.mtime_ns is None else new.mtime_ns
            rows[i] = row._replace(attributes=new.text, mtime_ns=mtime_ns)
    return Listing.build(rows)
