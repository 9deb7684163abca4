"""`[[mounts.NAME.subtree]]`: what is said of a part of a mount."""

import math
from collections.abc import Callable
from typing import Final

from mountd.config import CopiedSubtree
from mountd.config.source import nearest
from mountd.errors import UsageError

_KEYS: Final = frozenset(("path", "mode", "recheck_s"))
_LEAST_RECHECK_S: Final = 1.0
_FORM: Final = 'write [[mounts.NAME.subtree]], path = "datasets/x", mode = "copy"'


def read_subtrees(found: object, place: Callable[[str], str]) -> tuple[CopiedSubtree, ...]:
    """The tables of one mount. `place` tells where a key stands. Raises UsageError."""
    if not isinstance(found, list):
        raise UsageError(f"{place('subtree')}: subtree is a list of tables: {_FORM}")
    subtrees = [_read(table, place) for table in found]
    paths = [subtree.path for subtree in subtrees]
    for path in paths:
        if paths.count(path) > 1:
            raise UsageError(f"{place('path')}: the subtree {path!r} is there twice")
    return tuple(subtrees)


def _read(table: object, place: Callable[[str], str]) -> CopiedSubtree:
    if not isinstance(table, dict):
        raise UsageError(f"{place('subtree')}: subtree is a list of tables: {_FORM}")
    for key in table:
        if key not in _KEYS:
            raise UsageError(f"{place(key)}: unknown key {key!r}{nearest(key, _KEYS)}; {_FORM}")
    if table.get("mode") != "copy":
        raise UsageError(f'{place("mode")}: mode takes "copy"; {_FORM}')
    path, recheck_s = table.get("path"), table.get("recheck_s", CopiedSubtree(".").recheck_s)
    parts = path.split("/") if isinstance(path, str) else [".."]
    if "\0" in "".join(parts) or not {".", ".."}.isdisjoint(parts):
        raise UsageError(f"{place('path')}: path takes a path below the mount; {_FORM}")
    is_number = isinstance(recheck_s, int | float) and not isinstance(recheck_s, bool)
    if not is_number or not math.isfinite(recheck_s) or recheck_s < _LEAST_RECHECK_S:
        raise UsageError(f"{place('recheck_s')}: recheck_s takes seconds, 1 or more")
    return CopiedSubtree("/".join(part for part in parts if part), float(recheck_s))
