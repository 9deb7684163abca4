"""A manifest: files with their versions and where they live, as one JSON file (docs/manifest.md).

What is read here was written by anybody: names that could lead out of a folder, names that exclude
one another and numbers that make no sense are refused, and nothing in it is an option or a secret.
"""

import json
import os
import re
import stat as modes
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NoReturn, TypeGuard

from mountd.config.source import Source
from mountd.errors import UsageError
from mountd_cache.durable_io import DISK

FORMAT: Final = 1
PREFIX: Final = "manifest:"
MAX_BYTES: Final = 256 << 20  # about a million files
MAX_FILE_BYTES: Final = 1 << 60
SUMS: Final = ("crc32", "crc32c", "md5", "sha1", "sha256")

_KEY: Final = "mountd_manifest"
_MAX_LOCATIONS: Final = 10_000
_MAX_TEXT: Final = 4096
_MAX_DIRECTORY_CHARACTERS: Final = 64 << 20
_MAX_TIME_NS: Final = (1 << 63) - 1
_DIGITS: Final[Mapping[str, re.Pattern[str]]] = {
    name: re.compile(f"[0-9a-f]{{{count}}}", re.ASCII)
    for name, count in zip(SUMS, (8, 8, 32, 40, 64), strict=True)
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NO_SUMS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Location:
    """A SOURCE that files live below: never with a user, a password or a token. `endpoint`: where
    an object store's buckets are, "" for the provider's own."""

    source: str
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of the set. `at`: the number of its location; `key`: below that; `sums`: in hex, by
    `SUMS`; `version_id`: by which a bucket that keeps versions has this one, "" where unknown."""

    path: str
    size: int
    mtime_ns: int
    version: str
    at: int
    key: str
    sums: Mapping[str, str] = field(default_factory=lambda: _NO_SUMS)
    version_id: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Locations, and files in the order of their paths."""

    locations: tuple[Location, ...]
    files: tuple[ManifestFile, ...]


class _Bad(Exception):
    """What is wrong, without the name of the manifest."""


def is_manifest(text: str) -> bool:
    """Whether a SOURCE is a manifest."""
    return text.startswith(PREFIX) and not text.startswith(f"{PREFIX}//")


def manifest_source(text: str) -> Source:
    """The Source of `manifest:FILE`. Raises UsageError without a name."""
    name = text.removeprefix(PREFIX)
    if not name or not name.isprintable():
        raise UsageError(
            "SOURCE manifest: the name of a file is missing, or has control characters"
        )
    path = os.path.abspath(os.path.expanduser(name))
    return Source("manifest", "", path.lstrip("/"), f"{PREFIX}{path}")


def read_manifest(path: Path) -> Manifest:
    """Raises UsageError with one line for whatever is no manifest, or none that can be trusted."""
    try:
        return _checked(_parsed(_bytes_of(path)))
    except _Bad as error:
        raise UsageError(f"manifest {path}: {error}") from error
    except RecursionError as error:
        raise UsageError(f"manifest {path}: it is nested too deeply") from error


def make_manifest(locations: Iterable[Location], files: Iterable[ManifestFile]) -> Manifest:
    """As it will be written: sorted, and only the locations that files live at. Raises UsageError
    where a file can't be in a manifest."""
    known = tuple(locations)
    taken = sorted(files, key=lambda file: file.path)
    used = sorted({known[file.at] for file in taken}, key=lambda one: (one.source, one.endpoint))
    number = {location: at for at, location in enumerate(used)}
    numbered = tuple(replace(file, at=number[known[file.at]]) for file in taken)
    try:
        for file in numbered:
            _check_path(file.path, "path")
            _check_path(file.key, "key")
        _check_together(numbered)
    except _Bad as error:
        raise UsageError(f"this can't be one manifest: {error}") from error
    return Manifest(tuple(used), numbered)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replaces the file as a whole. The same manifest gives the same bytes. Raises OSError."""
    DISK.write_file(path, "".join(_lines(manifest)).encode("ascii"))
    umask = os.umask(0o077)
    os.umask(umask)
    os.chmod(path, 0o666 & ~umask)


def _lines(manifest: Manifest) -> Iterator[str]:
    """A file to a line, so that two manifests can be compared by diff."""
    yield f'{{"{_KEY}": {FORMAT},\n"locations": [\n'
    rows = [
        {"source": one.source} | ({"endpoint": one.endpoint} if one.endpoint else {})
        for one in manifest.locations
    ]
    yield ",\n".join(map(json.dumps, rows))
    yield '\n],\n"files": [\n'
    for number, file in enumerate(manifest.files):
        row: dict[str, object] = {"path": file.path, "size": file.size, "version": file.version}
        if file.mtime_ns:
            row["mtime_ns"] = file.mtime_ns
        if file.at:
            row["at"] = file.at
        if file.key != file.path:
            row["key"] = file.key
        row |= {name: file.sums[name] for name in SUMS if name in file.sums}
        if file.version_id:
            row["version_id"] = file.version_id
        yield (",\n" if number else "") + json.dumps(row)
    yield "\n]}\n"


def _bytes_of(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not modes.S_ISREG(status.st_mode):
                raise _Bad("it is no file")
            if status.st_size > MAX_BYTES:
                raise _Bad(f"it has {status.st_size} bytes; more than {MAX_BYTES} are refused")
            return file.read(MAX_BYTES)
    except OSError as error:
        raise _Bad(error.strerror or str(error)) from error


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise _Bad(f"it is no JSON: {error.msg} in line {error.lineno}") from error
    except ValueError as error:  # no UTF-8, or a number of thousands of digits
        raise _Bad("it is no JSON in UTF-8") from error
    number = found.get(_KEY) if isinstance(found, dict) else None
    if not _is_int(number):
        raise _Bad(f'it is no manifest of mountd: it has no "{_KEY}"')
    if number != FORMAT:
        raise _Bad(f"it has format {number}; this mountd reads {FORMAT}")
    return dict(found)


def _object(pairs: list[tuple[str, Any]]) -> object:
    """A file as such at once: a million dictionaries would take a gigabyte."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Bad("an object has the same key twice")
    return _file(found) if "path" in found else found


def _no_number(text: str) -> NoReturn:
    raise _Bad(f"{text} is no number")


def _file(found: dict[str, Any]) -> ManifestFile:
    path = _check_path(found["path"], "path")
    size, mtime_ns, at = found.get("size"), found.get("mtime_ns", 0), found.get("at", 0)
    if not _is_int(size) or not 0 <= size <= MAX_FILE_BYTES:
        raise _Bad(f"{_shown(path)}: its size is no number of bytes that a file can have")
    if not _is_int(mtime_ns) or abs(mtime_ns) > _MAX_TIME_NS:
        raise _Bad(f"{_shown(path)}: its mtime_ns is no time")
    if not _is_int(at) or at < 0:
        raise _Bad(f"{_shown(path)}: its at is no number of a location")
    sums: dict[str, str] = {name: found[name] for name in SUMS if name in found}
    for name, value in sums.items():
        if not isinstance(value, str) or not _DIGITS[name].fullmatch(value):
            raise _Bad(f"{_shown(path)}: its {name} is none")
    return ManifestFile(
        path,
        size,
        mtime_ns,
        _text(found.get("version"), path, "version"),
        at,
        _check_path(found["key"], "key") if "key" in found else path,
        sums or _NO_SUMS,
        _text(found["version_id"], path, "version_id") if "version_id" in found else "",
    )


def _checked(found: dict[str, Any]) -> Manifest:
    rows, files = found.get("locations"), found.get("files")
    if not isinstance(rows, list) or len(rows) > _MAX_LOCATIONS:
        raise _Bad('its "locations" is no list, or a far too long one')
    if not isinstance(files, list) or not all(isinstance(one, ManifestFile) for one in files):
        raise _Bad('its "files" is no list of objects with a "path"')
    locations = tuple(map(_location, rows))
    for file in files:
        if file.at >= len(locations):
            raise _Bad(f"{_shown(file.path)}: there is no location {file.at}")
    files.sort(key=lambda file: file.path)
    _check_together(files)
    return Manifest(locations, tuple(files))


def _location(row: object) -> Location:
    if not isinstance(row, dict):
        raise _Bad("a location is no object")
    source = _text(row.get("source"), "a location", "source")
    endpoint = _text(row["endpoint"], source, "endpoint") if "endpoint" in row else ""
    return Location(source, endpoint)


def _check_together(files: Iterable[ManifestFile]) -> None:
    paths: set[str] = set()
    directories: set[str] = set()
    characters = 0
    for file in files:
        path = file.path
        if path in paths:
            raise _Bad(f"{_shown(path)} is there twice")
        paths.add(path)
        while "/" in path:
            path = path.rpartition("/")[0]
            if path in directories:
                break
            directories.add(path)
            characters += len(path)
        if characters > _MAX_DIRECTORY_CHARACTERS:
            raise _Bad("it has far too many folders")
    both = min(paths & directories, default="")
    if both:
        raise _Bad(f"{_shown(both)} is a file and a folder")


def _check_path(path: object, what: str) -> str:
    if not isinstance(path, str) or not path:
        raise _Bad(f"a {what} is no name")
    if len(path) > _MAX_TEXT:
        raise _Bad(f"{_shown(path)}: the {what} is longer than {_MAX_TEXT} characters")
    if "\0" in path or path[0] == "/" or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise _Bad(f"{_shown(path)} is refused as a {what}: it is absolute, or has .., . or a NUL")
    return path


def _text(value: object, of: str, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT or _CONTROL.search(value):
        raise _Bad(f"{_shown(of)}: its {what} is no text")
    return value


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(path: str) -> str:
    return ascii(path if len(path) <= 200 else f"{path[:200]}...")
