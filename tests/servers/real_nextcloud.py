"""A running Nextcloud that somebody has set up: seeded by requests of its own, not by the store.

    export MOUNTD_TEST_NEXTCLOUD=http://127.0.0.1:8080,ann,PASSWORD
    CONTRACT_TARGETS=nextcloud-real .venv/bin/python -m pytest tests/contract

runs the contract on it, in a folder of that account which goes at the end. An app password is
faster: each use of a real one costs the server a bcrypt. What a user and an admin do in a day is
`tests/mount/test_real_nextcloud*.py`; these parts of it also want a second account with its own
password, and the server's `occ`:

    export MOUNTD_TEST_NEXTCLOUD_OTHER=bob,PASSWORD
    export MOUNTD_TEST_NEXTCLOUD_OCC="php /var/www/nextcloud/occ"
"""

import html
import http.client
import os
import re
import shlex
import subprocess
import uuid
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlencode, urlsplit

VARIABLE: Final = "MOUNTD_TEST_NEXTCLOUD"
OTHER_VARIABLE: Final = f"{VARIABLE}_OTHER"
OCC_VARIABLE: Final = f"{VARIABLE}_OCC"
_TIMEOUT_S = 120.0
_PROPFIND: Final = """<?xml version="1.0"?>
<d:propfind xmlns:d="DAV:" xmlns:oc="http://owncloud.org/ns" xmlns:nc="http://nextcloud.org/ns">
<d:prop><{0}/></d:prop></d:propfind>"""


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
        self._ask("PUT", self._files(path), data, headers, (201, 204))

    def mkdir(self, path: str) -> None:
        """With the folders above it."""
        for end in (*(at for at, each in enumerate(path) if each == "/"), len(path)):
            self._ask("MKCOL", self._files(path[:end]), b"", {}, (201, 405))

    def delete(self, path: str) -> None:
        self._ask("DELETE", self._files(path), b"", {}, (204,))

    def move(self, path: str, to: str) -> None:
        where = f"{self.url}/remote.php/dav/{quote(self._files(to))}"
        headers = {"Destination": where, "Overwrite": "F"}
        self._ask("MOVE", self._files(path), b"", headers, (201,))

    def read(self, path: str) -> bytes:
        return self._ask("GET", self._files(path), b"", {}, (200,))

    def names(self, path: str) -> list[str]:
        """What a listing of the folder has in it, in order."""
        found = self._propfind(self._files(path), "d:getetag", depth="1")
        return sorted(name for name, _ in found[1:])

    def value(self, path: str, name: str) -> str:
        """One property, as `oc:fileid`; "" where it has none."""
        return self._propfind(self._files(path), name)[0][1]

    def favour(self, path: str) -> None:
        """Makes it a favourite of this account."""
        body = """<?xml version="1.0"?><d:propertyupdate xmlns:d="DAV:"
        xmlns:oc="http://owncloud.org/ns"><d:set><d:prop><oc:favorite>1</oc:favorite></d:prop>
        </d:set></d:propertyupdate>"""
        self._ask("PROPPATCH", self._files(path), body.encode(), {}, (207,))

    def used_bytes(self) -> int:
        """What the whole account holds, as its quota counts it."""
        return int(self._propfind(f"files/{self.user}", "d:quota-used-bytes")[0][1])

    def trash(self) -> list[str]:
        """Where each thing in the trash was, those of this folder only, relative to it."""
        top = f"trashbin/{self.user}/trash"
        found = self._propfind(top, "nc:trashbin-original-location", depth="1")
        own = f"{self.folder}/"
        return sorted(place.removeprefix(own) for _, place in found if place.startswith(own))

    def chunks(self) -> list[str]:
        """The chunks of all uploads of this account that are under way."""
        top = f"uploads/{self.user}"
        folders = [name for name, _ in self._propfind(top, "d:getetag", depth="1")[1:]]
        found = []
        for folder in folders:
            each = self._propfind(f"{top}/{folder}", "d:getetag", depth="1")
            found += [name for name, _ in each[1:] if name != ".file"]
        return sorted(found)

    def share(self, path: str, with_user: str, permissions: int) -> str:
        """1 read, 2 change, 4 create, 8 delete, 16 share again. Returns the share's id."""
        asked = {"path": f"/{self.folder}/{path}", "shareType": "0", "shareWith": with_user}
        body = urlencode({**asked, "permissions": str(permissions)}).encode()
        text = self._shares("POST", "", body)
        found = re.search(r"<id>(\d+)</id>", text)
        assert found, text
        return found[1]

    def link(self, path: str) -> str:
        """A public link; its id."""
        body = urlencode({"path": f"/{self.folder}/{path}", "shareType": "3"}).encode()
        found = re.search(r"<id>(\d+)</id>", self._shares("POST", "", body))
        assert found
        return found[1]

    def path_of(self, share: str) -> str:
        """Where what was shared is now, relative to the folder."""
        found = re.search(r"<path>(.*?)</path>", self._shares("GET", f"/{share}", b""))
        assert found
        return html.unescape(found[1]).removeprefix(f"/{self.folder}/")

    def _shares(self, method: str, target: str, body: bytes) -> str:
        kind = {"Content-Type": "application/x-www-form-urlencoded", "OCS-APIRequest": "true"}
        at = f"/ocs/v2.php/apps/files_sharing/api/v1/shares{target}"
        return self._send(method, at, body, kind, (200,)).decode()

    def versions(self, fileid: str) -> list[str]:
        """The former versions that the server keeps of a file."""
        found = self._propfind(f"versions/{self.user}/versions/{fileid}", "d:getetag", depth="1")
        return sorted(name for name, _ in found[1:])

    def _files(self, path: str) -> str:
        return f"files/{self.user}/{self.folder}" + (f"/{path}" if path else "")

    def _propfind(self, path: str, name: str, depth: str = "0") -> list[tuple[str, str]]:
        """Name and value, the folder itself first."""
        body = _PROPFIND.replace("{0}", name).encode()
        text = self._ask("PROPFIND", path, body, {"Depth": depth}, (207,)).decode()
        found = []
        for each in text.split("<d:response>")[1:]:
            href = re.search("<d:href>([^<]*)</d:href>", each)
            value = re.search(f"<{name}>(.*?)</{name}>", each, re.DOTALL)
            assert href, each
            named = unquote(href[1]).rstrip("/").rpartition("/")[2]
            text_of = re.sub("<[^>]*>", "", value[1]) if value else ""
            found.append((named, html.unescape(text_of)))
        return found

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        expected: tuple[int, ...],
    ) -> bytes:
        return self._send(method, f"/remote.php/dav/{quote(path)}", body, headers, expected)

    def _send(
        self,
        method: str,
        target: str,
        body: bytes,
        headers: Mapping[str, str],
        expected: tuple[int, ...],
    ) -> bytes:
        where = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(where.netloc, timeout=_TIMEOUT_S)
        token = b64encode(f"{self.user}:{self.password}".encode()).decode()
        target = f"{where.path}{target}"
        try:
            connection.request(method, target, body, {"Authorization": f"Basic {token}", **headers})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        assert answer.status in expected, (method, target, answer.status, text[:2000])
        return text


def is_there_one() -> bool:
    return bool(os.environ.get(VARIABLE))


def occ(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """What the server's own command says; CalledProcessError where it fails."""
    command = [*shlex.split(os.environ[OCC_VARIABLE]), *arguments]
    env = os.environ | dict(environment or {})
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, timeout=120, env=env, text=True
    ).stdout


@contextmanager
def real_nextcloud() -> Iterator[RealNextcloud]:
    """The one that the environment names, with a folder that is removed at the end."""
    with _folder(os.environ[VARIABLE]) as server:
        yield server


@contextmanager
def other_account() -> Iterator[RealNextcloud]:
    """Somebody else at that server, with a folder of the same kind."""
    url = os.environ[VARIABLE].partition(",")[0]
    with _folder(f"{url},{os.environ[OTHER_VARIABLE]}") as server:
        yield server


@contextmanager
def _folder(said: str) -> Iterator[RealNextcloud]:
    url, user, password = said.split(",", 2)
    server = RealNextcloud(url.rstrip("/"), user, password, f"mountd-tests-{uuid.uuid4().hex[:8]}")
    server.mkdir("")
    try:
        yield server
    finally:
        server.delete("")
