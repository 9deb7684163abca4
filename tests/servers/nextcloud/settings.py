"""What an administrator could have set up differently, and what the test says the server is."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

NO_QUOTA = -3


@dataclass(frozen=True, slots=True)
class Settings:
    """`chunking` and `bulkupload` are what the capabilities offer ("" leaves them out).

    `strict_chunks`: an upload that was begun with a Destination is chunking v2 with object storage
    behind it: numbers from 1 to 10000 only, each but the last of at least `min_chunk_bytes`.
    `assembly_s`: how long the final MOVE works; past `gateway_timeout_s` the client gets a 504
    while it goes on. `upload_ttl_s` after its last use an upload folder is gone. `modern_names`:
    the capabilities list forbidden names as from release 30, else only `blacklisted_files`.
    `files_lock` is the app of that name; without it LOCK is a 501. `trashbin` False: deletes are
    final. `quota_bytes` -3: none; -1 and -2 are what an external storage may say.
    `brute_force_sleep_ms`: slept once per wrong password so far, at most 25 s.
    """

    version: str = "31.0.5.1"
    chunking: str = "1.0"
    bulkupload: str = "1.0"
    modern_names: bool = True
    forbidden_names: tuple[str, ...] = (".htaccess",)
    forbidden_basenames: tuple[str, ...] = ()
    forbidden_characters: tuple[str, ...] = ("\\", "/")
    forbidden_extensions: tuple[str, ...] = (".part", ".filepart")
    notify_push: bool = False
    files_lock: bool = False
    trashbin: bool = True
    auto_mkcol: bool = True
    folder_tar: bool = True
    maintenance: bool = False
    strict_chunks: bool = False
    min_chunk_bytes: int = 5 * 2**20
    assembly_s: float = 0.0
    gateway_timeout_s: float = 60.0
    upload_ttl_s: float = 86_400.0
    quota_bytes: int = NO_QUOTA
    brute_force_sleep_ms: float = 0.0
    gzip_etags: bool = False


_NAMES = frozenset(each.name for each in fields(Settings))


def changed(settings: Settings, values: dict[str, Any]) -> Settings:
    """The settings with `values` instead. Raises ValueError for a name or a type that is wrong."""
    for name, value in values.items():
        if name not in _NAMES:
            raise ValueError(f"no such setting: {name}")
        default = getattr(Settings(), name)
        if isinstance(default, tuple):
            values[name] = tuple(value)
        elif not isinstance(value, (int, float) if isinstance(default, float) else type(default)):
            raise ValueError(f"{name} can't be {value!r}")
    return replace(settings, **values)


def as_json(settings: Settings) -> dict[str, Any]:
    return asdict(settings)
