"""nextcloud:// against a server shaped like one; chunks are small, so that they are used."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mountd.config import Settings
from mountd.remotes.base import RemoteStore
from mountd.remotes.nextcloud import Uploading, open_nextcloud
from mountd.source import Source
from tests.contract.targets import Broken, Limit, MakeTarget, TargetFactory
from tests.servers.nextcloud.launch import NextcloudServer
from tests.servers.process import free_port

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


@dataclass(frozen=True, slots=True)
class NextcloudTarget:
    """A folder of its own in one account."""

    server: NextcloudServer
    name: str
    limits: frozenset[Limit] = _LIMITS

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
                return self._open(f"http://127.0.0.1:{free_port()}", self.server.password)
            case Broken.MISSING_CONTAINER:
                return None

    def _open(self, url: str, password: str) -> RemoteStore:
        settings = Settings(
            cache_dir=Path("/nonexistent"),
            request_timeout_s=5.0 if password != self.server.password else 20.0,
            endpoint=url,
            max_transfers=4,
            credentials={"user": self.server.user, "password": password},
        )
        source = Source("nextcloud", "cloud", self.name, f"nextcloud://cloud/{self.name}")
        return open_nextcloud(source, settings, Uploading(CHUNK_BYTES, (0.02,)))


@contextmanager
def running_nextcloud() -> Iterator[MakeTarget]:
    with NextcloudServer() as server:

        def make(name: str) -> NextcloudTarget:
            server.mkdir(name)
            return NextcloudTarget(server, name)

        yield make


TARGETS = (TargetFactory("nextcloud", running_nextcloud),)
