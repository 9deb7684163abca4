"""SOURCE and DEST of `mountd copy`: a URL, `NAME:path`, a local path, or a path in a mount."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mountd.cache_folder import identity_name
from mountd.cli.refresh import locate
from mountd.config import Reach, Settings
from mountd.config.credentials import CREDENTIALS
from mountd.config.file import ConfigFile
from mountd.config.load import CommandLine, configured_cache_dir, reach_of, resolve_source
from mountd.config.options import OPTIONS
from mountd.config.rclone_source import is_of_rclone
from mountd.config.source import Source, split_remote_path
from mountd.control.client import Daemon, find_daemon, request
from mountd.errors import MountPointError, NameNotAllowed, NotFound, UsageError
from mountd.manifest import Manifest, is_manifest, read_manifest
from mountd.mount_table import Mount, is_below, read_mounts
from mountd.remotes.base import RemoteStore
from mountd.transfer.items import Item
from mountd.transfer.side import Side
from mountd.vfs.file_id import file_id
from mountd.vfs.names import raw_name
from mountd_cache.block_peek import BlockPeek

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class MountedAt:
    """A path in a mount of mountd: `relative` is below the mount point, `below` is its key there.
    `cache_folder` and `block_size`: of the mount's cache, where its daemon tells them."""

    path: Path
    mount: Mount
    relative: str
    daemon: Daemon
    below: str = ""
    cache_folder: str = ""
    block_size: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """What SOURCE or DEST is. `source` is None for a local directory, `root`; a file of its own is
    `only` below it. `mounted`: it was named by its path in a mount. `manifest`, with how its
    locations are reached: SOURCE is one."""

    text: str
    settings: Settings | None = None
    source: Source | None = None
    root: str | None = None
    only: str = ""
    mounted: MountedAt | None = None
    manifest: Manifest | None = None
    reach: Reach | None = None


def find_place(text: str, config: ConfigFile, command_line: CommandLine) -> Place:
    """Raises UsageError, StartError. Asks the daemon of a mount, and no remote."""
    if not text:  # a variable that is not set: not the current directory, with --delete perhaps
        raise UsageError("copy: SOURCE or DEST is empty; write . for the current directory")
    if is_manifest(text):
        source, settings = resolve_source(text, config, command_line)
        manifest = read_manifest(Path("/" + source.prefix))
        reach = reach_of(source, config, command_line)
        return Place(source.text, settings, source, manifest=manifest, reach=reach)
    if text.startswith("file:///"):
        text = text.removeprefix("file://")
    if not _is_path(text, config):
        source, settings = resolve_source(text, config, command_line)
        if source.scheme != "file":
            return Place(source.text, settings, source)
        text = f"/{source.prefix}"
    path = os.path.abspath(os.path.expanduser(text))
    mount, relative = _located(path)
    if mount is not None:
        found = _in_mount(mount, relative, config, command_line)
        if found is not None:
            return found
    if os.path.isdir(path) or not os.path.lexists(path):
        return Place(path, root=os.path.realpath(path))
    above, only = os.path.split(path)
    return Place(path, root=os.path.realpath(above), only=only)


def _is_path(text: str, config: ConfigFile) -> bool:
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        return True
    named = split_remote_path(text)
    if "://" in text or (named and (named[0] in config.remotes or not os.path.lexists(text))):
        return False
    return named is None or os.path.lexists(text)


def _located(path: str) -> tuple[Mount | None, str]:
    if not any(mount.is_ours for mount in read_mounts()):
        return None, ""  # without the child process that a look at a path takes
    try:
        return locate(Path(path))
    except MountPointError:
        return None, ""


def _in_mount(
    mount: Mount, relative: str, config: ConfigFile, command_line: CommandLine
) -> Place | None:
    """None where the daemon can't be asked, has a name there that only it knows, or is another
    user's: then the copy goes through the mount, as through any directory."""
    daemon = find_daemon(mount.path, mount.owner_uid)
    if daemon is None or not daemon.is_trusted:
        return None  # it would say which server gets our keys
    try:
        names = [
            raw_name(os.fsencode(name), at_root=not at)
            for at, name in enumerate(relative.split("/") if relative else ())
        ]
    except NameNotAllowed:
        return None
    told = request(daemon.socket_path, {"op": "status"}, _TIMEOUT_S)
    reached = _reached(told, mount, config, command_line)
    if reached is None:
        return None
    source, settings = reached
    if source.scheme == "manifest":
        return None  # what is there is the manifest's that was mounted, and not that of now
    prefix = "/".join([source.prefix, *names]).strip("/")
    below = replace(source, prefix=prefix, text=f"{source.text.rstrip('/')}/{'/'.join(names)}")
    if not names:
        below = source
    cache = told.get("cache")
    cache = cache if isinstance(cache, dict) else {}
    at = MountedAt(
        Path(mount.path, relative),
        mount,
        relative,
        daemon,
        below="".join(f"{name}/" for name in names),
        cache_folder=str(cache.get("folder") or ""),
        block_size=int(cache.get("block_size") or 0),
    )
    return Place(below.text, settings, below, mounted=at)


def _reached(
    told: Mapping[str, Any], mount: Mount, config: ConfigFile, command_line: CommandLine
) -> tuple[Source, Settings] | None:
    """How to reach what is mounted there; None where only its daemon can."""
    text, reach = str(told.get("source")), told.get("reach")
    of_rclone = is_of_rclone(text)
    # Who mounted it may say where his own keys go, but not where those of our rclone.conf do.
    options = _options_in(reach if isinstance(reach, dict) and not of_rclone else {})
    # What the mount was given holds here, too, unless this command says something else.
    given = CommandLine(
        {**options.options, **command_line.options},
        {**options.credentials, **command_line.credentials},
    )
    section = next((one for one in config.mounts.values() if one.mountpoint == mount.path), None)
    remote = config.remotes.get((section.source or "").partition(":")[0]) if section else None
    if remote is not None:
        given = CommandLine(
            {**remote.options, **given.options}, {**remote.secrets(), **given.credentials}
        )
    if not of_rclone:
        return resolve_source(text, config, given, mount=section)
    try:
        found = resolve_source(text, config, given, mount=section)
    except UsageError:
        return None
    # The name may stand for something else here: another user's file, or a changed one.
    cache = told.get("cache")
    folder = str(cache.get("folder")) if isinstance(cache, dict) else ""
    return found if os.path.basename(folder) == identity_name(*found) else None


def _options_in(reach: Mapping[str, Any]) -> CommandLine:
    options = {name: value for name, value in reach.items() if name in OPTIONS}
    credentials = {
        name: str(value) for name, value in reach.items() if CREDENTIALS.get(name) is False
    }
    return CommandLine(options, credentials)


def cache_dir_of(places: list[Place], config: ConfigFile, command_line: CommandLine) -> Path:
    """Where the record of a copy is kept. Raises UsageError."""
    given = command_line.options.get("cache_dir")
    if isinstance(given, Path):
        return given
    settings = next((place.settings for place in places if place.settings), None)
    return settings.cache_dir if settings else configured_cache_dir(config)


def check_apart(source: Place, target: Place, cache_dir: Path, *, deletes: bool) -> None:
    """Raises UsageError where a copy would copy or delete itself."""
    if identity_of(source) == identity_of(target):
        one, other = _prefix(source), _prefix(target)
        if is_below(other, one) and not source.only:
            raise UsageError(f"copy: DEST {target.text} lies inside SOURCE {source.text}")
        if deletes and is_below(one, other):
            raise UsageError(f"copy: SOURCE {source.text} lies inside DEST, with --delete")
    cache = os.path.realpath(cache_dir)
    for place in (source, target):
        if place.root is not None and not place.only and is_below(cache, place.root):
            raise UsageError(
                f"copy: the cache folder {cache} lies inside {place.text}; "
                "give another with -o cache_dir=DIR"
            )


def identity_of(place: Place) -> str:
    """Equal for places that the same remote copies between by itself; "" for local ones."""
    if place.source is None or place.settings is None:
        return ""
    whole = identity_name(replace(place.source, prefix="", text=""), place.settings)
    return f"{whole} {sorted(place.settings.credentials.items())} {place.settings.engine}"


def open_side(place: Place, folder: Path) -> Side:
    """Makes no request. `folder`: where the store may remember what it finds out."""
    if place.root is not None:
        from mountd.remotes.local import LocalStore

        return Side(place.text, LocalStore(place.root), place.root, place.only)
    assert place.source is not None
    assert place.settings is not None
    if place.manifest is not None:
        return Side(place.text, _of_manifest(place.manifest, place), only=place.only)
    store = stacked(place.source, place.settings, folder)
    make_root = partial(_make_root, place.source, place.settings, folder)
    has_root = None
    if place.source.prefix and not store.capabilities.real_directories:
        has_root = partial(_has_root, place.source, place.settings, folder)
    held = _held(place, store) if place.mounted is not None else None
    return Side(place.text, store, None, place.only, make_root, has_root, held)


def _held(place: Place, store: RemoteStore) -> Callable[[Item, int, int], bytes | None] | None:
    """What the mount's cache has. Who may not read it, or finds nothing, asks the remote."""
    at = place.mounted
    if at is None or not at.cache_folder or not at.block_size:
        return None
    peek = BlockPeek(Path(at.cache_folder, "blocks"), at.block_size)
    # As a file on its own (`as_file`) it is below the directory that it is in.
    below = at.below[: at.below.rfind("/", 0, -1) + 1] if place.only else at.below
    is_global = store.capabilities.is_global

    def held(item: Item, start: int, end: int) -> bytes | None:
        name = file_id(below + item.key, item.version, item.size, is_global)
        return peek.read(name, item.size, start, end)

    return held


def as_file(place: Place) -> Place | None:
    """The place, taken for the name of one file; None where it can't be one."""
    if place.source is None or not place.source.prefix or place.manifest is not None:
        return None
    above, _, name = place.source.prefix.rpartition("/")
    return replace(place, source=replace(place.source, prefix=above), only=name)


def stacked(source: Source, settings: Settings, folder: Path) -> RemoteStore:
    from mountd.remotes.registry import open_store
    from mountd.remotes.stack import for_one_command

    return for_one_command(open_store(source, settings, folder), settings)


def _of_manifest(manifest: Manifest, place: Place) -> RemoteStore:
    from mountd.remotes.manifest_store import open_locations
    from mountd.remotes.registry import open_store
    from mountd.remotes.stack import for_one_command

    assert place.settings is not None
    assert place.reach is not None
    store = open_locations(manifest, place.settings, place.reach, open_store)
    return for_one_command(store, place.settings)


def _make_root(source: Source, settings: Settings, folder: Path) -> None:
    """Every directory of the prefix, from the top."""
    store = stacked(replace(source, prefix=""), settings, folder)
    try:
        segments = source.prefix.split("/") if source.prefix else []
        for count in range(1, len(segments) + 1):
            store.make_dir("/".join(segments[:count]) + "/")
    finally:
        store.close()


def _has_root(source: Source, settings: Settings, folder: Path) -> bool:
    """Whether there is a marker of the prefix, or anything below it."""
    above, _, name = source.prefix.rpartition("/")
    store = stacked(replace(source, prefix=above), settings, folder)
    try:
        store.stat(f"{name}/")
    except NotFound:
        return False
    finally:
        store.close()
    return True


def _prefix(place: Place) -> str:
    return place.root if place.root is not None else "/" + (place.source or _NONE).prefix


_NONE = Source("", "", "", "")


def refresh(at: MountedAt) -> None:
    """The mount looks anew at what was copied into it. Raises StartError."""
    request(at.daemon.socket_path, {"op": "refresh", "path": at.relative}, _TIMEOUT_S)
