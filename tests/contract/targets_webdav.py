"""webdav:// against three servers that disagree about nearly everything but the RFC."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mountd.config import Settings
from mountd.config.source import Source
from mountd.remotes.base import RemoteStore
from mountd.remotes.registry import open_store
from tests.contract.targets import Broken, Limit, MakeTarget, TargetFactory
from tests.servers.apache import running_apache
from tests.servers.dav import PASSWORD, USER, DavServer
from tests.servers.process import dead_port
from tests.servers.rclone import running_rclone_webdav
from tests.servers.wsgidav import running_wsgidav

_LIMITS = frozenset(
    (
        *(Limit.NO_DOUBLE_SLASH, Limit.NO_DOT_SEGMENTS, Limit.NO_BOTH_FILE_AND_PREFIX),
        *(Limit.EMPTY_DIRECTORIES_STAY, Limit.MTIME_SECONDS, Limit.NO_ATTRIBUTES, Limit.NO_TREE),
    )
)
# Even Apache looks and then acts, inside: two changes in one instant may both be done.
_RACES = frozenset((Limit.NO_CONDITIONAL_PUT, Limit.NO_CONDITIONAL_DELETE))
_APACHE = _RACES | {Limit.NO_MTIME}
# WsgiDAV decodes a Destination before it takes it apart.
_WSGIDAV = _RACES | {Limit.NO_MTIME, Limit.SLOW, Limit.NO_QUERY_CHARACTERS}
# rclone shows control characters that it finds on a disk as pictures of them, and finds a name in
# NFC when it is asked for the same in NFD.
_RCLONE = _RACES | {
    *(Limit.NO_CONTROL_CHARACTERS, Limit.NO_NEWLINES, Limit.NAMES_NORMALISED, Limit.SLOW)
}


def _make_for_everybody(directory: Path, parent: str) -> None:
    """Makes `parent` below `directory`. Apache gave up root, and is to write there, too."""
    path = os.fspath(directory)
    for segment in ("", *os.path.relpath(parent, path).split("/")):
        path = os.path.join(path, segment)
        if not os.path.isdir(path):
            os.mkdir(path)
            os.chmod(path, 0o777)


def put_into(directory: Path, objects: Mapping[str, bytes]) -> None:
    """Writes objects below `directory`; a key with a slash at its end makes a directory."""
    made: set[str] = set()
    for key, data in objects.items():
        path = os.path.join(directory, key)
        parent = path.rstrip("/") if key.endswith("/") else os.path.dirname(path)
        if parent not in made:
            _make_for_everybody(directory, parent)
            made.add(parent)
        if not key.endswith("/"):
            with open(path, "wb") as file:
                file.write(data)


def overwrite_in(directory: Path, key: str, data: bytes) -> None:
    """Replaces a file and moves its mtime on by two seconds: tags and Last-Modified are made of
    whole seconds on some servers, and a test should not wait for the clock."""
    path = directory / key
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 2_000_000_000))


def remove_in(directory: Path, key: str) -> None:
    path = directory / key
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


@dataclass(frozen=True, slots=True)
class WebdavTarget:
    """A directory of its own on a WebDAV server. `engine` fsspec reaches it through webdav4."""

    server: DavServer
    name: str
    limits: frozenset[Limit]
    engine: str = "native"

    @property
    def directory(self) -> Path:
        return self.server.files / self.name

    def seed(self, objects: Mapping[str, bytes]) -> None:
        put_into(self.directory, objects)

    def overwrite(self, key: str, data: bytes) -> None:
        overwrite_in(self.directory, key, data)

    def remove(self, key: str) -> None:
        remove_in(self.directory, key)

    def store(self, page_size: int | None = None) -> RemoteStore:
        return self._open(self.server.authority, PASSWORD)

    def broken_store(self, how: Broken) -> RemoteStore | None:
        match how:
            case Broken.WRONG_KEYS:
                return self._open(self.server.authority, "wrong")
            case Broken.DEAD_PORT:
                return self._open(f"127.0.0.1:{dead_port()}", PASSWORD)
            case Broken.MISSING_CONTAINER:
                return None

    def _open(self, authority: str, password: str) -> RemoteStore:
        settings = Settings(
            cache_dir=Path("/nonexistent"),
            request_timeout_s=20.0,
            engine="fsspec" if self.engine == "fsspec" else "native",
            credentials={"user": USER, "password": password},
        )
        source = Source("webdav+http", authority, self.name, f"webdav+http://{authority}")
        return open_store(source, settings)


RunServer = Callable[[Path], AbstractContextManager[DavServer]]


@contextmanager
def running_webdav_target(
    run: RunServer, limits: frozenset[Limit] = frozenset(), engine: str = "native"
) -> Iterator[MakeTarget]:
    """A factory's `running`. The directory is not pytest's: Apache gives up root and could not
    enter that."""
    with (
        tempfile.TemporaryDirectory(prefix="mountd-dav-") as directory,
        run(Path(directory)) as dav,
    ):

        def make(name: str) -> WebdavTarget:
            target = WebdavTarget(dav, name, _LIMITS | limits, engine)
            target.directory.mkdir()
            target.directory.chmod(0o777)
            return target

        yield make


TARGETS = (
    # 10,000 entries take WsgiDAV 6 s and rclone (without its directory cache) 25 s.
    TargetFactory("webdav-wsgidav", partial(running_webdav_target, running_wsgidav, _WSGIDAV)),
    TargetFactory("webdav-apache", partial(running_webdav_target, running_apache, _APACHE)),
    TargetFactory("webdav-rclone", partial(running_webdav_target, running_rclone_webdav, _RCLONE)),
)
