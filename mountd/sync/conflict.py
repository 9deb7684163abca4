"""When the remote has moved on: what the conflict copy is called, and what becomes of the ledger;
pure."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from mountd.vfs.names import LINK_SUFFIX
from mountd_cache.changes import BASE, Change, ChangeState, Content, Rows

NAME_MAX_BYTES: Final = 255
_EXTENSION_MAX_BYTES: Final = 16
_HOST_MAX: Final = 64
BASE_GONE: Final = "conflict: the version that this was based on is gone"
NO_NAME: Final = (
    "conflict: the remote has another version, and no name for a copy of ours fits here: its path "
    "is too long; move it to a shorter one, or give it up with `mountd queue --discard`"
)
WHAT_TO_DO: Final = (
    "what was written is kept here, the rest is nowhere: write the file anew as a whole, "
    "or give it up with `mountd queue --discard`"
)


def conflict_name(
    name: str,
    host: str,
    when: datetime,
    is_taken: Callable[[str], bool],
    fits: Callable[[str], bool] = lambda made: True,
) -> str | None:
    """`name (conflict HOST 2026-01-31 10.15.00).ext`, in at most 255 bytes of UTF-8, numbered
    where that is taken. `name` is the last segment of a key; `fits`: whether the remote takes that
    key with another last segment: as much of the stem goes as needed, and then all but the word.
    None where not even that fits."""
    stem, dot, extension = name.rpartition(".")
    tail = dot + extension
    if not stem or len(_utf8(tail)) > _EXTENSION_MAX_BYTES:
        stem, tail = name, ""
    host = "".join(c if c.isalnum() or c in "-_." else "-" for c in host)[:_HOST_MAX]
    for mark in (f"(conflict {host} {when:%Y-%m-%d %H.%M.%S}", "(conflict"):
        number = 1
        while True:
            counted = f"{mark})" if number == 1 else f"{mark}) {number}"
            made = _fitting(stem, counted, tail, fits)
            if made is None:
                break
            if not is_taken(made):
                return made
            number += 1
    return None


def _fitting(stem: str, mark: str, tail: str, fits: Callable[[str], bool]) -> str | None:
    # A link's file without its suffix would be a file with the link's target in it.
    ends = (f" {mark}{tail}",) if tail == LINK_SUFFIX else (f" {mark}{tail}", f" {mark}")
    for end in ends:
        kept = _cut(stem, NAME_MAX_BYTES - len(_utf8(end)))
        while kept and not fits(kept + end):
            kept = kept[:-1]
        if kept:
            return kept + end
    last = mark + tail if tail == LINK_SUFFIX else mark
    return last if fits(last) else None


def moved_aside(change: Change, name: str, shown: bytes) -> tuple[Rows, Change]:
    """Ours goes to the name of a conflict copy; its own key is the remote's again."""
    ours = replace(
        change,
        key=change.directory + name,
        name=shown,
        expect="",
        state=ChangeState.PENDING,
        reason="",
        conflict=change.conflict or change.key,
    )
    return Rows(changes=(ours,), forget=(change.key,)), ours


def needs_base(content: Content) -> bool:
    """Whether any byte of it is still to be read from the remote."""
    return any(piece.layer == BASE for piece in content.pieces(0, content.size))


def is_base_gone(change: Change) -> bool:
    """Whether it FAILED because the remote no longer has what it was made from."""
    return change.state is ChangeState.FAILED and change.reason.startswith(BASE_GONE)


def _cut(text: str, most_bytes: int) -> str:
    encoded = _utf8(text)
    if len(encoded) <= most_bytes:
        return text
    # What is cut in the middle of a character leaves with it; a lone surrogate is kept whole.
    for end in range(most_bytes, most_bytes - 4, -1):
        try:
            return encoded[:end].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            continue
    raise AssertionError("no character is longer than four bytes")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
