"""A load that uses few names again and again: directories that are renamed in chains, swapped, made
anew; files, links and directories that follow each other under one name; and changes of a file that
is just being sent: renames above it, truncations, modes, xattrs."""

import os
import random
import time
from collections.abc import Callable

from tests.crash.kill_kept_load import HeldLoad
from tests.crash.kill_loop_calls import Calls, Failed
from tests.crash.kill_loop_load import Load
from tests.crash.kill_loop_model import Folder, Link

NAMES = "abcdef"
MODES = (0o600, 0o640, 0o755, 0o444)
SENT_WITHIN_S = (0.0, 0.0, 0.05, 0.3, 0.7)  # some of these end while the file is being sent


def few_names(load: Load, calls: Calls, rng: random.Random) -> Callable[[str, str | None], str]:
    """In place of Load's names, which never come again; one of those where these are all taken."""
    otherwise = load.new

    def new(kind: str, folder: str | None) -> str:
        folder = rng.choice(calls.tree.folders()) if folder is None else folder
        prefix = folder + "/" if folder else ""
        free = [prefix + name for name in NAMES if prefix + name not in calls.tree.nodes]
        return rng.choice(free) if free else otherwise(kind, folder)

    return new


class NamesWork:
    """Operations beside those of a Load, which it becomes a part of."""

    def __init__(self, load: Load, calls: Calls, rng: random.Random) -> None:
        self._load = load
        self._calls = calls
        self._tree = calls.tree
        self._rng = rng
        load.new = few_names(load, calls, rng)
        load.ops |= {
            self.rename_folder_in_chain: 8,
            self.swap_folders: 5,
            self.make_folder_anew: 6,
            self.make_again_at_the_old_name: 8,
            self.another_kind: 6,
            self.rename_above_what_is_sent: 10,
            self.cut_what_is_sent: 6,
            self.make_link: 5,
            self.move_link: 4,
            self.remove_link: 3,
            self.set_mode: 8,
            self.set_xattr: 6,
        }

    # -- directories

    def _some_folder(self) -> str:
        return self._rng.choice(self._tree.folders())

    def rename_folder_in_chain(self) -> None:
        at = self._some_folder()
        if not at:
            return
        above = at.rpartition("/")[0]
        for _ in range(self._rng.randrange(2, 5)):
            to = self._load.new("d", above)
            self._calls.move(at, to)
            at = to
            if self._rng.random() < 0.5:
                self._make_file(at)

    def swap_folders(self) -> None:
        one, other = self._some_folder(), self._some_folder()
        if not one or not other or f"{one}/".startswith(f"{other}/"):
            return
        if f"{other}/".startswith(f"{one}/"):
            return
        aside = self._load.new("aside", "")
        self._calls.move(one, aside)
        self._calls.move(other, one)
        self._calls.move(aside, other)

    def make_folder_anew(self) -> None:
        """With some of the names that were in it."""
        top = self._some_folder()
        if not top:
            return
        files = [path for path in self._tree.files() if path.rpartition("/")[0] == top]
        self._load.remove_below(top)
        self._calls.make_folder(top)
        for path in files:
            if self._rng.random() < 0.6:
                self._make_at(path)

    # -- names that are used again

    def _make_file(self, folder: str) -> None:
        self._make_at(self._load.new("f", folder))

    def _make_at(self, path: str) -> None:
        with self._calls.made(path) as (fd, file):
            self._calls.write(fd, file, 0, self._rng.randbytes(self._rng.randrange(1, 30_000)))

    def make_again_at_the_old_name(self) -> None:
        files = self._tree.files()
        if not files:
            return
        path = self._rng.choice(list(files))
        if self._rng.random() < 0.6:
            self._calls.move(path, self._load.new("f", None))
        else:
            self._calls.remove(path)
        self._make_at(path)

    def another_kind(self) -> None:
        """A directory where a file was, or a link, and so on."""
        if not self._tree.nodes:
            return
        path = self._rng.choice(list(self._tree.nodes))
        if isinstance(self._tree.nodes[path], Folder):
            self._load.remove_below(path)
        else:
            self._calls.remove(path)
        kind = self._rng.randrange(3)
        if kind == 0:
            self._make_at(path)
        elif kind == 1:
            self._calls.make_folder(path)
            self._make_file(path)
        else:
            self._calls.make_link(path, self._target())

    # -- what is just being sent

    def _just_written(self) -> str:
        """The path of one, "" where there is none."""
        files = self._tree.files()
        if not files:
            return ""
        path = self._rng.choice(list(files))
        with self._calls.opened(path, os.O_RDWR) as (fd, file):
            start = self._rng.randrange(file.size + 1)
            self._calls.write(fd, file, start, self._rng.randbytes(9_000))
        time.sleep(self._rng.choice(SENT_WITHIN_S))
        return path

    def rename_above_what_is_sent(self) -> None:
        path = self._just_written()
        above = path.rpartition("/")[0]
        if not above:
            return
        top = above[: above.find("/")] if "/" in above and self._rng.random() < 0.5 else above
        self._calls.move(top, self._load.new("d", top.rpartition("/")[0]))

    def cut_what_is_sent(self) -> None:
        path = self._just_written()
        if path:
            file = self._tree.files()[path]
            size = self._rng.choice((0, 1, file.size // 2, file.size + 100))
            self._calls.cut(self._calls.top / path, file, size)

    # -- links

    def _target(self) -> str:
        return f"../{self._rng.choice(NAMES)}/{self._rng.randrange(1000)}"

    def _link(self) -> str:
        found = [path for path, node in self._tree.nodes.items() if isinstance(node, Link)]
        return self._rng.choice(found) if found else ""

    def make_link(self) -> None:
        if len(self._tree.nodes) < self._load.most_nodes:
            self._calls.make_link(self._load.new("l", None), self._target())

    def move_link(self) -> None:
        path = self._link()
        if path:
            self._calls.move(path, self._load.new("l", None))

    def remove_link(self) -> None:
        path = self._link()
        if path:
            self._calls.remove(path)

    # -- what is beside the bytes

    def set_mode(self) -> None:
        path = self._just_written() if self._rng.random() < 0.5 else ""
        files = list(self._tree.files())
        if files:
            self._calls.set_mode(path or self._rng.choice(files), self._rng.choice(MODES))

    def set_xattr(self) -> None:
        path = self._just_written() if self._rng.random() < 0.5 else ""
        files = list(self._tree.files())
        if not files:
            return
        try:
            data = self._rng.randbytes(self._rng.randrange(1, 40))
            self._calls.set_xattr(path or self._rng.choice(files), data)
        except Failed:
            if self._calls.errors.pop("setxattr ENOTSUP", 0):  # this remote keeps none
                del self._load.ops[self.set_xattr]


def names_load(calls: Calls, rng: random.Random, *, kept: bool) -> Load:
    """`kept`: with files that stay open."""
    load = (HeldLoad if kept else Load)(calls, rng, big=False)
    NamesWork(load, calls, rng)
    return load
