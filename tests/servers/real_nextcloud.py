"""A running Nextcloud that somebody has set up: seeded by requests of its own, not by the store.

    export MOUNTD_TEST_NEXTCLOUD=http://127.0.0.1:8080,ann,PASSWORD
    CONTRACT_TARGETS=nextcloud-real .venv/bin/python -m pytest tests/contract

runs the contract on it, in a folder of that account which goes at the end. An app password is
faster: each use of a real one costs the server a bcrypt.
"""

import http.client
import os
import uuid
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

VARIABLE: Final = "MOUNTD_TEST_NEXTCLOUD"
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class RealNextcloud:
    """`url` has no slash at its end; all paths are below `folder`."""

    url: str
    user: str
    password: str
    folder: str

    def put(self, path: str, data: bytes, *, mtime_s: float | None = None) -> None:
        """Makes the folders above it, too."""
        headers = {"X-NC-WebDAV-Auto-Mkcol": "1"}
        if mtime_s is not None:
            headers["X-OC-MTime"] = str(int(mtime_s))
        self._ask("PUT", path, data, headers, (201, 204))

    def mkdir(self, path: str) -> None:
        """With the folders above it."""
        for end in (*(at for at, each in enumerate(path) if each == "/"), len(path)):
            self._ask("MKCOL", path[:end], b"", {}, (201, 405))

    def delete(self, path: str) -> None:
        self._ask("DELETE", path, b"", {}, (204,))

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        expected: tuple[int, ...],
    ) -> None:
        where = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(where.netloc, timeout=_TIMEOUT_S)
        token = b64encode(f"{self.user}:{self.password}".encode()).decode()
        key = quote(f"{self.folder}/{path}" if path else self.folder)
        target = f"{where.path}/remote.php/dav/files/{quote(self.user)}/{key}"
        try:
            connection.request(method, target, body, {"Authorization": f"Basic {token}", **headers})
            answer = connection.getresponse()
            text = answer.read(2000)
        finally:
            connection.close()
        assert answer.status in expected, (method, target, answer.status, text)


def is_there_one() -> bool:
    return bool(os.environ.get(VARIABLE))


@contextmanager
def real_nextcloud() -> Iterator[RealNextcloud]:
    """The one that the environment names, with a folder that is removed at the end."""
    url, user, password = os.environ[VARIABLE].split(",", 2)
    server = RealNextcloud(url.rstrip("/"), user, password, f"mountd-tests-{uuid.uuid4().hex[:8]}")
    server.mkdir("")
    try:
        yield server
    finally:
        server.delete("")
