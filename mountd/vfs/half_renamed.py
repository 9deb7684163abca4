"""Directories' renames that a former process was killed in: its journal has them, its notes of what
the kernel holds not all yet.

The rest is done before anything is served, or what the kernel makes below such a directory, by an
inode that it has, would go to the name that is no more.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from mountd.vfs.nodes import ROOT
from mountd.vfs.notes import NotedDirectory, Notes
from mountd.vfs.restoring import Noted
from mountd.vfs.tree import Tree
from mountd_cache.changes import Change
from mountd_cache.ledger import Ledger


class _Place(NamedTuple):
    """Where a directory is by the journal. `is_whole`: the remote has moved it there."""

    key: str
    parent: int
    is_whole: bool


def completed(tree: Tree, noted: Noted, notes: Notes) -> Noted:
    """What would have been noted, which `notes` is told; kept listings go along."""
    moved = _moved(tree.ledger, noted.directories)
    if not moved:
        return noted
    directories, files = dict(noted.directories), dict(noted.files)
    whole: dict[str, str] = {}
    for number, place in moved.items():
        if place.is_whole:
            whole[directories[number].key] = place.key
        del directories[number]  # the last one with a key is the one that has it
        directories[number] = NotedDirectory(place.parent, place.key)
        notes.holds(number, directories[number])
    for old in sorted(whole, key=len):
        below = [key for key in whole if key.startswith(old)]
        if any(tree.cache.get(key) is not None for key in below):
            tree.cache.move_below(old, whole[old], below)
    for handle, file in noted.files.items():
        old, name = _parted(file.key)
        at = noted.directories.get(file.parent)
        if at is not None and at.key == old and old in whole:
            files[handle] = file._replace(key=whole[old] + name)
            notes.described(handle, files[handle])
    return replace(noted, directories=directories, files=files)


def _moved(ledger: Ledger, noted: Mapping[int, NotedDirectory]) -> dict[int, _Place]:
    """Noted directories that are elsewhere by the journal, those above others first."""
    left: dict[int, list[str]] = {}  # by inode: the keys from which a directory was renamed
    for gone in ledger.gone.values():
        for change in gone.values():
            now = _directory(ledger, change.number)
            if change.key.endswith("/") and now is not None:
                left.setdefault(change.number, []).append(change.key)
    places: dict[int, _Place] = {}
    for number, directory in noted.items():
        if left or number in ledger.by_number:
            place = _place(ledger, noted, left, number)
            if place is not None and place.key != directory.key:
                places[number] = place
    numbers = {directory.key: number for number, directory in noted.items()}
    moved: dict[int, _Place] = {}
    for number in sorted(places, key=lambda number: noted[number].key.count("/")):
        place, own = places[number], _directory(ledger, number)
        if own is not None:
            above = ledger.changes.get(own.directory)
            is_made = above is not None and above.is_directory
            parent = above.number if above and is_made else numbers.get(own.directory, ROOT)
            moved[number] = place._replace(parent=parent)
        elif _has_its_key(noted, numbers, number, place) and (
            place.parent in moved
            or _directory(ledger, place.parent) is not None
            or _is_at(noted, numbers, place.parent, _parted(place.key)[0])
        ):
            moved[number] = place
    return moved


def _has_its_key(
    noted: Mapping[int, NotedDirectory], numbers: Mapping[str, int], number: int, place: _Place
) -> bool:
    """Not where it had been removed, and another is noted in its place before or behind."""
    there = numbers.get(place.key)
    is_other = there is not None and noted[there].parent == place.parent
    return numbers[noted[number].key] == number and not is_other


def _is_at(
    noted: Mapping[int, NotedDirectory], numbers: Mapping[str, int], number: int, key: str
) -> bool:
    """Whether it was noted there before the kill."""
    return number in noted and noted[number].key == key and numbers[key] == number


def _place(
    ledger: Ledger,
    noted: Mapping[int, NotedDirectory],
    left: Mapping[int, list[str]],
    number: int,
) -> _Place | None:
    """Where the journal says it is, by itself or by what it is in; None where it says nothing."""
    directory = noted[number]
    own = _directory(ledger, number)
    key, at, below = "", number, ""
    for _ in noted:
        change = _directory(ledger, at)
        if change is not None:
            key = key or change.key + below
            if directory.key.startswith(tuple(left.get(at, ()))):
                return _Place(key, directory.parent, change.is_clean)
        if at not in noted:
            break
        below = _parted(noted[at].key)[1] + below
        at = noted[at].parent
    return _Place(own.key, directory.parent, own.is_clean) if own is not None else None


def _directory(ledger: Ledger, number: int) -> Change | None:
    change = ledger.by_number.get(number)
    return change if change is not None and change.is_directory else None


def _parted(key: str) -> tuple[str, str]:
    """The directory that it is in, and its own name there, a directory's with its slash."""
    at = key.rfind("/", 0, -1) + 1
    return key[:at], key[at:]
