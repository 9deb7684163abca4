"""A directory of a Nextcloud goes with all that is in it, by one DELETE.

No condition on a collection is ever met there: sabre knows no tags of those, so any `If` and any
`If-Match` is a 412 (32.0.1, each form tried). But a directory's tag changes with anything below it
and never comes back. So its tag is read, everything below it is listed and compared, and the tag is
read again: where it is the same, the listings together are one state of the whole tree. What comes
in between that last look and the DELETE goes into the trash with the rest, as it does with an empty
directory, of which there is no other way to be sure either. Where the server has no trash, nothing
goes this way.
"""

from collections.abc import Callable, Mapping

from mountd.errors import NotFound, Unsupported, VersionChanged
from mountd.remotes.webdav_changes import DavChanges
from mountd.remotes.webdav_read import DavReader
from mountd.types import Kind


def remove_tree(
    reader: DavReader,
    changes: DavChanges,
    until_s: Callable[[], float],
    key: str,
    inside: Mapping[str, str],
) -> None:
    """See `optional_doors.RemovesTrees`. A listing for each directory, and three requests."""
    before = _tag(reader, key)
    directories = [key]
    try:
        while directories:
            directories += _compared(reader, directories.pop(), inside)
    except NotFound as error:  # of something in it: that says nothing about all
        raise VersionChanged(f"{key!r} was changed while it was looked at") from error
    if _tag(reader, key) != before:
        raise VersionChanged(f"{key!r} was changed while it was looked at")
    if not changes.delete(key, until_s()):
        raise VersionChanged(f"{key!r}: HTTP 412 without a condition")


def _tag(reader: DavReader, key: str) -> str:
    version = reader.stat(key).version
    if not version:
        raise Unsupported(f"{key!r}: nothing tells of changes below it")
    return version


def _compared(reader: DavReader, directory: str, inside: Mapping[str, str]) -> list[str]:
    """The directories in it. Raises where anything is not as it must be."""
    found: list[str] = []
    for page in reader.list(directory):
        for entry in page:
            is_directory = entry.kind is Kind.DIRECTORY
            key = f"{directory}{entry.name}{'/' if is_directory else ''}"
            if key not in inside:
                raise VersionChanged(f"{key!r} is there, too")
            if is_directory:
                if not entry.version:
                    raise Unsupported(f"{key!r}: nothing tells of changes below it")
                found.append(key)
            elif entry.version != inside[key]:
                raise VersionChanged(f"{key!r} was {inside[key]} and is {entry.version}")
    return found
