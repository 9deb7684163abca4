"""A file of a Nextcloud gets another name by one MOVE; id, shares, favourite and versions stay.

Probed on 32.0.1: an `If` on the source and `Overwrite: F` are both heeded (412), a repeat is a 404,
and tag, mtime and sum go along. A tag may stand for more than one content (`nextcloud_version`), so
a look comes first, and one afterwards tells the version. Between two storages (a group folder, a
share, an external one) the server itself copies and deletes, and a copy that breaks off would stay:
nothing goes this way there.
"""

from dataclasses import replace

from mountd.errors import NotFound, Unsupported, VersionChanged
from mountd.remotes.http_range import is_tag
from mountd.remotes.nextcloud_dav import is_apart
from mountd.remotes.nextcloud_version import bytes_in
from mountd.remotes.webdav_changes import DavChanges
from mountd.remotes.webdav_leftovers import directory_of
from mountd.remotes.webdav_read import DavReader
from mountd.types import Entry, Kind


def move_file(
    reader: DavReader, changes: DavChanges, until_s: float, source: str, version: str, key: str
) -> Entry:
    """See `optional_doors.MovesFiles`. Two looks and a MOVE; a look more into another directory."""
    if not is_tag(version):
        raise Unsupported(f"{source!r} has no tag to be known by")
    found, item = reader.look(source, until_s)
    if found.kind is not Kind.FILE:
        raise NotFound(f"{source!r} is a directory")
    if found.version != version:
        raise VersionChanged(f"{source!r} was {version} and is {found.version}")
    above = directory_of(key)
    is_elsewhere = is_apart(item)
    if above != directory_of(source):
        is_elsewhere = is_elsewhere or is_apart(reader.look(above, until_s)[1])
    if is_elsewhere:
        raise Unsupported(f"{source!r} or {key!r} is in another storage")
    condition = changes.condition(source, version)
    if not changes.move(source, key, until_s, overwrite=False, condition=condition):
        raise VersionChanged(f"{source!r} is no longer {version}, or {key!r} is taken")
    made = replace(found, name=key.rpartition("/")[2])
    try:
        now = reader.find(key, until_s)
    except NotFound:  # somebody has removed it already
        return made
    return now if bytes_in(now.version) == bytes_in(version) else made  # or replaced it
