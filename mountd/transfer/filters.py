"""--include and --exclude: globs over paths. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mountd.errors import UsageError

_CLASS = re.compile(r"\[(!?)(\]?[^\]/]*)\]")


@dataclass(frozen=True, slots=True)
class Filter:
    """A file is in where one of `include` takes it (or there is none) and none of `exclude` does.

    A glob without a slash is for a name at any depth, one with a slash for a path from the root.
    `*` and `?` stop at slashes, `**` doesn't. What takes a directory takes all that is in it.
    """

    include: tuple[re.Pattern[str], ...] = ()
    exclude: tuple[re.Pattern[str], ...] = ()

    @property
    def takes_all(self) -> bool:
        return not self.include and not self.exclude

    def takes(self, path: str) -> bool:
        """Whether the file `path` is in."""
        if self.include and not any(glob.match(path) for glob in self.include):
            return False
        return not any(glob.match(path) for glob in self.exclude)

    def leaves_out(self, directory: str) -> bool:
        """Whether no file below it is in, as far as `exclude` says so."""
        return any(glob.match(directory) for glob in self.exclude)


def read_filter(include: Sequence[str], exclude: Sequence[str]) -> Filter:
    """Raises UsageError for a glob that is none."""
    return Filter(tuple(map(_read_glob, include)), tuple(map(_read_glob, exclude)))


def _read_glob(glob: str) -> re.Pattern[str]:
    if not glob.strip("/"):
        raise UsageError(f"copy: {glob!r} is no glob; write *.jpg, train/** or a name")
    start = "" if "/" in glob.strip("/") or glob.startswith("/") else "(?:.*/)?"
    try:
        return re.compile(f"{start}{_regex(glob.strip('/'))}(?:/.*)?\\Z", re.DOTALL)
    except re.error as error:
        raise UsageError(f"copy: {glob!r} is no glob: {error}") from error


def _regex(glob: str) -> str:
    parts: list[str] = []
    at = 0
    while at < len(glob):
        found = _CLASS.match(glob, at)
        if glob.startswith("**/", at):
            parts.append("(?:.*/)?")
            at += 3
        elif glob.startswith("**", at):
            parts.append(".*")
            at += 2
        elif glob[at] in "*?":
            parts.append("[^/]*" if glob[at] == "*" else "[^/]")
            at += 1
        elif found:
            inside = found[2].replace("\\", "\\\\").replace("[", "\\[")
            parts.append(f"(?!/)[{'^' if found[1] else ''}{inside}]")
            at = found.end()
        else:
            parts.append(re.escape(glob[at]))
            at += 1
    return "".join(parts)
