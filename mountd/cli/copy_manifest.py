"""What goes into a manifest: the files of one or several places, and their versions there."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mountd.cli.copy_sides import Place
from mountd.cli.output import warn
from mountd.config.manifest_reach import location_of
from mountd.errors import StartError, UsageError, VersionChanged
from mountd.in_words import counted
from mountd.manifest import SUMS, Location, Manifest, ManifestFile, make_manifest, write_manifest
from mountd.remotes.optional_doors import checksums_in
from mountd.transfer.checksums import md5_in, sums_of
from mountd.transfer.items import Item
from mountd.transfer.side import Side

_AT_ONCE = 32


class Described:
    """The files of several places, until they are one manifest."""

    def __init__(self) -> None:
        self._locations: dict[Location, int] = {}
        self._files: list[ManifestFile] = []
        self._links = 0

    def add(self, place: Place, items: Iterable[Item], folder: str = "") -> None:
        """Files of `place`, with the versions that they have there, below `folder` in the set."""
        self._files += (
            replace(file, path=f"{folder}/{file.path}" if folder else file.path)
            for file in self._files_of(place, items)
        )

    def add_sums(self, side: Side, place: Place, items: Sequence[Item], folder: str) -> None:
        """As `add`, with the checksums that the side tells; a local file is read for them. Raises
        RemoteError, OSError; VersionChanged where a file is another version by now."""
        before = len(self._files)
        self.add(place, items, folder)
        wanted = [item for item in items if not _is_local_link(item)]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            found = list(threads.map(lambda item: _told(side, item), wanted))
        for at, (sums, version_id) in enumerate(found, before):
            file = self._files[at]
            known = {name: value for name, value in sums.items() if name in SUMS}
            given = file.version_id or version_id
            self._files[at] = replace(file, sums={**known, **file.sums}, version_id=given)

    def write(self, path: Path) -> Manifest:
        """Raises UsageError where these can't be one set; StartError where it can't be written."""
        if self._links:
            warn(f"{counted(self._links, 'symbolic link')} left out: a manifest has only files")
        manifest = make_manifest(self._locations, self._files)
        try:
            write_manifest(path, manifest)
        except OSError as error:
            raise StartError(f"{path} can't be written: {error.strerror}") from error
        return manifest

    def _files_of(self, place: Place, items: Iterable[Item]) -> Iterator[ManifestFile]:
        if place.manifest is not None:
            known = {file.path: file for file in place.manifest.files}
            numbers = [self._number(location) for location in place.manifest.locations]
            for item in items:
                file = known[item.key]
                yield replace(file, at=numbers[file.at])
            return
        at = self._number(_location(place))
        for item in items:
            if _is_local_link(item):
                self._links += 1
                continue
            md5 = md5_in(item.version)
            sums = {"md5": md5} if md5 else {}
            path, key = item.key, item.key
            yield ManifestFile(path, item.size, item.mtime_ns, item.version, at, key, sums)

    def _number(self, location: Location) -> int:
        return self._locations.setdefault(location, len(self._locations))


def manifest_path(text: str) -> Path:
    """Where a manifest is to be written. Raises UsageError."""
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"{text} is a directory, or in none; give the name of a file")
    return path


def _location(place: Place) -> Location:
    if place.root is not None:
        return Location(f"file://{place.root}")
    assert place.source is not None
    assert place.settings is not None
    return location_of(place.source, place.settings)


def _is_local_link(item: Item) -> bool:
    return item.is_link and not item.is_object


def _told(side: Side, item: Item) -> tuple[dict[str, str], str]:
    if side.root is not None:
        return sums_of(side, item), ""
    found = checksums_in(side.store, item.key)
    if found.entry.version != item.version:
        raise VersionChanged(f"{item.path} changed while it was looked at")
    sums = dict(found.sums)
    if found.md5:
        sums.setdefault("md5", found.md5)
    return sums, found.version_id
