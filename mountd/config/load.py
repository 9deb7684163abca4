"""From arguments, environment and config file to one frozen plan.

Command line > environment (`MOUNTD_<OPTION>`) > `[mounts.NAME]` > `[remotes.NAME]` > rclone.conf >
`[defaults]` > default (docs/config.md).
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mountd.config import MountPlan, Reach, Settings
from mountd.config.credentials import CREDENTIALS, credential_of, env_name, from_command_line
from mountd.config.credentials import from_environment as credentials_from_environment
from mountd.config.file import ConfigFile, Section
from mountd.config.logins import add_login
from mountd.config.options import OPTIONS, is_from_fstab, read_option, split_option_list
from mountd.config.rclone_conf import read_rclone
from mountd.config.rclone_source import is_of_rclone, resolve_rclone, under_given
from mountd.config.source import (
    OWN_SCHEMES,
    Source,
    nearest,
    parse_source,
    split_remote_path,
    without_secrets,
)
from mountd.errors import UsageError
from mountd.manifest import Location, is_manifest, manifest_source

_TRANSFERS_OF_NEXTCLOUD = 4  # what a server with a few PHP workers bears well
_WIDEST_OF_NEXTCLOUD = 32  # what others bear: `remotes.width` finds out
_TTL_OF_NEXTCLOUD_S = 10.0  # its folder ETags make a check of the whole tree cheap
_TTL_OF_MANIFEST_S = 10 * 365 * 86400.0  # it is a snapshot
_NOT_OPTIONS = frozenset(
    ("MOUNTD_CONFIG", "MOUNTD_RUNTIME_DIR", "MOUNTD_SOURCE", "MOUNTD_MOUNTPOINT")
)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What -o gave: options as `Settings` takes them, and credentials that may stand there."""

    options: Mapping[str, object]
    credentials: Mapping[str, str]


def read_command_line(option_lists: Iterable[str]) -> CommandLine:
    """All -o together; a later one wins. Raises UsageError for an unknown name or a secret."""
    options: dict[str, object] = {}
    credentials: dict[str, str] = {}
    unknown: list[str] = []
    for key, value in (pair for text in option_lists for pair in split_option_list(text)):
        if key == "ro" or (key == "rw" and value is None):
            options["read_only"] = key == "ro"
        elif is_from_fstab(key, value):
            continue
        elif credential_of(key):
            name, secret = from_command_line(key, value, "-o")
            credentials[name] = secret
        elif key in OPTIONS:
            options[key] = read_option(key, "true" if value is None else value, "-o")
        else:
            names = [*OPTIONS, *(name for name, secret in CREDENTIALS.items() if not secret)]
            unknown.append(f"unknown option {key!r}{nearest(key, names)}")
    if unknown:
        raise UsageError(f"-o: {'; '.join(unknown)}")
    return CommandLine(options, credentials)


def read_environment(environ: Mapping[str, str]) -> dict[str, object]:
    """Options from `MOUNTD_<OPTION>`; an empty one counts as unset.

    Names that are near none of ours are left alone: Kubernetes sets MOUNTD_PORT and its like for a
    service called mountd.
    """
    found = {
        name: read_option(name, environ[env_name(name)], env_name(name))
        for name in OPTIONS
        if environ.get(env_name(name))
    }
    ours = {env_name(name) for name in OPTIONS} | _NOT_OPTIONS
    ours |= {env_name(name) + suffix for name in CREDENTIALS for suffix in ("", "_FILE")}
    for variable in environ:
        if variable.startswith("MOUNTD_") and variable not in ours:
            hint = nearest(variable, ours, 0.88)
            if hint:
                raise UsageError(f"environment: unknown option {variable}{hint}")
    return found


def resolve_source(
    text: str,
    config: ConfigFile,
    command_line: CommandLine,
    environ: Mapping[str, str] = os.environ,
    mount: Section | None = None,
) -> tuple[Source, Settings]:
    """SOURCE (`NAME:path` included) and the settings that hold for it. Raises UsageError."""
    source, remote, of_rclone = _expand(text, config, environ)
    options: dict[str, Any] = dict(config.defaults.options)
    credentials = config.defaults.secrets()
    if of_rclone is not None:
        # rclone's keys go to rclone's endpoint, and not to one that is there for other remotes.
        options = {k: v for k, v in options.items() if k not in ("endpoint", "region")}
        options |= of_rclone.options
    for section in (remote, mount):
        if section is not None:
            options |= section.options
            credentials |= section.secrets()
    options |= read_environment(environ)
    credentials |= credentials_from_environment(environ)
    options |= command_line.options
    credentials |= command_line.credentials
    if of_rclone is not None:
        credentials = under_given(of_rclone.credentials, credentials, source.scheme)
    if source.user:
        credentials.setdefault("user", source.user)
    if source.scheme == "nextcloud":
        endpoint = options.get("endpoint")
        add_login(credentials, source.authority, endpoint, environ)
        options.setdefault("metadata_ttl_s", _TTL_OF_NEXTCLOUD_S)
        if "max_transfers" not in options:
            options["max_transfers"] = _TRANSFERS_OF_NEXTCLOUD
            options["widest_transfers"] = _WIDEST_OF_NEXTCLOUD
    if source.scheme == "manifest":
        options["read_only"] = True
        options.setdefault("metadata_ttl_s", _TTL_OF_MANIFEST_S)
    options.setdefault("cache_dir", default_cache_dir(environ))
    return source, Settings(**options, credentials=MappingProxyType(credentials))


def plan_mount(
    source_or_name: str,
    mountpoint: str | None,
    config: ConfigFile,
    command_line: CommandLine,
    environ: Mapping[str, str] = os.environ,
) -> MountPlan:
    """The plan of `mount SOURCE MOUNTPOINT` or `mount NAME`. Raises UsageError."""
    name: str | None = None
    mount: Section | None = None
    if mountpoint is None:
        name, mount = source_or_name, _mount_named(source_or_name, config)
        source_or_name, mountpoint = mount.source or "", mount.mountpoint
        if not mountpoint:
            raise UsageError(f"{mount.title}: mountpoint is missing")
        mountpoint = os.path.expanduser(mountpoint)
    if not mountpoint:
        raise UsageError("MOUNTPOINT is empty")
    source, settings = resolve_source(source_or_name, config, command_line, environ, mount)
    reach = reach_of(source, config, command_line, environ)
    copies = mount.copies if mount is not None else ()
    return MountPlan(source, Path(os.path.abspath(mountpoint)), settings, name, reach, copies)


def reach_of(
    source: Source,
    config: ConfigFile,
    command_line: CommandLine,
    environ: Mapping[str, str] = os.environ,
) -> Reach | None:
    """How the locations of a manifest are reached; None for any other source."""
    if source.scheme != "manifest":
        return None
    from mountd.config.manifest_reach import reach_location

    def reach(location: Location) -> tuple[Source, Settings]:
        manifest = Path("/" + source.prefix)
        return reach_location(location, manifest, config, command_line, environ)

    return reach


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`/var/cache/mountd` for root, `$XDG_CACHE_HOME/mountd` else."""
    if os.geteuid() == 0:
        return Path("/var/cache/mountd")
    home = environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path("~/.cache").expanduser()
    return base / "mountd"


def configured_cache_dir(config: ConfigFile) -> Path:
    """The `cache_dir` that holds where no mount is asked for. Raises UsageError."""
    options = {**config.defaults.options, **read_environment(os.environ)}
    found = options.get("cache_dir")
    return found if isinstance(found, Path) else default_cache_dir(os.environ)


def _mount_named(name: str, config: ConfigFile) -> Section:
    if name in config.mounts:
        return config.mounts[name]
    if ":" in name or "/" in name:
        raise UsageError(f"MOUNTPOINT is missing: mountd mount {without_secrets(name)} MOUNTPOINT")
    if config.path is None:
        raise UsageError(
            f"there is no config file that could define a mount {name!r}; "
            "give SOURCE and MOUNTPOINT, or see mountd mount --help"
        )
    hint = nearest(name, config.mounts)
    raise UsageError(f"{config.path} defines no mount {name!r}{hint or '; write [mounts.NAME]'}")


def _expand(
    text: str, config: ConfigFile, environ: Mapping[str, str]
) -> tuple[Source, Section | None, Section | None]:
    """The Source; the remote's section where SOURCE is `NAME:path`; rclone's settings where it is,
    or that remote's source is, `rclone:NAME:path`."""
    if is_manifest(text):
        return manifest_source(text), None, None
    if is_of_rclone(text):
        source, of_rclone = resolve_rclone(text, environ)
        return source, None, of_rclone
    named = split_remote_path(text)
    if named is None or (named[0] not in config.remotes and not _looks_named(*named)):
        return parse_source(text), None, None
    name, path = named
    remote = config.remotes.get(name)
    if remote is None:
        raise UsageError(_no_remote(name, path, config, environ))
    base_text = remote.source or ""
    if is_of_rclone(base_text):
        end = "" if base_text.endswith((":", "/")) or not path.strip("/") else "/"
        source, of_rclone = resolve_rclone(f"{base_text}{end}{path.strip('/')}", environ)
        return source, remote, of_rclone
    base = parse_source(base_text)
    if not path.strip("/"):
        return base, remote, None
    separator = "" if base.text.endswith("/") else "/"
    joined = parse_source(f"{base.text}{separator}{path.strip('/')}")
    return replace(joined, user=base.user), remote, None


def _no_remote(name: str, path: str, config: ConfigFile, environ: Mapping[str, str]) -> str:
    if name in OWN_SCHEMES:
        return f"SOURCE {name}:{path}: write {name}://{path.lstrip('/')}"
    hint = nearest(name, config.remotes) or f"; write [remotes.{name}]"
    if _rclone_has(name, environ):
        hint = f"; rclone's of that name is rclone:{name}:{path}"
    return f"no remote {name!r} in {config.path or 'the config file (there is none)'}{hint}"


def _rclone_has(name: str, environ: Mapping[str, str]) -> bool:
    try:
        return name in read_rclone(environ).names()
    except UsageError:
        return False


def _looks_named(name: str, path: str) -> bool:
    """Whether `NAME:path` is meant, and not `C:\\dir` or `simplecache::s3://...`."""
    return not (len(name) == 1 and path[:1] in "\\/") and path[:1] != ":"
