"""The WebDAV requests that change something, one function each, and what their answers mean.

Conditions travel as `If: <path> (["tag"]) ([W/"tag"])`, RFC 4918, 10.4. Both forms of the tag,
because Apache's is weak for the first second of a file and If-Match would fail on it; and the path
instead of the URL, because WsgiDAV looks for nothing else (Apache takes both). `Destination` is
the whole URL: Apache answers 400 to a path.
"""

from collections.abc import Mapping
from typing import Final

from mountd.errors import NameNotAllowed, NotFound, RemoteError
from mountd.remotes.http_pool import Answer, HttpPool
from mountd.remotes.http_range import tag_of
from mountd.remotes.http_status import error_of_status
from mountd.remotes.request_body import SentBody
from mountd.remotes.webdav_path import target_of
from mountd.remotes.webdav_xml import MultistatusReader

_NAME_MAX_BYTES = 255
_LAST_MODIFIED = (
    b'<?xml version="1.0" encoding="utf-8"?><D:propertyupdate xmlns:D="DAV:"><D:set><D:prop>'
    b"<D:lastmodified>%d</D:lastmodified></D:prop></D:set></D:propertyupdate>"
)
_NO_HEADERS: Final[Mapping[str, str]] = {}


class DavChanges:
    """Requests below `base`, an encoded path. Keys as in `mountd.types`.

    Each raises the error that its answer stands for, but for 412: then it is False (or None),
    because a condition was not met or, with `overwrite` False, something was there. 409 is
    NotFound: a parent is missing.
    """

    def __init__(self, pool: HttpPool, base: str) -> None:
        self._pool = pool
        self._base = base

    def check_name(self, key: str) -> None:
        """Raises NameNotAllowed for a name that no server can take."""
        self._target(key)

    def put(
        self, key: str, body: SentBody, headers: Mapping[str, str], until_s: float
    ) -> Mapping[str, str] | None:
        """The headers of the answer. `until_s` is renewed by each piece that is sent."""
        with self._pool.ask("PUT", self._target(key), headers, body, until_s) as answer:
            return answer.headers if _is_done(answer) else None

    def move(
        self, source: str, key: str, until_s: float, *, overwrite: bool, condition: str = ""
    ) -> bool:
        """With `overwrite` a collection at `key` would go with all that is in it: look first."""
        return self._to("MOVE", source, key, until_s, overwrite, condition)

    def copy(self, source: str, key: str, until_s: float, condition: str = "") -> bool:
        """Never over something. A collection comes without what is in it: look first."""
        return self._to("COPY", source, key, until_s, False, condition)

    def delete(self, key: str, until_s: float, condition: str = "") -> bool:
        """A collection goes with all that is in it: look first."""
        headers = {"If": condition} if condition else _NO_HEADERS
        target = target_of(self._base, key)
        with self._pool.ask("DELETE", target, headers, until_s=until_s) as answer:
            return _is_done(answer)

    def make_collection(self, key: str, until_s: float) -> bool:
        """False where something is there already."""
        target = self._target(key)
        with self._pool.ask("MKCOL", target, _NO_HEADERS, until_s=until_s) as answer:
            return answer.status != 405 and _is_done(answer)

    def set_mtime(self, key: str, mtime_s: int, until_s: float, if_match: str) -> bool:
        """Nextcloud's and ownCloud's `lastmodified`, which `getlastmodified` then tells. A server
        that doesn't take it may say so in a 207, or not at all: look. `if_match`: "" for none."""
        body = _LAST_MODIFIED % mtime_s
        headers = {
            "Content-Type": "application/xml; charset=utf-8",
            "Content-Length": str(len(body)),
            "Prefer": "return=minimal",
        }
        if if_match:
            headers["If-Match"] = if_match
        target = target_of(self._base, key)
        with self._pool.ask("PROPPATCH", target, headers, body, until_s) as answer:
            return answer.status == 207 or _is_done(answer)

    def condition(self, key: str, version: str) -> str:
        """The `If` header for "`key` is of this version", which must have a tag."""
        tag = tag_of(version)
        return f"<{target_of(self._base, key)}> ([{tag}]) ([W/{tag}])"

    def _to(
        self, method: str, source: str, key: str, until_s: float, overwrite: bool, condition: str
    ) -> bool:
        headers = {
            "Destination": self._pool.origin + self._target(key),
            "Overwrite": "T" if overwrite else "F",
        }
        if method == "COPY":
            headers["Depth"] = "0"
        if condition:
            headers["If"] = condition
        target = target_of(self._base, source)
        with self._pool.ask(method, target, headers, until_s=until_s) as answer:
            return _is_done(answer)

    def _target(self, key: str) -> str:
        """The target of something that is to be made."""
        try:
            target = target_of(self._base, key)
        except NotFound as error:
            raise NameNotAllowed(*error.args) from error
        name = key.removesuffix("/").rpartition("/")[2]
        if len(name.encode("utf-8", "surrogateescape")) > _NAME_MAX_BYTES:
            # Servers say 400, 403, 414 or 500, and after having taken all the bytes.
            raise NameNotAllowed(f"{name!r} has more than {_NAME_MAX_BYTES} bytes")
        return target


def _is_done(answer: Answer) -> bool:
    """Whether it was done; False for 412."""
    if answer.status == 207:
        raise _error_inside(answer)
    if 200 <= answer.status < 300:
        return True
    if answer.status == 412:
        return False
    raise _error(answer.status, answer.what, answer.headers.get("retry-after"))


def _error_inside(answer: Answer) -> RemoteError:
    """A 207 answers a change that failed in part (RFC 4918, 9.6.1): the first failure in it."""
    reader = MultistatusReader()
    items = []
    while chunk := answer.chunk():
        items += reader.feed(chunk)
    items += reader.end()
    failed = [item.status for item in items if not 200 <= item.status < 300]
    return _error(failed[0] if failed else 500, answer.what, None)


def _error(status: int, what: str, retry_after: str | None) -> RemoteError:
    if status == 409:
        return NotFound(f"{what}: HTTP 409, its directory is missing")
    if status == 400:
        return NameNotAllowed(f"{what}: HTTP 400")
    return error_of_status(status, what, retry_after)
