"""How the locations of a manifest are reached: with this user's configuration, never with its own.

Whoever wrote the manifest has chosen the hosts and folders in it. So only a bucket is reached with
what is in the environment (requests to it are signed and go to the endpoint that is configured
here); a server that would be told a password, and a local folder, must be in the config file, or
be the folder that the manifest itself lies in.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mountd.cache_folder import endpoint_of
from mountd.config import Settings
from mountd.config.file import ConfigFile, Section
from mountd.config.load import CommandLine, resolve_source
from mountd.config.rclone_source import is_of_rclone
from mountd.config.source import Source, parse_source, without_secrets
from mountd.errors import UsageError
from mountd.manifest import Location
from mountd.mount_table import is_below

_BUCKETS = frozenset(("s3", "gs", "az"))


def reach_location(
    location: Location,
    manifest: Path,
    config: ConfigFile,
    command_line: CommandLine,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Source, Settings]:
    """Raises UsageError where it is not to be reached, or nobody says how."""
    text = location.source
    shown = f"manifest {manifest}: {without_secrets(text)}"
    if is_of_rclone(text):  # the name is this user's own, where it leads is in rclone.conf
        source, settings = resolve_source(text, config, command_line, environ)
        _check_folder(source, manifest, shown)
        return source, settings
    try:
        source = parse_source(text)
    except UsageError as error:
        raise UsageError(f"manifest {manifest}: {error}") from error
    if source.user or not (source.authority or source.scheme == "file"):
        raise UsageError(f"{shown} names a user, or no bucket or host")
    remote = _remote_above(source, location.endpoint, config)
    if remote is None and source.scheme != "file" and source.scheme not in _BUCKETS:
        raise UsageError(
            f"{shown} is reached only with a remote of the config file: write [remotes.NAME] with "
            f"source = {_root(source)!r}"
        )
    if remote is None:
        _check_folder(source, manifest, shown)
    source, settings = resolve_source(text, config, command_line, environ, remote)
    here = endpoint_of(source, settings, environ)
    if location.endpoint and here != _plain(location.endpoint):
        raise UsageError(
            f"{shown} is at the endpoint {location.endpoint}, and {here or 'none'} is configured; "
            "give it with -o endpoint=URL, or as a remote of the config file"
        )
    return source, replace(settings, read_only=True)


def location_of(source: Source, settings: Settings) -> Location:
    """As a manifest says where files are."""
    endpoint = ""
    if source.scheme in _BUCKETS and not is_of_rclone(source.text):
        endpoint = without_secrets(endpoint_of(source, settings))
    return Location(source.text, endpoint)


def _remote_above(source: Source, endpoint: str, config: ConfigFile) -> Section | None:
    """The remote of the config file that this is in: the nearest, by its path."""
    found: list[tuple[int, str, Section]] = []
    for name, remote in config.remotes.items():
        text = remote.source or ""
        if is_of_rclone(text):
            continue
        try:
            base = parse_source(text)
        except UsageError:
            continue
        is_in = (base.scheme, base.authority) == (source.scheme, source.authority)
        there = _plain(str(remote.options.get("endpoint") or ""))
        if is_in and is_below(f"/{source.prefix}", f"/{base.prefix}".rstrip("/") or "/"):
            is_right = not endpoint or not there or there == _plain(endpoint)
            if is_right and ".." not in source.prefix.split("/"):
                found.append((len(base.prefix), name, _with_user(remote, base)))
    return max(found, key=lambda one: (one[0], one[1]))[2] if found else None


def _with_user(remote: Section, base: Source) -> Section:
    """`user@host` of the remote's own source is a credential of its."""
    if not base.user or "user" in remote.credentials:
        return remote
    return replace(remote, credentials={**remote.credentials, "user": base.user})


def _check_folder(source: Source, manifest: Path, shown: str) -> None:
    if source.scheme != "file":
        return
    folder = os.path.realpath(manifest.parent)
    if not is_below(os.path.realpath(f"/{source.prefix}"), folder):
        raise UsageError(
            f"{shown} is a folder outside of the manifest's own; write it as a remote of the "
            f"config file: [remotes.NAME] with source = {source.text!r}"
        )


def _root(source: Source) -> str:
    return f"{source.scheme}://{source.authority}"


def _plain(endpoint: str) -> str:
    return endpoint.rstrip("/").lower()
