"""What an administrator could have set up differently, and what the test says the server is."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

NO_QUOTA = -3


@dataclass(frozen=True, slots=True)
class Settings:
    """Nextcloud 32 on a local disk, as it is set up when nobody changes anything.

    `chunking`, `bulkupload` and `checksum_types` are what the capabilities offer ("" or () leaves
    them out; Nextcloud 32 says nothing of checksums). `version` decides over names (what the
    capabilities say of them, and the errors), and over what a server before 30 doesn't have.

    `strict_chunks`: an upload that was begun with a Destination is chunking v2 with object storage
    behind it: numbers from 1 to 10000 only, each but the last of at least `min_chunk_bytes`.
    `assembly_s`: how long the final MOVE works; past `gateway_timeout_s` the client gets a 504
    while it goes on. `upload_ttl_s` after its last use an upload folder is gone.
    `files_lock` is the app of that name; without it LOCK is a 501. `trashbin` False: deletes are
    final. `quota_bytes` -3: none; -1 and -2 are what an external storage may say.
    `brute_force_sleep_ms`: slept at a wrong password, twice as long at each further one, at most
    25 s. `gzip_etags`: a web server in front spoils the ETag of what it compresses. `stat_etags`
    and `clock_s`: see `tree.Storage`. `zero_end_is_open`: the range bytes=0-0 gets everything.
    """

    version: str = "32.0.1.2"
    chunking: str = "1.0"
    bulkupload: str = "1.0"
    checksum_types: tuple[str, ...] = ()
    forbidden_names: tuple[str, ...] = (".htaccess",)
    forbidden_basenames: tuple[str, ...] = ()
    forbidden_characters: tuple[str, ...] = ("\\", "/")
    forbidden_extensions: tuple[str, ...] = (".part", ".filepart")
    notify_push: bool = False
    files_lock: bool = False
    trashbin: bool = True
    auto_mkcol: bool = True
    max_chunk_bytes: int = 100 * 2**20
    max_parallel_chunks: int = 5
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
    zero_end_is_open: bool = True
    stat_etags: bool = True
    clock_s: int = 0

    @property
    def release(self) -> int:
        """What differs by it: names (their capabilities and errors from 30 on), the G of
        oc:permissions and the limits of chunked uploads in the capabilities."""
        return int(self.version.partition(".")[0])


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
