"""Raw requests to the Nextcloud-shaped server, for its own tests: nothing of ours in between."""

import http.client
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote
from xml.etree import ElementTree

from tests.servers.nextcloud.launch import NextcloudServer

NAMES = {
    "d": "DAV:",
    "oc": "http://owncloud.org/ns",
    "nc": "http://nextcloud.org/ns",
    "s": "http://sabredav.org/ns",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def etag(self) -> str:
        return self.headers["oc-etag"]

    def message(self) -> str:
        return ElementTree.fromstring(self.body).findtext("s:message", "", NAMES)


class RawDav:
    """One kept-alive connection, signed in as the server's first account."""

    def __init__(self, server: NextcloudServer) -> None:
        self._server = server
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        token = b64encode(f"{server.user}:{server.password}".encode()).decode()
        self.authorization = f"Basic {token}"

    def close(self) -> None:
        self._connection.close()

    def raw(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """`target` is sent as it is; an empty header value leaves that header out."""
        sent = {"Authorization": self.authorization, **(headers or {})}
        sent = {name: value for name, value in sent.items() if value}
        self._connection.request(method, target, body or None, sent)
        answer = self._connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())

    def files(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """`If_Match="x"` sends the header If-Match."""
        return self._in("files", method, path, body, headers)

    def uploads(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        return self._in("uploads", method, path, body, headers)

    def trash(self, method: str, path: str, **headers: str) -> Answer:
        return self._in("trashbin", method, path, b"", headers)

    def _in(
        self, tree: str, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        target = f"/remote.php/dav/{tree}/{quote(self._server.user)}/{quote(path)}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.raw(method, target, body, named)

    def props(
        self, path: str, *names: str, depth: str = "0", tree: str = "files"
    ) -> dict[str, dict[str, str | None]]:
        """By href, each property's text (or its children's names); None where it is a 404."""
        declared = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMES.items())
        wanted = "".join(f"<{name}/>" for name in names)
        body = f"<d:propfind {declared}><d:prop>{wanted}</d:prop></d:propfind>".encode()
        answer = self._in(tree, "PROPFIND", path, body, {"Depth": depth})
        assert answer.status == 207, answer
        return parse_multistatus(answer.body)

    def prop(self, path: str, name: str, tree: str = "files") -> str | None:
        [found] = self.props(path, name, tree=tree).values()
        return found[name]


def parse_multistatus(body: bytes) -> dict[str, dict[str, str | None]]:
    rows: dict[str, dict[str, str | None]] = {}
    prefixes = {uri: prefix for prefix, uri in NAMES.items()}
    for response in ElementTree.fromstring(body).iterfind("d:response", NAMES):
        found = rows.setdefault(response.findtext("d:href", "", NAMES), {})
        for stat in response.iterfind("d:propstat", NAMES):
            is_found = " 200 " in stat.findtext("d:status", "", NAMES)
            for each in stat.iterfind("d:prop/*", NAMES):
                uri, _, local = each.tag[1:].partition("}")
                children = [child.text or child.tag.partition("}")[2] for child in each]
                text = "".join(children) or each.text or ""
                found[f"{prefixes[uri]}:{local}"] = text if is_found else None
    return rows


@contextmanager
def raw_dav(server: NextcloudServer) -> Iterator[RawDav]:
    client = RawDav(server)
    try:
        yield client
    finally:
        client.close()
