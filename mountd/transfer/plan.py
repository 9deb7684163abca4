"""What to copy, leave, delete and refuse: from two listings and what is remembered. Pure.

Two files are the same where their sizes are and one of these holds: a former run copied exactly
this version to exactly that one; their times are equal; their checksums are. The last one costs
requests or reading: it is only asked (`Plan.asks`) where nothing cheaper tells.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mountd.errors import UsageError
from mountd.remotes.base import ABSENT
from mountd.remotes.local_tree import can_be_a_name
from mountd.transfer.filters import Filter
from mountd.transfer.items import Item, is_link_file, key_at, parents_of
from mountd.vfs.names import NAME_MAX_BYTES

_SECOND_NS: Final = 10**9


@dataclass(frozen=True, slots=True)
class Rules:
    """What was asked for, and what the sides are. `has_directories`: at the target a
    name can't be a file and a directory. `folds`: the target can't keep two names apart
    that differ only in letter case or in Unicode form. `keep_times`: in both
    sides' listings a file's time is that which came with it. `remembered`: (source version, target
    version) of what former runs copied, by path."""

    verify: bool = False
    delete: bool = False
    delete_all: bool = False  # also where the source is empty
    filter: Filter = field(default_factory=Filter)
    source_is_local: bool = False
    target_is_local: bool = False
    has_directories: bool = True
    folds: bool = False
    keep_times: bool = False
    remembered: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Copy:
    """`item` is to be at the target, where `there` (or nothing) is now. `is_edited`: the source
    is another version than that which was copied to `there`; equal times prove nothing then."""

    item: Item
    there: Item | None
    is_edited: bool = False

    @property
    def expect(self) -> str:
        """What must be there for it to be replaced."""
        return ABSENT if self.there is None else self.there.version


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file that is not copied, and why."""

    path: str
    why: str


@dataclass(slots=True)
class Plan:
    """`same` and `asks`: what is there with the same size; `asks` only if the checksums agree.
    `folders`: that have nothing in them, to be made at the target; `old_folders`: to be removed
    from there, if they are empty by then (folders.py).
    """

    copies: list[Copy] = field(default_factory=list)
    asks: list[Copy] = field(default_factory=list)
    same: list[Copy] = field(default_factory=list)
    deletes: list[Item] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    old_folders: list[str] = field(default_factory=list)

    @property
    def copy_bytes(self) -> int:
        return sum(copy.item.size for copy in self.copies)


def make_plan(source: Mapping[str, Item], target: Mapping[str, Item], rules: Rules) -> Plan:
    """Both listings, by path, are complete. Raises UsageError where an empty source would delete
    what is at the target."""
    plan = Plan()
    takes, takes_all = rules.filter.takes, rules.filter.takes_all
    wanted = {path: item for path, item in source.items() if takes_all or takes(path)}
    refused = dict(_refusals(wanted, target, rules))
    plan.refusals = [Refusal(path, why) for path, why in sorted(refused.items())]
    for path, item in wanted.items():
        if path in refused:
            continue
        copy = _compared(item, target.get(path), rules)
        if copy.there is None or not _may_be_same(item, copy.there):
            plan.copies.append(copy)
        elif rules.verify or not _is_known_same(copy, rules):
            plan.asks.append(copy)
        else:
            plan.same.append(copy)
    if rules.delete:
        extra = [item for path, item in target.items() if path not in source]
        plan.deletes = [item for item in extra if takes_all or takes(item.path)]
        if plan.deletes and not source and not rules.delete_all:
            raise UsageError(
                f"copy: SOURCE is empty, and --delete would remove {len(plan.deletes)} files of "
                "DEST; if that is what you want, write --delete=force"
            )
    return plan


def _may_be_same(item: Item, there: Item) -> bool:
    return item.size == there.size and item.is_link == there.is_link


def _compared(item: Item, there: Item | None, rules: Rules) -> Copy:
    known = rules.remembered.get(item.path)
    is_edited = bool(known and there and known[0] != item.version and known[1] == there.version)
    return Copy(item, there, is_edited)


def _is_known_same(copy: Copy, rules: Rules) -> bool:
    assert copy.there is not None
    if rules.remembered.get(copy.item.path) == (copy.item.version, copy.there.version):
        return True
    return has_same_time(copy, coarse=rules.keep_times)


def has_same_time(copy: Copy, *, coarse: bool) -> bool:
    """Whether the times prove that nothing was written since. `coarse`: of sides that both keep a
    file's time, one may keep only whole seconds."""
    if copy.there is None or copy.is_edited:
        return False
    one_ns, other_ns = copy.item.mtime_ns, copy.there.mtime_ns
    if not one_ns or not other_ns:  # not known
        return False
    if coarse and (one_ns % _SECOND_NS == 0 or other_ns % _SECOND_NS == 0):
        return one_ns // _SECOND_NS == other_ns // _SECOND_NS
    return one_ns == other_ns


def _refusals(
    wanted: Mapping[str, Item], target: Mapping[str, Item], rules: Rules
) -> Iterator[tuple[str, str]]:
    if rules.target_is_local:
        yield from ((path, "it can't be a name here") for path in wanted if not is_path(path))
    elif rules.source_is_local:
        for path, item in wanted.items():
            if is_link_file(item):
                yield path, "a file of this name and size would be a symbolic link at DEST"
    if rules.has_directories:
        yield from _in_each_others_way(wanted, target)
    if rules.folds:
        yield from _alike(wanted)
    taken: dict[str, str] = {}
    for path, item in wanted.items():
        key = key_at(item, local=rules.target_is_local)
        if key in taken:
            yield path, f"it would have the same name at DEST as {taken[key]}"
        taken[key] = path


def is_path(path: str) -> bool:
    """Whether a local file may be there."""
    segments = path.split("/")
    return all(can_be_a_name(segment) for segment in segments) and (
        len(path) <= NAME_MAX_BYTES // 4
        or max(len(s.encode(errors="surrogateescape")) for s in segments) <= NAME_MAX_BYTES
    )


def _in_each_others_way(
    wanted: Mapping[str, Item], target: Mapping[str, Item]
) -> Iterator[tuple[str, str]]:
    """Files that are directories for others, which some remotes have and others can't."""
    wanted_directories, target_directories = directories_of(wanted), directories_of(target)
    for path in wanted.keys() & wanted_directories:
        yield path, "SOURCE has a directory of this name, too"
    for path in (wanted.keys() & target_directories) - wanted_directories:
        yield path, "DEST has a directory of this name"
    files = (wanted_directories & target.keys()) - wanted.keys()
    if files:
        for path in wanted:
            above = next((one for one in parents_of(path) if one in files), None)
            if above is not None:
                yield path, f"{above} is a file at DEST"


def _alike(wanted: Mapping[str, Item]) -> Iterator[tuple[str, str]]:
    first: dict[str, str] = {}
    for path in (*wanted, *directories_of(wanted)):
        other = first.setdefault(folded(path), path)
        if other != path:
            why = "DEST can't tell it from {}, which has another case or Unicode form"
            for one, another in ((path, other), (other, path)):
                for refused in [one] if one in wanted else _below(one, wanted):
                    yield refused, why.format(another)


def _below(directory: str, wanted: Mapping[str, Item]) -> Sequence[str]:
    return [path for path in wanted if path.startswith(f"{directory}/")]


def folded(path: str) -> str:
    """One spelling of all that a folding file system takes for the same name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def directories_of(paths: Iterable[str]) -> set[str]:
    """Every directory that these need."""
    found: set[str] = set()
    for path in paths:
        for above in parents_of(path):
            if above in found:
                break
            found.add(above)
    return found
