"""nextcloud:// against a server shaped like one, as it is on a local disk and on object storage,
and against a real one that the environment names (`real_nextcloud`). Chunks are small, so that they
are used."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Protocol

from mountd.config import Settings
from mountd.config.source import Source
from mountd.remotes.base import RemoteStore
from mountd.remotes.nextcloud import Uploading, open_nextcloud
from tests.contract.targets import Broken, Limit, MakeTarget, TargetFactory
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.process import dead_port
from tests.servers.real_nextcloud import is_there_one, real_nextcloud

_LIMITS = frozenset(
    (
        *(Limit.NO_DOUBLE_SLASH, Limit.NO_DOT_SEGMENTS, Limit.NO_BOTH_FILE_AND_PREFIX),
        *(Limit.EMPTY_DIRECTORIES_STAY, Limit.MTIME_SECONDS, Limit.NO_ATTRIBUTES, Limit.NO_TREE),
        *(Limit.NO_CONTROL_CHARACTERS, Limit.NO_BACKSLASHES, Limit.NO_NEWLINES),
        *(Limit.NAMES_NORMALISED, Limit.NAME_BYTES_LIMIT),
        *(Limit.NO_CONDITIONAL_PUT, Limit.NO_CONDITIONAL_DELETE),
    )
)
CHUNK_BYTES = 256 << 10
_MTIMES_S = count(1_500_000_000)
_REAL_TIMEOUT_S = 120.0  # PHP and SQLite on a busy machine: 25 s for a COPY were seen


class Account(Protocol):
    """Where a target's files are, and changes that don't come from the store."""

    @property
    def url(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def password(self) -> str: ...

    def put(self, path: str, data: bytes, *, mtime_s: float | None = None) -> object: ...
    def mkdir(self, path: str) -> object: ...
    def delete(self, path: str) -> None: ...


@dataclass(frozen=True, slots=True)
class NextcloudTarget:
    """A folder of its own in one account."""

    server: Account
    name: str
    folder: str = ""  # in which all tests are
    limits: frozenset[Limit] = _LIMITS
    timeout_s: float = 20.0

    def seed(self, objects: Mapping[str, bytes]) -> None:
        for key, data in objects.items():
            if key.endswith("/"):
                self.server.mkdir(f"{self.name}/{key.removesuffix('/')}")
            else:
                self.server.put(f"{self.name}/{key}", data)

    def overwrite(self, key: str, data: bytes) -> None:
        # As any client does that sets mtimes. Without one, what is done within a second shows no
        # difference on a local disk, unless in its size.
        self.server.put(f"{self.name}/{key}", data, mtime_s=next(_MTIMES_S))

    def remove(self, key: str) -> None:
        self.server.delete(f"{self.name}/{key}")

    def store(self, page_size: int | None = None) -> RemoteStore:
        return self._open(self.server.url, self.server.password)

    def broken_store(self, how: Broken) -> RemoteStore | None:
        match how:
            case Broken.WRONG_KEYS:
                return self._open(self.server.url, "wrong")
            case Broken.DEAD_PORT:
                return self._open(f"http://127.0.0.1:{dead_port()}", self.server.password)
            case Broken.MISSING_CONTAINER:
                return None

    def _open(self, url: str, password: str) -> RemoteStore:
        settings = Settings(
            cache_dir=Path("/nonexistent"),
            request_timeout_s=self.timeout_s,
            endpoint=url,
            max_transfers=4,
            credentials={"user": self.server.user, "password": password},
        )
        place = f"{self.folder}/{self.name}" if self.folder else self.name
        source = Source("nextcloud", "cloud", place, f"nextcloud://cloud/{place}")
        return open_nextcloud(source, settings, Uploading(CHUNK_BYTES, (0.02,)))


@contextmanager
def running_nextcloud(*, stat_etags: bool = True) -> Iterator[MakeTarget]:
    with NextcloudServer() as server:
        server.configure(stat_etags=stat_etags)

        def make(name: str) -> NextcloudTarget:
            server.mkdir(name)
            return NextcloudTarget(server, name)

        yield make


@contextmanager
def running_real_nextcloud() -> Iterator[MakeTarget]:
    with real_nextcloud() as server:

        def make(name: str) -> NextcloudTarget:
            server.mkdir(name)
            limits = _LIMITS | {Limit.SLOW, Limit.REFUSES_SLOWLY}
            return NextcloudTarget(server, name, server.folder, limits, _REAL_TIMEOUT_S)

        yield make


_REAL = (TargetFactory("nextcloud-real", running_real_nextcloud),) if is_there_one() else ()
TARGETS = (
    TargetFactory("nextcloud", running_nextcloud),
    TargetFactory("nextcloud-objects", partial(running_nextcloud, stat_etags=False)),
    *_REAL,
)
