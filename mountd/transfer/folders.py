"""Folders of a copy: those with nothing in them are copied, those that SOURCE has not are removed.

Every other folder comes with its files. Pure, but for `Folders`.
"""

import threading
from collections.abc import Iterable

from mountd.remotes.base import RemoteStore
from mountd.transfer.items import parents_of
from mountd.transfer.plan import Plan, Refusal, Rules, directories_of, is_path
from mountd.transfer.side import Listing


def plan_folders(plan: Plan, source: Listing, target: Listing, rules: Rules) -> None:
    """Adds them to `plan`, which knows the files already."""
    going = {item.path for item in plan.deletes}
    staying = [path for path in target.items if path not in going]
    there = _with_parents(target.folders) | directories_of(staying)
    for path in sorted(_empty(source)):
        if path in there or not rules.filter.takes(path):
            continue
        why = _obstacle(path, source, target, rules)
        if why:
            plan.refusals.append(Refusal(f"{path}/", why))
        else:
            plan.folders.append(path)
    if rules.delete and (source.items or source.folders or rules.delete_all):
        wanted = _with_parents(source.folders) | directories_of(source.items)
        extra = [path for path in target.folders if path not in wanted]
        plan.old_folders = sorted(filter(rules.filter.takes, extra))


def _empty(listing: Listing) -> set[str]:
    return listing.folders.keys() - directories_of(listing.items) - directories_of(listing.folders)


def _obstacle(path: str, source: Listing, target: Listing, rules: Rules) -> str:
    """Why DEST can't have that folder; "" where it can."""
    if rules.target_is_local and not is_path(path):
        return "it can't be a name here"
    for one in (path, *parents_of(path)):
        if one in target.items or (rules.has_directories and one in source.items):
            return f"{one} is a file {'at DEST' if one in target.items else 'of SOURCE, too'}"
    return ""


def _with_parents(folders: Iterable[str]) -> set[str]:
    return {*folders, *directories_of(folders)}


class Folders:
    """Makes directories on a remote where they exist by themselves, each once. Thread-safe."""

    def __init__(self, store: RemoteStore, known: set[str]) -> None:
        self._store = store
        self._known = known
        self._lock = threading.Lock()

    def make(self, key: str) -> None:
        """Those that the file `key` needs. Raises RemoteError."""
        missing = [path for path in parents_of(key) if path not in self._known]
        if not missing:
            return
        with self._lock:
            for path in reversed(missing):
                if path not in self._known:
                    self._store.make_dir(f"{path}/")
                    self._known.add(path)
