"""webdav:// and webdav+http://: WebDAV (RFC 4918) as a `RemoteStore`.

The halves are in `webdav_read` and `webdav_write`; Nextcloud's own (`nextcloud`) has the same ones.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from typing_extensions import Buffer

from mountd.config import Settings
from mountd.config.source import Source
from mountd.errors import CredentialsError, Unsupported, UsageError
from mountd.remotes.base import Body, Capabilities, Identity, Upload
from mountd.remotes.http_pool import HttpPool
from mountd.remotes.sign_in import SignIn
from mountd.remotes.tls import tls_of
from mountd.remotes.webdav_leftovers import Leftovers
from mountd.remotes.webdav_path import encode_path
from mountd.remotes.webdav_probe import NOTHING, Proof
from mountd.remotes.webdav_read import DavReader
from mountd.remotes.webdav_write import DavWriter
from mountd.remotes.width import Width
from mountd.types import Entry

_SPARE_CONNECTIONS = 8  # so that a stat doesn't queue behind the reads

CAPABILITIES = Capabilities(
    strong_version=False, conditional_read=True, real_directories=True, server_copy=True
)


def open_webdav(source: Source, settings: Settings) -> "WebdavStore":
    """The store for webdav:// and webdav+http://. No request is made.

    `settings.endpoint` (`https://host:port/path`) replaces the host.
    """
    origin, base = address_of(source, settings)
    if source.prefix:
        base += f"/{encode_path(source.prefix)}"
    pool = pool_of(origin, settings, settings.max_transfers + _SPARE_CONNECTIONS)
    return WebdavStore(pool, base, settings.max_transfers)


def address_of(source: Source, settings: Settings) -> tuple[str, str]:
    """(`https://host:port`, the server's own path without a slash at its end)."""
    scheme = "http" if source.scheme == "webdav+http" else "https"
    endpoint = urlsplit(settings.endpoint or f"{scheme}://{source.authority}")
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname:
        raise UsageError(f"endpoint {settings.endpoint}: write https://HOST[:PORT][/PATH]")
    return f"{endpoint.scheme}://{endpoint.netloc}", endpoint.path.rstrip("/")


def pool_of(
    origin: str,
    settings: Settings,
    connections: int,
    sign_in: SignIn | None = None,
    width: Width | None = None,
) -> HttpPool:
    """Raises CredentialsError for a user without a password, UsageError for a bad `ca_file`."""
    tls = tls_of(settings)
    headers = {"Accept-Encoding": "identity", "User-Agent": "mountd", **_authorization(settings)}
    return HttpPool(origin, headers, connections, settings.request_timeout_s, sign_in, width, tls)


class WebdavStore:
    """A RemoteStore below `base`, an encoded path without a slash at its end."""

    def __init__(self, pool: HttpPool, base: str, max_parallel: int) -> None:
        self._pool = pool
        self._capabilities = replace(CAPABILITIES, max_parallel=max_parallel)
        self._shown_proof: Proof = NOTHING
        leftovers = Leftovers()
        self._reader = DavReader(pool, base, leftovers)
        self._writer = DavWriter(pool, base, self._reader, leftovers)

    @property
    def capabilities(self) -> Capabilities:
        """What a server enforces is known only after the first write, and only where it locks a
        file for a change (Nextcloud, ownCloud) it is one step: see `webdav_write`."""
        proof = self._writer.proof
        if proof is not self._shown_proof:
            # Asked for at each create: 14 us if it were made anew each time.
            self._capabilities = replace(
                self._capabilities,
                conditional_put=proof.puts is not None and proof.puts.everything,
                conditional_delete=proof.puts is not None and proof.deletes,
                keeps_mtime=proof.keeps_mtime,
            )
            self._shown_proof = proof
        return self._capabilities

    def stat(self, key: str) -> Entry:
        return self._reader.stat(key)

    def list(self, directory: str) -> Iterator[Sequence[Entry]]:
        return self._reader.list(directory)

    def list_tree(self, directory: str) -> Iterator[Sequence[tuple[str, Entry]]]:
        """Depth: infinity is refused by most servers (Apache, Nextcloud)."""
        raise Unsupported("WebDAV lists directory by directory")

    def read(self, key: str, start: int, end: int, version: str) -> Buffer:
        return self._reader.read(key, start, end, version)

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
        """Nothing: no upload outlives its call here."""

    def delete(self, key: str, expect: str | None) -> None:
        self._writer.delete(key, expect)

    def copy(
        self, source: str, version: str, key: str, expect: str | None, upload: Upload
    ) -> Entry:
        return self._writer.copy(source, version, key, expect, upload)

    def make_dir(self, key: str) -> None:
        self._writer.make_dir(key)

    def remove_dir(self, key: str) -> None:
        self._writer.remove_dir(key)

    def close(self) -> None:
        self._pool.close()


def _authorization(settings: Settings) -> dict[str, str]:
    given = settings.credentials
    if given.get("token"):
        return {"Authorization": f"Bearer {given['token']}"}
    user = given.get("login_name") or given.get("user", "")
    password = given.get("password", "")
    if user and not password:
        raise CredentialsError(
            f"there is no password for user {user}; set MOUNTD_PASSWORD or MOUNTD_PASSWORD_FILE"
        )
    if not user:
        return {}
    pair = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    return {"Authorization": f"Basic {pair}"}
