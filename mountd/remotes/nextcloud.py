"""nextcloud://: WebDAV with what Nextcloud adds to it, as far as the server says that it has that.

The first listing or change asks for the capabilities, once. A server that has none is served as
`webdav` does it. What goes beyond: `nextcloud_write` (sums, conditions, mtimes), `nextcloud_chunks`
(large files), `nextcloud_dav` (properties, locks), `nextcloud_features` (capabilities).
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from typing_extensions import Buffer

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import CredentialsError, Unsupported
from mountd.remotes.base import Body, Capabilities, Identity, Quota, Upload
from mountd.remotes.http_range import is_tag
from mountd.remotes.nextcloud_assembly import PAUSES_S, Assembly
from mountd.remotes.nextcloud_chunks import CHUNK_BYTES, MAX_FILE_BYTES, ChunkedUploads
from mountd.remotes.nextcloud_dav import CHANGED, LISTING, Details
from mountd.remotes.nextcloud_features import Features, FeaturesDoor
from mountd.remotes.nextcloud_folders import UploadFolders, machine
from mountd.remotes.nextcloud_version import bytes_in, is_of_nextcloud
from mountd.remotes.nextcloud_write import NextcloudWriter
from mountd.remotes.sign_in import SignIn
from mountd.remotes.webdav import CAPABILITIES, address_of, pool_of
from mountd.remotes.webdav_leftovers import Leftovers
from mountd.remotes.webdav_path import encode_path
from mountd.remotes.webdav_probe import Proof
from mountd.remotes.webdav_read import DavReader
from mountd.remotes.width import Width
from mountd.types import Entry

LOCKED_S = (0.1, 0.2, 0.5, 1.0, 2.0)
# A small look must not wait behind a chunk; a server with a few PHP workers bears no more.
_SPARE_CONNECTIONS = 2
_CAPABILITIES = replace(
    CAPABILITIES,
    max_put_bytes=MAX_FILE_BYTES,
    tells_quota=True,
    tells_rights=True,
    is_global=is_of_nextcloud,
    bytes_in=bytes_in,
)


@dataclass(frozen=True, slots=True)
class Uploading:
    """How files go. Larger ones than `chunk_bytes` in such pieces; `pauses_s` between looks at an
    upload that is being assembled; `locked_s` before a PUT that met another one goes again."""

    chunk_bytes: int = CHUNK_BYTES
    pauses_s: Sequence[float] = PAUSES_S
    locked_s: Sequence[float] = LOCKED_S


def open_nextcloud(
    source: Source, settings: Settings, uploading: Uploading | None = None
) -> "NextcloudStore":
    """The store for nextcloud://USER@HOST/PATH. No request is made.

    `settings.endpoint` (`https://host:port/path`) replaces the host.
    """
    origin, root = address_of(source, settings)
    user = settings.credentials.get("user", "")
    given = settings.credentials
    if not user or not (given.get("password") or given.get("token")):
        missing = f"password for user {user}" if user else "user for nextcloud://"
        server = settings.endpoint or source.authority
        raise CredentialsError(
            f"there is no {missing}; type: mountd login nextcloud {server}, or set "
            "MOUNTD_USER and MOUNTD_PASSWORD_FILE"
        )
    return NextcloudStore(
        source, settings, Addresses(origin, root, encode_path(user)), uploading or Uploading()
    )


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where an account's things are. `user` is encoded."""

    origin: str
    root: str
    user: str

    def files(self, prefix: str) -> str:
        base = f"{self.root}/remote.php/dav/files/{self.user}"
        return f"{base}/{encode_path(prefix)}" if prefix else base

    @property
    def uploads(self) -> str:
        return f"{self.root}/remote.php/dav/uploads/{self.user}"


class NextcloudStore:
    """A RemoteStore below one folder of an account."""

    def __init__(
        self, source: Source, settings: Settings, addresses: Addresses, uploading: Uploading
    ) -> None:
        base, at_once = addresses.files(source.prefix), settings.max_transfers
        self._sign_in = SignIn()
        self.width = Width(at_once, settings.widest_transfers or at_once)
        connections = self.width.most + _SPARE_CONNECTIONS
        pool = pool_of(addresses.origin, settings, connections, self._sign_in, self.width)
        self._pool = pool
        self._given = settings.credentials
        self._closing = threading.Event()
        self._door = FeaturesDoor(pool, addresses.root)
        leftovers = Leftovers()
        self._details = Details(pool, base)
        self._reader = DavReader(pool, base, leftovers, LISTING)
        self._plain = DavReader(pool, base, leftovers)
        folders = UploadFolders(pool, addresses.uploads, machine())
        assembly = Assembly(pool, folders, self._details, self._closing, uploading.pauses_s)
        self._chunks = ChunkedUploads(folders, assembly, at_once, uploading.chunk_bytes)
        self._writer = NextcloudWriter(
            pool,
            base,
            DavReader(pool, base, leftovers, CHANGED),
            self._plain,
            leftovers,
            self._details,
            self._door,
            self._chunks,
            uploading.chunk_bytes,
            self._closing,
            uploading.locked_s,
        )
        self._told: tuple[tuple[Proof, Features, bool, bool], Capabilities] | None = None
        self._capabilities = replace(
            _CAPABILITIES,
            max_parallel=self.width.most,
            parallel_now=lambda: self.width.now,
            parallel_soon=lambda: self.width.soon,
            tell_wider=self.width.tell_wider,
        )

    @property
    def capabilities(self) -> Capabilities:
        """More once the server has said what it is."""
        proof, known = self._writer.proof, self._door.known
        told_of = proof, known, self._writer.keeps_mtime, self._door.may_be_nextcloud
        told = self._told
        if told is None or told[0] != told_of:  # asked several times per upload
            told = self._told = told_of, self._capabilities_of(*told_of)
        return told[1]

    def _capabilities_of(
        self, proof: Proof, known: Features, keeps_mtime: bool, may_be_nextcloud: bool
    ) -> Capabilities:
        return replace(
            self._capabilities,
            conditional_put=proof.puts is not None and proof.puts.everything,
            conditional_delete=proof.puts is not None and proof.deletes and not known.is_nextcloud,
            keeps_mtime=keeps_mtime,
            sets_mtime=may_be_nextcloud,
            name_rules=known.names,
            native_move=known.is_nextcloud,
            moves_files=known.is_nextcloud,
            removes_trees=known.keeps_trash,
            tree_versions=may_be_nextcloud,
        )

    @property
    def features(self) -> Features:
        """What the server has said so far. No request is made."""
        return self._door.known

    def stat(self, key: str) -> Entry:
        return self._files().stat(key)

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        yield from self._files().list(directory)

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        """Depth: infinity is refused."""
        raise Unsupported("Nextcloud lists directory by directory")

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        is_plain = is_tag(version) and not is_of_nextcloud(version)
        reader = self._plain if is_plain else self._reader
        return reader.read(key, start, end, version)

    def identify(self, key: str) -> Identity:
        return self._writer.identify(key)

    def put(self, key: str, body: Body, expect: str | None, upload: Upload) -> Entry:
        return self._writer.put(key, body, expect, upload)

    def put_delta(
        self,
        key: str,
        body: Body,
        expect: str | None,
        upload: Upload,
        source: str,
        version: str,
        same: Sequence[tuple[int, int]],
    ) -> Entry:
        raise Unsupported("here every file is sent whole")

    def abandon(self, key: str, token: str) -> None:
        self._chunks.abandon(token)

    def delete(self, key: str, expect: str | None) -> None:
        """Into the account's trash, where the server has one."""
        self._writer.delete(key, expect)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        return self._writer.copy(source, version, key, expect, upload)

    def make_dir(self, key: str) -> None:
        self._writer.make_dir(key)

    def remove_dir(self, key: str) -> None:
        self._writer.remove_dir(key)

    def move_dir(self, source: str, key: str) -> None:
        """One MOVE: what is inside keeps its ids, shares and old versions."""
        self._writer.move_dir(source, key)

    def move_file(self, source: str, version: str, key: str) -> Entry:
        """One MOVE: it keeps its id, shares and old versions."""
        return self._writer.move_file(source, version, key)

    def remove_tree(self, key: str, inside: Mapping[str, str]) -> None:
        """Into the trash, as one thing."""
        self._writer.remove_tree(key, inside)

    def prepare_changes(self) -> None:
        """What the server is and has."""
        self._door.get()

    def _files(self) -> DavReader:
        """Only a Nextcloud's directories have tags that prove what is below them."""
        return self._reader if self._door.get().is_nextcloud else self._plain

    def quota(self) -> Quota:
        """The room where the mounted directory is. One small request."""
        return self._details.room("")

    async def listen(self, changed: Callable[[], None]) -> None:
        """By notify_push, where the server has it. It knows no bearer tokens."""
        # Only here: `mountd doctor` needs no trio.
        from mountd.remotes.nextcloud_push import PushAddress, PushListener

        login_name = self._given.get("login_name") or self._given.get("user", "")
        password = "" if self._given.get("token") else self._given.get("password", "")

        def find() -> PushAddress | None:
            url = self._door.get().push_url
            if not (url and password):
                return None
            return PushAddress(url, self._pool.origin, login_name, password, self._pool.tls)

        await PushListener(find, self._sign_in, changed, lambda: self._pool.writes).run()

    def close(self) -> None:
        self._closing.set()
        self._chunks.close()
        self._pool.close()
