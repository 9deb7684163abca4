"""Frozen settings: what each option means, its default, and where values come from.

Command line > environment (`MOUNTD_<OPTION>`) > config file > default (docs/config.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from mountd.config.source import Source

if TYPE_CHECKING:  # a manifest names SOURCEs, so it imports this package
    from mountd.manifest import Location

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """One mount's options. Names are those of `-o`; sizes are bytes, `_s` is seconds."""

    cache_dir: Path
    cache_size: int | None = None  # None: half of what is free on its disk at the first mount
    block_size: int = MIB
    metadata_ttl_s: float = 60.0
    write_back_s: float = 1.0
    durability: Literal["local", "remote"] = "local"
    stop_timeout_s: float = 300.0
    request_timeout_s: float = 60.0
    read_only: bool = False
    allow_other: bool = False
    uid: int | None = None  # None: the user who mounts
    gid: int | None = None
    umask: int = 0o022
    xattrs: bool = True
    metadata: Literal["fast", "full"] = "fast"
    endpoint: str | None = None
    region: str | None = None
    ca_file: Path | None = None  # authorities in PEM that are trusted beside the system's
    tls_verify: bool = True
    engine: Literal["native", "fsspec"] = "native"
    max_transfers: int = 16
    # No option. Where nobody set `max_transfers`: up to so many, as far as the server bears them.
    widest_transfers: int | None = None
    bandwidth_up: int | None = None  # bytes per second
    bandwidth_down: int | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    metrics: str | None = None
    # Never options: read from the environment, `*_file` entries and the remote's config section.
    # Keys are the provider's own names in lower case (`access_key_id`, `user`, `password`, ...).
    credentials: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)


# How a location of a manifest is reached. Raises UsageError.
Reach = Callable[["Location"], tuple[Source, Settings]]


@dataclass(frozen=True, slots=True)
class CopiedSubtree:
    """A path below the mount with `mode = "copy"` (docs/pin.md). The remote is asked every
    `recheck_s` seconds whether something was changed there."""

    path: str
    recheck_s: float = 300.0


@dataclass(frozen=True, slots=True)
class MountPlan:
    """What one daemon serves. `mountpoint` is absolute; `name` and `copies` are from the config
    file. `reach` is for the locations of a manifest. `on_volume`: it may be mounted over another
    mount that is empty, as a container's volumes are."""

    source: Source
    mountpoint: Path
    settings: Settings
    name: str | None = None
    reach: Reach | None = None
    copies: tuple[CopiedSubtree, ...] = ()
    on_volume: bool = False
