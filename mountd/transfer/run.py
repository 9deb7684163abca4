"""One copy from its two sides to its summary: list, plan, say, do."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from mountd.errors import (
    DirectoryNotEmpty,
    NotFound,
    RemoteError,
    StartError,
    Unsupported,
    UsageError,
)
from mountd.remotes.optional_doors import quota_of
from mountd.transfer.checksums import is_same
from mountd.transfer.crew import (
    HEAVY_AT_ONCE,
    LIGHT_AT_ONCE,
    RANGES_AT_ONCE,
    Job,
    Lane,
    Rate,
    Tally,
    work,
)
from mountd.transfer.fetch import Fetch
from mountd.transfer.filters import Filter
from mountd.transfer.folders import Folders, plan_folders
from mountd.transfer.items import Item
from mountd.transfer.local_target import LocalTarget
from mountd.transfer.plan import Copy, Plan, Rules, directories_of, folded, make_plan
from mountd.transfer.record import Record, remembered
from mountd.transfer.send import Send, ServerCopy
from mountd.transfer.side import Listing, Side, in_thread, list_side, time_of


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for, beside the two sides. `may_be_empty`: an empty SOURCE is what it looks
    like, and no file's name."""

    verify: bool = False
    delete: bool = False
    delete_all: bool = False
    filter: Filter = field(default_factory=Filter)
    jobs: int | None = None
    dry_run: bool = False
    may_be_empty: bool = False


class NothingThere(StartError):
    """SOURCE is no directory, as far as can be told. It may be a file."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What will be done. `free_bytes`: at the target, None where it isn't known. `rate`: bytes per
    second of the last copy between the two, 0 where there was none."""

    plan: Plan
    specials: Sequence[str]
    free_bytes: int | None
    rate: float


class Audience(Protocol):
    """Who is told: `will` before anything is done, `going` several times a second."""

    def will(self, outlook: Outlook) -> None: ...

    def going(self, outlook: Outlook, tally: Tally, rate: Rate) -> None: ...


class _Mover(Protocol):
    def light(self, copies: Sequence[Copy]) -> Iterable[Job]: ...

    def heavy(self, copies: Sequence[Copy]) -> Iterable[Job]: ...


class Run:
    """A copy of `source` to `target`. `server`: how the remote copies by itself, where it can."""

    def __init__(
        self,
        source: Side,
        target: Side,
        record: Record,
        wish: Wish,
        audience: Audience,
        server: ServerCopy | None = None,
    ) -> None:
        self.tally = Tally()
        self.rate = Rate()
        self._source = source
        self._target = target
        self._record = record
        self._wish = wish
        self._audience = audience
        self._server = server
        self._local: LocalTarget | None = None
        self._listed: tuple[Listing, Listing] = (Listing(), Listing())
        self._copies: list[Copy] = []
        self._fresh: dict[str, Item] = {}  # those that changed while they were copied

    def go(self) -> Outlook:
        """Does it; what failed is in `tally`. Raises StartError where it can't begin: nothing was
        changed then; RemoteError or OSError where a side can't be listed."""
        plan = self._plan()
        free_bytes = self._free_bytes()
        outlook = Outlook(plan, self._listed[0].specials, free_bytes, self._record.rate)
        for refusal in plan.refusals:
            self.tally.failures[refusal.path] = Unsupported(refusal.why)
        self._audience.will(outlook)
        self._check_room(plan, free_bytes)
        if self._wish.dry_run:
            return outlook
        self.rate = Rate()
        self._drop_leftovers(plan)
        if plan.copies or plan.folders:
            self._copy(plan, outlook)
        self._copies = [*plan.copies, *plan.same]
        if not self.tally.failures:
            self._delete(plan.deletes, outlook)
            self._remove(plan.old_folders, outlook)
        self._end(plan)
        return outlook

    def at_target(self) -> list[tuple[Item, str]]:
        """After `go` without failures: every file that was wanted, as it is at the source, with
        the version that it has at the target."""
        found: list[tuple[Item, str]] = []
        for copy in self._copies:
            item = self._fresh.get(copy.item.path, copy.item)
            known = self._record.same.get(item.path, ("", ""))
            is_known = known[0] == item.version or copy.there is None
            found.append((item, known[1] if is_known or not copy.there else copy.there.version))
        return found

    def _plan(self) -> Plan:
        source, target = self._list()
        rules = Rules(
            verify=self._wish.verify,
            delete=self._wish.delete,
            delete_all=self._wish.delete_all,
            filter=self._wish.filter,
            source_is_local=self._source.is_local,
            target_is_local=self._target.is_local,
            has_directories=self._has_directories(),
            folds=self._folds(),
            keep_times=_keeps_times(self._source) and _keeps_times(self._target),
            remembered=remembered(self._record),
        )
        plan = make_plan(source.items, target.items, rules)
        plan_folders(plan, source, target, rules)
        if (plan.deletes or plan.old_folders) and not source.items:
            self._check_meant()
        self._note_gone(source)
        self._ask(plan)
        return plan

    def _check_meant(self) -> None:
        """An empty SOURCE is about to empty DEST. Raises UsageError where it may be a name that
        never was: nothing came from there before, and an object store has no missing folders."""
        has_root = self._source.has_root
        if has_root is not None and not self._record.same and not has_root():
            raise UsageError(
                f"copy: nothing is at {self._source.text}, and nothing was copied from there to "
                "DEST before: to an object store a misspelt name is an empty folder, so nothing is "
                "deleted; to empty DEST all the same, copy an empty local folder to it"
            )

    def _note_gone(self, source: Listing) -> None:
        """What is not known of SOURCE is not copied, and so nothing is deleted."""
        for directory in source.gone:
            if not self._wish.filter.leaves_out(directory):
                why = "it was listed, and gone when what is in it was to be listed"
                self.tally.failures[f"{directory}/"] = NotFound(why)

    def _list(self) -> tuple[Listing, Listing]:
        links = self._source.is_local or self._target.is_local
        coming = in_thread(lambda: list_side(self._target, links=links))
        source = list_side(self._source, links=links)
        could_be_empty = self._wish.may_be_empty or self._source.is_local
        is_empty = not source.items and not source.folders
        if is_empty and not (source.is_there and could_be_empty):
            raise NothingThere(f"there is nothing at {self._source.text}")
        self._listed = source, coming.result()
        if self._target.root is not None:
            self._local = LocalTarget(self._target.root, folder_modes=source.folders)
        return self._listed

    def _has_directories(self) -> bool:
        return self._target.is_local or self._target.store.capabilities.real_directories

    def _folds(self) -> bool:
        if self._local is None:
            return False
        names = self._listed[0].items
        if len(set(map(folded, names))) == len(names):  # no need to make a file there
            return False
        with suppress(OSError):
            return self._local.folds()
        return False

    def _ask(self, plan: Plan) -> None:
        """Decides on `plan.asks`, by checksums."""
        verify = self._wish.verify

        def ask(copy: Copy) -> bool | None:
            with suppress(RemoteError, OSError):
                return is_same(copy, self._source, self._target, verify=verify)
            return False

        at_once = self._wish.jobs or HEAVY_AT_ONCE
        with ThreadPoolExecutor(at_once) as threads:
            for copy, answer in zip(plan.asks, threads.map(ask, plan.asks), strict=True):
                if answer is None:
                    self.tally.count_unchecked()
                (plan.copies if answer is False else plan.same).append(copy)
                if answer and copy.there is not None:
                    self._record.copied(copy.item.path, copy.item.version, copy.there.version)
        plan.asks = []

    def _free_bytes(self) -> int | None:
        if self._local is not None:
            return self._local.free_bytes()
        if self._target.store.capabilities.tells_quota:
            with suppress(RemoteError):
                return quota_of(self._target.store).free_bytes
        return None

    def _check_room(self, plan: Plan, free_bytes: int | None) -> None:
        here = sum(
            end - start
            for copy in plan.copies
            if self._local is not None
            for start, end in self._record.parts.get((copy.item.path, copy.item.version), ())
        )
        if free_bytes is not None and plan.copy_bytes - here > free_bytes:
            raise StartError(
                f"{plan.copy_bytes - here} bytes do not fit at {self._target.text}, "
                f"where {free_bytes} are free"
            )

    def _drop_leftovers(self, plan: Plan) -> None:
        """What earlier runs left of versions that nobody wants any more."""
        wanted = {(copy.item.path, copy.item.version) for copy in plan.copies}
        if self._local is not None:
            for path, version in self._record.parts.keys() - wanted:
                with suppress(OSError, RemoteError):
                    self._local.drop_partial(Item(path, 0, 0, version))
            return
        for path, (version, token) in list(self._record.tokens.items()):
            if token and (path, version) not in wanted:
                with suppress(RemoteError):
                    self._target.store.abandon(path, token)
                    self._record.told(path, version, "")

    def _copy(self, plan: Plan, outlook: Outlook) -> None:
        folders = self._prepare()
        mover = self._mover(folders)
        self._work(mover, plan.copies, outlook)
        again, self.tally.again = self.tally.again, []
        self.tally.may_try_again = False
        fresh = [copy for one in again if (copy := self._as_it_is(one)) is not None]
        self._fresh = {copy.item.path: copy.item for copy in fresh}
        if fresh and not self.tally.stop.is_set():
            self._work(mover, fresh, outlook)
        self._make(plan.folders, folders, outlook)

    def _work(self, mover: _Mover, copies: Sequence[Copy], outlook: Outlook) -> None:
        ranges = RANGES_AT_ONCE if isinstance(mover, Fetch) else HEAVY_AT_ONCE
        light, heavy = self._wish.jobs or LIGHT_AT_ONCE, self._wish.jobs or ranges
        lanes = [
            Lane(iter(mover.light(copies)), min(light, len(copies))),
            # An upload of gigabytes takes long, however fast it is.
            Lane(iter(mover.heavy(copies)), heavy, is_paced=isinstance(mover, Fetch)),
        ]
        try:
            work(lanes, self.tally, self._watch(outlook))
        finally:
            if isinstance(mover, Fetch):
                mover.flush()

    def _watch(self, outlook: Outlook) -> Callable[[], None]:
        return lambda: self._audience.going(outlook, self.tally, self.rate)

    def _prepare(self) -> Folders | None:
        """Makes the root of the target. What makes directories there, where a remote has such."""
        if self._local is not None:
            self._local.prepare()
        if self._local is not None or not self._has_directories():
            return None
        there = self._listed[1]
        if not there.is_there and self._target.make_root is not None:
            self._target.make_root()
        known = {*there.folders, *directories_of(there.items), *directories_of(there.folders)}
        return Folders(self._target.store, known)

    def _mover(self, folders: Folders | None) -> _Mover:
        verify = self._wish.verify
        if self._local is not None:
            return Fetch(self._source, self._local, self._record, self.tally, verify=verify)
        return Send(
            self._source,
            self._target,
            self._record,
            self.tally,
            verify=verify,
            folders=folders,
            server=self._server,
        )

    def _as_it_is(self, copy: Copy) -> Copy | None:
        """The same file with its version of now; None where it is gone, which is noted."""
        item = copy.item
        try:
            if self._source.root is not None:
                found = list_side(replace(self._source, only=item.path), links=True)
                return replace(copy, item=found.items[item.path])
            entry = self._source.store.stat(item.key)
            fresh = replace(item, size=entry.size, mtime_ns=time_of(entry), version=entry.version)
            return replace(copy, item=fresh)
        except (NotFound, FileNotFoundError, KeyError):
            self.tally.failed(item.path, NotFound("it is gone from SOURCE meanwhile"))
        except (RemoteError, OSError) as error:
            self.tally.failed(item.path, error)
        return None

    def _delete(self, items: Sequence[Item], outlook: Outlook) -> None:
        """Only the versions that were listed."""

        def delete(item: Item) -> None:
            with suppress(NotFound, FileNotFoundError):  # somebody was quicker
                if self._local is not None:
                    self._local.delete(item)
                else:
                    self._target.store.delete(item.key, item.version)
                self.tally.count_deleted()

        self._each([(item.path, partial(delete, item)) for item in items], outlook)

    def _make(self, paths: Sequence[str], folders: Folders | None, outlook: Outlook) -> None:
        """Directories with nothing in them."""

        def make(path: str) -> None:
            if self._local is not None:
                self._local.make_dir(path)
            elif folders is not None:
                folders.make(f"{path}/x")
            else:
                self._target.store.make_dir(f"{path}/")
            self.tally.count_folder()

        self._each([(f"{path}/", partial(make, path)) for path in paths], outlook)

    def _remove(self, paths: Sequence[str], outlook: Outlook) -> None:
        """Directories of the target that the source has not, if they are empty by now."""

        def remove(path: str) -> None:
            with suppress(NotFound, FileNotFoundError, DirectoryNotEmpty):
                if self._local is not None:
                    self._local.remove_dir(path)
                else:
                    self._target.store.remove_dir(f"{path}/")

        by_depth: dict[int, list[str]] = {}
        for path in paths:
            by_depth.setdefault(path.count("/"), []).append(path)
        for depth in sorted(by_depth, reverse=True):  # what is in a directory goes before it
            todo = [(f"{path}/", partial(remove, path)) for path in by_depth[depth]]
            self._each(todo, outlook)

    def _each(self, todo: Sequence[tuple[str, Job]], outlook: Outlook) -> None:
        """All of them, side by side; what fails is named by its path."""

        def noted(path: str, do: Job) -> None:
            try:
                do()
            except (RemoteError, OSError) as error:
                self.tally.failed(path, error)

        if todo:
            jobs = iter([partial(noted, *one) for one in todo])
            work([Lane(jobs, self._wish.jobs or HEAVY_AT_ONCE)], self.tally, self._watch(outlook))

    def _end(self, plan: Plan) -> None:
        """Makes it durable, and forgets what isn't needed where all went well."""
        if self._local is not None and (plan.copies or plan.folders):
            names = [copy.item.path for copy in plan.copies]
            self._local.sync_names([*names, *(f"{path}/x" for path in plan.folders)])
        if self.tally.failures or not (plan.copies or plan.deletes):
            return
        elapsed_s = self.rate.elapsed_s
        rate = self.tally.moved_bytes / elapsed_s if elapsed_s > 1 else 0.0
        with suppress(OSError):
            self._record.finish(self._listed[0].items, rate)


def _keeps_times(side: Side) -> bool:
    return side.is_local or side.store.capabilities.keeps_mtime
